//! What Annals costs on this machine, as ratios to baselines measured in the same run. See `docs/benchmarks.md`.
//!
//! Starts a PostgreSQL of its own (fsync and synchronous_commit on) in a temporary folder and removes it afterwards.
//! Each part has a database of its own, so that none meets what another one left behind.

mod aggregate;
mod append;
mod contender;
mod filled;
mod load;
mod machine;
mod open;
mod read;
mod rebuild;
mod report;
mod sample;
mod server;
mod stages;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals_api::App;
use annals_api::config::Config;
use annals_commands::SystemClock;
use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use load::Pace;
use machine::Machine;
use server::Server;

/// Measures Annals against baselines on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON document
    #[arg(long)]
    json: bool,
    /// Seconds that each contender is measured for, in each row
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Turns that these seconds are split into; contenders take them one after the other
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Callers at once, for the appends; the highest measures the capacity of the open loop
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    callers: Vec<usize>,
    /// Bytes of a stored payload; the first is that of the parts that measure only one
    #[arg(long, value_delimiter = ',', default_values_t = [200, 2048])]
    payloads: Vec<usize>,
    /// Connections of each pool
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=32))]
    connections: u32,
    /// Events in the log that is rebuilt
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Events that each log of the appends begins with, vacuumed and analysed; 0 for the statistics of a fresh database
    #[arg(long, default_value_t = 10_000)]
    begin_with: u64,
    /// Events in the filled log
    #[arg(long, default_value_t = 5_000_000)]
    fill: u64,
    /// Where the temporary folder of the database is made; it must be on a disk [default: the system's temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only these parts; `filled` and `stages` run only when asked for
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::DEFAULT)]
    only: Vec<Part>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Appending in a closed loop
    Append,
    /// Appending in an open loop
    Open,
    /// Appending to a log of millions of events
    Filled,
    /// Loading an aggregate of 10,000 events
    Load,
    /// Reading over HTTP
    Read,
    /// Rebuilding a read model
    Rebuild,
    /// Where the time of an append goes
    Stages,
}

impl Part {
    const DEFAULT: [Self; 5] = [Self::Append, Self::Open, Self::Load, Self::Read, Self::Rebuild];
}

/// All figures of one run.
#[derive(Debug, Serialize)]
struct Figures {
    machine: Machine,
    /// Connections in each pool. Annals appends through one connection besides its pool.
    connections: u32,
    /// Seconds that each contender was measured for, in each row.
    seconds: u64,
    /// Turns that these were split into.
    rounds: u32,
    /// Events that each log of the appends began with.
    begin_with: u64,
    append: Vec<append::Row>,
    open: Option<open::Figures>,
    filled: Option<filled::Figures>,
    load: Option<aggregate::Figures>,
    read: Vec<read::Row>,
    rebuild: Option<rebuild::Row>,
    stages: Option<stages::Figures>,
    targets: Vec<report::Target>,
    /// What ended the run before all parts were measured; absent when nothing did.
    failure: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let server = Server::start(&folder, arguments.connections, true).await?;
    let prepared = prepare(&server, &arguments).await;
    let mut figures = match prepared {
        Ok(figures) => figures,
        Err(error) => {
            server.stop().await?;
            return Err(error);
        }
    };
    let measured = measure(&server, &arguments, &folder, &mut figures).await;
    // What was measured before something went wrong is worth having all the same.
    figures.failure = measured.as_ref().err().map(|error| format!("{error:#}"));
    let stopped = server.stop().await;
    figures.machine.load_after = machine::load();
    figures.targets = report::targets(&figures);
    let text = if arguments.json {
        serde_json::to_string_pretty(&figures)? + "\n"
    } else {
        report::table(&figures)
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    measured.and(stopped)
}

/// Makes sure that commits are durable here, before anything is measured, and describes the machine.
async fn prepare(server: &Server, arguments: &Arguments) -> Result<Figures> {
    let first = server.log("first").await?;
    let machine = Machine::describe(first.owner.pool(), server.folder()).await?;
    first.close().await?;
    Ok(Figures {
        machine,
        connections: server.connections(),
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        begin_with: arguments.begin_with,
        append: Vec::new(),
        open: None,
        filled: None,
        load: None,
        read: Vec::new(),
        rebuild: None,
        stages: None,
        targets: Vec::new(),
        failure: None,
    })
}

async fn measure(server: &Server, arguments: &Arguments, folder: &Path, figures: &mut Figures) -> Result<()> {
    let pace = Pace::new(arguments.seconds, arguments.rounds);
    let wants = |part| arguments.only.contains(&part);
    let begin_with = arguments.begin_with;
    let payload_bytes = *arguments.payloads.first().context("no --payloads")?;
    let most_callers = *arguments.callers.iter().max().context("no --callers")?;
    if wants(Part::Append) {
        figures.append = append::run(server, begin_with, &arguments.callers, &arguments.payloads, pace).await?;
    }
    if wants(Part::Open) {
        figures.open = Some(open::run(server, begin_with, most_callers, payload_bytes, pace).await?);
    }
    if wants(Part::Load) {
        figures.load = Some(aggregate::run(server).await?);
    }
    if wants(Part::Read) {
        figures.read = with_app(server, "read", async |app| read::run(app, pace).await).await?;
    }
    if wants(Part::Rebuild) {
        let rebuilt = with_app(server, "rebuild", async |app| rebuild::run(app, arguments.events).await).await?;
        figures.rebuild = Some(rebuilt);
    }
    if wants(Part::Filled) {
        figures.filled = Some(
            filled::run(
                server,
                arguments.fill,
                begin_with,
                &arguments.callers,
                payload_bytes,
                pace,
            )
            .await?,
        );
    }
    if wants(Part::Stages) {
        figures.stages = Some(stages::run(server, folder, begin_with, &arguments.callers, payload_bytes, pace).await?);
    }
    Ok(())
}

/// Runs `part` on a whole application in a database of its own.
async fn with_app<T>(server: &Server, name: &str, part: impl AsyncFnOnce(&App) -> Result<T>) -> Result<T> {
    let mut config = Config::defaults();
    config.data_dir = server.folder().join(name);
    let database = server.database(name).await?;
    let app = App::start_on(database, config, Arc::new(SystemClock))
        .await
        .context("the application starts")?;
    let answer = part(&app).await;
    app.stop().await.context("the application stops")?;
    answer
}
