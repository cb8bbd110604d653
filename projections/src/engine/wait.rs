//! How far each read model has come, as told to those who wait for it.

use std::time::Duration;

use annals_eventstore::Position;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::status::ProjectionState;

/// A read model has not come as far as somebody needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read model {projection} is {state} at position {position}, short of {wanted}")]
pub struct Behind {
    /// The read model.
    pub projection: String,
    /// How far it has come.
    pub position: Position,
    /// How far it was needed.
    pub wanted: Position,
    /// What it is doing.
    pub state: ProjectionState,
}

/// What is known in this process about one read model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) position: Position,
    pub(super) state: ProjectionState,
    pub(super) failures: u32,
    pub(super) error: Option<String>,
}

/// One sender for each read model. Waiting is woken by it alone; nobody polls.
pub(super) struct Board {
    entries: Vec<(&'static str, i32, watch::Sender<Seen>)>,
}

impl Board {
    pub(super) fn new(models: impl Iterator<Item = (&'static str, i32)>) -> Self {
        let unknown = Seen {
            position: Position::START,
            state: ProjectionState::Standby,
            failures: 0,
            error: None,
        };
        let entries = models
            .map(|(name, version)| (name, version, watch::Sender::new(unknown.clone())))
            .collect();
        Self { entries }
    }

    /// Name, version and state of every read model, in the order they were given.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'static str, i32, Seen)> {
        self.entries
            .iter()
            .map(|(name, version, seen)| (*name, *version, seen.borrow().clone()))
    }

    /// Changes what is known and wakes those who wait, if it is news.
    pub(super) fn update(&self, name: &str, change: impl FnOnce(&mut Seen)) {
        let Some((_, _, seen)) = self.entries.iter().find(|entry| entry.0 == name) else {
            return;
        };
        seen.send_if_modified(|seen| {
            let before = seen.clone();
            change(seen);
            *seen != before
        });
    }

    pub(super) async fn wait(&self, names: &[&str], wanted: Position, timeout: Duration) -> Result<(), Behind> {
        let deadline = Instant::now() + timeout;
        for name in names {
            let Some((_, _, seen)) = self.entries.iter().find(|entry| entry.0 == *name) else {
                return Err(Behind {
                    projection: (*name).to_owned(),
                    position: Position::START,
                    wanted,
                    state: ProjectionState::Unknown,
                });
            };
            let mut seen = seen.subscribe();
            // A stopped or stuck model will not get there in time; saying so at once keeps callers from piling up.
            let done = |seen: &Seen| seen.shows(wanted) || seen.is_stuck();
            let reached = match timeout_at(deadline, seen.wait_for(done)).await {
                Ok(Ok(seen)) => seen.shows(wanted),
                Ok(Err(_)) | Err(_) => false,
            };
            if !reached {
                let seen = seen.borrow();
                return Err(Behind {
                    projection: (*name).to_owned(),
                    position: seen.position,
                    wanted,
                    state: seen.state,
                });
            }
        }
        Ok(())
    }
}

impl Seen {
    /// Failures in a row after which nobody waits any more.
    const STUCK: u32 = 3;

    /// A position of another log is none of this one.
    fn shows(&self, wanted: Position) -> bool {
        self.position >= wanted && self.state != ProjectionState::Diverged
    }

    fn is_stuck(&self) -> bool {
        matches!(self.state, ProjectionState::Stopped | ProjectionState::Diverged) || self.failures >= Self::STUCK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use annals_eventstore::Position;

    use super::{Board, ProjectionState};

    const LONG: Duration = Duration::from_secs(60);

    fn board() -> Arc<Board> {
        Arc::new(Board::new([("users", 1), ("routes", 1), ("contents", 1)].into_iter()))
    }

    #[tokio::test]
    async fn waiting_ends_when_every_model_is_there() {
        let board = board();
        let waiter = tokio::spawn({
            let board = board.clone();
            async move { board.wait(&["users", "routes"], Position(2), LONG).await }
        });
        for position in 1..=3 {
            for name in ["users", "routes"] {
                tokio::task::yield_now().await;
                board.update(name, |seen| seen.position = Position(position));
            }
        }
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(board.wait(&["users"], Position(3), Duration::ZERO).await, Ok(()));
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_says_who_is_behind() {
        let board = board();
        board.update("users", |seen| seen.position = Position(9));
        let behind = board
            .wait(&["users", "routes"], Position(9), Duration::from_millis(5))
            .await
            .unwrap_err();
        assert_eq!(
            (behind.projection.as_str(), behind.position, behind.wanted),
            ("routes", Position(0), Position(9))
        );
    }

    #[tokio::test]
    async fn nobody_waits_for_a_model_that_is_stuck_stopped_or_unknown() {
        let board = board();
        board.update("users", |seen| seen.failures = 3);
        board.update("routes", |seen| seen.state = ProjectionState::Stopped);
        board.update("contents", |seen| {
            seen.position = Position(9);
            seen.state = ProjectionState::Diverged;
        });
        for (name, state) in [
            ("users", ProjectionState::Standby),
            ("routes", ProjectionState::Stopped),
            ("contents", ProjectionState::Diverged),
            ("nothing", ProjectionState::Unknown),
        ] {
            assert_eq!(board.wait(&[name], Position(1), LONG).await.unwrap_err().state, state);
        }
    }
}
