//! Appending in a closed loop: ours against stock postgres-es, plain INSERTs and a bare commit.

use anyhow::Result;
use serde::Serialize;

use crate::contender::{Arena, Contender};
use crate::load::{Measured, Pace, Ratio, take_turns};
use crate::report::say;
use crate::server::Server;

/// All contenders with one number of callers and one size of payload.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Bytes of each stored payload.
    pub(crate) payload_bytes: usize,
    /// Callers at once.
    pub(crate) callers: usize,
    /// Each contender, ours first.
    pub(crate) contenders: Vec<Standing>,
}

/// One contender, and how ours stands to it.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    /// Which one.
    pub(crate) contender: Contender,
    /// What it did.
    pub(crate) measured: Measured,
    /// Throughput of ours over that of this one.
    pub(crate) speed_of_ours: Ratio,
    /// Median latency of ours over that of this one.
    pub(crate) p50_of_ours: Ratio,
}

impl Row {
    /// How ours stands to one of them.
    pub(crate) fn standing(&self, contender: Contender) -> Option<&Standing> {
        self.contenders.iter().find(|standing| standing.contender == contender)
    }
}

/// Measures every number of callers with every size, each size in a database of its own.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(
    server: &Server,
    begin_with: u64,
    callers: &[usize],
    payloads: &[usize],
    pace: Pace,
) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(callers.len() * payloads.len());
    for &payload_bytes in payloads {
        let arena = Arena::open(server, &format!("append_{payload_bytes}"), begin_with).await?;
        let sample = arena.sample(payload_bytes)?;
        for &callers in callers {
            say(&format!("append: {payload_bytes} bytes, {callers} callers"));
            let rounds = take_turns(&Contender::ALL, pace.rounds, |contender, _| {
                arena.round(contender, &sample, callers, pace.round)
            })
            .await?;
            let contenders = Contender::ALL.into_iter().zip(&rounds).map(|(contender, taken)| {
                Ok(Standing {
                    contender,
                    measured: Measured::of(taken)?,
                    speed_of_ours: Ratio::of_speeds(&rounds[0], taken),
                    p50_of_ours: Ratio::of_p50s(&rounds[0], taken),
                })
            });
            rows.push(Row {
                payload_bytes,
                callers,
                contenders: contenders.collect::<Result<_>>()?,
            });
        }
        arena.must_have_stored(&sample).await?;
        arena.log().close().await?;
    }
    Ok(rows)
}
