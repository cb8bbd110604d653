//! JSON bodies: media type, size, depth, NUL, syntax and shape, each refused in its own words.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app::AppState;
use crate::extract::read_body;
use crate::problem::Problem;

/// A JSON object as body, and as an answer any JSON. A wrong shape is 400 and names the member.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

/// Any JSON as body, for contracts that fix the words of every refusal; read it with [`super::Members`].
#[derive(Debug, Clone)]
pub struct AnyJson(pub Value);

/// The same, but no bytes at all count as `null`.
#[derive(Debug, Clone)]
pub struct OptionalJson(pub Value);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        must_be_json(request.headers())?;
        let bytes = read_body(request.into_body()).await?;
        // serde would take an array for a struct, member by member.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            check_text(&bytes, app.config().server.max_json_depth)?;
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "VALIDATION_ERROR",
                "The body must be an object.",
            ));
        }
        parse(&bytes, app.config().server.max_json_depth).map(Self)
    }
}

impl FromRequest<AppState> for AnyJson {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        must_be_json(request.headers())?;
        let bytes = read_body(request.into_body()).await?;
        parse(&bytes, app.config().server.max_json_depth).map(Self)
    }
}

impl FromRequest<AppState> for OptionalJson {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let media_type = must_be_json(request.headers());
        let bytes = read_body(request.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Self(Value::Null));
        }
        media_type?;
        parse(&bytes, app.config().server.max_json_depth).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// `application/json` or `…+json`. A form or plain text is refused because browsers send those across origins unasked.
fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| {
            let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
        });
    if is_json {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UNSUPPORTED_MEDIA_TYPE",
        "The body must be sent with Content-Type: application/json.",
    ))
}

/// Parses with the checks that serde does not make.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &Bytes, max_depth: usize) -> Result<T, Problem> {
    check_text(bytes, max_depth)?;
    check_members(bytes)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| refusal(&error))?;
    deserializer.end().map_err(|error| syntax(&error))?;
    Ok(value)
}

/// One pass over the bytes: nesting, and NUL written as an escape (PostgreSQL cannot store it, and would fail late).
pub(crate) fn check_text(bytes: &[u8], max_depth: usize) -> Result<(), Problem> {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (in_string, byte) {
            (true, b'\\') => {
                if bytes.get(at + 1..at + 6) == Some(b"u0000") {
                    return Err(nul(bytes));
                }
                at += 1; // whatever is escaped is no quote
            }
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > max_depth {
                    return Err(Problem::bad_request(format!(
                        "The JSON body is nested deeper than {max_depth} levels."
                    )));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The refusal of a body that holds NUL somewhere, naming the member when the body can be read at all.
fn nul(bytes: &[u8]) -> Problem {
    let problem = Problem::new(
        StatusCode::BAD_REQUEST,
        "VALIDATION_ERROR",
        "Text must not contain the character NUL.",
    );
    match serde_json::from_slice(bytes).ok().and_then(|body| with_nul(&body)) {
        Some(path) if !path.is_empty() => problem.on(path),
        _ => problem,
    }
}

/// Where in a value NUL stands first: member names and positions joined by dots.
fn with_nul(value: &Value) -> Option<String> {
    let below = |name: String, value: &Value| {
        with_nul(value).map(|path| {
            if path.is_empty() {
                name.clone()
            } else {
                format!("{name}.{path}")
            }
        })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .find_map(|(index, value)| below(index.to_string(), value)),
        Value::Object(members) => members
            .iter()
            .find_map(|(name, value)| below(name.replace('\0', ""), value)),
        _ => None,
    }
}

/// No object says a member twice. serde_json keeps the last one of an untyped object, a gateway in front may keep the first.
fn check_members(bytes: &[u8]) -> Result<(), Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize::<_, Unrepeated>(&mut deserializer)
        .map(drop)
        .map_err(|error| refusal(&error))
}

/// Any JSON value without repeated members; holds nothing.
struct Unrepeated;

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unrepeated {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self, A::Error> {
        while values.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value::<Self>()?;
            if let Some(name) = seen.replace(name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
        }
        Ok(self)
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!(
        "The body is not valid JSON (line {}, column {}).",
        error.line(),
        error.column()
    ))
}

fn refusal(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if !inner.is_data() {
        return syntax(inner);
    }
    let text = inner.to_string();
    let (member, rule) = explain(&text);
    let path = error.path().to_string();
    let path = if path == "." { String::new() } else { path };
    let field = match (path.is_empty(), member) {
        (true, member) => member.map(Cow::into_owned),
        (false, None) => Some(path),
        (false, Some(member)) => match path.strip_suffix(member.as_ref()) {
            // serde names an unknown or repeated member in the path already, a missing one not.
            Some(before) if before.is_empty() || before.ends_with('.') => Some(path),
            _ => Some(format!("{path}.{member}")),
        },
    };
    match field {
        Some(field) => Problem::bad_field(field.clone(), format!("{field}: {rule}")),
        None => Problem::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", format!("The body {rule}.")),
    }
}

/// The member that serde names, and the broken rule without the value that broke it.
pub(super) fn explain(text: &str) -> (Option<Cow<'_, str>>, Cow<'_, str>) {
    let text = text.rsplit_once(" at line ").map_or(text, |(before, _)| before);
    let quoted = |prefix: &str| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.split_once('`'))
            .map(|(name, _)| Cow::Borrowed(name))
    };
    if let Some(member) = quoted("missing field `") {
        return (Some(member), "is required".into());
    }
    if let Some(member) = quoted("duplicate field `") {
        return (Some(member), "appears twice".into());
    }
    if text.starts_with("unknown field `") {
        return (None, "has an unknown member".into());
    }
    for prefix in [
        "invalid type: ",
        "invalid value: ",
        "unknown variant ",
        "invalid length ",
    ] {
        if text.starts_with(prefix) && text.contains(", expected ") {
            let expected = text
                .rsplit_once(", expected ")
                .map_or("something else", |(_, rule)| rule);
            return (None, format!("must be {}", plain(expected)).into());
        }
    }
    (None, Cow::Borrowed(text))
}

