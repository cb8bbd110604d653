//! `annals serve`: the server, until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, absolute};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::{Config, MailTransportKind};

use super::Answer;
use super::output::{Output, note};

/// Exit code after a second signal, as the shell reports a death by SIGINT.
const INTERRUPTED: i32 = 130;

/// Arguments of `annals serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address and port to listen on, instead of the configured one; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl Serve {
    pub(super) async fn run(&self, mut config: Config, output: &mut Output) -> anyhow::Result<Answer> {
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        let stop = told_to_stop().context("listening for signals")?;
        let greet = |address: SocketAddr, app: &App| {
            // Nobody has to read what is said here: a server whose standard output is closed goes on.
            let _ = greet(address, app, output);
        };
        crate::app::serve(config, greet, stop).await?;
        Ok(Answer::Good)
    }
}

/// Ready at the first SIGINT or SIGTERM. A second one ends the process at once; the log loses nothing by it.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        note("stopping; once more to stop at once");
        tokio::spawn(async move {
            next().await;
            std::process::exit(INTERRUPTED);
        });
    })
}

/// Says where everything is and what to do next.
fn greet(address: SocketAddr, app: &App, output: &mut Output) -> std::io::Result<()> {
    let config = app.state().config();
    let url = format!("http://{address}");
    let database = app.state().database().kind();
    let outbox = (config.mail.transport == MailTransportKind::Outbox).then(|| shown(&config.outbox_dir()));
    let result = json!({
        "listening": url,
        "database": database.to_string(),
        "keys": shown(&config.keys_dir()),
        "administrator": config.admin_email,
        "outbox": outbox,
    });
    let administrator = match &config.admin_email {
        Some(email) => format!("{email}, by ANNALS_ADMIN_EMAIL and ANNALS_ADMIN_PASSWORD"),
        None => format!(
            "create one with: {} admin create --email you@example.com",
            program(config)
        ),
    };
    output.result(&result, |out| {
        writeln!(out, "Annals {} is listening on {url}\n", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "  database       {database}")?;
        writeln!(
            out,
            "  keys           {}; back them up, apart from the database",
            shown(&config.keys_dir())
        )?;
        match &outbox {
            Some(folder) => writeln!(out, "  mail           {folder}; set [mail] smtp_url to send it")?,
            None => writeln!(out, "  mail           by SMTP")?,
        }
        writeln!(out, "  administrator  {administrator}\n")?;
        writeln!(out, "First steps:\n")?;
        writeln!(out, "  curl {url}/health/ready")?;
        writeln!(
            out,
            "  curl {url}/api/v1/auth/register -H 'Content-Type: application/json' \\"
        )?;
        writeln!(
            out,
            "    -d '{{\"email\":\"you@example.com\",\"password\":\"at least 8 characters\",\"name\":\"You\"}}'\n"
        )?;
        writeln!(
            out,
            "README.md has the whole tour; {} openapi describes every route.",
            program_path()
        )
    })
}

/// How this program was called, with the data folder where it is not the default one.
fn program(config: &Config) -> String {
    if config.database_url().is_none() && config.data_dir != Config::defaults().data_dir {
        return format!("{} --data-dir {}", program_path(), shown(&config.data_dir));
    }
    program_path()
}

fn program_path() -> String {
    std::env::args_os()
        .next()
        .map_or_else(|| "annals".to_owned(), |path| path.to_string_lossy().into_owned())
}

fn shown(path: &Path) -> String {
    absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
