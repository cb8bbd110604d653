//! A private, real PostgreSQL in the data folder, so that one command is enough.
//!
//! Owns everything about that server but its contents: which binaries it runs (`binaries`), under which account
//! (`account`), what `postmaster.pid` says (`postmaster`), and its life from `initdb` to a clean stop (`cluster`).

mod account;
mod binaries;
mod cluster;
mod postmaster;

use std::io;
use std::path::PathBuf;

pub use account::Account;
pub use binaries::{Binaries, BinariesSearch};
pub use cluster::{Cluster, ClusterOptions, Installation};
pub use postmaster::{PidFile, Postmaster};

/// Why the embedded cluster cannot be had. `Display` says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No usable PostgreSQL binaries. The first part lists where was looked and what was wrong there.
    #[error(
        "no PostgreSQL (15 or newer) to run was found{looked}\n\
         Three ways out: install it ({install}); or set ANNALS_POSTGRES_BIN to the folder with `postgres` and `initdb`; \
         or set DATABASE_URL to use a server of your own"
    )]
    NoBinaries {
        /// What was found and why it would not do; empty or beginning with a colon.
        looked: String,
        /// The command that installs PostgreSQL on this system.
        install: &'static str,
    },
    /// `ANNALS_POSTGRES_BIN` names something that cannot be used; nothing else is tried then.
    #[error("ANNALS_POSTGRES_BIN is {}: {reason}", folder.display())]
    ConfiguredBinaries {
        /// The folder it names.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The account that PostgreSQL must run as cannot enter a folder above the data.
    #[error(
        "PostgreSQL does not run as root, and user {user} cannot enter {}\n\
         Three ways out: put the data where that user can go (ANNALS_DATA_DIR=/var/lib/annals); or start annals as an \
         ordinary user; or set DATABASE_URL to use a server of your own", blocked.display()
    )]
    Unreachable {
        /// The unprivileged account.
        user: String,
        /// The first folder on the way that it cannot enter.
        blocked: PathBuf,
    },
    /// As root there is neither a user `postgres` nor a user `nobody`.
    #[error(
        "PostgreSQL does not run as root, and this system has neither a user postgres nor a user nobody; \
         start annals as an ordinary user, or set DATABASE_URL"
    )]
    NoAccount,
    /// The cluster's folder belongs to another user.
    #[error(
        "{} belongs to another user (uid {owner}); start annals as that user or as root, or choose another data folder",
        folder.display()
    )]
    ForeignFolder {
        /// The cluster's folder.
        folder: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// Where the cluster should be there is something else.
    #[error("{} is not empty and no PostgreSQL cluster; move it away or choose another data folder", .0.display())]
    NotACluster(PathBuf),
    /// A folder for the socket exists already and is not safe to use.
    #[error("{} is not a folder of mode 0700 that belongs to uid {uid}; remove it or set TMPDIR", folder.display())]
    UnsafeSocketFolder {
        /// The folder.
        folder: PathBuf,
        /// Who should own it.
        uid: u32,
    },
    /// A file of the data folder cannot be read or written.
    #[error("{action} {} failed", path.display())]
    File {
        /// What was attempted, such as `creating`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL could not be started.
    #[error("{} could not be started", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Initialise(String),
    /// The server ended before it was ready.
    #[error("PostgreSQL ended while starting: {reason}\nIts log is {}", log.display())]
    Ended {
        /// The end of its log.
        reason: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server was not ready in time.
    #[error("PostgreSQL in {} was not ready within {seconds} seconds", folder.display())]
    NotReady {
        /// The cluster's folder.
        folder: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A server without a parent runs on our folder and does not stop.
    #[error("a PostgreSQL without an owner (process {pid}) runs on {} and does not stop; end it by hand", folder.display())]
    StuckOrphan {
        /// Its process.
        pid: i32,
        /// The cluster's folder.
        folder: PathBuf,
    },
    /// The server has not stopped, in spite of being told to repeatedly.
    #[error("PostgreSQL (process {pid}) has not stopped within {seconds} seconds")]
    NotStopped {
        /// Its process.
        pid: i32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server is ready but the database in it cannot be made or reached.
    #[error("the embedded PostgreSQL runs, but its database cannot be reached")]
    Unusable(#[source] sqlx::Error),
    /// The thread that runs the server is gone, which only a panic in it explains.
    #[error("the thread that looks after PostgreSQL has ended")]
    ThreadEnded,
}

impl ClusterError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
