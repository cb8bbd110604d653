//! First figures: appending, reading over HTTP and rebuilding, each as a ratio to a baseline measured in the same run.
//!
//! Starts a PostgreSQL of its own (fsync and synchronous_commit on) in a temporary folder and removes it afterwards.

mod append;
mod load;
mod read;
mod rebuild;
mod report;

use std::io::Write as _;

use annals_api::App;
use annals_api::config::Config;
use annals_eventstore::Database;
use annals_eventstore::database::{DatabaseOptions, DatabaseRole, Timeouts};
use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

/// Measures Annals against baselines on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Seconds that each single measurement takes, after one second of warming up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Callers at once, for the appends
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    callers: Vec<usize>,
    /// Events in the log that is rebuilt
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Append, Part::Read, Part::Rebuild])]
    only: Vec<Part>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Append,
    Read,
    Rebuild,
}

/// All figures of one run.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Connections in each pool.
    connections: u32,
    /// Processors of the machine.
    processors: usize,
    append: Vec<append::Row>,
    read: Vec<read::Row>,
    rebuild: Option<rebuild::Row>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new()
        .prefix("annals-benches-")
        .tempdir()
        .context("a temporary folder")?;
    let mut config = Config::defaults();
    config.data_dir = folder.path().join("data");
    config.listen = ([127, 0, 0, 1], 0).into();
    let connections = config.database.pool_connections;
    let app = App::start(config).await.context("the application starts")?;
    let owner = owner_of(&app, connections);
    let mut figures = Figures {
        connections,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        ..Figures::default()
    };
    if arguments.only.contains(&Part::Read) {
        figures.read = read::run(&app, arguments.seconds).await?;
    }
    if arguments.only.contains(&Part::Rebuild) {
        figures.rebuild = Some(rebuild::run(&app, arguments.events).await?);
    }
    if arguments.only.contains(&Part::Append) {
        // The baselines have no read models, so ours stand still while appends are compared.
        app.state().engine().stop().await;
        figures.append = append::run(app.store(), owner.pool(), &arguments.callers, arguments.seconds).await?;
    }
    owner.close().await?;
    app.stop().await.context("the application stops")?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&figures)? + "\n"
    } else {
        report::table(&figures)
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The same database as its owner: the baselines need tables of their own.
fn owner_of(app: &App, connections: u32) -> Database {
    app.store().database().with_options(DatabaseOptions {
        max_connections: connections,
        application_name: "annals benches".to_owned(),
        timeouts: Timeouts::MAINTENANCE,
        role: DatabaseRole::Owner,
        ..DatabaseOptions::default()
    })
}
