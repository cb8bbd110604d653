//! A process that reads: one task follows the log from where its history ends, another competes with its like for the
//! lease of a projection and moves it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_eventstore::{Checkpoint, EventStore, Hash, Position, Record, StoreError, checkpoint};
use sqlx::{Connection, PgConnection, Row};

use super::worker::{Ending, open_store};
use crate::kit::KitError;
use crate::kit::checker::{Digest, Projected};
use crate::kit::history::{self, Line, Recorder, Seen, now_us};
use crate::kit::random::Random;

/// The projection that readers compete for.
pub(super) const PROJECTION: &str = "torture";
/// A digest is written down at every multiple of this position, so that all readers have some in common.
const SEEN_EVERY: u64 = 1000;
/// ... and as often as this at least.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// The largest page.
const LARGEST_PAGE: u64 = 3000;
/// Events of one move of the projection.
const MOVE_EVENTS: usize = 1000;
/// The wait after the database did not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the projection's table, with nothing taken in.
pub(super) const MAKE_PROJECTION: &str = "
    create table view.torture (
        events bigint not null,
        digest bytea not null
    );
    insert into view.torture values (0, decode(repeat('00', 32), 'hex'));
    grant select, update on view.torture to public
";
const READ_PROJECTION: &str = "select events, digest from view.torture";
const MOVE_PROJECTION: &str = "update view.torture set events = $1, digest = $2";
/// What is lost with the server's last moments is in the log; rows and checkpoint are lost together.
const UNHURRIED: &str = "set synchronous_commit = off";

/// What a reader is told to do.
#[derive(Debug, Clone)]
pub struct ReaderTask {
    /// A `DATABASE_URL`.
    pub url: String,
    /// Its history, the same in every life.
    pub history: PathBuf,
    /// For its choices.
    pub seed: u64,
    /// How long a lease lasts.
    pub lease: Duration,
    /// Names it as the holder of leases; the process is added.
    pub name: String,
}

/// Reads until standard input names a position, and then up to that.
///
/// # Errors
/// When the store cannot be opened or the history not be written.
pub async fn read(task: ReaderTask) -> Result<(), KitError> {
    let ending = Ending::on_stdin();
    let seen = last_seen(&task.history)?;
    let recorder = Arc::new(Recorder::open(&task.history)?);
    let Some(store) = open_store(&task.url, &ending).await? else {
        return Ok(());
    };
    let moving = tokio::spawn(hold(
        store.clone(),
        Arc::clone(&recorder),
        ending.clone(),
        format!("{} {}", task.name, std::process::id()),
        task.lease,
    ));
    follow(&store, &recorder, &ending, seen, Random::new(task.seed)).await?;
    moving.await??;
    store.close().await;
    Ok(())
}

fn last_seen(path: &Path) -> Result<(Position, Digest), KitError> {
    let mut last = (Position::START, Digest::START);
    if path.exists() {
        history::read(path, |line| {
            if let Line::Seen(seen) = line {
                last = (Position(seen.position), Digest(seen.digest));
            }
            Ok(())
        })?;
    }
    Ok(last)
}

/// Faults of the database pass; everything else is a finding, and the end.
fn passes(error: &StoreError, recorder: &Recorder, what: &str) -> Result<(), KitError> {
    if matches!(error, StoreError::Database(_)) {
        tracing::warn!(error = error as &dyn std::error::Error, "{what}");
        return Ok(());
    }
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let what = format!("{what}: {error} {}", cause.unwrap_or_default());
    recorder.write(&Line::Found { what: what.clone() })?;
    Err(what.into())
}

