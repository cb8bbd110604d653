//! The stream under a connection: notes what passes, and gives the refusals that hyper makes by itself a body.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use crate::middleware;

/// A stream that tells its connection when bytes arrive.
pub(super) struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
    replacing: Option<Replacing>,
}

/// What is being sent in place of hyper's own words.
struct Replacing {
    ours: Bytes,
    /// How much hyper believes to have sent once ours is out.
    theirs_bytes: usize,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            replacing: None,
        }
    }

    fn poll_replace(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(replacing) = &mut self.replacing {
            if replacing.ours.is_empty() {
                let theirs_bytes = replacing.theirs_bytes;
                self.replacing = None;
                return Poll::Ready(Ok(theirs_bytes));
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &replacing.ours))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = replacing.ours.split_to(written);
        }
        Poll::Ready(Ok(0))
    }
}

/// The status of an answer that hyper makes itself, which is a head and nothing else. Ours all name their request.
fn bare_refusal(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = StatusCode::from_bytes(status)
        .ok()
        .filter(StatusCode::is_client_error)?;
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let lower = head.to_ascii_lowercase();
    (lower.contains("\r\ncontent-length: 0") && !lower.contains("\r\nx-request-id:")).then_some(status)
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.note_bytes();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replacing.is_none()
            && !self.activity.is_open()
            && let Some(status) = bare_refusal(bytes)
        {
            self.replacing = Some(Replacing {
                ours: middleware::refuse_unparsed(status),
                theirs_bytes: bytes.len(),
            });
        }
        if self.replacing.is_some() {
            return self.poll_replace(cx);
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.note_taken(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head alone is one slice.
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.activity.note_taken(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
