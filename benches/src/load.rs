//! Load: rounds of calls, closed loop and open loop, and what several rounds say together.
//!
//! In a closed loop a fixed number of callers each ask again as soon as they are answered. In an open loop calls are
//! sent at a rate that does not care for answers, and latency counts from the moment a call was meant to be sent, so
//! that a contender that stalls cannot hide the calls it kept waiting.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Longest latency told apart, in microseconds; more counts as this.
const LONGEST_US: u64 = 60_000_000;
/// Decimal digits of a latency that are kept.
const DIGITS: u8 = 3;
/// Before each measured round its contender runs for this long unmeasured.
const WARM_UP: Duration = Duration::from_millis(200);
/// The longest that calls of an open loop are waited for after the last was sent.
const DRAIN: Duration = Duration::from_secs(15);

/// What became of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What was asked for has happened.
    Done,
    /// Too busy: the queue is full, or no connection was to be had in time.
    Refused,
}

/// How measuring time is spent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Turns of each contender.
    pub(crate) rounds: usize,
    /// Measured time of one turn.
    pub(crate) round: Duration,
}

/// What one turn of one contender showed.
#[derive(Debug)]
pub(crate) struct Round {
    per_second: f64,
    refused: u64,
    unanswered: u64,
    latencies: Histogram<u64>,
    /// By how much calls were sent later than meant; empty in a closed loop.
    late: Histogram<u64>,
}

/// What all rounds of one contender say. Latencies are in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    /// Answers of all rounds.
    pub(crate) answers: u64,
    /// Calls that were refused because there was too much to do.
    pub(crate) refused: u64,
    /// Calls without an answer long after the end; their waiting time so far is among the latencies.
    pub(crate) unanswered: u64,
    /// Answers a second, the median of the rounds.
    pub(crate) per_second: f64,
    /// Answers a second in the slowest round.
    pub(crate) lowest_per_second: f64,
    /// Answers a second in the fastest round.
    pub(crate) highest_per_second: f64,
    /// Half of the answers came within this time, the median of the rounds.
    pub(crate) p50_us: u64,
    /// The same of the round in which it was shortest.
    pub(crate) lowest_p50_us: u64,
    /// The same of the round in which it was longest.
    pub(crate) highest_p50_us: u64,
    /// 90 of 100 answers of all rounds came within this time.
    pub(crate) p90_us: u64,
    /// 99 of 100.
    pub(crate) p99_us: u64,
    /// 999 of 1000.
    pub(crate) p999_us: u64,
    /// The longest of all rounds.
    pub(crate) max_us: u64,
    /// In an open loop, 99 of 100 calls were sent at most this much later than meant; absent in a closed loop.
    pub(crate) late_p99_us: Option<u64>,
}

/// One figure over another. Contenders take turns, so each round gives a ratio of its own.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Ratio {
    /// Of the rounds.
    pub(crate) median: f64,
    /// In the round in which it was lowest.
    pub(crate) lowest: f64,
    /// In the round in which it was highest.
    pub(crate) highest: f64,
}

impl Pace {
    /// `seconds` of measuring for each contender, in `rounds` turns.
    pub(crate) fn new(seconds: u64, rounds: u32) -> Self {
        Self {
            rounds: rounds as usize,
            round: Duration::from_secs(seconds) / rounds.max(1),
        }
    }
}

impl Round {
    /// Median latency.
    pub(crate) fn p50_us(&self) -> u64 {
        self.latencies.value_at_quantile(0.5)
    }

    /// A round of calls that were timed one after the other.
    pub(crate) fn of_latencies(latencies: impl IntoIterator<Item = Duration>) -> Result<Self> {
        let mut histogram = histogram()?;
        let mut total = Duration::ZERO;
        for latency in latencies {
            record(&mut histogram, latency);
            total += latency;
        }
        Ok(Self {
            per_second: rate(histogram.len(), total),
            refused: 0,
            unanswered: 0,
            latencies: histogram,
            late: self::histogram()?,
        })
    }

    /// Mean latency in microseconds.
    pub(crate) fn mean_us(&self) -> f64 {
        self.latencies.mean()
    }

    /// Answers a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }
}

