//! Bounds on request bodies: size, and a deadline over the whole body however steadily it drips.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use crate::config::ServerConfig;

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
    let (left_bytes, timeout) = (limits.max_body_bytes, Duration::from_secs(limits.body_timeout_s));
    request.map(|inner| Body::new(Guarded { inner, left_bytes, timeout, deadline: None }))
}

struct Guarded {
    inner: Body,
    left_bytes: usize,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let guarded = &mut *self;
        match Pin::new(&mut guarded.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match guarded.left_bytes.checked_sub(bytes) {
                    Some(left) => {
                        guarded.left_bytes = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Err(axum::Error::new(BodyFault::TooLarge)))),
                }
            }
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending => {
                let timeout = guarded.timeout;
                let deadline =
                    guarded.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                match deadline.as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        Poll::Ready(Some(Err(axum::Error::new(BodyFault::TooSlow))))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