/// serde names Rust types; clients know JSON's.
fn plain(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a non-negative integer",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("struct ") || expected == "a map" => "an object",
        _ if expected.starts_with("tuple ") || expected == "a sequence" => "an array",
        "a borrowed string" => "a string",
        _ => expected,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "read by serde alone, for the words of its refusals")]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "read by serde alone, for the words of its refusals")]
    struct Inner {
        count: u32,
    }

    fn refuse(text: &str) -> Problem {
        parse::<Outer>(&Bytes::copy_from_slice(text.as_bytes()), 8).expect_err(text)
    }

    #[test]
    fn a_wrong_shape_names_the_member_and_not_the_value() {
        let problem = refuse(r#"{"name": "a", "inner": [{"count": "canary"}]}"#);
        assert_eq!(problem.field(), Some("inner[0].count"));
        assert_eq!(problem.message(), "inner[0].count: must be a non-negative integer");
        assert_eq!(refuse(r#"{"inner": []}"#).field(), Some("name"));
        assert_eq!(
            refuse(r#"{"name": "a", "inner": [{}]}"#).field(),
            Some("inner[0].count")
        );
        assert_eq!(refuse(r#"{"name": "a", "name": "b"}"#).field(), Some("name"));
        assert_eq!(refuse(r#"{"name": 5}"#).message(), "name: must be a string");
        assert_eq!(refuse("7").message(), "The body must be an object.");
    }

    #[test]
    fn strange_json_is_refused() {
        for text in [
            "",
            "{",
            "{\"name\": \"a\"} x",
            "\u{feff}{\"name\":\"a\"}",
            "{\"name\": NaN}",
            r#"{"name": "\ud800"}"#,
        ] {
            assert_eq!(refuse(text).code(), "BAD_REQUEST", "{text}");
        }
        assert!(refuse(r#"{"name": "a\u0000b"}"#).message().contains("NUL"));
        assert!(refuse(&"[".repeat(9)).message().contains("deeper"));
        let escaped = Bytes::from_static(br#"{"name": "a\\u0000b"}"#);
        assert_eq!(
            parse::<Outer>(&escaped, 8).expect("an escaped backslash").name,
            "a\\u0000b"
        );
        assert!(parse::<Outer>(&Bytes::from_static(br#"{"name": "[[[[[[[[[["}"#), 8).is_ok());
    }
}
