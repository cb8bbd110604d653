//! The life of the cluster: made once, started or joined, watched, started again when it dies, stopped cleanly.
//!
//! One process owns the server of a data folder, by a lock held for life. Others join it; when the owner goes, one of
//! them takes over. PostgreSQL's own interlock stays in force below all this: its pid file is never removed.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::ClusterError;
use super::account::Account;
use super::binaries::{Binaries, BinariesSearch};
use super::postmaster::{PidFile, Postmaster, end_leftovers, signal};

/// The superuser that `initdb` makes, and the database that Annals lives in.
const NAME: &str = "annals";

/// Names the socket; nothing listens on TCP.
const PORT: u16 = 5432;

/// Paths of Unix sockets end at 104 (macOS) or 108 bytes.
const LONGEST_SOCKET_PATH: usize = 100;

/// How often a process that has joined looks whether the owner is gone.
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(250);

/// How often a starting server is looked at. PostgreSQL tells of its readiness in a file only.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// A stop that takes longer is reported.
const STOP_NOTICE: Duration = Duration::from_secs(5);

/// What an immediate stop may take on top.
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);

/// A server that lived longer than this was healthy, so the next start need not wait.
const HEALTHY_AGE: Duration = Duration::from_secs(30);

/// The server's log is set aside at a start when it is longer.
const LONGEST_LOG_BYTES: u64 = 16 << 20;

/// What a cluster of a small server needs differently. Written into its `postgresql.conf` once.
const SETTINGS: &str = "
# From here on: set by Annals when it made this cluster. Yours to change; the next start applies it.
shared_buffers = 128MB
max_wal_size = 1GB
wal_compression = on
random_page_cost = 1.1
jit = off
max_parallel_workers_per_gather = 0
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%a '
log_checkpoints = off
";

const DATABASE_EXISTS: &str = "select exists (select from pg_catalog.pg_database where datname = 'annals')";

/// How to make, start and stop the cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where to look for the programs.
    pub binaries: BinariesSearch,
    /// Whether an acknowledged commit survives a power failure. False only for data that nobody will miss.
    pub durable: bool,
    /// Connections that the server allows.
    pub max_connections: u32,
    /// The longest a start may take, including recovery after a crash.
    pub start_timeout: Duration,
    /// After this, a fast stop becomes an immediate one, which the next start recovers from.
    pub stop_timeout: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            binaries: BinariesSearch::from_environment(),
            durable: true,
            max_connections: 100,
            start_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(60),
        }
    }
}

/// A cluster's files, ready for a server to run on them.
#[derive(Debug, Clone)]
pub struct Installation {
    folder: PathBuf,
    socket_folder: PathBuf,
    log: PathBuf,
    account: Account,
    binaries: Binaries,
    durable: bool,
    max_connections: u32,
}

impl Installation {
    /// Makes the cluster below `data_dir` (an existing folder without symbolic links) unless it exists, and settles
    /// whose it is and where its socket lies. The caller keeps others from doing the same.
    ///
    /// # Errors
    /// Most of [`ClusterError`].
    pub fn prepare(data_dir: &Path, binaries: Binaries, options: &ClusterOptions) -> Result<Self, ClusterError> {
        Self::prepare_with_socket(data_dir, socket_folder(data_dir), binaries, options)
    }

    fn prepare_with_socket(
        data_dir: &Path,
        socket_folder: PathBuf,
        binaries: Binaries,
        options: &ClusterOptions,
    ) -> Result<Self, ClusterError> {
        let folder = cluster_folder(data_dir);
        let account = Account::for_folder(&folder)?;
        account.must_reach(data_dir)?;
        if account.is_other() {
            account.must_reach(binaries.folder())?;
        }
        let installation = Self {
            socket_folder,
            log: data_dir.join("postgres.log"),
            folder,
            account,
            binaries,
            durable: options.durable,
            max_connections: options.max_connections,
        };
        installation.create(data_dir)?;
        installation.secure_socket_folder()?;
        Ok(installation)
    }

