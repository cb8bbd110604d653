//! Which sessions live, remembered in memory, so that a request is authenticated without asking the database, and yet a
//! session that was ended is refused by every process from the moment its end is answered.
//!
//! The protocol, and why it holds, is told in `docs/decisions/0011-sessions-in-memory.md`. In short: a process believes
//! its memory for [`LEASE`] from the beginning of a look at the log that found nothing it had not taken in. Whoever ends
//! a session waits, after the commit, until every process that is registered has taken the end in, or until [`WAIT`] is
//! over, when no memory older than the commit is believed any more. Each side measures its own time alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use sqlx::Row;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use annals_domain::claims::ENDS_OF_LIVENESS;
use annals_domain::ids::{SessionId, UserId};
use annals_domain::{AnyEvent, SessionEvent};

use crate::append::StreamAppend;
use crate::database::Database;
use crate::position::{Hash, Position};

/// How long memory is believed after the beginning of the look that brought it up to date.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// How long the end of a session waits for processes that say nothing: the lease, and a quarter of it for clocks that
/// run at different speeds.
pub(crate) const WAIT: Duration = Duration::from_millis(1250);

/// Between two looks that nobody asked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// What whoever ends a session notifies when others have yet to take it in.
const CHANNEL: &str = "annals_ended";
/// Between two questions whether the others have seen an end: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Sessions and users remembered; of more, those in least use are asked for again.
const REMEMBERED: u64 = 200_000;
/// Further behind than this many events, it is cheaper to forget everything than to look for ends.
const MOST_BEHIND: u64 = 100_000;
/// Registrations lost in one look; a second one means that somebody keeps deleting them.
const LOOK_ATTEMPTS: usize = 2;

const REGISTER: &str = "
    insert into log.watchers (watcher_id)
    values ($1)
";

const LEAVE: &str = "
    delete from log.watchers
    where watcher_id = $1
";

/// One statement, so that all of it is seen at one moment: the head, whether what was known belongs to this log, whether
/// those who end sessions still wait for this process, and the ends after what was known.
const LOOK: &str = "
    select coalesce(head.position, 0) as position,
        head.entry_hash,
        $2 = 0 or exists (
            select
            from log.events
            where position = $2 and entry_hash = $3
        ) as same_log,
        exists (
            select
            from log.watchers
            where watcher_id = $1 and not lapsed
        ) as registered,
        ends.types,
        ends.ids
    from (values (true)) as one(row)
    left join lateral (
        select position, entry_hash
        from log.events
        order by position desc
        limit 1
    ) as head on true
    left join lateral (
        select array_agg(aggregate_type order by position) as types,
            array_agg(aggregate_id order by position) as ids
        from log.events
        where position > $2 and head.position - $2 <= $4 and event_type = any($5)
    ) as ends on true
";

/// Without waiting for the disk: a crash that forgets what was seen makes others wait longer, and nothing else.
const ACKNOWLEDGE: &str = "
    update log.watchers
    set seen = $2
    where watcher_id = $1 and seen < $2 and set_config('synchronous_commit', 'off', true) is not null
";

const BEHIND: &str = "
    select watcher_id
    from log.watchers
    where seen < $1 and watcher_id is distinct from $2
    order by watcher_id
    limit 10000
";

const TELL: &str = "select pg_notify($1, $2)";

const LAPSE: &str = "
    update log.watchers
    set lapsed = true
    where watcher_id = any($1) and seen < $2
    returning watcher_id
";

const FORGET_LAPSED: &str = "
    delete from log.watchers
    where watcher_id = any($1) and lapsed
";

/// What one process remembers of who is live. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    sessions: Cache<SessionId, UserId>,
    users: Cache<UserId, ()>,
    /// Grows whenever something is forgotten. Held while entries come and go, so that what was found out before an end
    /// is not remembered after it.
    generation: Mutex<u64>,
    /// Until when memory is believed, by [`now`]; zero for not at all.
    believed_until: AtomicU64,
    following: AtomicBool,
    known: AsyncMutex<Known>,
    stop: CancellationToken,
}

