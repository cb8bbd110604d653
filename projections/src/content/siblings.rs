//! Where a node goes among its siblings: the order keys of those parents that a batch places nodes under
//! relative to a neighbour.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use annals_domain::{AnyEvent, ContentEvent, Place};
use annals_eventstore::{Position, Record};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::engine::ProjectionError;
use crate::order_key;

const READ: &str = "
select parent_id, content_id, order_key
  from contents
 where parent_id = any($1)";

/// The children of some parents, kept in step with the fold.
pub(super) struct Siblings {
    of: HashMap<Uuid, Children>,
}

#[derive(Default)]
struct Children {
    by_key: BTreeMap<String, Uuid>,
    keys: HashMap<Uuid, String>,
}

/// The outcome of placing a node.
pub(super) struct Placed {
    /// The node's key.
    pub(super) key: String,
    /// Keys that siblings take from now on; nearly always none.
    pub(super) renumbered: Vec<(Uuid, String)>,
}

impl From<String> for Placed {
    fn from(key: String) -> Self {
        Self {
            key,
            renumbered: Vec::new(),
        }
    }
}

impl Siblings {
    /// Reads the children of every parent that this batch needs neighbours under.
    pub(super) async fn read(connection: &mut PgConnection, batch: &[Record]) -> Result<Self, ProjectionError> {
        let parents: BTreeSet<Uuid> = batch
            .iter()
            .filter_map(|record| match &record.event {
                AnyEvent::Content(
                    ContentEvent::Created { parent_id, place, .. } | ContentEvent::Moved { parent_id, place, .. },
                ) if place.neighbour().is_some() => parent_id.map(Uuid::from),
                _ => None,
            })
            .collect();
        let mut of: HashMap<Uuid, Children> = parents.iter().map(|parent| (*parent, Children::default())).collect();
        if !parents.is_empty() {
            let parents: Vec<Uuid> = parents.into_iter().collect();
            let children: Vec<(Uuid, Uuid, String)> = sqlx::query_as(READ).bind(parents).fetch_all(connection).await?;
            for (parent, child, key) in children {
                of.entry(parent).or_default().enter(child, key);
            }
        }
        Ok(Self { of })
    }

    /// A node has come to hang under `parent`.
    pub(super) fn enter(&mut self, parent: Option<Uuid>, node: Uuid, key: &str) {
        if let Some(children) = parent.and_then(|parent| self.of.get_mut(&parent)) {
            children.enter(node, key.to_owned());
        }
    }

    /// A node hangs under `parent` no more.
    pub(super) fn leave(&mut self, parent: Option<Uuid>, node: Uuid) {
        if let Some(children) = parent.and_then(|parent| self.of.get_mut(&parent)) {
            children.leave(node);
        }
    }

    /// Nothing hangs under `parent` any more, since it is gone.
    pub(super) fn forget(&mut self, parent: Uuid) {
        if let Some(children) = self.of.get_mut(&parent) {
            *children = Children::default();
        }
    }

    /// The key for a node that is not among the children of `parent`. Nodes without a parent have no siblings and
    /// take the last key whatever their place.
    pub(super) fn place(&self, parent: Option<Uuid>, place: Place, position: Position) -> Placed {
        let Some(parent) = parent else {
            return order_key::last(position).into();
        };
        match place {
            Place::First => order_key::first(position).into(),
            Place::Last => order_key::last(position).into(),
            Place::After { content_id } => self.beside(parent, content_id.into(), Side::After, position),
            Place::Before { content_id } => self.beside(parent, content_id.into(), Side::Before, position),
        }
    }

    fn beside(&self, parent: Uuid, neighbour: Uuid, side: Side, position: Position) -> Placed {
        let found = self
            .of
            .get(&parent)
            .and_then(|children| Some((children, children.keys.get(&neighbour)?)));
        let Some((children, key)) = found else {
            return order_key::last(position).into();
        };
        let between = match side {
            Side::After => match children
                .by_key
                .range::<str, _>((Excluded(key.as_str()), Unbounded))
                .next()
            {
                Some((next, _)) => order_key::between(key, next),
                None => Some(order_key::last(position)),
            },
            Side::Before => match children
                .by_key
                .range::<str, _>((Unbounded, Excluded(key.as_str())))
                .next_back()
            {
                Some((previous, _)) => order_key::between(previous, key),
                None => Some(order_key::first(position)),
            },
        };
        between.map_or_else(|| children.renumber(neighbour, side, position), Placed::from)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Children {
    fn enter(&mut self, node: Uuid, key: String) {
        self.leave(node);
        self.by_key.insert(key.clone(), node);
        self.keys.insert(node, key);
    }

    fn leave(&mut self, node: Uuid) {
        if let Some(key) = self.keys.remove(&node) {
            self.by_key.remove(&key);
        }
    }

    /// New keys for all children, with one left free beside `neighbour`.
    fn renumber(&self, neighbour: Uuid, side: Side, position: Position) -> Placed {
        let mut keys = order_key::renumbered(position, self.by_key.len() + 1);
        let mut key = String::new();
        let mut renumbered = Vec::with_capacity(self.by_key.len());
        for node in self.by_key.values() {
            if *node == neighbour && side == Side::Before {
                key = keys.next().unwrap_or_default();
            }
            renumbered.extend(keys.next().map(|key| (*node, key)));
            if *node == neighbour && side == Side::After {
                key = keys.next().unwrap_or_default();
            }
        }
        Placed { key, renumbered }
    }
}
