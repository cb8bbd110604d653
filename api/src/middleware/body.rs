//! Bounds on request bodies: size, and a deadline over the whole body however steadily it drips.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use crate::config::ServerConfig;

/// Bytes beyond the limit that are read and thrown away before the refusal. Closing a connection with unread bytes resets
/// it, and the client would lose the answer that tells it why.
const DISCARDED_BYTES: usize = 16 * 1024 * 1024;

/// Why a body could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// More bytes than allowed, whatever `Content-Length` had said.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// The deadline passed.
    #[error("the request body did not arrive in time")]
    TooSlow,
}

/// Puts the bounds around the body. The clock starts at the first wait for it.
pub(super) fn guard(request: Request, limits: &ServerConfig) -> Request {
    if request.body().is_end_stream() {
        return request;
    }
    let timeout = Duration::from_secs(limits.body_timeout_s);
    let left_bytes = limits.max_body_bytes;
    request.map(|inner| {
        Body::new(Guarded {
            inner,
            left_bytes,
            discarded_bytes: None,
            timeout,
            deadline: None,
        })
    })
}

/// Reads a body to its end, or as far as is reasonable, without keeping it.
pub(super) async fn discard(body: Body, limits: &ServerConfig) {
    let timeout = Duration::from_secs(limits.body_timeout_s);
    let mut body = Guarded {
        inner: body,
        left_bytes: 0,
        discarded_bytes: Some(0),
        timeout,
        deadline: None,
    };
    // The first frame that comes out is the refusal.
    let _ = body.frame().await;
}

struct Guarded {
    inner: Body,
    left_bytes: usize,
    /// Bytes thrown away since the limit was passed.
    discarded_bytes: Option<usize>,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    /// What is to be said about a frame of this length; nothing while frames are thrown away.
    fn judge(&mut self, bytes: usize) -> Option<Result<(), BodyFault>> {
        if self.discarded_bytes.is_none() {
            match self.left_bytes.checked_sub(bytes) {
                Some(left) => {
                    self.left_bytes = left;
                    return Some(Ok(()));
                }
                None => self.discarded_bytes = Some(0),
            }
        }
        let discarded = self.discarded_bytes.unwrap_or(0).saturating_add(bytes);
        self.discarded_bytes = Some(discarded);
        (discarded > DISCARDED_BYTES).then_some(Err(BodyFault::TooLarge))
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let guarded = &mut *self;
        loop {
            match Pin::new(&mut guarded.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match guarded.judge(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(Ok(())) => return Poll::Ready(Some(Ok(frame))),
                    Some(Err(fault)) => return Poll::Ready(Some(Err(axum::Error::new(fault)))),
                    None => {}
                },
                Poll::Ready(_) if guarded.discarded_bytes.is_some() => {
                    return Poll::Ready(Some(Err(axum::Error::new(BodyFault::TooLarge))));
                }
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    let timeout = guarded.timeout;
                    let deadline = guarded
                        .deadline
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                    return match deadline.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(Some(Err(axum::Error::new(BodyFault::TooSlow)))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.discarded_bytes.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
