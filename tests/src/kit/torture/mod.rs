//! Processes that write and read one log while faults of every kind are injected, and the judgement on what is left.
//!
//! The driver runs a PostgreSQL of its own, durable as in earnest, on a disk of its own where it may mount one. Every
//! worker is a process with an event store of its own, connected through a proxy of its own. Faults come one after the
//! other, in an order that the seed decides, each kind once before any comes again. At the end everything that was
//! stopped goes on, the writers finish, the readers must arrive at the head, and [`checker`](super::checker) judges.

mod disk;
mod fault;
mod reader;
mod report;
mod run;
mod worker;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

pub use fault::FaultKind;
pub use reader::{ReaderTask, read};
pub use report::{FaultRecord, Report};
pub use run::run;
pub use writer::{WriterTask, write};

/// How a run goes.
#[derive(Debug, Clone)]
pub struct TortureOptions {
    /// The program whose subcommands `write` and `read` are the workers.
    pub program: PathBuf,
    /// For everything, made and removed by the run; absent for a temporary one.
    pub folder: Option<PathBuf>,
    /// How long faults are injected.
    pub duration: Duration,
    /// Ends as soon as every kind of fault has come once, if that is earlier.
    pub each_kind_once: bool,
    /// Decides which faults come when, and what is written.
    pub seed: u64,
    /// Worker processes; half of them write, at least one, and the others read.
    pub processes: usize,
    /// Callers at once in each writer.
    pub callers: usize,
    /// The most events of one stream in one command.
    pub events_per_stream: u64,
    /// The most events a second of all writers together, over the life of each; it bounds disk and check, which both
    /// grow with the log.
    pub events_per_second: u64,
    /// Below this many events at the end, the run has failed.
    pub events_at_least: u64,
    /// The longest pause between two faults.
    pub longest_pause: Duration,
    /// How long a lease of the projection lasts.
    pub lease: Duration,
    /// The size of the disk, in bytes; nothing of it is used before it is needed.
    pub disk_bytes: u64,
    /// Tells how it goes, a line at a time.
    pub tell: fn(&str),
}