    /// The cluster's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whom the files belong to and the server runs as.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// How to connect to one of the server's databases, as its superuser.
    #[must_use]
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.socket_folder, database)
    }

    /// The server in the foreground, logging into its file, in a process group of its own so that Ctrl-C in a
    /// terminal does not stop it before the pool is closed. `wrapper` is a program and arguments to run it by.
    ///
    /// # Errors
    /// [`ClusterError::File`] when the log cannot be opened.
    pub fn server(&self, wrapper: &[OsString]) -> Result<Command, ClusterError> {
        let log = self.open_log().map_err(ClusterError::file("opening", &self.log))?;
        let errors = log.try_clone().map_err(ClusterError::file("opening", &self.log))?;
        let program = self.binaries.program("postgres");
        let mut command = match wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = self.account.command(Path::new(first));
                command.args(rest).arg(&program);
                command
            }
            None => self.account.command(&program),
        };
        let on_or_off = if self.durable { "on" } else { "off" };
        let mut set = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            command.arg("-c").arg(setting);
        };
        set("listen_addresses", &"");
        set("unix_socket_directories", &quoted(&self.socket_folder));
        set("unix_socket_permissions", &"0700");
        set("port", &PORT.to_string());
        set("max_connections", &self.max_connections.to_string());
        set("fsync", &on_or_off);
        set("full_page_writes", &on_or_off);
        // The place of the log is fixed by us; a collector would be one more process to lose.
        set("logging_collector", &"off");
        set("log_destination", &"stderr");
        command
            .arg("-D")
            .arg(&self.folder)
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        Ok(command)
    }

    fn create(&self, data_dir: &Path) -> Result<(), ClusterError> {
        if self.folder.join("PG_VERSION").exists() {
            let owner = fs::metadata(&self.folder)
                .map_err(ClusterError::file("reading", &self.folder))?
                .uid();
            if owner != self.account.uid() {
                // Restored or copied by root.
                self.account
                    .give(&self.folder)
                    .map_err(ClusterError::file("giving away", &self.folder))?;
            }
            return Ok(());
        }
        if fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(ClusterError::NotACluster(self.folder.clone()));
        }
        let started = Instant::now();
        // Made under another name, so that a start that was cut off leaves nothing that looks like a cluster.
        let unfinished = data_dir.join("postgres.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(ClusterError::file("removing", &unfinished))?;
        }
        private_folder(&unfinished).map_err(ClusterError::file("creating", &unfinished))?;
        self.account
            .give(&unfinished)
            .map_err(ClusterError::file("giving away", &unfinished))?;
        let program = self.binaries.program("initdb");
        let mut command = self.account.command(&program);
        command.arg("-D").arg(&unfinished).args([
            "--username=annals",
            "--locale=C",
            "--encoding=UTF8",
            "--auth-local=trust", // whoever can enter the socket's folder could read the files as well
            "--auth-host=reject",
            "--no-instructions",
        ]);
        command.arg(if self.durable { "--data-checksums" } else { "--no-sync" });
        let output = command
            .output()
            .map_err(|source| ClusterError::Spawn { program, source })?;
        if !output.status.success() {
            return Err(ClusterError::Initialise(last_lines(&String::from_utf8_lossy(
                &output.stderr,
            ))));
        }
        let settings = unfinished.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&settings)
            .and_then(|mut file| {
                file.write_all(SETTINGS.as_bytes())?;
                file.sync_all()
            })
            .map_err(ClusterError::file("writing", &settings))?;
        fs::rename(&unfinished, &self.folder)
            .and_then(|()| File::open(data_dir)?.sync_all())
            .map_err(ClusterError::file("creating", &self.folder))?;
        tracing::info!(
            folder = %self.folder.display(),
            version = self.binaries.version(),
            elapsed_ms = started.elapsed().as_millis(),
            "made a new PostgreSQL cluster"
        );
        Ok(())
    }

    /// In the temp folder somebody else could have put theirs first, and answer in the server's stead.
    fn secure_socket_folder(&self) -> Result<(), ClusterError> {
        let folder = &self.socket_folder;
        match private_folder(folder) {
            Ok(()) => self
                .account
                .give(folder)
                .map_err(ClusterError::file("giving away", folder)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(folder).map_err(ClusterError::file("reading", folder))?;
                if found.is_dir() && found.permissions().mode() & 0o077 == 0 && found.uid() == self.account.uid() {
                    Ok(())
                } else {
                    Err(ClusterError::UnsafeSocketFolder {
                        folder: folder.clone(),
                        uid: self.account.uid(),
                    })
                }
            }
            Err(source) => Err(ClusterError::File {
                action: "creating",
                path: folder.clone(),
                source,
            }),
        }
    }

    fn open_log(&self) -> io::Result<File> {
        if fs::metadata(&self.log).is_ok_and(|log| log.len() > LONGEST_LOG_BYTES) {
            fs::rename(&self.log, self.log.with_extension("log.1"))?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log)
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    fn log_since(&self, offset: u64) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            // The file may have been set aside in between.
            let start = if log.metadata()?.len() < offset { 0 } else { offset };
            log.seek(SeekFrom::Start(start))?;
            log.take(64 << 10).read_to_end(&mut text)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }
}

