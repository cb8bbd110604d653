//! `annals rebuild`: read models built anew from the first event, beside the ones that serve.

use std::sync::Arc;

use annals_domain::Caller;
use annals_eventstore::EventStore;
use annals_projections::{Phase, Projection, RebuildOptions, RebuildReport};
use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::Config;

use super::Answer;
use super::output::Output;
use super::progress::Progress;
use super::workplace::{Access, Workplace};

/// Arguments of `annals rebuild`.
#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// The read model
    #[arg(required_unless_present = "all", value_parser = names())]
    projection: Option<String>,
    /// All read models, one after the other
    #[arg(long, conflicts_with = "projection")]
    all: bool,
    /// Compare the new rows with the live ones; where they differ, keep the live ones and exit with 1
    #[arg(long)]
    verify: bool,
}

fn names() -> PossibleValuesParser {
    annals_projections::read_models()
        .iter()
        .map(|projection| projection.name())
        .collect::<Vec<_>>()
        .into()
}

impl Rebuild {
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        Workplace::with_log(config, Access::Write, async |_, store| {
            self.rebuild(store, output).await
        })
        .await
    }

    async fn rebuild(&self, store: &EventStore, output: &mut Output) -> anyhow::Result<Answer> {
        let caller = Caller::system("rebuild", Uuid::now_v7());
        let mut answer = Answer::Good;
        for projection in self.wanted() {
            let report = self.one(&caller, store, projection.as_ref(), output.is_json()).await?;
            output.result(&as_json(&report), |out| writeln!(out, "{}", self.in_words(&report)))?;
            if !report.is_equal() {
                answer = Answer::No;
            }
        }
        Ok(answer)
    }

    fn wanted(&self) -> impl Iterator<Item = Arc<dyn Projection>> {
        let all = annals_projections::read_models().into_iter();
        all.filter(|projection| self.projection.as_deref().is_none_or(|name| name == projection.name()))
    }

    async fn one(
        &self,
        caller: &Caller,
        store: &EventStore,
        projection: &dyn Projection,
        quiet: bool,
    ) -> anyhow::Result<RebuildReport> {
        let options = RebuildOptions {
            verify: self.verify,
            dry: false,
        };
        let shown = Progress::start(projection.name(), "events", quiet);
        annals_projections::rebuild(caller, store, projection, options, |now| {
            if now.phase == Phase::Folding {
                shown.advance(now.events_done, now.events_total);
            }
        })
        .await
        .with_context(|| format!("rebuilding {}", projection.name()))
    }

    fn in_words(&self, report: &RebuildReport) -> String {
        let rows: u64 = report.tables.iter().map(|table| table.rebuilt_rows).sum();
        let built = format!(
            "{}: {rows} rows from {} events in {:.1} s",
            report.projection,
            report.events,
            report.elapsed.as_secs_f64()
        );
        let compared = if !self.verify {
            String::new()
        } else if !report.compared {
            ", nothing live to compare with".to_owned()
        } else if report.is_equal() {
            ", equal to the live rows".to_owned()
        } else {
            let differences = report.tables.iter().filter_map(|table| {
                let live = table.live.as_ref().filter(|_| !table.is_equal())?;
                Some(format!(
                    "{}: {} rows only live, {} only rebuilt",
                    table.table, live.only_live, live.only_rebuilt
                ))
            });
            format!(", DIFFERENT ({})", differences.collect::<Vec<_>>().join("; "))
        };
        let switched = if report.switched { "" } else { ", the live rows stay" };
        format!("{built}{compared}{switched}")
    }
}

fn as_json(report: &RebuildReport) -> Value {
    let mut value = json!(report);
    value["equal"] = json!(report.compared.then(|| report.is_equal()));
    value
}
