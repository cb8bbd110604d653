//! One request under an idempotency key: whose it is, what the log says of it, and which answer it gets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annals_domain::{Actor, Caller, Promise, PromiseOutcome, PromisedCommit, PromisedRequest, SessionId};
use annals_eventstore::{Answer, AnsweredCommit, Hash, Idempotency, KeptAnswer, Known};
use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use axum::http::{Extensions, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::turns::Turn;
use crate::app::AppState;
use crate::problem::{Problem, Shape, chain};

/// The header of an answer that was given before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Largest answer that is kept, in bytes of its body. Ours are much smaller.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;
/// How long a request waits for an earlier one under the same key in this process.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long after its commit, and after its wait for read models, an answer is expected to be there. Beyond that it is
/// taken for lost with the process that was to keep it.
const ANSWER_LATENCY: Duration = Duration::from_secs(2);
/// Pauses between two looks for an answer that another process is about to keep.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// One request under a key. It starts without a principal: the extractor that authenticates the caller says whose it is,
/// so that a handler and its key can never be of two minds about who asks.
#[derive(Debug)]
pub(crate) struct Exchange {
    key: String,
    request_hash: Hash,
    shape: Shape,
    request_id: Uuid,
    promise: Arc<Promise>,
    replay: Mutex<Option<Answer>>,
    turn: Mutex<Option<Turn>>,
}

/// What is to become of a request.
enum Ruling {
    /// Nothing came of the key so far.
    CarryOut,
    /// This is the answer.
    Replay(Box<KeptAnswer>),
    /// It must not be carried out, and there is no answer.
    Refuse(Problem),
}

impl Exchange {
    pub(super) fn new(key: String, request_hash: Hash, shape: Shape, request_id: Uuid) -> Self {
        Self {
            key,
            request_hash,
            shape,
            request_id,
            promise: Arc::default(),
            replay: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// The promise of the request that these extensions belong to; absent without a key.
    pub(crate) fn promise(extensions: &Extensions) -> Option<Arc<Promise>> {
        let exchange = extensions.get::<Arc<Self>>()?;
        Some(Arc::clone(&exchange.promise))
    }

    /// Says that a request is `caller`'s, who was just authenticated, and looks whether it was carried out before. Does
    /// nothing without a key.
    ///
    /// # Errors
    /// What ends the handler: the refusal, or a stand-in for the answer that was given before.
    pub(crate) async fn bind(app: &AppState, extensions: &Extensions, caller: &Caller) -> Result<(), Problem> {
        let Some(exchange) = extensions.get::<Arc<Self>>() else {
            return Ok(());
        };
        let request = app
            .store()
            .idempotency(&caller.actor, &exchange.key, exchange.request_hash);
        if let Some(bound) = exchange.promise.request() {
            return match bound.principal == request.principal {
                true => Ok(()),
                false => {
                    tracing::error!("one request was taken for that of two callers");
                    Err(Problem::internal())
                }
            };
        }
        let whose = (request.principal.clone(), request.key.clone());
        let Some(turn) = app.exchanges().turns.take(whose, TURN_PATIENCE).await else {
            return Err(Problem::idempotency_in_progress());
        };
        exchange.hold(turn);
        match exchange.rule(app, &request).await? {
            Ruling::CarryOut => {
                exchange.promise.bind(PromisedRequest {
                    principal: request.principal,
                    key: request.key,
                    request_hash: request.request_hash.0,
                });
                Ok(())
            }
            Ruling::Replay(kept) => Err(exchange.answer_with(kept.answer)),
            Ruling::Refuse(problem) => Err(problem),
        }
    }

    /// For a token whose session has ended: when this very request ended it, as signing out does, then its answer is
    /// still the client's to have. Whoever shows the token gets nothing else by it.
    ///
    /// # Errors
    /// The stand-in for the answer that was given before.
    pub(crate) async fn bind_ended(app: &AppState, extensions: &Extensions, token: &str) -> Result<(), Problem> {
        let Some(exchange) = extensions.get::<Arc<Self>>() else {
            return Ok(());
        };
        let Some((user_id, session_id)) = annals_commands::auth::named_by(app.commands(), token) else {
            return Ok(());
        };
        match exchange.ended(app, &Actor::User(user_id), session_id).await {
            Some(answer) => Err(exchange.answer_with(answer)),
            None => Ok(()),
        }
    }

    async fn ended(&self, app: &AppState, actor: &Actor, session_id: SessionId) -> Option<Answer> {
        let request = app.store().idempotency(actor, &self.key, self.request_hash);
        let retention = app.config().answer_retention();
        match app.store().first_answer(&request, retention).await {
            Ok(Known::CarriedOut { answer: Some(kept), .. }) if kept.session_id == Some(session_id) => {
                Some(kept.answer)
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "whether an ended session has an answer to come is not known");
                None
            }
        }
    }

    /// The answer to the request, from what its handler has made of it.
    pub(super) async fn conclude(&self, app: &AppState, response: Response) -> Response {
        if let Some(answer) = self.replay.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return replayed(answer);
        }
        let Some(promised) = self.promise.request() else {
            return response; // refused before it was known whose request it is, or of no concern to the log
        };
        let request = Idempotency {
            principal: promised.principal.clone(),
            key: promised.key.clone(),
            request_hash: Hash(promised.request_hash),
        };
        match self.promise.outcome() {
            Some(PromiseOutcome::CarriedOut(commit)) => self.keep(app, &request, commit, response).await,
            Some(PromiseOutcome::CarriedOutBefore { .. } | PromiseOutcome::KeyReused) => {
                self.instead_of(response, app, &request).await
            }
            // Another process may have carried it out since the first look; then this refusal is of a state that the
            // client's own request has made.
            None => self.instead_of(response, app, &request).await,
        }
    }

    /// The first answer where there is one, else the refusal; `response` when the log knows nothing of the request.
    async fn instead_of(&self, response: Response, app: &AppState, request: &Idempotency) -> Response {
        match self.rule(app, request).await {
            Ok(Ruling::CarryOut) => response,
            Ok(Ruling::Replay(kept)) => replayed(kept.answer),
            Ok(Ruling::Refuse(problem)) => problem.into_response(),
            // Nothing was written by this request, which is what its own refusal says too.
            Err(_) => response,
        }
    }

    /// What the log says of the request. Waits, within bounds, for an answer that another process may be about to keep.
    async fn rule(&self, app: &AppState, request: &Idempotency) -> Result<Ruling, Problem> {
        let retention = app.config().answer_retention();
        let expected_within = app.config().settle_timeout() + ANSWER_LATENCY;
        let give_up = Instant::now() + expected_within;
        let mut pause = FIRST_PAUSE;
        loop {
            let known = app.store().first_answer(request, retention).await?;
            let (position, age, answer) = match known {
                Known::Nothing => return Ok(Ruling::CarryOut),
                Known::OtherRequest => return Ok(Ruling::Refuse(Problem::idempotency_key_reused())),
                Known::CarriedOut { position, age, answer } => (position, age, answer),
            };
            if let Some(kept) = answer {
                return Ok(Ruling::Replay(Box::new(kept)));
            }
            if age >= expected_within || Instant::now() >= give_up {
                return Ok(Ruling::Refuse(Problem::idempotency_answer_gone(position)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Keeps the answer, and then gives it. What could not be kept is given all the same: the request was carried out.
    async fn keep(
        &self,
        app: &AppState,
        request: &Idempotency,
        commit: &PromisedCommit,
        response: Response,
    ) -> Response {
        let response = super::super::finish(response, self.shape, self.request_id);
        // A fault of ours says nothing of what was carried out; whoever asks again is told that it was.
        if response.status().is_server_error() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = match body.size_hint().exact() {
            Some(bytes) if bytes <= MAX_ANSWER_BYTES => body.collect().await.map(http_body_util::Collected::to_bytes),
            length => {
                tracing::info!(?length, "an answer is too large to be kept");
                return Response::from_parts(parts, body);
            }
        };
        let Ok(bytes) = bytes else {
            tracing::error!("an answer could not be read to be kept");
            return Problem::internal().into_response();
        };
        let headers = parts.headers.iter().filter(|(name, _)| is_kept(name));
        let answer = Answer {
            status: parts.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body: bytes.to_vec(),
        };
        let commit = AnsweredCommit {
            command_id: commit.command_id,
            subjects: commit.subjects.clone(),
            session_id: commit.session_id,
        };
        if let Err(error) = app.store().keep_answer(request, &commit, &answer).await {
            tracing::error!(error = %chain(&error), "an answer could not be kept for a repeated request");
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    /// Has the layer give this answer, whatever the handler says; the refusal only ends the handler.
    fn answer_with(&self, answer: Answer) -> Problem {
        *self.replay.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        Problem::of_status(StatusCode::CONFLICT)
    }

    fn hold(&self, turn: Turn) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
    }
}

/// Headers that speak of this one transfer are not part of the answer.
fn is_kept(name: &HeaderName) -> bool {
    ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE].contains(name)
}

/// An answer that was given before, marked as such.
fn replayed(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) {
            headers.append(name, value);
        }
    }
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}
