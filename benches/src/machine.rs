//! What the figures were measured on.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::PgPool;

/// The settings that decide what a commit costs.
const SETTINGS: &str = "
    select name, current_setting(name)
    from pg_settings
    where name = any(array[
        'checkpoint_timeout', 'commit_delay', 'data_checksums', 'fsync', 'full_page_writes', 'max_connections',
        'max_wal_size', 'server_version', 'shared_buffers', 'synchronous_commit', 'wal_compression', 'wal_level',
        'wal_sync_method'
    ])
    order by name
";

const NOW: &str = "select to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI') || ' UTC'";

/// Machine, server and program.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// When the run began.
    pub(crate) began: String,
    /// Whether this program was built with optimisation.
    pub(crate) optimised: bool,
    /// Name of the processor, where the system tells.
    pub(crate) processor: Option<String>,
    /// Processors that this program may use.
    pub(crate) processors: usize,
    /// Operating system and architecture.
    pub(crate) system: String,
    /// Memory of the machine, in bytes, where the system tells.
    pub(crate) memory_bytes: Option<u64>,
    /// File system of the database, where the system tells.
    pub(crate) file_system: Option<String>,
    /// Processes that wanted a processor when the run began, averaged over a minute: others share the machine when
    /// this is not near zero.
    pub(crate) load_before: Option<f64>,
    /// The same when the run ended, this program and its server included.
    pub(crate) load_after: Option<f64>,
    /// PostgreSQL's settings.
    pub(crate) settings: Vec<(String, String)>,
}

impl Machine {
    /// Looks around. The server's files are in `folder`.
    ///
    /// # Errors
    /// The server does not answer, or its files are in memory, where a commit costs nothing.
    pub(crate) async fn describe(pool: &PgPool, folder: &Path) -> Result<Self> {
        let file_system = file_system_of(folder);
        ensure!(
            !matches!(file_system.as_deref(), Some("tmpfs" | "ramfs")),
            "{} is in memory, where nothing is durable; name a place on a disk with --folder",
            folder.display()
        );
        Ok(Self {
            began: sqlx::query_scalar(NOW).fetch_one(pool).await?,
            optimised: !cfg!(debug_assertions),
            processor: line_of("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            memory_bytes: bytes_of("/proc/meminfo", "MemTotal"),
            file_system,
            load_before: load(),
            load_after: None,
            settings: sqlx::query_as(SETTINGS).fetch_all(pool).await?,
        })
    }

    /// One of PostgreSQL's settings.
    pub(crate) fn setting(&self, wanted: &str) -> &str {
        let found = self.settings.iter().find(|(name, _)| name == wanted);
        found.map_or("unknown", |(_, value)| value)
    }
}

/// Memory that this process holds, in bytes, where the system tells.
pub(crate) fn resident_bytes() -> Option<u64> {
    bytes_of("/proc/self/status", "VmRSS")
}

/// The most memory that this process has held, in bytes, where the system tells.
pub(crate) fn highest_resident_bytes() -> Option<u64> {
    bytes_of("/proc/self/status", "VmHWM")
}

/// The system's load average over the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn bytes_of(file: &str, name: &str) -> Option<u64> {
    let kibibytes = line_of(file, name)?;
    Some(kibibytes.strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// By the longest mount point that the folder is under.
fn file_system_of(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let under = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1)?, words.next()?);
        folder.starts_with(point).then_some((point.len(), kind.to_owned()))
    });
    under.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}
