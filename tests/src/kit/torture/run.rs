//! The driver: starts everything, deals the faults, ends in order and has the outcome judged.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use annals_eventstore::database::{DatabaseOptions, DatabaseRole};
use annals_eventstore::embedded::{Cluster, ClusterOptions};
use annals_eventstore::{Database, EventStore, Head, Position, Vault, WriterOptions, position};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::disk::Disk;
use super::fault::{FaultKind, Injected};
use super::report::{FaultRecord, Report};
use super::worker::master_key;
use super::{TortureOptions, reader};
use crate::kit::KitError;
use crate::kit::checker::{Evidence, check};
use crate::kit::history::now_us;
use crate::kit::proxy::Proxy;
use crate::kit::random::Random;

/// The longest from the end of a fault to the next commit; beyond it, the writers are stuck.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(90);
/// The longest that workers may take to finish what is under way, and readers to reach the head.
const END_PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked for something to have happened.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a transaction in another database is kept open.
const LONG_TRANSACTION: Duration = Duration::from_secs(20);
/// The other database.
pub(super) const OTHER_DATABASE: &str = "other";

/// Which side of the log a worker is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// A worker's place in the run; processes come and go in it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) proxy: Proxy,
    pub(super) child: Child,
    stdin: Option<ChildStdin>,
}

/// A run under way.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) options: TortureOptions,
    pub(super) random: Random,
    pub(super) workers: Vec<Worker>,
    pub(super) cluster: Cluster,
    pub(super) database: Database,
    pub(super) long_transaction: Option<(PgConnection, Instant)>,
    pub(super) disk: Option<Disk>,
    pub(super) report: Report,
    histories: PathBuf,
    evidence: Evidence,
    violations: Vec<String>,
    // Removed last.
    _temporary: Option<tempfile::TempDir>,
}

/// Tortures the store and judges what is left. What is found is in the report.
///
/// # Errors
/// When the kit itself could not do its work.
pub async fn run(options: TortureOptions) -> Result<Report, KitError> {
    let mut run = Run::start(options).await?;
    let begun = Instant::now();
    run.torture(begun).await?;
    run.finish(begun).await
}

impl Run {
    async fn start(options: TortureOptions) -> Result<Self, KitError> {
        let (folder, temporary) = match &options.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = crate::reachable_folder();
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let (data, histories) = (folder.join("data"), folder.join("histories"));
        if data.exists() || histories.exists() {
            return Err(format!("{} holds another run", folder.display()).into());
        }
        std::fs::create_dir_all(&histories)?;
        let (disk, about_disk) = match Disk::mount(&data, options.disk_bytes) {
            Ok(disk) => (Some(disk), "of its own, behind a loop device".to_owned()),
            Err(error) => (None, format!("shared, for none could be mounted: {error}")),
        };
        let cluster = Cluster::open(&data, ClusterOptions::default()).await?;
        let owner = DatabaseOptions {
            role: DatabaseRole::Owner,
            max_connections: 4,
            ..DatabaseOptions::default()
        };
        let database = Database::embedded(cluster.clone(), owner).await?;
        database.migrate().await?;
        database.pool().execute(reader::MAKE_PROJECTION).await?;
        database
            .pool()
            .execute(&*format!("create database {OTHER_DATABASE}"))
            .await?;
        let server: String = sqlx::query_scalar("select 'PostgreSQL ' || current_setting('server_version')")
            .fetch_one(database.pool())
            .await?;
        let writers = (options.processes / 2).max(1);
        let readers = options.processes.saturating_sub(writers).max(1);
        let mut run = Self {
            random: Random::new(options.seed),
            workers: Vec::new(),
            cluster,
            database,
            long_transaction: None,
            disk,
            report: Report {
                seed: options.seed,
                writers,
                readers,
                server,
                processors: std::thread::available_parallelism().map_or(0, usize::from),
                disk: about_disk,
                ..Report::default()
            },
            histories,
            evidence: Evidence::default(),
            violations: Vec::new(),
            options,
            _temporary: temporary,
        };
        for number in 0..writers {
            run.add(Role::Writer, format!("writer-{number}")).await?;
        }
        for number in 0..readers {
            run.add(Role::Reader, format!("reader-{number}")).await?;
        }
        Ok(run)
    }

    async fn add(&mut self, role: Role, name: String) -> Result<(), KitError> {
        let proxy = Proxy::start(self.cluster.connect_options()).await?;
        let (child, stdin) = self.spawn(role, &name, &proxy)?;
        self.workers.push(Worker {
            role,
            name,
            proxy,
            child,
            stdin,
        });
        Ok(())
    }

