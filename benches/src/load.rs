//! Closed-loop load: a fixed number of callers, each of which asks again as soon as it is answered.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart, in microseconds; more counts as this.
const LONGEST_US: u64 = 60_000_000;

/// What one run of a load showed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    /// Callers at once.
    pub(crate) callers: usize,
    /// Answers within the measured time.
    pub(crate) answers: u64,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Half of the answers came within this time, in microseconds.
    pub(crate) p50_us: u64,
    /// 99 of 100 answers came within this time, in microseconds.
    pub(crate) p99_us: u64,
}

/// Runs `callers` loops of `call` for `warm_up`, then measures them for `duration`.
///
/// # Errors
/// The first error of any call ends the run.
pub(crate) async fn closed_loop<C, F, Fut>(
    callers: usize,
    warm_up: Duration,
    duration: Duration,
    caller: C,
) -> Result<Measured>
where
    C: Fn(usize) -> F,
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now() + warm_up;
    let mut loops = Vec::with_capacity(callers);
    for number in 0..callers {
        let mut call = caller(number);
        let stop = Arc::clone(&stop);
        loops.push(tokio::spawn(async move {
            let mut latencies = Histogram::<u64>::new_with_max(LONGEST_US, 3).context("bounds of the histogram")?;
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                call().await?;
                if asked >= begin && !stop.load(Ordering::Relaxed) {
                    latencies
                        .saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(LONGEST_US).max(1));
                }
            }
            anyhow::Ok(latencies)
        }));
    }
    tokio::time::sleep_until((begin + duration).into()).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Histogram::<u64>::new_with_max(LONGEST_US, 3).context("bounds of the histogram")?;
    for one in loops {
        all.add(one.await.context("a caller panicked")??)
            .context("histograms of one shape")?;
    }
    #[expect(clippy::cast_precision_loss, reason = "answers of a few seconds are far below 2^52")]
    let per_second = all.len() as f64 / duration.as_secs_f64();
    Ok(Measured {
        callers,
        answers: all.len(),
        per_second,
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
    })
}
