//! `annals export`: the whole log as newline-delimited JSON, every event as it is stored.
//!
//! Payloads are the stored bytes, personal values stay sealed, and every column that the hash chain covers is there,
//! so that the file can be verified without a database. A file appears under its name only when it is complete.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use annals_eventstore::export::export;
use annals_eventstore::{Head, Position, position};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::io::AsyncWrite;

use crate::config::Config;

use super::Answer;
use super::output::Output;
use super::progress::Progress;
use super::workplace::{Access, Workplace};

/// Arguments of `annals export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file to write, or - for standard output
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

impl Export {
    pub(super) async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        let workplace = Workplace::of_existing(config, Access::Read).await?;
        let answer = self.export(&workplace, output).await;
        workplace.close(answer).await
    }

    async fn export(&self, workplace: &Workplace, output: &mut Output) -> anyhow::Result<Answer> {
        // The end is fixed at the start, so that an export beside a busy server ends.
        let head = position::head(workplace.database().pool())
            .await
            .context("looking for the end of the log")?;
        if self.output.as_os_str() == "-" {
            // As a file of its own, past the line buffering of the standard library.
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            write(
                workplace,
                &head,
                &mut tokio::fs::File::from_std(stdout),
                output.is_json(),
            )
            .await?;
        } else {
            to_file(workplace, &head, &self.output, output.is_json()).await?;
            let result = json!({ "file": self.output, "events": head.position, "entry_hash": head.entry_hash });
            output.result(&result, |out| {
                writeln!(
                    out,
                    "{} events, up to {}, in {}",
                    head.position,
                    head.entry_hash,
                    self.output.display()
                )
            })?;
        }
        Ok(Answer::Good)
    }
}

/// Beside the target first, so that the rename stays within one file system.
async fn to_file(workplace: &Workplace, head: &Head, target: &Path, quiet: bool) -> anyhow::Result<()> {
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let failed = || format!("writing {}", target.display());
    let draft = NamedTempFile::with_prefix_in(".annals-export-", folder).with_context(failed)?;
    let mut file = tokio::fs::File::from_std(draft.reopen().with_context(failed)?);
    write(workplace, head, &mut file, quiet).await?;
    file.sync_all().await.with_context(failed)?;
    draft.persist(target).map_err(io::Error::from).with_context(failed)?;
    Ok(())
}

async fn write(
    workplace: &Workplace,
    head: &Head,
    out: &mut (impl AsyncWrite + Unpin + Send),
    quiet: bool,
) -> anyhow::Result<()> {
    let progress = Progress::start("export", "events", quiet);
    let total = head.position.0;
    export(workplace.database(), Position::START, head.position, out, |last| {
        progress.advance(last.0, total);
    })
    .await?;
    Ok(())
}