async fn follow(
    store: &EventStore,
    recorder: &Recorder,
    ending: &Ending,
    (mut position, mut digest): (Position, Digest),
    mut random: Random,
) -> Result<(), KitError> {
    let mut head = store.head_changes();
    let mut written = (position, Instant::now());
    let write = |position: Position, digest: Digest| {
        recorder.write(&Line::Seen(Seen {
            position: position.get(),
            digest: digest.0,
            at: now_us(),
        }))
    };
    loop {
        let page = usize::try_from(random.within(1, LARGEST_PAGE))?;
        match store.read_after(position, page).await {
            Ok(records) => {
                let came = !records.is_empty();
                for record in records {
                    digest = digest.with(&record);
                    position = record.position;
                    if position.get().is_multiple_of(SEEN_EVERY) {
                        write(position, digest)?;
                        written = (position, Instant::now());
                    }
                }
                if position != written.0 && written.1.elapsed() > SEEN_WITHIN {
                    write(position, digest)?;
                    written = (position, Instant::now());
                }
                if came {
                    continue;
                }
            }
            Err(error) => {
                passes(&error, recorder, "the log could not be followed")?;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        if ending.position().is_some_and(|end| position >= end) {
            write(position, digest)?;
            return Ok(());
        }
        // What was said of the head while reading counts: waiting is for what is beyond.
        tokio::select! {
            beyond = head.wait_for(|head| *head > position) => drop(beyond?),
            () = ending.comes(), if !ending.has_come() => {}
        }
    }
}

async fn hold(
    store: EventStore,
    recorder: Arc<Recorder>,
    ending: Ending,
    owner: String,
    lease: Duration,
) -> Result<(), KitError> {
    let pool = store.database().pool();
    loop {
        match checkpoint::acquire(pool, PROJECTION, 1, &owner, lease).await {
            Ok(Some(taken)) => {
                if let Err(error) = lead(&store, &ending, &owner, lease, taken).await {
                    passes(&error, &recorder, "the projection could not be moved")?;
                }
            }
            Ok(None) => {}
            Err(error) => passes(&error, &recorder, "the lease could not be asked for")?,
        }
        if let Some(end) = ending.position()
            && let Ok(Some(at)) = checkpoint::load(pool, PROJECTION).await
            && at.position >= end
        {
            return Ok(());
        }
        tokio::time::sleep(lease / 5).await;
    }
}

/// Moves the projection for as long as the lease is held, or until there is nothing left to move it by.
async fn lead(
    store: &EventStore,
    ending: &Ending,
    owner: &str,
    lease: Duration,
    taken: Checkpoint,
) -> Result<(), StoreError> {
    let pool = store.database().pool();
    let (epoch, mut position) = (taken.epoch, taken.position);
    if store.entry_hash_at(position).await? != Some(taken.entry_hash) {
        // A reader that remembers more than the log holds: what it saw was never durable.
        return Err(StoreError::Damaged {
            place: format!("position {position}"),
            what: "the checkpoint remembers another entry hash".to_owned(),
        });
    }
    let mut head = store.head_changes();
    let mut renewed = Instant::now();
    let mut connection = pool.acquire().await?.detach();
    sqlx::query(UNHURRIED).execute(&mut connection).await?;
    loop {
        if renewed.elapsed() > lease / 3 {
            let held = checkpoint::renew(pool, owner, &[PROJECTION], lease).await?;
            if held.is_empty() {
                return Ok(());
            }
            renewed = Instant::now();
        }
        let batch = store.read_after(position, MOVE_EVENTS).await?;
        if let Some(last) = batch.last() {
            if !move_by(&mut connection, &batch, position, epoch).await? {
                return Ok(()); // somebody else has it
            }
            position = last.position;
            continue;
        }
        if ending.position().is_some_and(|end| position >= end) {
            return Ok(());
        }
        tokio::select! {
            _ = head.wait_for(|head| *head > position) => {}
            () = ending.comes(), if !ending.has_come() => {}
            () = tokio::time::sleep(lease / 3) => {}
        }
    }
}

async fn move_by(
    connection: &mut PgConnection,
    batch: &[Record],
    from: Position,
    epoch: u64,
) -> Result<bool, StoreError> {
    let Some(last) = batch.last() else { return Ok(true) };
    let mut transaction = connection.begin().await?;
    if !checkpoint::advance(
        &mut transaction,
        PROJECTION,
        from,
        last.position,
        last.entry_hash,
        epoch,
    )
    .await?
    {
        transaction.rollback().await?;
        return Ok(false);
    }
    let before = projected(&mut transaction).await?;
    let digest = batch.iter().fold(before.digest, |digest, record| digest.with(record));
    sqlx::query(MOVE_PROJECTION)
        .bind((before.events + batch.len() as u64).cast_signed())
        .bind(digest.0.0.as_slice())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(true)
}

/// What the projection has taken in.
pub(super) async fn projected(connection: &mut PgConnection) -> Result<Projected, sqlx::Error> {
    let row = sqlx::query(READ_PROJECTION).fetch_one(connection).await?;
    let digest: Vec<u8> = row.try_get("digest")?;
    Ok(Projected {
        events: row.try_get::<i64, _>("events")?.cast_unsigned(),
        digest: Digest(Hash(digest.try_into().unwrap_or_default())),
    })
}
