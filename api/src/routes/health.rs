//! Whether the process lives, and whether it can serve.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::Json;

/// Longest wait for the database; whoever asks for readiness has little patience.
const PATIENCE: Duration = Duration::from_secs(2);

const PING: &str = "select 1";

/// The routes at the root.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

/// Answer of a health check.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok` or `unavailable`.
    #[schema(value_type = String)]
    status: &'static str,
    /// What is wrong, in stable words: `database`, `projection <name>`, `projection <name>: log diverged at position <n>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
}

/// The process answers.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = HealthBody)))]
pub(crate) async fn live() -> Json<HealthBody> {
    Json(HealthBody {
        status: "ok",
        faults: Vec::new(),
    })
}

/// The database answers and no projection is stuck.
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody)))]
pub(crate) async fn ready(State(app): State<AppState>) -> Response {
    let mut faults = Vec::new();
    let ping = sqlx::query(PING).execute(app.database().pool());
    if !matches!(tokio::time::timeout(PATIENCE, ping).await, Ok(Ok(_))) {
        faults.push("database".to_owned());
    }
    faults.extend(app.projection_faults());
    if faults.is_empty() {
        return Json(HealthBody { status: "ok", faults }).into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(HealthBody {
            status: "unavailable",
            faults,
        }),
    )
        .into_response()
}
