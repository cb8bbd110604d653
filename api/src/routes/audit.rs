//! `/api/v1/audit`: who did what, when and why, without payloads.

use annals_domain::{Actor, Timestamp};
use annals_eventstore::Position;
use annals_projections::audit_trail::{self, AuditEntry, AuditFilter};
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::event::{Parameters, refused};
use crate::app::AppState;
use crate::extract::{Caller, Json, MinPosition, Query};
use crate::problem::{Problem, ProblemBody};

/// The read model that answers.
const MODELS: &[&str] = &["audit_trail"];

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(list_audit_entries))
}

/// One entry of the audit trail: one event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntryBody {
    #[schema(value_type = u64)]
    position: Position,
    #[schema(value_type = String, example = "2026-02-15T12:00:00.123456Z")]
    recorded_at: Timestamp,
    event_id: Uuid,
    /// Who caused it.
    #[schema(value_type = String, example = "user:01890a5d-ac96-774b-bcce-b302099a8057")]
    actor: Actor,
    /// The stream it happened in.
    #[schema(example = "content/01890a5d-ac96-774b-bcce-b302099a8057")]
    stream: String,
    aggregate_type: String,
    stream_id: Uuid,
    version: u64,
    #[schema(example = "content.published")]
    event_type: String,
    /// Shared by everything that one command did.
    command_id: Uuid,
    /// Shared by everything that one request set off.
    correlation_id: Uuid,
    /// The message that directly set it off.
    causation_id: Uuid,
}

impl From<AuditEntry> for AuditEntryBody {
    fn from(entry: AuditEntry) -> Self {
        Self {
            position: entry.position,
            recorded_at: entry.recorded_at,
            event_id: entry.event_id,
            actor: entry.actor,
            stream: format!("{}/{}", entry.aggregate_type, entry.stream_id),
            aggregate_type: entry.aggregate_type,
            stream_id: entry.stream_id,
            version: entry.version,
            event_type: entry.event_type,
            command_id: entry.command_id,
            correlation_id: entry.correlation_id,
            causation_id: entry.causation_id,
        }
    }
}

/// Part of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditBody {
    /// In the order of the log.
    data: Vec<AuditEntryBody>,
    /// The `after` to go on with.
    #[schema(value_type = u64)]
    next_after: Position,
}

/// Search the audit trail, in the order of the log.
///
/// Without `audit.read` only with `actor` naming the caller.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", security(("bearer" = []), ("cookie" = [])),
    params(
        ("after" = Option<u64>, Query, description = "Position after which to start; 0 when absent"),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 when absent"),
        ("actor" = Option<String>, Query, description = "`user:<id>`, `system:<name>` or `anonymous`"),
        ("aggregate_type" = Option<String>, Query, description = "Aggregate, such as `content`"),
        ("stream" = Option<String>, Query, description = "`<aggregate>/<id>`"),
        ("type" = Option<String>, Query, description = "Event types, comma-separated or repeated"),
        ("correlation_id" = Option<Uuid>, Query, description = "What one request set off"),
        ("from" = Option<String>, Query, description = "Recorded at this RFC 3339 moment or later"),
        ("to" = Option<String>, Query, description = "Recorded before this RFC 3339 moment"),
    ),
    responses((status = 200, body = AuditBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_audit_entries(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(parameters): Query<Parameters>,
) -> Result<Json<AuditBody>, Problem> {
    let after = Position(parameters.after()?);
    let limit = parameters.limit()?;
    let filter = AuditFilter {
        actor: parameters.actor()?,
        aggregate_type: aggregate_type(&parameters)?,
        stream: parameters.stream()?,
        types: parameters.event_types()?,
        correlation_id: parameters.correlation_id()?,
        from: parameters.moment("from")?,
        to: parameters.moment("to")?,
        after: Some(after),
        limit: Some(limit),
    };
    // No write waits for this model, so a reader does: whatever was acknowledged before is in the answer.
    let head = app.store().head().await?.position;
    app.reach(MODELS, MinPosition(demanded.0.max(Some(head)))).await?;
    let entries = audit_trail::query(&caller, app.database(), &filter).await?;
    let is_cut = entries.len() >= limit as usize;
    let last = entries.last().map_or(after, |entry| entry.position);
    let next_after = if is_cut { last } else { last.max(head) };
    Ok(Json(AuditBody {
        data: entries.into_iter().map(Into::into).collect(),
        next_after,
    }))
}

fn aggregate_type(parameters: &Parameters) -> Result<Option<String>, Problem> {
    let Some(name) = parameters.one("aggregate_type")? else {
        return Ok(None);
    };
    match annals_domain::registry::aggregate_types().contains(&name) {
        true => Ok(Some(name.to_owned())),
        false => Err(refused("aggregate_type", "must be an aggregate such as content")),
    }
}
