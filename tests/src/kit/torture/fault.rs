//! The faults: what can befall processes, connections, locks, the server and its disk.

use std::time::{Duration, Instant};

use annals_eventstore::checkpoint;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, Executor, PgConnection};

use super::reader::PROJECTION;
use super::run::{LOOK_EVERY, OTHER_DATABASE, Role, Run};
use crate::kit::KitError;
use crate::kit::proxy::{Aim, Cut};

/// The longest that is waited for the chance to do harm.
const OPPORTUNITY: Duration = Duration::from_secs(10);
/// Longer than the writer waits for a lock (2 s).
const BEYOND_LOCK_TIMEOUT: Duration = Duration::from_millis(2600);
/// Shorter than that, so that several in a row outlast a statement (5 s) and no lock.
const WITHIN_LOCK_TIMEOUT: Duration = Duration::from_millis(1700);
/// Longer than the writer waits for an answer (15 s).
const BEYOND_ANSWER: Duration = Duration::from_secs(17);
/// The share of stalls that last so long, in a thousand, where there is the time for it.
const LONG_STALLS: u64 = 250;

const TAKE_LOG: &str = "select pg_advisory_lock(1634627169, 1)";
const GIVE_LOG: &str = "select pg_advisory_unlock(1634627169, 1)";
const TAKE_LOG_IN_TRANSACTION: &str = "select pg_advisory_xact_lock(1634627169, 1)";
const APPENDING: &str = "
    select pid
    from pg_stat_activity
    where datname = current_database() and state = 'active' and query like '%log.append%' and pid <> pg_backend_pid()
    limit 1
";
const CANCEL_APPENDING: &str = "
    select count(pg_cancel_backend(pid))
    from pg_stat_activity
    where datname = current_database() and state = 'active' and query like '%log.append%' and pid <> pg_backend_pid()
";
const TERMINATE_APPENDING: &str = "
    select count(pg_terminate_backend(pid))
    from pg_stat_activity
    where datname = current_database() and state = 'active' and query like '%log.append%' and pid <> pg_backend_pid()
";
const SOMEBODY_WAITS_FOR_STREAMS: &str = "
    select exists (select from pg_locks where relation = 'log.streams'::regclass and not granted)
