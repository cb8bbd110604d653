//! `annals replay`: what happened in one stream, and the state that it leads to, as of now or of an earlier moment.
//!
//! The state is folded from the events by the same code that decides about commands; no read model is asked.

use annals_domain::registry::fold_state;
use annals_domain::{Timestamp, personal};
use annals_eventstore::{EventStore, Record, StreamId};
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::config::Config;

use super::output::{Output, table};
use super::workplace::{Access, Workplace};
use super::{Answer, Refusal};

/// Events read at once.
const BATCH: usize = 1000;

/// Arguments of `annals replay`.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The stream: its aggregate's type and its id, as UUID or ULID
    #[arg(long, value_name = "TYPE/ID", value_parser = stream)]
    stream: StreamId,
    /// Stop after this version of the stream
    #[arg(long, value_name = "N", conflicts_with = "until", value_parser = clap::value_parser!(u64).range(1..))]
    until_version: Option<u64>,
    /// Stop after the last event recorded at or before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Show personal data instead of [personal]
    #[arg(long)]
    personal: bool,
}

impl Replay {
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        Workplace::with_log(config, Access::Read, async |_, store| self.replay(store, output).await).await
    }

    async fn replay(&self, store: &EventStore, output: &mut Output) -> anyhow::Result<Answer> {
        let records = self.records(store).await?;
        let Some(last) = records.last() else {
            return Err(Refusal::new("stream.not_found", format!("no events of {} up to there", self.stream)).into());
        };
        let (version, position) = (last.version, last.position);
        let events = records
            .iter()
            .map(|record| self.event(record))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let rows = rows(&records);
        let mut state = fold_state(
            self.stream.aggregate_type,
            records.into_iter().map(|record| record.event),
        )
        .context("folding the events")?;
        personal::reveal(&mut state, self.personal);

        let result = json!({
            "stream": self.stream.to_string(),
            "version": version,
            "position": position,
            "events": events,
            "state": state,
        });
        output.result(&result, |out| {
            table(out, &rows)?;
            writeln!(out, "\nstate of {} at version {version}:", self.stream)?;
            serde_json::to_writer_pretty(&mut *out, &state)?;
            writeln!(out)
        })?;
        Ok(Answer::Good)
    }

    async fn records(&self, store: &EventStore) -> anyhow::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let after = records.last().map_or(0, |record| record.version);
            let batch = store
                .read_stream(&self.stream, after, BATCH)
                .await
                .context("reading the stream")?;
            let complete = batch.len() < BATCH;
            for record in batch {
                // Versions and times both grow along a stream, so the first one beyond the bound ends it.
                let beyond = self.until_version.is_some_and(|until| record.version > until)
                    || self.until.is_some_and(|until| record.recorded_at > until);
                if beyond {
                    return Ok(records);
                }
                records.push(record);
            }
            if complete {
                return Ok(records);
            }
        }
    }

    fn event(&self, record: &Record) -> anyhow::Result<Value> {
        let mut payload = record.event.payload().context("writing an event as JSON")?;
        personal::reveal(&mut payload, self.personal);
        Ok(json!({
            "position": record.position,
            "version": record.version,
            "type": record.event.event_type(),
            "event_version": record.event.event_version(),
            "recorded_at": record.recorded_at,
            "actor": record.metadata.actor.to_string(),
            "correlation_id": record.metadata.correlation_id,
            "event_id": record.metadata.event_id,
            "payload": payload,
        }))
    }
}

fn rows(records: &[Record]) -> Vec<Vec<String>> {
    let heading = ["version", "position", "recorded at", "event", "actor"]
        .map(str::to_owned)
        .to_vec();
    let events = records.iter().map(|record| {
        vec![
            record.version.to_string(),
            record.position.to_string(),
            record.recorded_at.to_string(),
            record.event.event_type().to_owned(),
            record.metadata.actor.to_string(),
        ]
    });
    std::iter::once(heading).chain(events).collect()
}

fn stream(text: &str) -> Result<StreamId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|error| error.to_string())
}
