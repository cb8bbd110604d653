//! Read your own writes: an answer to a write waits until the read models of its noun show it.

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};

use annals_eventstore::Position;
use annals_projections::ProjectionState;

use crate::app::AppState;
use crate::extract::{MinPosition, Prefer};
use crate::problem::Problem;

/// The position of the log that an answer speaks of.
pub const EVENT_POSITION: HeaderName = HeaderName::from_static("event-position");
/// Told to clients, in seconds, where somebody has to set things right first.
const OPERATOR_NEEDED_S: u64 = 30;
/// RFC 7240.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Names of read models, by the noun whose writes must show in them.
pub mod models {
    /// Accounts, sign-ins and organizations: one registration changes all three.
    pub const IDENTITY: &[&str] = &["users", "sessions", "organizations"];
    /// Sign-ins.
    pub const SESSION: &[&str] = &["sessions"];
    /// Second factors; setting one up or taking it away ends sessions.
    pub const MFA: &[&str] = &["second_factors", "sessions"];
    /// Accounts.
    pub const USER: &[&str] = &["users"];
}

/// Headers of an answer to a write: `Event-Position`, and `Preference-Applied` when the client did not want to wait.
///
/// The answer itself is the same in both cases, for it is built from what was committed, not from a read model.
#[derive(Debug, Clone, Copy)]
#[must_use = "the headers belong into the answer"]
pub struct Settled {
    position: Position,
    respond_async: bool,
}

impl IntoResponseParts for Settled {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts
            .headers_mut()
            .insert(EVENT_POSITION, HeaderValue::from(self.position.get()));
        if self.respond_async {
            parts
                .headers_mut()
                .insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
        }
        Ok(parts)
    }
}

impl AppState {
    /// Waits until `models` show what was committed at `position`, unless the client does not want that.
    ///
    /// A wait that ends too early is no refusal: the write has happened, and saying otherwise would make clients repeat it.
    pub async fn settle(&self, models: &[&'static str], position: Position, prefer: Prefer) -> Settled {
        if !prefer.respond_async
            && let Err(behind) = self
                .engine()
                .wait(models, position, self.config().settle_timeout())
                .await
        {
            tracing::warn!(%position, %behind, "answering a write before the read models show it");
        }
        Settled {
            position,
            respond_async: prefer.respond_async,
        }
    }

    /// Waits until `models` show the position that a reader demands.
    ///
    /// # Errors
    /// 503 with `Retry-After` when they do not get there in time, and at once when they cannot: the log ends before that
    /// position, or a model was built from another log.
    pub async fn reach(&self, models: &[&'static str], demanded: MinPosition) -> Result<(), Problem> {
        let Some(position) = demanded.0 else { return Ok(()) };
        if position > *self.store().head_changes().borrow() {
            // Another process may have written it just now; if not, no amount of waiting brings it.
            let head = self.store().look_at_head().await?;
            if position > head {
                return Err(Problem::unavailable(
                    1,
                    format!(
                        "The log ends at position {head}, before Min-Position: it was restored from a backup, or the \
                         position is of another log."
                    ),
                )
                .with_code("READ_MODEL_BEHIND")
                .with_details(serde_json::json!({ "head": head }))
                .on("Min-Position"));
            }
        }
        match self
            .engine()
            .wait(models, position, self.config().settle_timeout())
            .await
        {
            Ok(()) => Ok(()),
            Err(behind) if behind.state == ProjectionState::Diverged => {
                tracing::warn!(%position, %behind, "a read demanded what cannot be shown");
                Err(Problem::unavailable(
                    OPERATOR_NEEDED_S,
                    format!(
                        "The read model {} was built from another log, which diverged at position {}.",
                        behind.projection, behind.position
                    ),
                )
                .with_code("READ_MODEL_BEHIND")
                .on("Min-Position"))
            }
            Err(behind) => {
                tracing::debug!(%position, %behind, "a read demanded more than is shown");
                Err(
                    Problem::unavailable(1, "The read models have not reached Min-Position yet.")
                        .with_code("READ_MODEL_BEHIND")
                        .on("Min-Position"),
                )
            }
        }
    }
}
