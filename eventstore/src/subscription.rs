//! Knowing that the log has grown. A watch channel holds the head; three things raise it: the writer of this process,
//! notifications from others, and a look every second, because notifications can be lost.
//!
//! One thing lowers it: a look that finds the log shorter than it was known to be. Logs do not shrink, so it was set
//! back, and whoever waits for a position beyond its end would wait for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::error::StoreError;
use crate::position::{self, Position};

/// What `log.append` notifies.
const CHANNEL: &str = "annals_log";
/// The longest that anybody goes without hearing of an event.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Raises the head, after a commit; never lowers it.
pub(crate) fn raise(head: &watch::Sender<Position>, position: Position) {
    head.send_if_modified(|head| {
        let higher = position > *head;
        if higher {
            *head = position;
        }
        higher
    });
}

/// Keeps `head` up to date until `end`.
pub(crate) fn follow(database: &Database, head: &Arc<watch::Sender<Position>>, end: &CancellationToken) {
    let (polled, polling) = (Arc::clone(head), end.clone());
    let database_polled = database.clone();
    tokio::spawn(async move {
        polling.run_until_cancelled(poll(&database_polled, &polled)).await;
    });
    if database.is_standby() {
        // Notifications do not pass to a standby, and PostgreSQL refuses to listen there.
        return;
    }
    let (database, head, end) = (database.clone(), Arc::clone(head), end.clone());
    tokio::spawn(async move {
        end.run_until_cancelled(listen(&database, &head)).await;
    });
}

/// Asks the database, and corrects the head. A look that was overtaken by a commit of this process changes nothing: what
/// it found is older than what is known.
///
/// # Errors
/// [`StoreError::Database`].
pub(crate) async fn look(database: &Database, head: &watch::Sender<Position>) -> Result<Position, StoreError> {
    let known = *head.borrow();
    let found = position::head(database.pool()).await?.position;
    if correct(head, known, found) {
        tracing::warn!(%known, %found, "the log ends before what was seen of it: it was set back");
    }
    Ok(found)
}

/// Sets the head to what a look has `found` that began when `known` was the head. Returns whether it was lowered.
fn correct(head: &watch::Sender<Position>, known: Position, found: Position) -> bool {
    let mut lowered = false;
    head.send_if_modified(|head| {
        lowered = found < known && *head == known;
        let changed = lowered || found > *head;
        if changed {
            *head = found;
        }
        changed
    });
    lowered
}

async fn look_again(database: &Database, head: &watch::Sender<Position>) {
    if let Err(error) = look(database, head).await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the head of the log could not be read"
        );
    }
}

async fn poll(database: &Database, head: &watch::Sender<Position>) {
    let mut tick = tokio::time::interval(POLL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look_again(database, head).await;
    }
}

async fn listen(database: &Database, head: &watch::Sender<Position>) {
    loop {
        if let Err(error) = hear(database, head).await {
            // A server behind a transaction pooler has no notifications; looking every second still works.
            tracing::debug!(error = &error as &dyn std::error::Error, "not listening for new events");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

async fn hear(database: &Database, head: &watch::Sender<Position>) -> Result<(), sqlx::Error> {
    let mut listener = database.listener().await?;
    listener.listen(CHANNEL).await?;
    loop {
        match listener.try_recv().await? {
            // What this process already knows of. Anybody can notify anything, so that the rest is looked up.
            Some(notification)
                if notification
                    .payload()
                    .parse::<Position>()
                    .is_ok_and(|position| position <= *head.borrow()) => {}
            Some(_) => look_again(database, head).await,
            // Reconnected; whatever was said in between is lost.
            None => look_again(database, head).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_lowered_by_a_look_that_nothing_has_overtaken() {
        let head = watch::Sender::new(Position(9));
        assert!(correct(&head, Position(9), Position(4)));
        assert_eq!(*head.borrow(), Position(4));

        // The look began at 4; while it lasted, this process has committed up to 6.
        raise(&head, Position(6));
        assert!(!correct(&head, Position(4), Position(4)));
        assert!(!correct(&head, Position(4), Position(3)));
        assert_eq!(*head.borrow(), Position(6));
        assert!(!correct(&head, Position(6), Position(8)));
        assert_eq!(*head.borrow(), Position(8));
    }
}
