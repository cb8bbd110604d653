//! What the log is read beside: the claims as its events make them, and the list of its commands.

use std::collections::{HashMap, HashSet};

use annals_domain::{ClaimChange, ClaimKey, ClaimScope};
use annals_eventstore::{EventStore, StreamId};
use sqlx::Row;
use uuid::Uuid;

use crate::kit::KitError;

/// Rows of `log.commands` of one page.
const COMMANDS_PAGE: i64 = 20_000;

const COMMANDS: &str = "
    select command_id, first_position, last_position
    from log.commands
    where first_position > $1
    order by first_position
    limit $2
";

/// Who holds what, with an index by owner.
#[derive(Debug, Default)]
pub(super) struct ClaimIndex {
    pub(super) owners: HashMap<(ClaimScope, ClaimKey), StreamId>,
    of_owner: HashMap<(StreamId, ClaimScope), HashSet<ClaimKey>>,
}

impl ClaimIndex {
    /// Carries one change out, telling of every claim that is newly taken (true) or given up (false). Returns the
    /// claim and its owner when it belongs to another stream.
    pub(super) fn apply(
        &mut self,
        stream: StreamId,
        change: ClaimChange,
        mut tell: impl FnMut(ClaimScope, &ClaimKey, bool),
    ) -> Option<(ClaimScope, ClaimKey, StreamId)> {
        match change {
            ClaimChange::Take { scope, key } => match self.owners.get(&(scope, key.clone())) {
                Some(owner) if *owner == stream => {}
                Some(owner) => return Some((scope, key, *owner)),
                None => {
                    tell(scope, &key, true);
                    self.of_owner.entry((stream, scope)).or_default().insert(key.clone());
                    self.owners.insert((scope, key), stream);
                }
            },
            ClaimChange::Release { scope, key } => {
                if self.owners.get(&(scope, key.clone())) == Some(&stream) {
                    tell(scope, &key, false);
                    if let Some(keys) = self.of_owner.get_mut(&(stream, scope)) {
                        keys.remove(&key);
                    }
                    self.owners.remove(&(scope, key));
                }
            }
            ClaimChange::ReleaseAll { scope } => {
                for key in self.of_owner.remove(&(stream, scope)).unwrap_or_default() {
                    tell(scope, &key, false);
                    self.owners.remove(&(scope, key));
                }
            }
        }
        None
    }
}

/// The rows of `log.commands` in the order of positions, a page at a time.
pub(super) struct Listed<'a> {
    store: &'a EventStore,
    page: std::vec::IntoIter<(Uuid, u64, u64)>,
    after: i64,
}

impl<'a> Listed<'a> {
    pub(super) fn new(store: &'a EventStore) -> Self {
        Self {
            store,
            page: Vec::new().into_iter(),
            after: 0,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<(Uuid, u64, u64)>, KitError> {
        if let Some(row) = self.page.next() {
            return Ok(Some(row));
        }
        let rows = sqlx::query(COMMANDS)
            .bind(self.after)
            .bind(COMMANDS_PAGE)
            .fetch_all(self.store.database().pool())
            .await?;
        let mut page = Vec::with_capacity(rows.len());
        for row in &rows {
            let first: i64 = row.try_get("first_position")?;
            let last: i64 = row.try_get("last_position")?;
            self.after = first;
            page.push((row.try_get("command_id")?, first.cast_unsigned(), last.cast_unsigned()));
        }
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}
