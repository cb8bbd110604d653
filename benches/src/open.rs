//! Appending in an open loop: calls arrive whether or not earlier ones were answered.
//!
//! Once with each contender at shares of what it can do itself, and once with all of them at the same rates.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::contender::{Arena, Contender};
use crate::load::{Measured, Pace, open_loop, take_turns};
use crate::report::say;
use crate::server::Server;

/// Shares of its own capacity that each contender is asked for.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.9];
/// Shares of the capacity of stock postgres-es and of ours that all are asked for.
const SHARED: [(Contender, f64); 4] = [
    (Contender::Stock, 0.5),
    (Contender::Stock, 0.9),
    (Contender::Annals, 0.5),
    (Contender::Annals, 0.9),
];

/// All open-loop figures of one size of payload.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Bytes of each stored payload.
    pub(crate) payload_bytes: usize,
    /// Callers at once when capacity was measured.
    pub(crate) callers: usize,
    /// What each contender can do in a closed loop.
    pub(crate) capacities: Vec<Capacity>,
    /// Each contender at shares of its own capacity.
    pub(crate) own: Vec<Row>,
    /// All contenders at the same rates.
    pub(crate) same: Vec<Row>,
}

/// What one contender can do in a closed loop.
#[derive(Debug, Serialize)]
pub(crate) struct Capacity {
    /// Which one.
    pub(crate) contender: Contender,
    /// Its throughput.
    pub(crate) measured: Measured,
}

/// One contender at one rate.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Which one.
    pub(crate) contender: Contender,
    /// Calls a second.
    pub(crate) rate: f64,
    /// That rate over what the contender can do.
    pub(crate) share: f64,
    /// What came of it; latencies count from when a call was due.
    pub(crate) measured: Measured,
}

/// Measures capacity with `callers`, then both kinds of rows.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(
    server: &Server,
    begin_with: u64,
    callers: usize,
    payload_bytes: usize,
    pace: Pace,
) -> Result<Figures> {
    let arena = Arena::open(server, "open", begin_with).await?;
    let sample = arena.sample(payload_bytes)?;
    say("open loop: what each can do");
    let closed = take_turns(&Contender::ALL, pace.rounds, |contender, _| {
        arena.round(contender, &sample, callers, pace.round)
    })
    .await?;
    let mut capacities = Vec::with_capacity(closed.len());
    for (contender, rounds) in Contender::ALL.into_iter().zip(&closed) {
        let measured = Measured::of(rounds)?;
        capacities.push(Capacity { contender, measured });
    }
    let capacity = |wanted: Contender| {
        let found = capacities.iter().find(|capacity| capacity.contender == wanted);
        found.map(|capacity| capacity.measured.per_second)
    };

    let at_rates = async |rates: Vec<(Contender, f64)>| -> Result<Vec<Row>> {
        let rounds = take_turns(&rates, pace.rounds, |(contender, rate), round| {
            let (arena, sample) = (arena.clone(), sample.clone());
            let call = move || {
                let (arena, sample) = (arena.clone(), sample.clone());
                async move { arena.ask(contender, &sample).await }
            };
            async move {
                open_loop(rate, pace.round, round as u64, call)
                    .await
                    .with_context(|| format!("{contender} at {rate:.0} a second"))
            }
        })
        .await?;
        rates
            .into_iter()
            .zip(&rounds)
            .map(|((contender, rate), rounds)| {
                Ok(Row {
                    contender,
                    rate,
                    share: rate / capacity(contender).unwrap_or(f64::NAN),
                    measured: Measured::of(rounds)?,
                })
            })
            .collect()
    };

    let (mut own, mut same) = (Vec::new(), Vec::new());
    for share in SHARES {
        say(&format!("open loop: {:.0} % of what each can do", share * 100.0));
        let rates = Contender::ALL
            .into_iter()
            .filter_map(|contender| Some((contender, capacity(contender)? * share)));
        own.extend(at_rates(rates.collect()).await?);
    }
    for (of, share) in SHARED {
        let rate = capacity(of).unwrap_or(f64::NAN) * share;
        say(&format!("open loop: all at {rate:.0} a second"));
        same.extend(at_rates(Contender::ALL.map(|contender| (contender, rate)).to_vec()).await?);
    }
    arena.must_have_stored(&sample).await?;
    arena.log().close().await?;
    Ok(Figures {
        payload_bytes,
        callers,
        capacities,
        own,
        same,
    })
}
