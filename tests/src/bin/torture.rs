//! Tortures the event store and judges what is left: `torture --minutes 30 --seed 7 --report docs/torture.md`.
//! Ends with 1 when anything was lost, doubled, reordered or stuck, or when too few events were written.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program speaks to people")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_tests::kit::KitError;
use annals_tests::kit::torture::{ReaderTask, TortureOptions, WriterTask, read, run, write};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    worker: Option<Worker>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
struct Run {
    /// How long faults are injected, in minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Decides which faults come when; made up, and printed, when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Worker processes, of which half write.
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Callers at once in each writing process.
    #[arg(long, default_value_t = 48)]
    callers: usize,
    /// The most events of one stream in one command.
    #[arg(long, default_value_t = 24)]
    events_per_stream: u64,
    /// The most events a second; a million take about a gigabyte of disk.
    #[arg(long, default_value_t = 4000)]
    events_per_second: u64,
    /// Fewer events than this are a failure.
    #[arg(long, default_value_t = 1)]
    events_at_least: u64,
    /// Fewer faults than this are a failure.
    #[arg(long, default_value_t = 1)]
    faults_at_least: usize,
    /// The longest pause between two faults, in seconds.
    #[arg(long, default_value_t = 4.0)]
    longest_pause: f64,
    /// The size of the disk that may be filled, in gibibytes; taken only as it is needed.
    #[arg(long, default_value_t = 24)]
    disk_gib: u64,
    /// For everything the run needs, and kept; a temporary one when absent.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where to write the report in Markdown.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Worker {
    /// A process that writes.
    #[command(hide = true)]
    Write {
        #[arg(long)]
        url: String,
        #[arg(long)]
        history: PathBuf,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        callers: usize,
        #[arg(long)]
        events: u64,
        #[arg(long)]
        events_per_second: u64,
    },
    /// A process that reads.
    #[command(hide = true)]
    Read {
        #[arg(long)]
        url: String,
        #[arg(long)]
        history: PathBuf,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        lease_ms: u64,
        #[arg(long)]
        name: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.worker.is_some() { "warn" } else { "off" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("TORTURE_LOG").unwrap_or_else(|_| EnvFilter::new(level)))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match arguments.worker {
            Some(worker) => work(worker).await.map(|()| true),
            None => torture(arguments.run).await,
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

async fn work(worker: Worker) -> Result<(), KitError> {
    match worker {
        Worker::Write {
            url,
            history,
            seed,
            callers,
            events,
            events_per_second,
        } => {
            write(WriterTask {
                url,
                history,
                seed,
                callers,
                events,
                events_per_second,
            })
            .await
        }
        Worker::Read {
            url,
            history,
            seed,
            lease_ms,
            name,
        } => {
            read(ReaderTask {
                url,
                history,
                seed,
                lease: Duration::from_millis(lease_ms),
                name,
            })
            .await
        }
    }
}

async fn torture(arguments: Run) -> Result<bool, KitError> {
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs() ^ u64::from(now.subsec_nanos())
    });
    eprintln!("seed {seed}");
    let report = run(TortureOptions {
        program: std::env::current_exe()?,
        folder: arguments.folder,
        duration: Duration::from_secs_f64(arguments.minutes * 60.0),
        each_kind_once: false,
        seed,
        processes: arguments.processes,
        callers: arguments.callers,
        events_per_stream: arguments.events_per_stream,
        events_per_second: arguments.events_per_second,
        events_at_least: arguments.events_at_least,
        longest_pause: Duration::from_secs_f64(arguments.longest_pause),
        lease: Duration::from_secs(2),
        disk_bytes: arguments.disk_gib << 30,
        tell: |line| eprintln!("{line}"),
    })
    .await?;
    if let Some(path) = &arguments.report {
        std::fs::write(path, report.to_markdown())?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.to_markdown());
    }
    if report.faults.len() < arguments.faults_at_least {
        eprintln!("only {} faults", report.faults.len());
        return Ok(false);
    }
    Ok(report.is_clean())
}
