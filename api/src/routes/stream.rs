//! `/api/v1/streams/{type}/{id}`: the history of one aggregate, and its state as it was.

use annals_domain::Timestamp;
use annals_domain::ids::parse_uuid;
use annals_domain::registry::aggregate_types;
use annals_eventstore::{Position, StreamId};
use annals_projections::history::{self, Until};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::event::{EventBody, Parameters, refused};
use crate::app::AppState;
use crate::extract::{Caller, Json, Path, Query};
use crate::problem::{Problem, ProblemBody};

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_stream_events))
        .routes(routes!(show_stream_state))
}

/// Events of one stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamEventsBody {
    /// In the order of the stream.
    data: Vec<EventBody>,
    /// The `after` to go on with.
    next_after: u64,
}

/// List the events of one stream, in order.
#[utoipa::path(get, path = "/api/v1/streams/{type}/{id}/events", tag = "audit", security(("bearer" = []), ("cookie" = [])),
    params(
        ("type" = String, Path, description = "Aggregate, such as `content`"),
        ("id" = String, Path, description = "ULID or UUID"),
        ("after" = Option<u64>, Query, description = "Version after which to start; 0 when absent"),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 when absent"),
    ),
    responses((status = 200, body = StreamEventsBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_stream_events(
    State(app): State<AppState>,
    caller: Caller,
    Path((aggregate, id)): Path<(String, String)>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<StreamEventsBody>, Problem> {
    let stream = stream_of(&aggregate, &id)?;
    let after = parameters.after()?;
    let events = history::stream_events(&caller, app.store(), &stream, after, parameters.limit()?).await?;
    let events = events.ok_or_else(no_such_stream)?;
    let next_after = events.last().map_or(after, |event| event.record.version);
    Ok(Json(StreamEventsBody {
        data: events.into_iter().map(Into::into).collect(),
        next_after,
    }))
}

/// The state of a stream at some time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamStateBody {
    #[schema(example = "user/01890a5d-ac96-774b-bcce-b302099a8057")]
    stream: String,
    aggregate_type: &'static str,
    stream_id: Uuid,
    /// The last version in it.
    version: u64,
    /// The position of that version.
    #[schema(value_type = u64)]
    position: Position,
    /// When that version was recorded.
    #[schema(value_type = String)]
    recorded_at: Timestamp,
    /// Folded from the log. Personal data reads `[personal]` for those who may not see it, secrets read `[secret]`.
    #[schema(value_type = Object)]
    state: Value,
}

/// Show the state of a stream, folded from the log as it was.
#[utoipa::path(get, path = "/api/v1/streams/{type}/{id}/state", tag = "audit", security(("bearer" = []), ("cookie" = [])),
    params(
        ("type" = String, Path, description = "Aggregate, such as `content`"),
        ("id" = String, Path, description = "ULID or UUID"),
        ("version" = Option<u64>, Query, description = "Right after this version; not together with `at`"),
        ("at" = Option<String>, Query, description = "As it was known at this RFC 3339 moment"),
    ),
    responses((status = 200, body = StreamStateBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_stream_state(
    State(app): State<AppState>,
    caller: Caller,
    Path((aggregate, id)): Path<(String, String)>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<StreamStateBody>, Problem> {
    let stream = stream_of(&aggregate, &id)?;
    let until = match (parameters.number("version", 1, u64::MAX)?, parameters.moment("at")?) {
        (Some(_), Some(_)) => return Err(refused("at", "cannot be combined with version")),
        (Some(version), None) => Until::Version(version),
        (None, Some(moment)) => Until::Moment(moment),
        (None, None) => Until::Now,
    };
    let then = history::state(&caller, app.store(), &stream, until)
        .await?
        .ok_or_else(|| match until {
            Until::Now => no_such_stream(),
            Until::Version(_) => not_then("version"),
            Until::Moment(_) => not_then("at"),
        })?;
    Ok(Json(StreamStateBody {
        stream: stream.to_string(),
        aggregate_type: stream.aggregate_type,
        stream_id: stream.id,
        version: then.version,
        position: then.position,
        recorded_at: then.recorded_at,
        state: then.state,
    }))
}

fn stream_of(aggregate: &str, id: &str) -> Result<StreamId, Problem> {
    let aggregate = aggregate_types()
        .iter()
        .find(|known| **known == aggregate)
        .ok_or_else(|| refused("type", &format!("must be one of {}", aggregate_types().join(", "))))?;
    let id = parse_uuid(id).map_err(|error| refused("id", &error.to_string()))?;
    Ok(StreamId::new(aggregate, id))
}

fn no_such_stream() -> Problem {
    Problem::not_found("stream not found").with_code("stream.not_found")
}

fn not_then(parameter: &'static str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "stream.not_found",
        "the stream did not exist then",
    )
    .on(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_a_known_aggregate_and_an_id_in_either_form() {
        let stream = stream_of("content", "01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let ulid = annals_domain::ids::ulid_text(stream.id);
        assert_eq!(stream_of("content", &ulid).unwrap(), stream);
        assert_eq!(stream_of("Content", &ulid).unwrap_err().field(), Some("type"));
        assert_eq!(stream_of("content", "7").unwrap_err().field(), Some("id"));
    }
}
