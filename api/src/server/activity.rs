//! What a connection is doing, by which its end is told from its pauses.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::Version;

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    /// From the first byte of a request to the end of its head.
    pub(super) header: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
}

/// What a connection is doing, in milliseconds since the process began to count.
#[derive(Debug)]
pub(super) struct Activity {
    open_requests: AtomicUsize,
    /// Of these, how many are being answered.
    answering: AtomicUsize,
    /// When the client last took something.
    taken_ms: AtomicU64,
    /// Since when no request is open.
    idle_since_ms: AtomicU64,
    /// First byte after the last request, or 0: the head of a request is under way since then.
    head_since_ms: AtomicU64,
    has_served: AtomicBool,
    /// HTTP/2 frames that are no request arrive at any time, so bytes say nothing about heads there.
    is_http2: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            open_requests: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            taken_ms: AtomicU64::new(now_ms()),
            idle_since_ms: AtomicU64::new(now_ms()),
            head_since_ms: AtomicU64::new(0),
            has_served: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
        }
    }
}

impl Activity {
    pub(super) fn open(activity: &Arc<Self>, version: Version) -> OpenRequest {
        activity.has_served.store(true, Ordering::Relaxed);
        activity.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        activity.open_requests.fetch_add(1, Ordering::Relaxed);
        activity.head_since_ms.store(0, Ordering::Relaxed);
        OpenRequest {
            activity: Arc::clone(activity),
            is_answering: AtomicBool::new(false),
        }
    }

    pub(super) fn note_bytes(&self) {
        if self.open_requests.load(Ordering::Relaxed) == 0 && !self.is_http2.load(Ordering::Relaxed) {
            // Only the first byte counts; a drip must not push the deadline on.
            let _ = self
                .head_since_ms
                .compare_exchange(0, now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(super) fn note_taken(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.taken_ms.store(now_ms(), Ordering::Relaxed);
        }
    }

    /// Whether a request has reached its handler and its answer has not been handed over.
    pub(super) fn is_open(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    pub(super) fn has_outlived(&self, lifetimes: Lifetimes) -> bool {
        let open = self.open_requests.load(Ordering::Relaxed);
        if open > 0 {
            // Handlers take their time; a client that does not take its answer does not get more than an idle one.
            let is_stalled = self.answering.load(Ordering::Relaxed) == open;
            let since = self.taken_ms.load(Ordering::Relaxed);
            return is_stalled && u128::from(now_ms().saturating_sub(since)) > lifetimes.idle.as_millis();
        }
        let head_since = self.head_since_ms.load(Ordering::Relaxed);
        let (since, longest) = if head_since > 0 {
            (head_since, lifetimes.header)
        } else if self.has_served.load(Ordering::Relaxed) {
            (self.idle_since_ms.load(Ordering::Relaxed), lifetimes.idle)
        } else {
            // Whoever connects has something to say; silence right away gets no more than a slow head.
            (
                self.idle_since_ms.load(Ordering::Relaxed),
                lifetimes.header.min(lifetimes.idle),
            )
        };
        u128::from(now_ms().saturating_sub(since)) > longest.as_millis()
    }
}

/// Counts as an open request until dropped.
pub(super) struct OpenRequest {
    activity: Arc<Activity>,
    is_answering: AtomicBool,
}

impl OpenRequest {
    pub(super) fn note_answer(&self) {
        self.is_answering.store(true, Ordering::Relaxed);
        self.activity.taken_ms.store(now_ms(), Ordering::Relaxed);
        self.activity.answering.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if self.is_answering.load(Ordering::Relaxed) {
            self.activity.answering.fetch_sub(1, Ordering::Relaxed);
        }
        self.activity.idle_since_ms.store(now_ms(), Ordering::Relaxed);
        self.activity.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Never 0, which stands for "not".
fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