/// The embedded cluster of one data folder, run by this process or joined. Cheap to clone; when the last clone is
/// dropped the server is told to stop, but only [`Cluster::close`] waits for it.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    socket_folder: PathBuf,
    stop_timeout: Duration,
    starts: watch::Receiver<Option<Instant>>,
    ended: watch::Receiver<()>,
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.request_stop();
    }
}

impl Cluster {
    /// Opens the cluster in `data_dir`, making folder and cluster when they do not exist: starts its server, or joins
    /// the one that another process runs. On return it accepts connections.
    ///
    /// # Errors
    /// See [`ClusterError`]; nothing is left running then.
    pub async fn open(data_dir: &Path, options: ClusterOptions) -> Result<Self, ClusterError> {
        let data_dir = data_folder(data_dir)?;
        let deadline = Instant::now() + options.start_timeout;
        let (starts_sender, mut starts) = watch::channel(None);
        let (ended_sender, ended) = watch::channel(());
        let (report, reported) = oneshot::channel();
        let inner = Inner {
            folder: cluster_folder(&data_dir),
            socket_folder: socket_folder(&data_dir),
            stop_timeout: options.stop_timeout,
            starts: starts.clone(),
            ended,
            shared: Arc::default(),
        };
        let keeper = Keeper {
            data_dir,
            folder: inner.folder.clone(),
            options,
            shared: Arc::clone(&inner.shared),
            starts: starts_sender,
            runtime: Handle::current(),
        };
        // A thread of its own, for the kernel ends the server when the *thread* that started it ends.
        thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                let _ended = ended_sender;
                keeper.run(report);
            })
            .map_err(|source| ClusterError::Spawn {
                program: "postgres".into(),
                source,
            })?;
        // From here on, being dropped stops what the thread has begun.
        let mut cluster = Self { inner: Arc::new(inner) };
        let socket_folder = reported.await.map_err(|_| ClusterError::ThreadEnded)??;
        starts.mark_unchanged();
        if let Some(inner) = Arc::get_mut(&mut cluster.inner) {
            inner.socket_folder = socket_folder;
            inner.starts = starts;
        }
        if let Err(error) = cluster.make_usable(deadline).await {
            cluster.close().await?;
            return Err(error);
        }
        Ok(cluster)
    }

    /// Whether this process runs the server. A process that has joined may become the owner later.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.inner.shared.state().owner
    }

    /// The cluster's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The server's process, while it runs and whoever runs it.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        PidFile::read(&self.inner.folder)
            .map(|file| file.pid)
            .filter(|pid| Postmaster::identify(*pid, &self.inner.folder) == Postmaster::Ours)
    }

    /// How to connect to the database of Annals, as the cluster's superuser.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.inner.socket_folder, NAME)
    }

    /// When this process last started the server: connections from before are dead. None while somebody else runs it.
    #[must_use]
    pub fn starts(&self) -> watch::Receiver<Option<Instant>> {
        self.inner.starts.clone()
    }

    /// Stops the server if this process runs it, and waits for its end; otherwise just leaves.
    /// Close every connection first. Repeating does nothing.
    ///
    /// # Errors
    /// [`ClusterError::NotStopped`] when even an immediate stop had no effect.
    pub async fn close(&self) -> Result<(), ClusterError> {
        let shared = &self.inner.shared;
        shared.request_stop();
        let started = Instant::now();
        if self.ends_within(STOP_NOTICE).await {
            return Ok(());
        }
        tracing::warn!(
            elapsed_s = started.elapsed().as_secs(),
            "PostgreSQL is still writing; waiting for it to stop"
        );
        if self
            .ends_within(self.inner.stop_timeout.saturating_sub(STOP_NOTICE))
            .await
        {
            tracing::info!(elapsed_s = started.elapsed().as_secs(), "PostgreSQL has stopped");
            return Ok(());
        }
        tracing::warn!("PostgreSQL did not stop; stopping it at once, the next start will recover");
        shared.signal_server(Signal::QUIT);
        if self.ends_within(IMMEDIATE_STOP).await {
            return Ok(());
        }
        let pid = shared.state().server.unwrap_or(0);
        Err(ClusterError::NotStopped {
            pid,
            seconds: started.elapsed().as_secs(),
        })
    }

    async fn ends_within(&self, timeout: Duration) -> bool {
        let mut ended = self.inner.ended.clone();
        // Nothing is ever sent: the channel closes with the thread.
        tokio::time::timeout(timeout, async { while ended.changed().await.is_ok() {} })
            .await
            .is_ok()
    }

    /// Makes the database on first start. Who joins may come between the server's start and that.
    async fn make_usable(&self, deadline: Instant) -> Result<(), ClusterError> {
        loop {
            let attempt = if self.is_owner() {
                self.create_database().await
            } else {
                self.greet().await
            };
            match attempt {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(ClusterError::Unusable(error)),
                Err(_) => tokio::time::sleep(READY_INTERVAL * 5).await,
            }
        }
    }

    async fn create_database(&self) -> Result<(), sqlx::Error> {
        let mut connection = connect_options(&self.inner.socket_folder, "postgres").connect().await?;
        let exists: bool = sqlx::query_scalar(DATABASE_EXISTS).fetch_one(&mut connection).await?;
        if !exists {
            connection.execute("create database annals").await?;
        }
        connection.close().await
    }

    async fn greet(&self) -> Result<(), sqlx::Error> {
        self.connect_options().connect().await?.close().await
    }
}

