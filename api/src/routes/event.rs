//! `/api/v1/events`: the log itself, for those who may audit it.

use annals_domain::registry::event_kinds;
use annals_domain::{Actor, Metadata, Timestamp};
use annals_eventstore::{EventFilter, Hash, Head, Position, StreamId};
use annals_projections::history::{self, HistoryError, MOST_EVENTS, ShownEvent};
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::AppState;
use crate::extract::{Caller, Json, Query};
use crate::problem::{Problem, ProblemBody};

/// Events of an answer when the client names no number.
const DEFAULT_EVENTS: u32 = 100;

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(list_events))
}

/// One event, with everything that the hash chain is made of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// Its number in the log; dense, from 1.
    #[schema(value_type = u64)]
    position: Position,
    #[schema(value_type = String, example = "2026-02-15T12:00:00.123456Z")]
    recorded_at: Timestamp,
    /// The stream it belongs to.
    #[schema(example = "user/01890a5d-ac96-774b-bcce-b302099a8057")]
    stream: String,
    /// Its number in the stream; dense, from 1.
    version: u64,
    #[schema(example = "user.registered")]
    event_type: &'static str,
    event_version: &'static str,
    /// What happened. Personal data reads `[personal]` for those who may not see it, secrets read `[secret]`.
    #[schema(value_type = Object)]
    payload: Value,
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// SHA-256 of the stored event, in hexadecimal.
    #[schema(value_type = String)]
    leaf_hash: Hash,
    /// Stands for this event and all before it.
    #[schema(value_type = String)]
    entry_hash: Hash,
}

impl From<ShownEvent> for EventBody {
    fn from(ShownEvent { record, payload }: ShownEvent) -> Self {
        Self {
            position: record.position,
            recorded_at: record.recorded_at,
            stream: record.stream.to_string(),
            version: record.version,
            event_type: record.event.event_type(),
            event_version: record.event.event_version(),
            payload,
            metadata: record.metadata,
            leaf_hash: record.leaf_hash,
            entry_hash: record.entry_hash,
        }
    }
}

/// Part of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventsBody {
    /// In the order of the log.
    data: Vec<EventBody>,
    /// The `after` to go on with.
    #[schema(value_type = u64)]
    next_after: Position,
    /// The end of the log: `position`, `entry_hash`, `recorded_at`.
    #[schema(value_type = Object)]
    head: Head,
}

/// Read the log, in order.
///
/// Without `audit.read` only with `stream`, and only streams that the caller may see.
#[utoipa::path(get, path = "/api/v1/events", tag = "audit", security(("bearer" = []), ("cookie" = [])),
    params(
        ("after" = Option<u64>, Query, description = "Position after which to start; 0 when absent"),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 when absent"),
        ("type" = Option<String>, Query, description = "Event types, comma-separated or repeated"),
        ("stream" = Option<String>, Query, description = "`<aggregate>/<id>`"),
        ("actor" = Option<String>, Query, description = "`user:<id>`, `system:<name>` or `anonymous`"),
        ("correlation_id" = Option<Uuid>, Query, description = "What one request set off"),
    ),
    responses((status = 200, body = EventsBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_events(
    State(app): State<AppState>,
    caller: Caller,
    Query(parameters): Query<Parameters>,
) -> Result<Json<EventsBody>, Problem> {
    let filter = EventFilter {
        types: parameters.event_types()?,
        stream: parameters.stream()?,
        actor: parameters.actor()?,
        correlation_id: parameters.correlation_id()?,
        ..EventFilter::default()
    };
    let after = Position(parameters.after()?);
    let limit = parameters.limit()?;
    let events = history::events(&caller, app.store(), &filter, after, limit).await?;
    Ok(Json(EventsBody {
        data: events.events.into_iter().map(Into::into).collect(),
        next_after: events.next_after,
        head: events.head,
    }))
}

/// Query parameters as sent, read one by one, so that each refusal names its parameter.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The values of a parameter, repeated or separated by commas.
    fn many<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
    }

    /// The value of a parameter that may be given once.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        let mut values = self
            .0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(refused(name, "may be given once only")),
        }
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        self.one(name)?
            .map(|text| parse(text).map_err(|rule| refused(name, &rule)))
            .transpose()
    }

    /// `after`: a position or version.
    pub(super) fn after(&self) -> Result<u64, Problem> {
        Ok(self.number("after", 0, u64::MAX)?.unwrap_or(0))
    }

    /// `limit`: how many events.
    pub(super) fn limit(&self) -> Result<u32, Problem> {
        let limit = self.number("limit", 1, u64::from(MOST_EVENTS))?;
        Ok(limit
            .and_then(|limit| u32::try_from(limit).ok())
            .unwrap_or(DEFAULT_EVENTS))
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, name: &'static str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        self.parsed(name, |text| {
            let rule = || match most {
                u64::MAX => format!("must be an integer from {least} up"),
                _ => format!("must be an integer from {least} to {most}"),
            };
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = if is_number { text.parse::<u64>().ok() } else { None };
            number.filter(|number| (least..=most).contains(number)).ok_or_else(rule)
        })
    }

    /// `type`: names of event types that exist.
    pub(super) fn event_types(&self) -> Result<Vec<String>, Problem> {
        let mut types = Vec::new();
        for name in self.many("type") {
            if !event_kinds().iter().any(|kind| kind.event_type == name) {
                return Err(refused("type", "must be an event type such as user.registered"));
            }
            if !types.iter().any(|known| known == name) {
                types.push(name.to_owned());
            }
        }
        Ok(types)
    }

    /// `stream`: one stream.
    pub(super) fn stream(&self) -> Result<Option<StreamId>, Problem> {
        self.parsed("stream", |text| {
            StreamId::parse(text).map_err(|_| "must be <aggregate>/<id>, such as user/<id>".to_owned())
        })
    }

    /// `actor`: who caused it.
    pub(super) fn actor(&self) -> Result<Option<Actor>, Problem> {
        self.parsed("actor", |text| {
            text.parse()
                .map_err(|_| "must be user:<id>, system:<name> or anonymous".to_owned())
        })
    }

    /// `correlation_id`: what one request set off.
    pub(super) fn correlation_id(&self) -> Result<Option<Uuid>, Problem> {
        self.parsed("correlation_id", |text| {
            annals_domain::ids::parse_uuid(text).map_err(|_| "must be a UUID".to_owned())
        })
    }

    /// A moment.
    pub(super) fn moment(&self, name: &'static str) -> Result<Option<Timestamp>, Problem> {
        // A plus sign of a zone, sent as it is, arrives as a blank.
        self.parsed(name, |text| {
            Timestamp::parse_rfc3339(&text.replace(' ', "+")).map_err(|error| error.rule.to_owned())
        })
    }
}

