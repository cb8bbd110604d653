//! What all resources of the ModulaCMS contract share on the wire: members that read in several forms, ids in paths and
//! queries, lists with and without an envelope, and answers to writes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use annals_domain::values::ValueError;
use annals_domain::{
    ContentFieldId, ContentId, ContentStatus, DatatypeFieldId, DatatypeId, FieldId, FieldKind, IdError, RouteId, Slug,
    Timestamp, UserId,
};
use annals_projections::{Listed, Page};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::{RefOr, Required};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::app::AppState;
use crate::extract::Json;
use crate::problem::Problem;

/// The read models of all content nouns. An answer to a write waits for all of them, because they show each other's facts:
/// a deleted route changes content, and a document is made of nodes, datatypes, fields and a route.
pub(crate) const MODELS: &[&str] = &["datatypes", "fields", "routes", "contents"];

/// Rows of a page when the client names no usable number.
const DEFAULT_LIMIT: u32 = 50;
/// The most rows of a page; more is read as this.
const MAX_LIMIT: u32 = 1_000;

/// A member that the origin wrote as `{"String":"x","Valid":true}` or `{"Int64":1,"Valid":true}`, and now writes plainly.
pub(crate) trait Member: Sized {
    /// The value in words, for refusals.
    const EXPECTED: &'static str;

    /// From text.
    ///
    /// # Errors
    /// The broken rule, to be read after the member's name.
    fn of_text(text: &str) -> Result<Self, Cow<'static, str>>;

    /// From a whole number.
    ///
    /// # Errors
    /// The broken rule, to be read after the member's name.
    fn of_integer(_: i64) -> Result<Self, Cow<'static, str>> {
        Err(format!("must be {}", Self::EXPECTED).into())
    }
}

impl Member for String {
    const EXPECTED: &'static str = "a string";

    fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
        Ok(text.to_owned())
    }
}

impl Member for i64 {
    const EXPECTED: &'static str = "an integer";

    fn of_text(_: &str) -> Result<Self, Cow<'static, str>> {
        Err("must be an integer".into())
    }

    fn of_integer(number: i64) -> Result<Self, Cow<'static, str>> {
        Ok(number)
    }
}

impl Member for Timestamp {
    const EXPECTED: &'static str = "an RFC 3339 timestamp with a time zone";

    fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
        Self::parse_rfc3339(text).map_err(|error: ValueError| error.rule.into())
    }
}

impl Member for ContentStatus {
    const EXPECTED: &'static str = "one of draft, published, archived, pending";

    fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
        text.parse().map_err(|_| format!("must be {}", Self::EXPECTED).into())
    }
}

impl Member for FieldKind {
    const EXPECTED: &'static str = "one of text, textarea, number, date, datetime, boolean, select, media, relation, json, \
        richtext, slug, email, url";

    fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
        text.parse().map_err(|_| format!("must be {}", Self::EXPECTED).into())
    }
}

impl Member for Slug {
    const EXPECTED: &'static str = "a path that starts with \"/\"";

    fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
        Self::parse(text).map_err(|error: ValueError| error.rule.into())
    }
}

macro_rules! id_members {
    ($($id:ty)+) => {$(
        impl Member for $id {
            const EXPECTED: &'static str = "a ULID or a UUID";

            fn of_text(text: &str) -> Result<Self, Cow<'static, str>> {
                text.parse().map_err(|error: IdError| error.to_string().into())
            }
        }
    )+};
}

id_members! { ContentFieldId ContentId DatatypeFieldId DatatypeId FieldId RouteId UserId }

/// Reads a member that may be absent (with `#[serde(default)]`), `null`, plain, or an object with `Valid`.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Member>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(MemberVisitor(PhantomData))
}

/// As [`nullable`], with the empty value in place of none: an absent text of a full replacement is empty, a number is 0.
pub(crate) fn or_empty<'de, D: Deserializer<'de>, T: Member + Default>(deserializer: D) -> Result<T, D::Error> {
    nullable(deserializer).map(Option::unwrap_or_default)
}

/// As [`nullable`], for a member that must have a value.
pub(crate) fn required<'de, D: Deserializer<'de>, T: Member>(deserializer: D) -> Result<T, D::Error> {
    nullable(deserializer)?.ok_or_else(|| D::Error::custom(format!("must be {}", T::EXPECTED)))
}

/// Longest label, title or type, in characters.
pub(crate) const MAX_LABEL_CHARS: usize = 255;

/// Longest text that holds settings of a field, in characters. They come with every node that is delivered.
pub(crate) const MAX_SETTINGS_CHARS: usize = 65_536;

/// As [`required`], for a label that people read and keys are made of: not blank, at most [`MAX_LABEL_CHARS`].
pub(crate) fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text: String = required(deserializer)?;
    if text.trim().is_empty() {
        return Err(D::Error::custom("must not be blank"));
    }
    at_most(MAX_LABEL_CHARS, text)
}