/// What the handles and the thread know in common.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    owner: bool,
    /// The server's process, from its start until just before its number is given back to the system.
    server: Option<i32>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request_stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
        self.signal_server(Signal::INT);
    }

    /// Under the lock, so that the number cannot have been given to another process.
    fn signal_server(&self, what: Signal) {
        let state = self.state();
        if let Some(pid) = state.server {
            signal(pid, what);
        }
    }

    /// Pauses, at most for `timeout`, and tells whether to stop.
    fn stops_within(&self, timeout: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.state(), timeout, |state| !state.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

type Report = oneshot::Sender<Result<PathBuf, ClusterError>>;

/// The thread's side: takes the lock, starts the server and looks after it.
struct Keeper {
    data_dir: PathBuf,
    folder: PathBuf,
    options: ClusterOptions,
    shared: Arc<Shared>,
    starts: watch::Sender<Option<Instant>>,
    runtime: Handle,
}

impl Keeper {
    fn run(&self, report: Report) {
        let mut report = Some(report);
        if let Err(error) = self.keep(&mut report) {
            match report.take() {
                // Nobody waits any more when the opening was given up.
                Some(report) => drop(report.send(Err(error))),
                None => tracing::error!(error = %error, "PostgreSQL can no longer be looked after"),
            }
        }
    }

    fn keep(&self, report: &mut Option<Report>) -> Result<(), ClusterError> {
        let path = self.data_dir.join("cluster.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(ClusterError::file("opening", &path))?;
        let deadline = Instant::now() + self.options.start_timeout;
        // Stays where it was when a process takes over whose TMPDIR is another: its own connections depend on it.
        let mut socket_folder = socket_folder(&self.data_dir);
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    // For people who look; nothing reads it.
                    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
                    match self.own(&socket_folder, report) {
                        Err(error) if report.is_none() => {
                            tracing::error!(error = %error, "taking over PostgreSQL failed; trying again");
                            lock.unlock().map_err(ClusterError::file("unlocking", &path))?;
                        }
                        ended => return ended,
                    }
                }
                Err(TryLockError::WouldBlock) if report.is_some() => match self.running_socket_folder() {
                    Some(joined) => {
                        tracing::info!(folder = %self.folder.display(), "joined the PostgreSQL of another process");
                        socket_folder.clone_from(&joined);
                        answer(report, joined);
                    }
                    None if Instant::now() >= deadline => {
                        let seconds = self.options.start_timeout.as_secs();
                        return Err(ClusterError::NotReady {
                            folder: self.folder.clone(),
                            seconds,
                        });
                    }
                    None => {}
                },
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => {
                    return Err(ClusterError::File {
                        action: "locking",
                        path,
                        source,
                    });
                }
            }
            let pause = if report.is_some() {
                READY_INTERVAL
            } else {
                TAKE_OVER_INTERVAL
            };
            if self.shared.stops_within(pause) {
                return Ok(());
            }
        }
    }

    /// Where the owner's server listens, once it is ready.
    fn running_socket_folder(&self) -> Option<PathBuf> {
        let file = PidFile::read(&self.folder).filter(|file| file.ready)?;
        (Postmaster::identify(file.pid, &self.folder) == Postmaster::Ours).then_some(file.socket_folder)?
    }

    /// Runs the server until it is told to stop. Errors are those of the first start.
    fn own(&self, socket_folder: &Path, report: &mut Option<Report>) -> Result<(), ClusterError> {
        let mut search = self.options.binaries.clone();
        search.major = fs::read_to_string(self.folder.join("PG_VERSION"))
            .ok()
            .and_then(|v| v.trim().parse().ok());
        let binaries = if report.is_some() {
            self.runtime.block_on(search.find_or_fetch())?
        } else {
            search.find()? // a server joined before, so there are some
        };
        let installation =
            Installation::prepare_with_socket(&self.data_dir, socket_folder.to_owned(), binaries, &self.options)?;
        let ended = self.run_server(&installation, report);
        if !installation.socket_folder.starts_with(&self.data_dir) {
            // Fails when it is not empty, as it should.
            let _ = fs::remove_dir(&installation.socket_folder);
        }
        ended
    }

    fn run_server(&self, installation: &Installation, report: &mut Option<Report>) -> Result<(), ClusterError> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            match self.start(installation) {
                Ok(Some(mut server)) => {
                    self.shared.state().owner = true;
                    self.starts.send_replace(Some(Instant::now()));
                    tracing::info!(
                        folder = %self.folder.display(),
                        version = installation.binaries.version(),
                        pid = server.id(),
                        elapsed_ms = started.elapsed().as_millis(),
                        "PostgreSQL is ready"
                    );
                    answer(report, installation.socket_folder.clone());
                    let status = self.outlive(&mut server);
                    if self.shared.state().stopping {
                        return Ok(());
                    }
                    tracing::error!(%status, "PostgreSQL ended unexpectedly; starting it again");
                }
                Ok(None) => return Ok(()),
                Err(error) if report.is_some() => return Err(error),
                Err(error) => tracing::error!(error = %error, "PostgreSQL could not be started again; trying on"),
            }
            failures = if started.elapsed() > HEALTHY_AGE {
                0
            } else {
                failures + 1
            };
            // The first time at once, then after 0.2, 0.4, ... 12.8 seconds.
            let pause = if failures < 2 {
                Duration::ZERO
            } else {
                Duration::from_millis(100 << failures.min(7))
            };
            if self.shared.stops_within(pause) {
                return Ok(());
            }
        }
    }

    /// Starts the server and waits until it is ready; none when told to stop instead.
    fn start(&self, installation: &Installation) -> Result<Option<Child>, ClusterError> {
        let deadline = Instant::now() + self.options.start_timeout;
        let wrapper = end_with_us(&installation.account);
        for attempt in 0_u32.. {
            let stale = self.clear_the_way()?;
            let log_offset = installation.log_length();
            let mut command = installation.server(&wrapper)?;
            if let Some(pid) = stale {
                // PostgreSQL takes any living process of this number, if the user is the same, for a server of this
                // folder. We know better, and this is how pg_ctl tells it. Shared memory is still checked.
                command.env("PG_GRANDPARENT_PID", pid.to_string());
            }
            let Some(mut server) = self.spawn(&mut command, installation)? else {
                return Ok(None);
            };
            let pid = server.id().try_into().unwrap_or(0);
            let status = loop {
                if let Some(status) = self.reap(&mut server) {
                    break status;
                }
                if PidFile::read(&self.folder).is_some_and(|file| file.ready && file.pid == pid) {
                    return Ok(Some(server));
                }
                if Instant::now() >= deadline {
                    self.shared.signal_server(Signal::QUIT);
                    self.outlive(&mut server);
                    let seconds = self.options.start_timeout.as_secs();
                    return Err(ClusterError::NotReady {
                        folder: self.folder.clone(),
                        seconds,
                    });
                }
                thread::sleep(READY_INTERVAL);
            };
            if self.shared.state().stopping {
                return Ok(None);
            }
            let said = installation.log_since(log_offset);
            let beside_leftovers = said.contains("pre-existing shared memory block");
            if !beside_leftovers || Instant::now() >= deadline {
                let reason = if said.trim().is_empty() {
                    status.to_string()
                } else {
                    last_lines(&said)
                };
                return Err(ClusterError::Ended {
                    reason,
                    log: installation.log.clone(),
                });
            }
            if attempt == 0 {
                tracing::warn!("processes of the PostgreSQL that was killed are still ending; waiting for them");
            } else {
                end_leftovers(&self.folder);
            }
            if self.shared.stops_within(Duration::from_millis(100)) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Deals with what the pid file says: stops a server that has lost its owner, and returns the number when a
    /// process that is none of ours has it now.
    fn clear_the_way(&self) -> Result<Option<i32>, ClusterError> {
        let Some(PidFile { pid, .. }) = PidFile::read(&self.folder) else {
            return Ok(None);
        };
        match Postmaster::identify(pid, &self.folder) {
            Postmaster::Gone => Ok(None),
            Postmaster::Foreign => Ok(Some(pid)),
            Postmaster::Ours => {
                tracing::warn!(
                    pid,
                    "a PostgreSQL whose owner is gone still runs on our folder; stopping it"
                );
                for (how, patience) in [(Signal::INT, self.options.stop_timeout), (Signal::QUIT, IMMEDIATE_STOP)] {
                    signal(pid, how);
                    let deadline = Instant::now() + patience;
                    while Instant::now() < deadline {
                        if Postmaster::identify(pid, &self.folder) != Postmaster::Ours {
                            return Ok(None);
                        }
                        thread::sleep(READY_INTERVAL);
                    }
                }
                Err(ClusterError::StuckOrphan {
                    pid,
                    folder: self.folder.clone(),
                })
            }
        }
    }

    /// Under the lock of the state, so that a stop either prevents the start or knows whom to signal.
    fn spawn(&self, command: &mut Command, installation: &Installation) -> Result<Option<Child>, ClusterError> {
        let mut state = self.shared.state();
        if state.stopping {
            return Ok(None);
        }
        let program = installation.binaries.program("postgres");
        let server = command
            .spawn()
            .map_err(|source| ClusterError::Spawn { program, source })?;
        state.server = i32::try_from(server.id()).ok();
        Ok(Some(server))
    }

    /// The server's status if it has ended.
    fn reap(&self, server: &mut Child) -> Option<ExitStatus> {
        let mut state = self.shared.state();
        let status = server.try_wait().ok().flatten()?;
        state.server = None;
        Some(status)
    }

    /// Waits for the server's end. Its number is not given back before nobody can signal it any more.
    fn outlive(&self, server: &mut Child) -> ExitStatus {
        if let Some(pid) = server.id().try_into().ok().and_then(Pid::from_raw) {
            let ended = || rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
        }
        loop {
            if let Some(status) = self.reap(server) {
                return status;
            }
            thread::sleep(READY_INTERVAL);
        }
    }
}

/// Tells the opener where the server listens. If it has given up meanwhile, its handle has stopped us already.
fn answer(report: &mut Option<Report>, socket_folder: PathBuf) {
    if let Some(report) = report.take() {
        let _ = report.send(Ok(socket_folder));
    }
}

/// Has the kernel stop the server when we die, even by SIGKILL, where util-linux is installed. Elsewhere, and with
/// busybox, the next start finds the orphan.
fn end_with_us(account: &Account) -> Vec<OsString> {
    let wrapper = ["setpriv", "--pdeathsig", "INT", "--"];
    let works = account
        .command(Path::new(wrapper[0]))
        .args(&wrapper[1..])
        .arg("true")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if works {
        wrapper.into_iter().map(OsString::from).collect()
    } else {
        Vec::new()
    }
}

fn cluster_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// The data folder without symbolic links, made when absent. Root's lets others through, for the server is one of
/// them; what must be private in it is so by itself.
fn data_folder(data_dir: &Path) -> Result<PathBuf, ClusterError> {
    let mode = if rustix::process::geteuid().is_root() {
        0o711
    } else {
        0o700
    };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(data_dir)
        .and_then(|()| data_dir.canonicalize())
        .map_err(ClusterError::file("creating", data_dir))
}

/// In the data folder, or where that is too long for the name of a socket, in the temp folder under a name that
/// every process finds from the data folder alone.
fn socket_folder(data_dir: &Path) -> PathBuf {
    let near = data_dir.join("socket");
    if near.as_os_str().len() + ".s.PGSQL.5432".len() < LONGEST_SOCKET_PATH {
        return near;
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    env::temp_dir().join(format!("annals-{}", hex::encode(&digest[..8])))
}

fn connect_options(socket_folder: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_folder)
        .port(PORT)
        .username(NAME)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// `unix_socket_directories` is a list, in which quotation marks keep a name together.
fn quoted(folder: &Path) -> OsString {
    let mut quoted = vec![b'"'];
    for byte in folder.as_os_str().as_bytes() {
        quoted.extend(if *byte == b'"' {
            &b"\"\""[..]
        } else {
            std::slice::from_ref(byte)
        });
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_folder_gets_a_short_socket() {
        assert_eq!(socket_folder(Path::new("/data")), Path::new("/data/socket"));
        let deep = PathBuf::from(format!("/{}", "deep/".repeat(30)));
        let short = socket_folder(&deep);
        assert!(short.starts_with(env::temp_dir()));
        assert_eq!(short, socket_folder(&deep));
    }

    #[test]
    fn the_last_lines_tell_why() {
        assert_eq!(last_lines("\n one \n\ntwo\n"), "one\ntwo");
    }
}