/// How far memory has come. Whoever looks holds it, so that looks never overtake each other.
#[derive(Debug, Default)]
struct Known {
    watcher: Option<Uuid>,
    /// Absent before the first look.
    reached: Option<(Position, Hash)>,
    /// Whether somebody may be waiting to read how far that is.
    owes_answer: bool,
}

/// What a commit does to those who are live, worked out before it.
#[derive(Debug)]
pub(crate) struct Outlook {
    generation: u64,
    started: Vec<(UserId, SessionId)>,
    ends: bool,
}

/// Nanoseconds by a clock that nobody sets and that goes on while the machine sleeps.
fn now() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Liveness {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            inner: Arc::new(Inner {
                database,
                sessions: Cache::new(REMEMBERED),
                users: Cache::new(REMEMBERED),
                generation: Mutex::new(0),
                believed_until: AtomicU64::new(0),
                following: AtomicBool::new(false),
                known: AsyncMutex::default(),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Begins to remember, in the present runtime, until [`Liveness::stop`]. On a standby nothing is remembered, for
    /// nobody who ends a session could learn of it.
    pub(crate) fn follow(&self) {
        if self.inner.database.is_standby() || self.inner.following.swap(true, Ordering::SeqCst) {
            return;
        }
        let stop = self.inner.stop.clone();
        let (looking, hearing) = (self.clone(), self.clone());
        let (ended, deaf) = (stop.clone(), stop);
        tokio::spawn(async move { ended.run_until_cancelled(looking.look_now_and_then()).await });
        tokio::spawn(async move { deaf.run_until_cancelled(hearing.listen()).await });
    }

    /// Believes nothing any more, and lets nobody wait for this process.
    pub(crate) async fn stop(&self) {
        self.inner.stop.cancel();
        let mut known = self.inner.known.lock().await;
        self.inner.believed_until.store(0, Ordering::SeqCst);
        if let Some(watcher) = known.watcher.take()
            && let Err(error) = sqlx::query(LEAVE)
                .bind(watcher)
                .execute(self.inner.database.pool())
                .await
        {
            tracing::debug!(%error, "the registration as a watcher stays until somebody has waited for it in vain");
        }
    }

    /// Whether memory is believed and has both as live. False says nothing.
    pub(crate) fn remembers(&self, user: UserId, session: SessionId) -> bool {
        // The lease first: an entry looked at before it could have been dropped by the very look that renews the lease.
        now() < self.inner.believed_until.load(Ordering::SeqCst)
            && self.inner.sessions.get(&session) == Some(user)
            && self.inner.users.contains_key(&user)
    }

    /// What to give [`Liveness::learn`] with what the database says from now on.
    pub(crate) fn generation(&self) -> u64 {
        *self.inner.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers both as live, as the database said after `generation` was asked for, unless something has ended since.
    pub(crate) fn learn(&self, generation: u64, user: UserId, session: SessionId) {
        if !self.inner.following.load(Ordering::SeqCst) {
            return;
        }
        let present = self.inner.generation.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == generation {
            self.inner.users.insert(user, ());
            self.inner.sessions.insert(session, user);
        }
    }

    /// What a commit of `streams` would do.
    pub(crate) fn outlook(&self, streams: &[StreamAppend]) -> Outlook {
        let mut outlook = Outlook {
            generation: self.generation(),
            started: Vec::new(),
            ends: false,
        };
        for appended in streams {
            for event in &appended.events {
                if let AnyEvent::Session(SessionEvent::Started { user_id, .. }) = event {
                    outlook.started.push((*user_id, SessionId::new(appended.stream.id)));
                }
                outlook.ends |= ENDS_OF_LIVENESS.contains(&event.event_type());
            }
        }
        outlook
    }

    /// To be called between a commit and its answer. Returns when no process believes any more in what it has ended.
    pub(crate) async fn carried_out(&self, outlook: Outlook, position: Position) {
        if outlook.ends {
            self.confirm(position).await;
        } else {
            for (user, session) in outlook.started {
                self.learn(outlook.generation, user, session);
            }
        }
    }

    /// Returns when every process has taken in the log up to `position`, which is committed, or has ceased to believe
    /// what it knew before.
    async fn confirm(&self, position: Position) {
        let deadline = now().saturating_add(nanos(WAIT));
        let asked = async {
            if self.inner.following.load(Ordering::SeqCst) && !self.inner.stop.is_cancelled() {
                self.look(Some(position), true).await?;
            }
            self.wait_for_others(position, deadline).await
        };
        let behind = match tokio::time::timeout(WAIT, asked).await {
            Ok(Ok(behind)) if behind.is_empty() => return,
            Ok(Ok(behind)) => behind,
            Ok(Err(error)) => {
                tracing::warn!(%error, "nobody can be asked who has seen the end of a session; waiting until all must have");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        // By time alone from here, whatever the database says.
        let left = deadline.saturating_sub(now());
        tokio::time::sleep(Duration::from_nanos(left)).await;
        if !behind.is_empty() {
            self.lapse(behind, position).await;
        }
    }

    /// Those who have not seen `position` when `deadline` is near; none as soon as all have.
    async fn wait_for_others(&self, position: Position, deadline: u64) -> Result<Vec<Uuid>, sqlx::Error> {
        let own = self.inner.known.lock().await.watcher;
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let behind: Vec<Uuid> = sqlx::query_scalar(BEHIND)
                .bind(position.as_i64())
                .bind(own)
                .fetch_all(self.inner.database.pool())
                .await?;
            if behind.is_empty() || now().saturating_add(nanos(2 * LONGEST_PAUSE)) >= deadline {
                return Ok(behind);
            }
            if !told {
                sqlx::query(TELL)
                    .bind(CHANNEL)
                    .bind(position.to_string())
                    .execute(self.inner.database.pool())
                    .await?;
                told = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Strikes off those who said nothing, in two steps: who looks after the first one registers anew before it believes
    /// anything; the second one comes when what they believed before is over. Until then others go on waiting for them.
    async fn lapse(&self, silent: Vec<Uuid>, position: Position) {
        let pool = self.inner.database.pool().clone();
        let marked: Result<Vec<Uuid>, _> = sqlx::query_scalar(LAPSE)
            .bind(silent)
            .bind(position.as_i64())
            .fetch_all(&pool)
            .await;
        match marked {
            Ok(marked) if marked.is_empty() => {}
            Ok(marked) => {
                tracing::warn!(
                    watchers = marked.len(),
                    "processes that say nothing had to be waited for"
                );
                let marked_at = now();
                tokio::spawn(async move {
                    let until = marked_at.saturating_add(nanos(WAIT));
                    tokio::time::sleep(Duration::from_nanos(until.saturating_sub(now()))).await;
                    if let Err(error) = sqlx::query(FORGET_LAPSED).bind(marked).execute(&pool).await {
                        tracing::debug!(%error, "silent watchers were not struck off; the next one to wait for them does it");
                    }
                });
            }
            Err(error) => tracing::debug!(%error, "silent watchers were not marked"),
        }
    }

    async fn look_now_and_then(&self) {
        // Whatever earlier processes have left is struck off before anybody has to wait for it.
        let cleaner = self.clone();
        tokio::spawn(async move {
            if let Ok(head) = crate::position::head(cleaner.inner.database.pool()).await {
                let stop = cleaner.inner.stop.clone();
                stop.run_until_cancelled(cleaner.confirm(head.position)).await;
            }
        });
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look_or_say_why(false).await;
        }
    }

    async fn look_or_say_why(&self, acknowledge: bool) {
        if let Err(error) = self.look(None, acknowledge).await {
            tracing::debug!(%error, "the ends of sessions could not be looked for; requests ask the database");
        }
    }

    async fn listen(&self) {
        loop {
            if let Err(error) = self.hear().await {
                tracing::debug!(%error, "not listening for the ends of sessions");
            }
            tokio::time::sleep(LEASE).await;
        }
    }

    async fn hear(&self) -> Result<(), sqlx::Error> {
        let mut listener = self.inner.database.listener().await?;
        listener.listen(CHANNEL).await?;
        loop {
            listener.try_recv().await?;
            self.look_or_say_why(true).await;
        }
    }

    /// Takes in what has ended, and renews the lease from the moment the look began. With `wanted`, only if memory has
    /// not come that far.
    async fn look(&self, wanted: Option<Position>, acknowledge: bool) -> Result<(), sqlx::Error> {
        let mut known = self.inner.known.lock().await;
        let reached = known.reached.map(|(position, _)| position);
        if wanted.is_some_and(|wanted| reached.is_some_and(|reached| reached >= wanted)) {
            return Ok(());
        }
        for _ in 0..LOOK_ATTEMPTS {
            if self.inner.stop.is_cancelled() {
                return Ok(());
            }
            if self.look_once(&mut known, acknowledge).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False when the registration was struck off.
    async fn look_once(&self, known: &mut Known, acknowledge: bool) -> Result<bool, sqlx::Error> {
        let pool = self.inner.database.pool();
        let watcher = match known.watcher {
            Some(watcher) => watcher,
            None => {
                let watcher = Uuid::now_v7();
                sqlx::query(REGISTER).bind(watcher).execute(pool).await?;
                known.owes_answer = true;
                *known.watcher.insert(watcher)
            }
        };
        let began = now();
        let (from, hash) = known.reached.unwrap_or_default();
        let row = sqlx::query(LOOK)
            .bind(watcher)
            .bind(from.as_i64())
            .bind(hash.0.as_slice())
            .bind(i64::try_from(MOST_BEHIND).unwrap_or(i64::MAX))
            .bind(ENDS_OF_LIVENESS)
            .fetch_one(pool)
            .await?;
        let position = Position::from_i64(row.try_get("position")?);
        let entry_hash = if position == Position::START {
            Hash::ZERO
        } else {
            Hash::from_column(&row, "entry_hash")?
        };
        let follows = known.reached.is_some()
            && row.try_get::<bool, _>("same_log")?
            && position >= from
            && position.get() - from.get() <= MOST_BEHIND;
        let types: Vec<String> = row.try_get::<Option<_>, _>("types")?.unwrap_or_default();
        let ids: Vec<String> = row.try_get::<Option<_>, _>("ids")?.unwrap_or_default();
        known.owes_answer |= acknowledge || !types.is_empty();
        if follows {
            self.forget(types.iter().map(String::as_str).zip(ids.iter().map(String::as_str)));
        } else {
            self.forget_everything();
        }
        known.reached = Some((position, entry_hash));
        if !row.try_get::<bool, _>("registered")? {
            known.watcher = None;
            return Ok(false);
        }
        self.inner
            .believed_until
            .store(began.saturating_add(nanos(LEASE)), Ordering::SeqCst);
        if known.owes_answer {
            sqlx::query(ACKNOWLEDGE)
                .bind(watcher)
                .bind(position.as_i64())
                .execute(pool)
                .await?;
            known.owes_answer = false;
        }
        Ok(true)
    }

    /// Drops what has ended: a session by its own stream, everything of a user by theirs.
    fn forget<'a>(&self, ended: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut generation = self.inner.generation.lock().unwrap_or_else(PoisonError::into_inner);
        for (aggregate_type, id) in ended {
            *generation += 1;
            let Ok(id) = Uuid::try_parse(id) else { continue };
            match aggregate_type {
                "session" => self.inner.sessions.invalidate(&SessionId::new(id)),
                _ => self.inner.users.invalidate(&UserId::new(id)),
            }
        }
    }

    fn forget_everything(&self) {
        let mut generation = self.inner.generation.lock().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        self.inner.sessions.invalidate_all();
        self.inner.users.invalidate_all();
    }
}