";

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $name:literal,)+) => {
        /// What is done to the system.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FaultKind {
            $($(#[$meta])* $kind,)+
        }

        impl FaultKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

kinds! {
    /// A writing process is killed.
    KillWriter = "kill -9 of a writer",
    /// The process that holds the projection's lease is killed.
    KillLeaseHolder = "kill -9 of the lease holder",
    /// PostgreSQL's first process is killed.
    KillServer = "kill -9 of PostgreSQL",
    /// One of its processes is killed, so that it drops all others.
    KillBackend = "kill -9 of a backend that appends",
    /// PostgreSQL is stopped without a checkpoint.
    StopServer = "immediate stop of PostgreSQL",
    /// See [`Cut::BeforeRequest`].
    CutBeforeRequest = "cut before the commit is sent",
    /// See [`Cut::WithinRequest`].
    CutWithinRequest = "cut within the message that commits",
    /// See [`Cut::AfterRequest`].
    CutAfterRequest = "cut during the commit",
    /// See [`Cut::BeforeAnswer`].
    CutBeforeAnswer = "cut after the commit, answer lost",
    /// See [`Cut::WithinAnswer`].
    CutWithinAnswer = "cut within the answer",
    /// Every connection of every worker is cut.
    CutEverything = "all connections cut",
    /// Connections stay, and nothing comes through.
    Stall = "black hole",
    /// Everything takes its time.
    Delay = "slow network",
    /// Connections are cut and new ones refused.
    Refuse = "connections refused",
    /// The holder of the projection's lease sleeps until it has run out, and wakes.
    StopLeaseHolder = "SIGSTOP of the lease holder beyond its lease",
    /// A writing process sleeps and wakes.
    StopWriter = "SIGSTOP of a writer",
    /// Somebody else has the lock of the log.
    HoldLog = "lock timeout at the lock of the log",
    /// Somebody else has the lock of a table, so that the commit stops halfway.
    HoldTable = "lock timeout within the commit",
    /// No single lock takes too long, but all together do.
    StatementTimeout = "statement timeout",
    /// The statement that commits is cancelled.
    Cancel = "pg_cancel_backend of who appends",
    /// The session that commits is ended.
    Terminate = "pg_terminate_backend of who appends",
    /// The commit is in a deadlock.
    Deadlock = "deadlock",
    /// A transaction that has written stays open in another database.
    LongTransaction = "long transaction in another database",
    /// Notifications do not arrive.
    LoseNotifications = "notifications lost",
    /// There is no room left.
    FillDisk = "disk full",
}

/// What came of an attempt to do harm.
pub(super) enum Injected {
    /// What was hit, in words.
    Done(String),
    /// This machine does not let it be done.
    Impossible(String),
}

impl Run {
    /// Does harm, and ends it where it does not end by itself.
    pub(super) async fn inject(&mut self, kind: FaultKind) -> Result<Injected, KitError> {
        let note = match kind {
            FaultKind::KillWriter => {
                let number = self.any(Role::Writer);
                self.kill_worker(number).await?
            }
            FaultKind::KillLeaseHolder => {
                let number = self.lease_holder().await;
                self.kill_worker(number).await?
            }
            FaultKind::KillServer => self.signal_server(Signal::KILL).await?,
            FaultKind::StopServer => self.signal_server(Signal::QUIT).await?,
            FaultKind::KillBackend => self.kill_backend().await?,
            FaultKind::CutBeforeRequest => self.cut(Cut::BeforeRequest).await,
            FaultKind::CutWithinRequest => self.cut(Cut::WithinRequest).await,
            FaultKind::CutAfterRequest => self.cut(Cut::AfterRequest).await,
            FaultKind::CutBeforeAnswer => self.cut(Cut::BeforeAnswer).await,
            FaultKind::CutWithinAnswer => self.cut(Cut::WithinAnswer).await,
            FaultKind::CutEverything => {
                self.workers.iter().for_each(|worker| worker.proxy.cut_all());
                "all workers".to_owned()
            }
            FaultKind::Stall => self.stall().await,
            FaultKind::Delay => {
                let delay = Duration::from_millis(self.random.within(20, 150));
                self.workers.iter().for_each(|worker| worker.proxy.delay(delay));
                tokio::time::sleep(Duration::from_secs(2)).await;
                self.workers
                    .iter()
                    .for_each(|worker| worker.proxy.delay(Duration::ZERO));
                format!("{} ms", delay.as_millis())
            }
            FaultKind::Refuse => {
                for worker in &self.workers {
                    worker.proxy.refuse(true);
                    worker.proxy.cut_all();
                }
                let outage = Duration::from_millis(self.random.within(500, 6500));
                tokio::time::sleep(outage).await;
                self.workers.iter().for_each(|worker| worker.proxy.refuse(false));
                format!("{} ms", outage.as_millis())
            }
            FaultKind::StopLeaseHolder => self.stop_lease_holder().await?,
            FaultKind::StopWriter => {
                let number = self.any(Role::Writer);
                let pause = Duration::from_millis(self.random.within(500, 4000));
                self.sleep_worker(number, pause).await?
            }
            FaultKind::HoldLog => {
                let mut session = self.session().await?;
                session.execute(TAKE_LOG).await?;
                tokio::time::sleep(BEYOND_LOCK_TIMEOUT).await;
                session.execute(GIVE_LOG).await?;
                session.close().await?;
                String::new()
            }
            FaultKind::HoldTable => {
                let table = ["log.commands", "log.streams", "log.events", "log.claims"][self.random.index(4)];
                let session = self.hold_table(table).await?;
                tokio::time::sleep(BEYOND_LOCK_TIMEOUT).await;
                session.close().await?;
                table.to_owned()
            }
            FaultKind::StatementTimeout => self.statement_timeout().await?,
            FaultKind::Cancel => self.harass(CANCEL_APPENDING).await?,
            FaultKind::Terminate => self.harass(TERMINATE_APPENDING).await?,
            FaultKind::Deadlock => self.deadlock().await?,
            FaultKind::LongTransaction => self.begin_long_transaction().await?,
            FaultKind::LoseNotifications => {
                self.workers
                    .iter()
                    .for_each(|worker| worker.proxy.lose_notifications(true));
                tokio::time::sleep(Duration::from_secs(3)).await;
                self.workers
                    .iter()
                    .for_each(|worker| worker.proxy.lose_notifications(false));
                "of all workers".to_owned()
            }
            FaultKind::FillDisk => {
                let Some(disk) = &self.disk else {
                    return Ok(Injected::Impossible(self.report.disk.clone()));
                };
                let taken = disk.fill()?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                disk.relieve()?;
                format!("{} MiB taken", taken >> 20)
            }
        };
        Ok(Injected::Done(note))
    }

    fn any(&mut self, role: Role) -> usize {
        let numbers: Vec<usize> = (0..self.workers.len())
            .filter(|number| self.workers[*number].role == role)
            .collect();
        numbers[self.random.index(numbers.len())]
    }

    /// The process that holds the projection's lease, or any reader when nobody does.
    async fn lease_holder(&mut self) -> usize {
        let deadline = Instant::now() + OPPORTUNITY;
        while Instant::now() < deadline {
            if let Ok(Some(held)) = checkpoint::load(self.database.pool(), PROJECTION).await
                && let Some(pid) = held.owner.as_deref().and_then(|owner| owner.split(' ').nth(1))
                && let Some(number) = self
                    .workers
                    .iter()
                    .position(|worker| worker.child.id().is_some_and(|id| id.to_string() == pid))
            {
                return number;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.any(Role::Reader)
    }

    async fn kill_worker(&mut self, number: usize) -> Result<String, KitError> {
        let worker = &mut self.workers[number];
        let name = worker.name.clone();
        worker.child.kill().await?;
        self.replace(number)?;
        Ok(name)
    }

    fn signal_worker(&self, number: usize, signal: Signal) -> Result<(), KitError> {
        let id = self.workers[number].child.id().and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(Pid::from_raw).ok_or("the worker has ended")?;
        Ok(kill_process(pid, signal)?)
    }

    async fn sleep_worker(&mut self, number: usize, pause: Duration) -> Result<String, KitError> {
        self.signal_worker(number, Signal::STOP)?;
        tokio::time::sleep(pause).await;
        self.signal_worker(number, Signal::CONT)?;
        Ok(format!("{}, {} ms", self.workers[number].name, pause.as_millis()))
    }

    async fn stop_lease_holder(&mut self) -> Result<String, KitError> {
        let number = self.lease_holder().await;
        let epoch = async |run: &Self| {
            let held = checkpoint::load(run.database.pool(), PROJECTION).await;
            held.ok().flatten().map(|held| held.epoch)
        };
        let before = epoch(self).await;
        self.signal_worker(number, Signal::STOP)?;
        let beyond = self.options.lease + Duration::from_millis(self.random.within(300, 1500));
        tokio::time::sleep(beyond).await;
        let after = epoch(self).await;
        self.signal_worker(number, Signal::CONT)?;
        let taken_over = match (before, after) {
            (Some(before), Some(after)) if after > before => "taken over meanwhile",
            _ => "not taken over",
        };
        Ok(format!("{}, {taken_over}", self.workers[number].name))
    }

    async fn signal_server(&self, signal: Signal) -> Result<String, KitError> {
        let deadline = Instant::now() + OPPORTUNITY;
        while Instant::now() < deadline {
            if let Some(pid) = self.cluster.server_pid().and_then(Pid::from_raw) {
                kill_process(pid, signal)?;
                // Until it is gone, it might still be taken for one that has survived.
                while self.cluster.server_pid().and_then(Pid::from_raw) == Some(pid) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                return Ok(format!("process {}", pid.as_raw_nonzero()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok("was not running".to_owned())
    }

    async fn kill_backend(&self) -> Result<String, KitError> {
        let mut session = self.session().await?;
        let deadline = Instant::now() + OPPORTUNITY;
        while Instant::now() < deadline {
            let appending: Option<i32> = sqlx::query_scalar(APPENDING).fetch_optional(&mut session).await?;
            if let Some(pid) = appending.and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL)?;
                return Ok(format!("process {}", pid.as_raw_nonzero()));
            }
        }
        Ok("nobody appended".to_owned())
    }

    async fn cut(&mut self, cut: Cut) -> String {
        let number = self.any(Role::Writer);
        let worker = &self.workers[number];
        let mut fired = worker.proxy.fired();
        fired.mark_unchanged();
        worker.proxy.arm(cut, Aim::Append);
        let happened = tokio::time::timeout(OPPORTUNITY, fired.changed()).await.is_ok();
        if !happened && worker.proxy.disarm() {
            return format!("{}: nothing was committed", worker.name);
        }
        worker.name.clone()
    }

    async fn stall(&mut self) -> String {
        let number = self.any(Role::Writer);
        let is_long = !self.options.each_kind_once && self.random.per_mille(LONG_STALLS);
        let pause = if is_long {
            BEYOND_ANSWER
        } else {
            Duration::from_millis(self.random.within(500, 3000))
        };
        let worker = &self.workers[number];
        worker.proxy.stall(true);
        tokio::time::sleep(pause).await;
        worker.proxy.stall(false);
        format!("{}, {} ms", worker.name, pause.as_millis())
    }

    async fn hold_table(&self, table: &str) -> Result<PgConnection, KitError> {
        let mut session = self.session().await?;
        session.execute("begin").await?;
        // Conflicts with writing and not with reading, so that the commit gets as far as it can.
        session.execute(&*format!("lock table {table} in share mode")).await?;
        Ok(session)
    }

    async fn statement_timeout(&self) -> Result<String, KitError> {
        let mut first = self.session().await?;
        first.execute(TAKE_LOG).await?;
        let mut tables = Vec::new();
        for table in ["log.events", "log.streams", "log.commands"] {
            tables.push(self.hold_table(table).await?);
        }
        tokio::time::sleep(WITHIN_LOCK_TIMEOUT).await;
        first.close().await?;
        for table in tables {
            tokio::time::sleep(WITHIN_LOCK_TIMEOUT).await;
            table.close().await?;
        }
        Ok(String::new())
    }

    /// Does to whoever appends what the statement says, several times.
    async fn harass(&mut self, statement: &str) -> Result<String, KitError> {
        let mut session = self.session().await?;
        let wanted = self.random.within(1, 8).cast_signed();
        let deadline = Instant::now() + OPPORTUNITY;
        let mut hit = 0;
        while hit < wanted && Instant::now() < deadline {
            let now: i64 = sqlx::query_scalar(statement).fetch_one(&mut session).await?;
            hit += now;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        session.close().await?;
        Ok(format!("{hit} times"))
    }

    async fn deadlock(&self) -> Result<String, KitError> {
        let mut session = self.hold_table("log.streams").await?;
        let deadline = Instant::now() + OPPORTUNITY;
        loop {
            let waits: bool = sqlx::query_scalar(SOMEBODY_WAITS_FOR_STREAMS)
                .fetch_one(&mut session)
                .await?;
            if waits {
                break;
            }
            if Instant::now() > deadline {
                session.close().await?;
                return Ok("nobody appended".to_owned());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let chosen = match session.execute(TAKE_LOG_IN_TRANSACTION).await {
            Ok(_) => "the writer had to give way",
            Err(_) => "the writer was spared",
        };
        session.close().await?;
        Ok(chosen.to_owned())
    }

    async fn begin_long_transaction(&mut self) -> Result<String, KitError> {
        if self.long_transaction.is_some() {
            return Ok("the one before is still open".to_owned());
        }
        let connect = self.cluster.connect_options().database(OTHER_DATABASE);
        let mut session = sqlx::ConnectOptions::connect(&connect).await?;
        session
            .execute("begin; create table if not exists busy (number bigint); insert into busy values (1)")
            .await?;
        self.long_transaction = Some((session, Instant::now()));
        Ok(String::new())
    }
}
