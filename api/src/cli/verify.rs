//! `annals verify`: whether the log is what it was when it was written.
//!
//! Checks the hash chain, that positions are dense and times never decrease, the versions of every stream, and that
//! the claims and the snapshots are those that the events lead to. The first fault ends the check, with its place.

use annals_eventstore::{EventStore, Position, StoreError, VaultError, VerifyFault, VerifyReport};
use clap::Args;
use serde_json::{Value, json};

use crate::config::Config;

use super::Answer;
use super::output::Output;
use super::progress::Progress;
use super::workplace::{Access, Workplace};

/// Arguments of `annals verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {}

impl Verify {
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        Workplace::with_log(config, Access::Read, async |_, store| verify(store, output).await).await
    }
}

async fn verify(store: &EventStore, output: &mut Output) -> anyhow::Result<Answer> {
    let progress = Progress::start("verify", "events", output.is_json());
    let verified = store
        .verify(Position(1), |now| progress.advance(now.position.0, now.head.0))
        .await;
    drop(progress);
    match verified {
        Ok(report) => {
            tell_report(&report, output)?;
            Ok(Answer::Good)
        }
        Err(VerifyFault::Store(error)) if is_no_finding(&error) => Err(error.into()),
        Err(fault) => {
            tell_fault(&fault, output)?;
            Ok(Answer::No)
        }
    }
}

fn tell_report(report: &VerifyReport, output: &mut Output) -> anyhow::Result<()> {
    let head = &report.head;
    let result = json!({
        "ok": true,
        "position": head.position,
        "entry_hash": head.entry_hash,
        "recorded_at": head.recorded_at,
        "events": report.events,
        "streams": report.streams,
        "claims": report.claims,
        "claims_not_computable": report.claims_not_computable,
        "snapshots": report.snapshots,
        "snapshots_unused": report.snapshots_unused,
    });
    output.result(&result, |out| {
        writeln!(
            out,
            "events   {} in order, unchanged, chained to {}",
            report.events, head.entry_hash
        )?;
        writeln!(out, "streams  {} at the versions of their events", report.streams)?;
        writeln!(out, "claims   {} as the events make them", report.claims)?;
        if report.claims_not_computable > 0 {
            writeln!(
                out,
                "         {} of erased subjects cannot be computed any more",
                report.claims_not_computable
            )?;
        }
        if report.snapshots + report.snapshots_unused > 0 {
            writeln!(out, "snapshots  {} as the events make them", report.snapshots)?;
        }
        if report.snapshots_unused > 0 {
            writeln!(
                out,
                "         {} of erased subjects or another version are not used",
                report.snapshots_unused
            )?;
        }
        writeln!(out, "the log is sound")
    })?;
    Ok(())
}

fn tell_fault(fault: &VerifyFault, output: &mut Output) -> anyhow::Result<()> {
    let message = with_causes(fault);
    let mut described = place(fault);
    described["message"] = json!(message);
    output.result(&json!({ "ok": false, "fault": described }), |out| {
        writeln!(out, "FAULT: {message}")
    })?;
    Ok(())
}

/// Where the fault is, by the members that tell: `position`, `stream`, or `scope` and `key` of a claim.
fn place(fault: &VerifyFault) -> Value {
    match fault {
        VerifyFault::MissingPosition(position)
        | VerifyFault::Leaf { position, .. }
        | VerifyFault::Entry { position, .. }
        | VerifyFault::Time(position)
        | VerifyFault::Metadata(position) => json!({ "position": position }),
        VerifyFault::Sequence { position, stream, .. } => json!({ "position": position, "stream": stream.to_string() }),
        VerifyFault::ClaimTakenTwice { position, scope, .. } => {
            json!({ "position": position, "scope": scope.as_str() })
        }
        VerifyFault::StreamVersion { stream, .. } | VerifyFault::StreamPositions(stream) => {
            json!({ "stream": stream.to_string() })
        }
        VerifyFault::Snapshot { stream, version } => json!({ "stream": stream.to_string(), "version": version }),
        VerifyFault::Claim { scope, key, .. } | VerifyFault::ClaimPosition { scope, key, .. } => {
            json!({ "scope": scope.as_str(), "key": key })
        }
        VerifyFault::Store(_) => json!({}),
    }
}

/// Whether an error says nothing about the log: the check could not be made.
fn is_no_finding(error: &StoreError) -> bool {
    match error {
        StoreError::Database(_) | StoreError::Standby | StoreError::Closed | StoreError::KeysLost => true,
        StoreError::Vault(error) => !matches!(error, VaultError::MalformedMark(_) | VaultError::DoesNotOpen(_)),
        StoreError::Decode { .. } | StoreError::Damaged { .. } => false,
    }
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