/// As [`or_empty`], for a text of at most [`MAX_LABEL_CHARS`].
pub(crate) fn short_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    at_most(MAX_LABEL_CHARS, or_empty(deserializer)?)
}

/// As [`or_empty`], for a text of at most [`MAX_SETTINGS_CHARS`].
pub(crate) fn settings_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    at_most(MAX_SETTINGS_CHARS, or_empty(deserializer)?)
}

fn at_most<E: serde::de::Error>(limit: usize, text: String) -> Result<String, E> {
    if text.chars().nth(limit).is_some() {
        return Err(E::custom(format!("must be at most {limit} characters")));
    }
    Ok(text)
}

struct MemberVisitor<T>(PhantomData<T>);

impl<'de, T: Member> Visitor<'de> for MemberVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or null", T::EXPECTED)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::of_text(text).map(Some).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        T::of_integer(number).map(Some).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => Err(E::custom(format!("must be at most {}", i64::MAX))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut value, mut valid) = (None, None);
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            match name.as_ref() {
                "String" => value = Some(GoValue::Text(members.next_value()?)),
                "Int64" => value = Some(GoValue::Integer(members.next_value()?)),
                "Valid" => valid = Some(members.next_value::<bool>()?),
                _ => {
                    members.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        // Read before it is believed: the value of an invalid one is empty, which is no id and no number.
        match (valid, value) {
            (Some(false), _) => Ok(None),
            (Some(true), Some(GoValue::Text(text))) => T::of_text(&text).map(Some).map_err(A::Error::custom),
            (Some(true), Some(GoValue::Integer(number))) => T::of_integer(number).map(Some).map_err(A::Error::custom),
            _ => Err(A::Error::custom(format!("must be {} or null", T::EXPECTED))),
        }
    }
}

enum GoValue {
    Text(String),
    Integer(i64),
}

/// A time as the contract prints it: RFC 3339, UTC, whole seconds.
pub(crate) fn time_text(moment: Option<Timestamp>) -> Option<String> {
    moment.map(|moment| moment.to_rfc3339_seconds())
}

/// An id out of a path segment or a query parameter; both forms are taken.
///
/// # Errors
/// 400 naming the parameter.
pub(crate) fn parse_id<T: FromStr<Err = IdError>>(name: &'static str, text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: IdError| Problem::bad_field(name, format!("{name}: {error}")))
}

/// The id of one item: path segment `{id}`, or query parameter `q`, or `id` (which the contract uses on collections).
/// None of them is 400 and names `q`, or `id` on a collection path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ItemId<T>(pub(crate) T);

/// As [`ItemId`], absent when the request names none: an update may carry the id in its body instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedItem<T>(pub(crate) Option<T>);

impl<T: FromStr<Err = IdError>> FromRequestParts<AppState> for NamedItem<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        if let Ok(segments) = RawPathParams::from_request_parts(parts, app).await
            && let Some((_, id)) = segments.iter().find(|(name, _)| *name == "id")
        {
            return parse_id("id", id).map(|id| Self(Some(id)));
        }
        let crate::extract::Query(ItemQuery { q, id }) = crate::extract::Query::from_request_parts(parts, app).await?;
        match (q, id) {
            (Some(q), _) => parse_id("q", &q).map(|id| Self(Some(id))),
            (None, Some(id)) => parse_id("id", &id).map(|id| Self(Some(id))),
            (None, None) => Ok(Self(None)),
        }
    }
}

impl<T: FromStr<Err = IdError>> FromRequestParts<AppState> for ItemId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let name = if parts.uri.path().ends_with('/') { "q" } else { "id" };
        match NamedItem::from_request_parts(parts, app).await? {
            NamedItem(Some(id)) => Ok(Self(id)),
            NamedItem(None) => Err(Problem::bad_field(name, format!("{name}: is required"))),
        }
    }
}

#[derive(Debug, Deserialize)]
struct ItemQuery {
    q: Option<String>,
    id: Option<String>,
}

impl<T: Copy + PartialEq> NamedItem<T> {
    /// The item an update is about: named by the URI, by the body, or by both alike.
    ///
    /// # Errors
    /// 400 naming the body's member when neither names it, or when they differ.
    pub(crate) fn or(self, member: &'static str, in_body: Option<T>) -> Result<T, Problem> {
        match (self.0, in_body) {
            (Some(named), Some(other)) if named != other => Err(Problem::bad_field(
                member,
                format!("{member}: is not the id in the URI"),
            )),
            (Some(id), _) | (None, Some(id)) => Ok(id),
            (None, None) => Err(Problem::bad_field(member, format!("{member}: is required"))),
        }
    }
}

