//! `Idempotency-Key` on every write of the API: a repeated request gets the first answer, and happens once.
//!
//! The log decides (docs/decisions/0008-idempotency.md): the first commit of a request carries the key, and a second one
//! under the same key is refused by the append itself, in whichever process. What is here finds out before a handler
//! runs, keeps answers, and gives them again.

mod exchange;
mod key;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use annals_eventstore::{EventStore, RequestParts};
use axum::body::Body;
use axum::extract::{OriginalUri, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Extensions, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use super::RequestContext;
use crate::app::AppState;
use crate::extract::read_body;
use crate::problem::{Problem, Shape, chain};

pub(crate) use exchange::Exchange;
pub use exchange::IDEMPOTENCY_REPLAYED;
pub use key::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_NAME};

/// How long a stop waits for requests whose clients have gone.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// How often answers that are past their time are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(10);
/// Between two batches of a sweep, so that requests come first.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// The requests under a key that this process is at, and the sweep of their answers.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    turns: turns::Turns,
    running: TaskTracker,
    sweeping: CancellationToken,
}

impl Exchanges {
    /// Deletes answers older than `retention`, now and ever again, until [`Exchanges::finish`].
    pub(crate) fn sweep(&self, store: EventStore, retention: Duration) {
        let stopped = self.sweeping.clone();
        self.running.spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                while let Some(true) = sweep_batch(&store, retention).await {
                    tokio::select! {
                        () = stopped.cancelled() => return,
                        () = tokio::time::sleep(SWEEP_PAUSE) => {}
                    }
                }
            }
        });
    }

    /// Ends the sweep, and waits for requests whose clients have gone, within bounds. Call it when the HTTP server has
    /// stopped.
    pub(crate) async fn finish(&self) {
        self.sweeping.cancel();
        self.running.close();
        if tokio::time::timeout(FINISH_WITHIN, self.running.wait()).await.is_err() {
            tracing::warn!("stopping before every request under an idempotency key has ended");
        }
    }
}

/// Whether there may be more to delete; nothing when it could not be told.
async fn sweep_batch(store: &EventStore, retention: Duration) -> Option<bool> {
    match store.sweep_answers(retention).await {
        Ok((answers, more)) => {
            if answers > 0 {
                tracing::debug!(answers, "deleted answers that were past their time");
            }
            Some(more)
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "answers past their time were not deleted; trying again later");
            None
        }
    }
}

/// Sees to it that a write under a key happens once and is answered the same every time. Inside of CORS, whose headers
/// belong to the request at hand.
pub(crate) async fn once(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let uri = original(request.extensions(), request.uri());
    if !super::is_api(uri.path()) || !is_write(request.method()) {
        return next.run(request).await;
    }
    let key = match key::of(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(problem) => return problem.into_response(),
    };
    let target = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let shape = Shape::of(uri.path(), request.headers());
    let (mut parts, body) = request.into_parts();
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let described = RequestParts {
        method: parts.method.as_str(),
        target: &target,
        media_type: parts.headers.get(CONTENT_TYPE).map_or(&[], |value| value.as_bytes()),
        body: &body,
    };
    let request_hash = app.store().request_hash(&key, &described);
    let request_id = parts
        .extensions
        .get::<RequestContext>()
        .map_or_else(Uuid::now_v7, |context| context.request_id);
    let exchange = Arc::new(Exchange::new(key, request_hash, shape, request_id));
    parts.extensions.insert(Arc::clone(&exchange));
    let request = Request::from_parts(parts, Body::from(body));

    // In a task of its own: a client that goes away in the middle is the very one that will ask again, and its answer
    // must have been kept by then.
    let running = app.exchanges().running.clone();
    let carried_out = running.spawn(
        async move {
            let response = next.run(request).await;
            exchange.conclude(&app, response).await
        }
        .in_current_span(),
    );
    match carried_out.await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic), // told by `surround`, as every other
            Err(_) => Problem::internal().into_response(),
        },
    }
}

fn is_write(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method)
}

/// What the client asked for, before any router took off a prefix.
fn original<'a>(extensions: &'a Extensions, uri: &'a Uri) -> Uri {
    extensions
        .get::<OriginalUri>()
        .map_or(uri, |original| &original.0)
        .clone()
}