impl Measured {
    /// All rounds of one contender together; there is at least one.
    pub(crate) fn of(rounds: &[Round]) -> Result<Self> {
        ensure!(!rounds.is_empty(), "nothing was measured");
        let (mut all, mut late) = (histogram()?, histogram()?);
        for round in rounds {
            all.add(&round.latencies).context("histograms of one shape")?;
            late.add(&round.late).context("histograms of one shape")?;
        }
        let speeds = sorted(rounds.iter().map(|round| round.per_second));
        let mut medians: Vec<u64> = rounds.iter().map(Round::p50_us).collect();
        medians.sort_unstable();
        let unanswered = rounds.iter().map(|round| round.unanswered).sum();
        Ok(Self {
            answers: all.len() - unanswered,
            refused: rounds.iter().map(|round| round.refused).sum(),
            unanswered,
            per_second: median(&speeds),
            lowest_per_second: speeds[0],
            highest_per_second: speeds[speeds.len() - 1],
            p50_us: u64::midpoint(medians[(medians.len() - 1) / 2], medians[medians.len() / 2]),
            lowest_p50_us: medians[0],
            highest_p50_us: medians[medians.len() - 1],
            p90_us: all.value_at_quantile(0.9),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
            late_p99_us: (!late.is_empty()).then(|| late.value_at_quantile(0.99)),
        })
    }
}

impl Ratio {
    /// Throughput of `ours` over that of `theirs`, round by round.
    pub(crate) fn of_speeds(ours: &[Round], theirs: &[Round]) -> Self {
        Self::of(
            ours.iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours.per_second / theirs.per_second),
        )
    }

    /// Median latency of `ours` over that of `theirs`, round by round.
    pub(crate) fn of_p50s(ours: &[Round], theirs: &[Round]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
        Self::of(
            ours.iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours.p50_us() as f64 / theirs.p50_us() as f64),
        )
    }

    fn of(ratios: impl Iterator<Item = f64>) -> Self {
        let ratios = sorted(ratios);
        let at = |index: usize| ratios.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: median(&ratios),
            lowest: at(0),
            highest: at(ratios.len().saturating_sub(1)),
        }
    }
}

/// Runs each contender once a round, in an order that begins with another one each time, so that what the machine does
/// meanwhile hits all of them alike. The answer has the rounds of each contender, in the order given.
pub(crate) async fn take_turns<T: Copy, F, Fut>(contenders: &[T], rounds: usize, turn: F) -> Result<Vec<Vec<Round>>>
where
    F: Fn(T, usize) -> Fut,
    Fut: Future<Output = Result<Round>>,
{
    let mut taken: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for place in 0..contenders.len() {
            let index = (round + place) % contenders.len();
            taken[index].push(turn(contenders[index], round).await?);
        }
    }
    Ok(taken)
}

/// One round of `callers` loops of `call`, which is told the number of its caller. Counted are the answers that came
/// within the measured time, whenever they were asked for.
///
/// # Errors
/// The first error of any call, and a refusal: callers that wait for their answers cannot overrun anybody.
pub(crate) async fn closed_loop<F, Fut>(callers: usize, duration: Duration, call: F) -> Result<Round>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Answer>> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now() + WARM_UP;
    let end = begin + duration;
    let mut loops = Vec::with_capacity(callers);
    for number in 0..callers {
        let call = call.clone();
        let stop = Arc::clone(&stop);
        loops.push(tokio::spawn(async move {
            let mut latencies = histogram()?;
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = call(number).await?;
                let answered = Instant::now();
                ensure!(answer == Answer::Done, "refused with {callers} callers at once");
                if answered >= begin && answered < end {
                    record(&mut latencies, answered - asked);
                }
            }
            Ok(latencies)
        }));
    }
    tokio::time::sleep_until(end.into()).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = histogram()?;
    for one in loops {
        all.add(one.await.context("a caller panicked")??)
            .context("histograms of one shape")?;
    }
    ensure!(
        !all.is_empty(),
        "no answer within {duration:?}; measure for more --seconds"
    );
    Ok(Round {
        per_second: rate(all.len(), duration),
        refused: 0,
        unanswered: 0,
        latencies: all,
        late: histogram()?,
    })
}

struct Arrival {
    /// Absent for a call of the warming up.
    number: Option<usize>,
    intended: Instant,
    late: Duration,
    answered: Instant,
    answer: Result<Answer>,
}

