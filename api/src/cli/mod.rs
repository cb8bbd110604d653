//! The command line: arguments, exit codes, and one module for each subcommand.
//!
//! Every subcommand works beside a running server and without one. With the embedded database it joins the cluster
//! that a server keeps, or starts it for its own duration. Results go to standard output, everything else to standard
//! error (`output`).

mod admin;
mod doctor;
mod export;
mod migrate;
mod openapi;
mod output;
mod progress;
mod rebuild;
mod replay;
mod serve;
mod status;
mod verify;
mod workplace;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat};

use output::{Output, note};

/// Exit code: the command did what it was asked to, and the answer is good.
pub const DONE: u8 = 0;
/// Exit code: the answer is no: a fault, a difference, a failing projection, a refusal.
pub const REFUSED: u8 = 1;
/// Exit code: the arguments or the configuration are wrong; nothing was done.
pub const USAGE: u8 = 2;
/// Exit code: the work could not be done: no database, no file, no network.
pub const FAILED: u8 = 3;
/// Exit code: the reader of the results went away, as the shell reports a death by SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;

const EXIT_CODES: &str = "\
Exit codes:
  0    done, and the answer is good
  1    the answer is no: a fault, a difference, a failing projection, a refused command
  2    wrong arguments or configuration; nothing was done
  3    the work could not be done: no database, no file, no network
  141  the reader of the results went away

Settings come from annals.toml and ANNALS_* variables; DATABASE_URL names a PostgreSQL of your own.";

/// Annals: accounts and content on an append-only, verifiable log.
#[derive(Debug, Parser)]
#[command(name = "annals", version, about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Arguments that every subcommand takes.
#[derive(Debug, Args)]
struct Global {
    /// Configuration file, instead of ANNALS_CONFIG or ./annals.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the embedded database and of the keys, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Bring the database schema up to date
    Migrate(migrate::Migrate),
    /// Look after administrators
    Admin(admin::Admin),
    /// Build read models anew from the log
    Rebuild(rebuild::Rebuild),
    /// Print the events of one stream and the state they lead to
    Replay(replay::Replay),
    /// Check the log: hash chain, positions, stream versions, claims
    Verify(verify::Verify),
    /// Write the whole log as lines of JSON, as it is stored
    Export(export::Export),
    /// Print the head of the log and how far each projection has come
    Status(status::Status),
    /// Tell what about the database would break a guarantee, and what to do
    Doctor(doctor::Doctor),
    /// Print the OpenAPI document
    Openapi(openapi::Openapi),
}

/// Whether the answer of a command is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    No,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command that `arguments` name, the first one being the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors and go to standard output; clap knows which is which.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { DONE });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(format_args!("annals: cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let json = cli.global.json;
    let code = match runtime.block_on(cli.run()) {
        Ok(Answer::Good) => DONE,
        Ok(Answer::No) => REFUSED,
        Err(error) => report(&error, json),
    };
    ExitCode::from(code)
}

impl Cli {
    async fn run(self) -> anyhow::Result<Answer> {
        let mut output = Output::stdout(self.global.json);
        if let Command::Openapi(command) = self.command {
            // Needs no settings, and must not depend on any.
            return command.run(&mut output);
        }
        let config = self.global.settings()?;
        start_logging(&config, matches!(self.command, Command::Serve(_)))?;
        match self.command {
            Command::Serve(command) => command.run(config, &mut output).await,
            Command::Migrate(command) => command.run(&config, &mut output).await,
            Command::Admin(command) => command.run(config, &mut output).await,
            Command::Rebuild(command) => command.run(&config, &mut output).await,
            Command::Replay(command) => command.run(&config, &mut output).await,
            Command::Verify(command) => command.run(&config, &mut output).await,
            Command::Export(command) => command.run(&config, &mut output).await,
            Command::Status(command) => command.run(&config, &mut output).await,
            Command::Doctor(command) => command.run(&config, &mut output).await,
            Command::Openapi(_) => unreachable!("was run above"),
        }
    }
}

impl Global {
    fn settings(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(folder) = &self.data_dir {
            config.data_dir.clone_from(folder);
        }
        Ok(config)
    }
}

/// A server logs as configured. The other commands keep to warnings, unless ANNALS_LOG asks for more: a person reads
/// their results on the same terminal.
fn start_logging(config: &Config, server: bool) -> anyhow::Result<()> {
    let chosen = server || std::env::var_os("ANNALS_LOG").is_some();
    // Put first, so that what is asked for takes precedence. The driver repeats PostgreSQL's notices at every start,
    // and warns of connections that a stopped database has closed, which is how a command ends.
    let quiet = "sqlx::postgres::notice=warn,sqlx_core::pool=error";
    let directives = if chosen { config.log.as_str() } else { "warn" };
    let filter = EnvFilter::try_new(format!("{quiet},{directives}"))
        .map_err(|error| ConfigError::Invalid(format!("log: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // A second start in one process, as tests do, keeps the first subscriber.
    let _ = match config.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// The answer is no, with the reason. Printed as it stands, without "error".
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Tells why a command ended early, and chooses its exit code.
fn report(error: &anyhow::Error, json: bool) -> u8 {
    let broken_pipe = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return BROKEN_PIPE;
    }
    let refusal = error.downcast_ref::<Refusal>();
    let (code, exit_code) = match refusal {
        Some(refusal) => (refusal.code, REFUSED),
        None if error.downcast_ref::<ConfigError>().is_some() => ("configuration.invalid", USAGE),
        None => ("command.failed", FAILED),
    };
    if json {
        note(serde_json::json!({ "error": { "code": code, "message": format!("{error:#}") } }));
    } else {
        note(format_args!("annals: {error:#}"));
    }
    exit_code
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_password_cannot_be_an_argument() {
        let arguments = [
            "annals",
            "admin",
            "create",
            "--email",
            "a@example.com",
            "--password",
            "secret",
        ];
        assert!(Cli::try_parse_from(arguments).is_err());
    }

    #[test]
    fn a_broken_pipe_is_told_by_the_exit_code_alone() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing the export");
        assert_eq!(report(&error, false), BROKEN_PIPE);
    }

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let refusal = anyhow::Error::from(Refusal::new("stream.not_found", "no such stream"));
        assert_eq!(report(&refusal, false), REFUSED);
        assert_eq!(report(&anyhow::anyhow!("the disk is full"), true), FAILED);
    }
}
