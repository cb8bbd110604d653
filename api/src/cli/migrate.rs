//! `annals migrate`: brings schemas `log` and `view` up to date. `annals serve` does the same at its start.

use clap::Args;
use serde_json::json;

use crate::config::Config;

use super::Answer;
use super::output::Output;
use super::workplace::Workplace;

/// Arguments of `annals migrate`.
#[derive(Debug, Args)]
pub(super) struct Migrate {}

impl Migrate {
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        let workplace = Workplace::open(config).await?;
        let answer = migrate(&workplace, output).await;
        workplace.close(answer).await
    }
}

async fn migrate(workplace: &Workplace, output: &mut Output) -> anyhow::Result<Answer> {
    let migrated = workplace.database().migrate().await?;
    let result = json!({
        "database": workplace.server(),
        "applied": { "log": migrated.log, "view": migrated.view },
        "application_role": migrated.application_role,
    });
    output.result(&result, |out| {
        writeln!(out, "database  {}", workplace.server())?;
        writeln!(
            out,
            "applied   {} of schema log, {} of schema view",
            migrated.log, migrated.view
        )?;
        if !migrated.application_role {
            writeln!(
                out,
                "role      annals_app may not be used here; triggers alone protect the log"
            )?;
        }
        Ok(())
    })?;
    Ok(Answer::Good)
}