/// One round of calls that arrive at random (a Poisson process) with `rate` a second on the average. Counted are the
/// calls that were meant to be sent within the measured time, however late their answers came; answers a second are
/// those that came within it, whenever their calls were due. The same `seed` gives the same pattern.
///
/// # Errors
/// The first error of any call.
pub(crate) async fn open_loop<F, Fut>(per_second: f64, duration: Duration, seed: u64, call: F) -> Result<Round>
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Answer>> + Send + 'static,
{
    let (answers, mut answered) = mpsc::unbounded_channel::<Arrival>();
    let runtime = Handle::current();
    let start = Instant::now();
    let begin = start + WARM_UP;
    let end = begin + duration;
    // A thread, for timers of the runtime go off by whole milliseconds.
    let sender = tokio::task::spawn_blocking(move || {
        let mut gaps = Gaps::new(per_second, seed);
        let mut intended = start;
        let mut sent = Vec::new();
        while intended < end {
            thread::sleep(intended.saturating_duration_since(Instant::now()));
            let late = intended.elapsed();
            let number = (intended >= begin).then(|| {
                sent.push(intended);
                sent.len() - 1
            });
            let asked = call();
            let answers = answers.clone();
            runtime.spawn(async move {
                let answer = asked.await;
                // Nobody listens any more once the drain has been given up.
                let _ = answers.send(Arrival {
                    number,
                    intended,
                    late,
                    answered: Instant::now(),
                    answer,
                });
            });
            intended += gaps.next();
        }
        sent
    });
    let (mut latencies, mut late) = (histogram()?, histogram()?);
    let (mut refused, mut in_time) = (0, 0);
    let mut heard = HashSet::new();
    let give_up = tokio::time::sleep_until((end + DRAIN).into());
    tokio::pin!(give_up);
    loop {
        let arrival = tokio::select! {
            arrival = answered.recv() => arrival,
            () = &mut give_up => None,
        };
        let Some(arrival) = arrival else { break };
        let answer = arrival.answer?;
        if answer == Answer::Done && arrival.answered >= begin && arrival.answered < end {
            in_time += 1;
        }
        let Some(number) = arrival.number else { continue };
        heard.insert(number);
        record(&mut late, arrival.late);
        if answer == Answer::Refused {
            refused += 1;
            continue;
        }
        record(&mut latencies, arrival.answered - arrival.intended);
    }
    let sent = sender.await.context("the sender of calls panicked")?;
    let silent = sent.iter().enumerate().filter(|(number, _)| !heard.contains(number));
    let mut unanswered = 0;
    for (_, intended) in silent {
        unanswered += 1;
        record(&mut latencies, intended.elapsed());
    }
    Ok(Round {
        per_second: rate(in_time, duration),
        refused,
        unanswered,
        latencies,
        late,
    })
}

/// Times between arrivals of a Poisson process: exponential, from a generator (SplitMix64) that repeats exactly.
struct Gaps {
    state: u64,
    per_second: f64,
}

impl Gaps {
    fn new(per_second: f64, seed: u64) -> Self {
        Self {
            state: seed,
            per_second,
        }
    }

    fn next(&mut self) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
        let uniform = ((mixed >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() / self.per_second)
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_max(LONGEST_US, DIGITS).context("bounds of the histogram")
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US).max(1));
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few minutes are far below 2^52")]
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Of sorted numbers; not a number when there are none.
fn median(sorted: &[f64]) -> f64 {
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2))
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(milliseconds: &[u64]) -> Round {
        Round::of_latencies(milliseconds.iter().copied().map(Duration::from_millis)).unwrap()
    }

    #[test]
    fn arrivals_come_at_the_rate_asked_for() {
        let mut gaps = Gaps::new(1000.0, 7);
        let total: Duration = (0..100_000).map(|_| gaps.next()).sum();
        assert!((99.0..101.0).contains(&total.as_secs_f64()), "{total:?}");
    }

    #[test]
    fn the_median_of_rounds_is_not_moved_by_one_bad_round() {
        let measured = Measured::of(&[round(&[1, 1, 1]), round(&[1, 1, 1]), round(&[500, 500, 500])]).unwrap();
        assert_eq!(measured.p50_us, 1000);
        assert!(measured.highest_p50_us > 490_000);
        assert!(measured.max_us > 490_000);
        assert_eq!(measured.answers, 9);
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between() {
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_pair_the_rounds() {
        let ours = [round(&[1]), round(&[10]), round(&[100])];
        let theirs = [round(&[2]), round(&[20]), round(&[200])];
        let ratio = Ratio::of_speeds(&ours, &theirs);
        assert!((1.9..2.1).contains(&ratio.lowest) && (1.9..2.1).contains(&ratio.highest));
        assert!((0.49..0.51).contains(&Ratio::of_p50s(&ours, &theirs).median));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_was_sent_late_is_measured_from_when_it_was_due() {
        // One call at a time holds the gate for 20 ms, and 100 a second come in: the later ones wait for the earlier.
        let gate = Arc::new(tokio::sync::Mutex::new(()));
        let round = open_loop(100.0, Duration::from_millis(500), 1, move || {
            let gate = Arc::clone(&gate);
            async move {
                let held = gate.lock_owned().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(held);
                Ok(Answer::Done)
            }
        })
        .await
        .unwrap();
        assert_eq!(round.unanswered, 0);
        assert!(round.latencies.max() > 100_000, "{}", round.latencies.max());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refusals_are_counted_and_are_no_answers() {
        let round = open_loop(1000.0, Duration::from_millis(100), 1, || async { Ok(Answer::Refused) })
            .await
            .unwrap();
        assert!(round.refused > 50);
        assert!(round.latencies.is_empty());
    }
}