/// Query parameters `limit` and `offset`. Either one present asks for an envelope; what is no usable number is read as the
/// default, because clients of the contract count a list by asking for `limit=0`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// Rows of a page: 50 unless told, at most 1000.
    limit: Option<String>,
    /// Rows to pass over.
    offset: Option<String>,
}

impl Paging {
    /// The page asked for, if any.
    pub(crate) fn page(&self) -> Option<Page> {
        if self.limit.is_none() && self.offset.is_none() {
            return None;
        }
        let limit = self
            .limit
            .as_deref()
            .and_then(|text| text.parse::<i64>().ok())
            .filter(|limit| *limit > 0);
        let offset = self.offset.as_deref().and_then(|text| text.parse::<i64>().ok());
        Some(Page {
            limit: limit.map_or(DEFAULT_LIMIT, |limit| {
                u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)
            }),
            offset: offset.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0),
        })
    }
}

/// A page of a list, with the envelope of the contract.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageBody<T> {
    /// The rows of the page.
    data: Vec<T>,
    /// Rows of the whole list.
    total: u64,
    /// Rows a page has at most, as it was understood.
    limit: u32,
    /// Rows passed over, as it was understood.
    offset: u64,
}

/// A list: a bare array, or a [`PageBody`] when a page was asked for.
pub(crate) fn list_answer<R, T: Serialize + From<R>>(page: Option<Page>, listed: Listed<R>) -> Response {
    let total = listed.total;
    let data: Vec<T> = listed.rows.into_iter().map(T::from).collect();
    match page {
        Some(Page { limit, offset }) => Json(PageBody {
            data,
            total,
            limit,
            offset,
        })
        .into_response(),
        None => Json(data).into_response(),
    }
}

/// The answer to a deletion: 200, no body, but a JSON content type, as the contract has it.
pub(crate) fn deleted() -> Response {
    (
        StatusCode::OK,
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
    )
        .into_response()
}

/// The refusal for an item that is not there.
pub(crate) fn no_such(noun: &str) -> Problem {
    Problem::not_found(format!("{noun} not found")).with_code(format!("{noun}.not_found").replace(' ', "_"))
}

/// Adds the item routes of a resource under both of their paths: `/x/{id}` as documented by the handlers, and `/x/`, where
/// query parameter `q` names the item. The handlers read the id through [`ItemId`] or [`NamedItem`], which take both.
pub(crate) trait ItemRoutes {
    /// Adds `routes`, whose handlers are documented with a path that ends in `/{id}`.
    fn item_routes(self, routes: UtoipaMethodRouter<AppState>) -> Self;
}

impl ItemRoutes for OpenApiRouter<AppState> {
    fn item_routes(self, (schemas, paths, methods): UtoipaMethodRouter<AppState>) -> Self {
        let mut by_query = utoipa::openapi::path::Paths::default();
        for (path, item) in &paths.paths {
            if let Some(collection) = path.strip_suffix("{id}") {
                by_query
                    .paths
                    .insert(collection.to_owned(), named_by_query(item.clone()));
            }
        }
        self.routes((schemas.clone(), paths, methods.clone()))
            .routes((schemas, by_query, methods))
    }
}

fn named_by_query(mut item: PathItem) -> PathItem {
    let operations = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ];
    for operation in operations.into_iter().flatten() {
        in_query(operation);
    }
    // An update may be named by its body instead.
    for parameter in item
        .put
        .iter_mut()
        .flat_map(|operation| operation.parameters.iter_mut().flatten())
    {
        if let RefOr::T(parameter) = parameter
            && parameter.name == "q"
        {
            parameter.required = Required::False;
        }
    }
    item
}

