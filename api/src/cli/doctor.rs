//! `annals doctor`: what about the database would break a guarantee, what that is, and what to do about it.

use annals_eventstore::database::{DatabaseError, DatabaseOptions};
use annals_eventstore::doctor::{self, Finding, Severity};
use clap::Args;
use serde_json::json;

use crate::config::Config;

use super::Answer;
use super::output::Output;
use super::workplace::{self, Workplace};

/// Arguments of `annals doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {}

impl Doctor {
    /// The answer is no when there is a fault; warnings alone are no reason.
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        let options = DatabaseOptions {
            // That of the server, for its demand is judged. Connections are made when they are used.
            max_connections: config.database.pool_connections,
            accept_standby: true,
            ..workplace::options()
        };
        let workplace = match Workplace::of_existing_with(config, options).await {
            Ok(workplace) => workplace,
            Err(error) => {
                let refusal = error.chain().find_map(|cause| cause.downcast_ref::<DatabaseError>());
                let Some(finding) = refusal.and_then(Finding::of_refusal) else {
                    return Err(error);
                };
                return tell("a database that cannot be used", &[finding], output);
            }
        };
        let answer = match doctor::examine(workplace.database()).await {
            Ok(findings) => tell(&workplace.server(), &findings, output),
            Err(error) => Err(error.into()),
        };
        workplace.close(answer).await
    }
}

fn tell(server: &str, findings: &[Finding], output: &mut Output) -> anyhow::Result<Answer> {
    let count = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (faults, warnings) = (count(Severity::Fault), count(Severity::Warning));
    let result = json!({
        "ok": faults == 0,
        "database": server,
        "faults": faults,
        "warnings": warnings,
        "findings": findings,
    });
    output.result(&result, |out| {
        writeln!(out, "database  {server}\n")?;
        for finding in findings {
            let severity = match finding.severity {
                Severity::Fault => "FAULT  ",
                Severity::Warning => "warning",
            };
            writeln!(out, "{severity}  {}: {}", finding.code, finding.what)?;
            writeln!(out, "         {}", finding.breaks)?;
            writeln!(out, "         {}\n", finding.advice)?;
        }
        match (faults, warnings) {
            (0, 0) => writeln!(out, "nothing here breaks a guarantee"),
            (0, _) => writeln!(out, "nothing here breaks a guarantee; {}", counted(warnings, "warning")),
            _ => writeln!(out, "{}, {}", counted(faults, "fault"), counted(warnings, "warning")),
        }
    })?;
    Ok(if faults == 0 { Answer::Good } else { Answer::No })
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
