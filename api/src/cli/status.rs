//! `annals status`: the end of the log, how far each projection has come, and which streams have grown long.

use annals_domain::Caller;
use annals_eventstore::length::LONG_STREAM;
use annals_eventstore::{EventStore, Head, StreamLength};
use annals_projections::{ProjectionState, ProjectionStatus};
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::config::Config;

use super::Answer;
use super::output::{Output, table};
use super::workplace::{Access, Workplace};

/// Long streams that are listed.
const LONGEST_LISTED: usize = 20;

/// Arguments of `annals status`.
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    /// The answer is no when a projection is failing or belongs to another log; one that merely lags, or that nobody runs, is not.
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        Workplace::with_log(config, Access::Read, async |workplace, store| {
            status(workplace, store, output).await
        })
        .await
    }
}

async fn status(workplace: &Workplace, store: &EventStore, output: &mut Output) -> anyhow::Result<Answer> {
    let caller = Caller::system("status", Uuid::now_v7());
    let head = store.head().await?;
    let projections = annals_projections::engine::status(&caller, store, &annals_projections::read_models()).await?;
    let long = store.longest_streams(LONGEST_LISTED).await?;
    let server = workplace.server();
    let result = json!({ "database": server, "head": head, "projections": projections, "long_streams": long });
    output.result(&result, |out| {
        writeln!(out, "database  {server}")?;
        writeln!(out, "head      {}\n", describe(&head))?;
        table(out, &rows(&projections))?;
        if !long.is_empty() {
            writeln!(out, "\nstreams of {LONG_STREAM} events and more")?;
            table(out, &long_rows(&long))?;
        }
        Ok(())
    })?;
    let failing = projections
        .iter()
        .any(|projection| matches!(projection.state, ProjectionState::Failing | ProjectionState::Diverged));
    Ok(if failing { Answer::No } else { Answer::Good })
}

fn describe(head: &Head) -> String {
    match head.recorded_at {
        None => "the log is empty".to_owned(),
        Some(recorded_at) => format!("position {} of {recorded_at}, {}", head.position, head.entry_hash),
    }
}

fn rows(projections: &[ProjectionStatus]) -> Vec<Vec<String>> {
    let heading = [
        "projection",
        "version",
        "position",
        "lag",
        "state",
        "led by",
        "last error",
    ]
    .map(str::to_owned)
    .to_vec();
    let rows = projections.iter().map(|projection| {
        vec![
            projection.name.to_owned(),
            projection.version.to_string(),
            projection.position.to_string(),
            projection.lag_events.to_string(),
            projection.state.to_string(),
            projection.owner.clone().unwrap_or_else(|| "-".to_owned()),
            projection.error.clone().unwrap_or_default(),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}

fn long_rows(streams: &[StreamLength]) -> Vec<Vec<String>> {
    let heading = ["stream", "events"].map(str::to_owned).to_vec();
    let rows = streams
        .iter()
        .map(|long| vec![long.stream.to_string(), long.events.to_string()]);
    std::iter::once(heading).chain(rows).collect()
}
