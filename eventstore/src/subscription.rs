//! Knowing that the log has grown. A watch channel holds the head; three things raise it: the writer of this process,
//! notifications from others, and a look every second, because notifications can be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::position::{self, Position};

/// What `log.append` notifies.
const CHANNEL: &str = "annals_log";
/// The longest that anybody goes without hearing of an event.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Raises the head; never lowers it.
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
    let (database, head, end) = (database.clone(), Arc::clone(head), end.clone());
    tokio::spawn(async move {
        end.run_until_cancelled(listen(&database, &head)).await;
    });
}

async fn look(database: &Database, head: &watch::Sender<Position>) {
    match position::head(database.pool()).await {
        Ok(found) => raise(head, found.position),
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the head of the log could not be read"
            );
        }
    }
}

async fn poll(database: &Database, head: &watch::Sender<Position>) {
    let mut tick = tokio::time::interval(POLL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look(database, head).await;
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
            Some(_) => look(database, head).await,
            // Reconnected; whatever was said in between is lost.
            None => look(database, head).await,
        }
    }
}
