//! `annals openapi`: the document that describes the HTTP interface, made from the list of routes.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Answer;
use super::output::Output;

/// Arguments of `annals openapi`.
#[derive(Debug, Args)]
pub(super) struct Openapi {
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Openapi {
    pub(super) fn run(&self, output: &mut Output) -> anyhow::Result<Answer> {
        let mut text = crate::openapi::document()
            .to_pretty_json()
            .context("writing OpenAPI as JSON")?;
        text.push('\n');
        match &self.output {
            Some(file) => fs::write(file, text).with_context(|| format!("writing {}", file.display()))?,
            None => {
                output.bytes().write_all(text.as_bytes())?;
                output.bytes().flush()?;
            }
        }
        Ok(Answer::Good)
    }
}