    fn spawn(&mut self, role: Role, name: &str, proxy: &Proxy) -> Result<(Child, Option<ChildStdin>), KitError> {
        self.report.lives += 1;
        let seed = self.random.number();
        let mut command = Command::new(&self.options.program);
        match role {
            Role::Writer => {
                let history = self.histories.join(format!("{name}-{}.ndjson", self.report.lives));
                File::create(&history)?;
                command.arg("write").arg("--history").arg(&history);
                command.args(["--callers", &self.options.callers.to_string()]);
                command.args(["--events", &self.options.events_per_stream.to_string()]);
                let share = self.options.events_per_second / self.report.writers as u64;
                command.args(["--events-per-second", &share.to_string()]);
                self.evidence.writers.push(history);
            }
            Role::Reader => {
                let history = self.histories.join(format!("{name}.ndjson"));
                command.arg("read").arg("--history").arg(&history);
                command.args(["--lease-ms", &self.options.lease.as_millis().to_string()]);
                command.args(["--name", name]);
                if !self.evidence.readers.contains(&history) {
                    File::create(&history)?;
                    self.evidence.readers.push(history);
                }
            }
        }
        command.args(["--url", &proxy.url(), "--seed", &seed.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log_of(&self.histories, name)?)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok((child, stdin))
    }

    /// Puts a new process in the place of one that has ended.
    pub(super) fn replace(&mut self, number: usize) -> Result<(), KitError> {
        let mut worker = self.workers.swap_remove(number);
        let spawned = self.spawn(worker.role, &worker.name.clone(), &worker.proxy);
        if let Ok((child, stdin)) = spawned {
            (worker.child, worker.stdin) = (child, stdin);
            self.workers.push(worker);
            Ok(())
        } else {
            self.workers.push(worker);
            spawned.map(drop)
        }
    }

    async fn torture(&mut self, begun: Instant) -> Result<(), KitError> {
        (self.options.tell)(&format!(
            "{} writers, {} readers, {}; disk {}",
            self.report.writers, self.report.readers, self.report.server, self.report.disk
        ));
        self.until_committed(Position::START).await;
        let mut deck: Vec<FaultKind> = Vec::new();
        let mut dealt = 0;
        while begun.elapsed() < self.options.duration {
            let Some(kind) = deck.pop() else {
                if self.options.each_kind_once && dealt > 0 {
                    break;
                }
                deck.extend(FaultKind::ALL);
                self.random.shuffle(&mut deck);
                continue;
            };
            dealt += 1;
            if self.report.skipped.contains_key(kind.name()) {
                continue;
            }
            let longest = u64::try_from(self.options.longest_pause.as_millis()).unwrap_or(u64::MAX);
            let pause = Duration::from_millis(self.random.within(longest / 20, longest));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    (self.options.tell)("interrupted: coming to an end");
                    break;
                }
            }
            self.tend().await?;
            self.hit(kind, begun).await?;
        }
        Ok(())
    }

    async fn hit(&mut self, kind: FaultKind, begun: Instant) -> Result<(), KitError> {
        let (at_us, started) = (now_us(), Instant::now());
        let note = match self.inject(kind).await? {
            Injected::Done(note) => note,
            Injected::Impossible(why) => {
                (self.options.tell)(&format!("{} is skipped: {why}", kind.name()));
                self.report.skipped.insert(kind.name(), why);
                return Ok(());
            }
        };
        let (took, ended) = (started.elapsed(), Instant::now());
        let head = self.head().await.map_or(Position::START, |head| head.position);
        if !self.until_committed(head).await {
            self.violations.push(format!(
                "nothing was committed within {} s after {} ({note})",
                RECOVERY_PATIENCE.as_secs(),
                kind.name()
            ));
        }
        let record = FaultRecord {
            kind: kind.name(),
            at_us,
            took_ms: u64::try_from(took.as_millis())?,
            recovered_ms: u64::try_from(ended.elapsed().as_millis())?,
            note,
        };
        (self.options.tell)(&format!(
            "{:>6.1} s  #{} {} ({}): {} ms, recovered in {} ms, head {head}",
            begun.elapsed().as_secs_f64(),
            self.report.faults.len() + 1,
            record.kind,
            record.note,
            record.took_ms,
            record.recovered_ms,
        ));
        self.report.faults.push(record);
        Ok(())
    }

    /// The end of the log, as soon as the server tells it; none after a long time without an answer.
    async fn head(&self) -> Option<Head> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        while Instant::now() < deadline {
            if let Ok(head) = position::head(self.database.pool()).await {
                return Some(head);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }

    /// Waits for a commit beyond `position`; false when none comes.
    async fn until_committed(&self, position: Position) -> bool {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        while Instant::now() < deadline {
            if self.head().await.is_some_and(|head| head.position > position) {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    /// Ends what has lasted long enough, and replaces whoever ended by himself, which nobody should.
    async fn tend(&mut self) -> Result<(), KitError> {
        if self
            .long_transaction
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > LONG_TRANSACTION)
        {
            self.end_long_transaction().await;
        }
        for number in (0..self.workers.len()).rev() {
            let worker = &mut self.workers[number];
            if let Some(status) = worker.child.try_wait()? {
                self.violations.push(format!(
                    "{} ended by itself, {status}: {}",
                    worker.name,
                    end_of_log(&self.histories, &worker.name)
                ));
                self.replace(number)?;
            }
        }
        Ok(())
    }

    async fn end_long_transaction(&mut self) {
        if let Some((mut connection, _)) = self.long_transaction.take() {
            // The server may have been killed meanwhile, and the transaction with it.
            let _ = connection.execute("rollback").await;
            let _ = connection.close().await;
        }
    }

    /// A session of the driver's own, past every proxy.
    pub(super) async fn session(&self) -> Result<PgConnection, sqlx::Error> {
        let connect = self.cluster.connect_options();
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        loop {
            match connect.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn finish(mut self, begun: Instant) -> Result<Report, KitError> {
        self.end_long_transaction().await;
        self.tend().await?;
        for worker in &self.workers {
            self.report.lost_notifications += worker.proxy.lost_notifications();
            let _ = worker.proxy.disarm();
        }
        self.end(Role::Writer, Position::START).await?;
        self.report.elapsed_s = begun.elapsed().as_secs_f64();
        let head = self
            .head()
            .await
            .ok_or("the database does not answer any more")?
            .position;
        (self.options.tell)(&format!("the writers have ended at {head}"));
        self.end(Role::Reader, head).await?;
        (self.options.tell)("the readers have ended; checking");

        let checking = Instant::now();
        let mut session = self.session().await?;
        self.evidence.projected = Some(reader::projected(&mut session).await?);
        session.close().await?;
        let vault = Vault::open(&self.database, &master_key()).await?;
        let store = EventStore::start(self.database.clone(), vault, WriterOptions::default());
        let mut checked = check(&store, &self.evidence).await?;
        store.close().await;
        checked.violations.splice(0..0, self.violations.drain(..));
        if checked.events < self.options.events_at_least {
            checked.violations.push(format!(
                "only {} events were written, and not {}",
                checked.events, self.options.events_at_least
            ));
        }
        self.report.check_s = checking.elapsed().as_secs_f64();
        self.report.checked = checked;
        self.database.close().await?;
        self.cluster.close().await?;
        Ok(self.report)
    }

    /// Has every worker of a role come to its end.
    async fn end(&mut self, role: Role, position: Position) -> Result<(), KitError> {
        let deadline = tokio::time::Instant::now() + END_PATIENCE;
        for worker in self.workers.iter_mut().filter(|worker| worker.role == role) {
            if let Some(mut stdin) = worker.stdin.take() {
                // It may have ended already, which its status tells.
                let _ = stdin.write_all(format!("{position}\n").as_bytes()).await;
                let _ = stdin.shutdown().await;
            }
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.role == role) {
            match tokio::time::timeout_at(deadline, worker.child.wait()).await {
                Ok(status) => {
                    let status = status?;
                    if !status.success() {
                        self.violations.push(format!(
                            "{} ended with {status}: {}",
                            worker.name,
                            end_of_log(&self.histories, &worker.name)
                        ));
                    }
                }
                Err(_) => {
                    self.violations.push(format!(
                        "{} is stuck: it has not come to its end, position {position}, within {} s: {}",
                        worker.name,
                        END_PATIENCE.as_secs(),
                        end_of_log(&self.histories, &worker.name)
                    ));
                    worker.child.kill().await?;
                }
            }
        }
        Ok(())
    }
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn log_of(folder: &Path, name: &str) -> Result<File, KitError> {
    Ok(OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(folder, name))?)
}

fn end_of_log(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(log_path(folder, name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