fn in_query(operation: &mut Operation) {
    if let Some(id) = &mut operation.operation_id {
        id.push_str("_by_query");
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Path
        {
            parameter.name = "q".to_owned();
            parameter.parameter_in = ParameterIn::Query;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "nullable")]
        parent_id: Option<DatatypeId>,
        #[serde(default, deserialize_with = "or_empty")]
        label: String,
        #[serde(default, deserialize_with = "or_empty")]
        sort_order: i64,
        #[serde(default, deserialize_with = "nullable")]
        date_created: Option<Timestamp>,
    }

    fn read(body: &Value) -> Result<Body, Problem> {
        crate::extract::parse_json(&body.to_string().into_bytes().into(), 16)
    }

    fn refusal(body: &Value) -> (String, String) {
        let problem = read(body).unwrap_err();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        (
            problem.field().unwrap_or_default().to_owned(),
            problem.message().to_owned(),
        )
    }

    #[test]
    fn members_read_plain_null_absent_and_as_objects() {
        let id: DatatypeId = "01H45NVB4PEX5VSKNK084SN02Q".parse().unwrap();
        let full = Body {
            parent_id: Some(id),
            label: "a".to_owned(),
            sort_order: 7,
            date_created: Some("2026-02-15T12:00:00Z".parse().unwrap()),
        };
        let objects = |id: &str| {
            json!({
                "parent_id": {"String": id, "Valid": true},
                "label": {"Valid": true, "String": "a"},
                "sort_order": {"Int64": 7, "Valid": true, "Extra": [1]},
                "date_created": {"String": "2026-02-15T13:00:00.9+01:00", "Valid": true},
            })
        };
        let plain =
            json!({"parent_id": id.to_ulid(), "label": "a", "sort_order": 7, "date_created": "2026-02-15T12:00:00Z"});
        assert_eq!(read(&plain).unwrap(), full);
        let read_objects = read(&objects(&id.to_string())).unwrap();
        assert_eq!(
            read_objects.date_created.unwrap().to_rfc3339_seconds(),
            "2026-02-15T12:00:00Z"
        );
        assert_eq!(
            Body {
                date_created: full.date_created,
                ..read_objects
            },
            full
        );

        let empty = Body {
            parent_id: None,
            label: String::new(),
            sort_order: 0,
            date_created: None,
        };
        let invalid = json!({"String": "", "Valid": false});
        for body in [
            json!({}),
            json!({"parent_id": null, "label": null, "sort_order": null, "date_created": null}),
            json!({"parent_id": invalid, "label": invalid, "sort_order": {"Int64": 0, "Valid": false}, "date_created": invalid}),
        ] {
            assert_eq!(read(&body).unwrap(), empty, "{body}");
        }
    }

    #[test]
    fn a_wrong_member_is_named_with_its_rule() {
        for (body, field, rule) in [
            (
                json!({"parent_id": "abc"}),
                "parent_id",
                "invalid length 3 (expected 26)",
            ),
            (json!({"parent_id": ""}), "parent_id", "invalid length 0 (expected 26)"),
            (
                json!({"parent_id": {"String": "abc", "Valid": true}}),
                "parent_id",
                "invalid length 3 (expected 26)",
            ),
            (
                json!({"parent_id": {"String": "abc"}}),
                "parent_id",
                "must be a ULID or a UUID or null",
            ),
            (json!({"parent_id": 7}), "parent_id", "must be a ULID or a UUID"),
            (
                json!({"parent_id": true}),
                "parent_id",
                "must be a ULID or a UUID or null",
            ),
            (json!({"label": 7}), "label", "must be a string"),
            (json!({"label": []}), "label", "must be a string or null"),
            (json!({"sort_order": "7"}), "sort_order", "must be an integer"),
            (json!({"sort_order": 1.5}), "sort_order", "must be an integer or null"),
            (
                json!({"sort_order": u64::MAX}),
                "sort_order",
                "must be at most 9223372036854775807",
            ),
            (
                json!({"date_created": "2026-02-15"}),
                "date_created",
                "must be RFC 3339 with a time zone",
            ),
        ] {
            assert_eq!(refusal(&body), (field.to_owned(), format!("{field}: {rule}")), "{body}");
        }
    }

    #[test]
    fn pages_are_clamped_as_the_contract_says() {
        let page = |limit: Option<&str>, offset: Option<&str>| {
            let paging = Paging {
                limit: limit.map(str::to_owned),
                offset: offset.map(str::to_owned),
            };
            paging.page().map(|page| (page.limit, page.offset))
        };
        assert_eq!(page(None, None), None);
        assert_eq!(page(Some("10"), None), Some((10, 0)));
        assert_eq!(page(None, Some("7")), Some((50, 7)));
        for limit in ["0", "-1", "", "ten", "1.5", "99999999999999999999"] {
            assert_eq!(page(Some(limit), None), Some((50, 0)), "{limit}");
        }
        for limit in ["1000", "1001", "5000000000"] {
            assert_eq!(page(Some(limit), None), Some((1000, 0)), "{limit}");
        }
        for offset in ["-1", "", "x", "99999999999999999999"] {
            assert_eq!(page(None, Some(offset)), Some((50, 0)), "{offset}");
        }
        assert_eq!(page(Some("1"), Some("9223372036854775807")), Some((1, i64::MAX as u64)));
    }

    #[test]
    fn an_update_is_named_once_or_twice_alike() {
        let (one, other) = (1_u8, 2_u8);
        assert_eq!(NamedItem(Some(one)).or("id", None).unwrap(), one);
        assert_eq!(NamedItem(None).or("id", Some(one)).unwrap(), one);
        assert_eq!(NamedItem(Some(one)).or("id", Some(one)).unwrap(), one);
        assert_eq!(
            NamedItem(Some(one)).or("id", Some(other)).unwrap_err().field(),
            Some("id")
        );
        assert_eq!(NamedItem::<u8>(None).or("id", None).unwrap_err().field(), Some("id"));
    }
}