pub(super) fn refused(name: &'static str, rule: &str) -> Problem {
    Problem::bad_field(name, format!("{name}: {rule}"))
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Denied(denied) => denied.into(),
            HistoryError::Store(error) => error.into(),
            HistoryError::Decode(_) | HistoryError::Show(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "history cannot be told");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(query: &str) -> Parameters {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Parameters(
            pairs
                .map(|pair| pair.split_once('=').unwrap())
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(sent("").limit().unwrap(), 100);
        assert_eq!(sent("limit=1000").limit().unwrap(), 1000);
        assert_eq!(sent("").after().unwrap(), 0);
        assert_eq!(sent("after=18446744073709551615").after().unwrap(), u64::MAX);
        for query in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=",
            "limit=+5",
            "limit=ten",
            "limit=1&limit=2",
        ] {
            assert_eq!(sent(query).limit().unwrap_err().field(), Some("limit"), "{query}");
        }
        for query in ["after=-1", "after=x", "after=18446744073709551616"] {
            assert_eq!(sent(query).after().unwrap_err().field(), Some("after"), "{query}");
        }
    }

    #[test]
    fn event_types_are_repeated_or_listed_and_must_exist() {
        let types = sent("type=user.registered,content.created&type=route.created&type=user.registered").event_types();
        assert_eq!(types.unwrap(), ["user.registered", "content.created", "route.created"]);
        assert!(sent("").event_types().unwrap().is_empty());
        for query in ["type=", "type=user", "type=user.registered,", "type=User.registered"] {
            assert_eq!(sent(query).event_types().unwrap_err().field(), Some("type"), "{query}");
        }
    }

    #[test]
    fn what_names_something_is_checked() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(
            sent(&format!("stream=user/{id}"))
                .stream()
                .unwrap()
                .unwrap()
                .to_string(),
            format!("user/{id}")
        );
        assert!(sent(&format!("actor=user:{id}")).actor().unwrap().is_some());
        assert!(sent("actor=anonymous").actor().unwrap().is_some());
        assert!(sent("from=2026-02-15T12:00:00 01:00").moment("from").unwrap().is_some());
        assert!(sent("stream=user").stream().is_err());
        assert!(sent(&format!("stream=nobody/{id}")).stream().is_err());
        assert!(sent("actor=me").actor().is_err());
        assert!(sent("correlation_id=7").correlation_id().is_err());
        assert!(sent("from=yesterday").moment("from").is_err());
    }
}
