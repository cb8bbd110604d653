//! Requests of one principal under one key take turns within a process: the second one waits for the first one's answer
//! instead of doing its work again only to be told by the log. Between processes the log alone decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Place, OwnedMutexGuard};

/// A principal and its key, as they are stored.
type Whose = (String, String);

/// Who is at it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<Whose, Arc<Place<()>>>>>);

/// The turn of one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // Dropped in this order: the place is given up before it is looked whether anybody wants it.
    _guard: OwnedMutexGuard<()>,
    _queued: Queued,
}

/// Keeps the place on the list for as long as somebody has it or waits for it.
#[derive(Debug)]
struct Queued {
    turns: Turns,
    whose: Whose,
    place: Option<Arc<Place<()>>>,
}

impl Turns {
    /// Waits for the turn, no longer than `patience`; nothing when it did not come.
    pub(super) async fn take(&self, whose: Whose, patience: Duration) -> Option<Turn> {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(whose.clone()).or_default())
        };
        let queued = Queued {
            turns: self.clone(),
            whose,
            place: Some(Arc::clone(&place)),
        };
        let guard = tokio::time::timeout(patience, place.lock_owned()).await.ok()?;
        Some(Turn {
            _guard: guard,
            _queued: queued,
        })
    }

    /// How many keys somebody is at.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut places = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.place = None;
        // Whoever else wants the place has taken it from the list, under the same lock.
        if places
            .get(&self.whose)
            .is_some_and(|place| Arc::strong_count(place) == 1)
        {
            places.remove(&self.whose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LATER: Duration = Duration::from_secs(60);

    fn whose(key: &str) -> Whose {
        ("somebody".to_owned(), key.to_owned())
    }

    #[tokio::test]
    async fn one_key_is_one_turn_at_a_time_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take(whose("a"), LATER).await.expect("nobody is at it");
        let other = turns.take(whose("b"), LATER).await.expect("another key");
        assert!(turns.take(whose("a"), SOON).await.is_none());
        assert_eq!(turns.len(), 2);
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(whose("a"), LATER).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        drop(other);
        assert_eq!(turns.len(), 0);
    }
}
