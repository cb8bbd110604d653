//! Content nodes placed, moved and deleted at random: pointers always make a list that is the ordered children.

use std::collections::BTreeMap;

use annals_domain::{ContentEvent, ContentId, Place, Realm};
use annals_projections::{EngineOptions, content, order_key, read_models};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::strategy::Just;
use proptest::test_runner::Config;

use super::{Log, PATIENCE, at, content_created, fresh, system};

/// Something done to a tree. Nodes are named by their number among those alive, so that every index means one.
#[derive(Debug, Clone)]
enum Step {
    Create {
        parent: Option<Index>,
        place: Where,
    },
    Move {
        node: Index,
        parent: Option<Index>,
        place: Where,
    },
    Delete {
        node: Index,
    },
    Archive {
        node: Index,
    },
}

#[derive(Debug, Clone)]
enum Where {
    First,
    Last,
    /// Neighbours are picked among the children of the parent, and now and then anywhere.
    After(Index, bool),
    Before(Index, bool),
}

fn places() -> impl Strategy<Value = Where> {
    let anywhere = || proptest::bool::weighted(0.1);
    prop_oneof![
        Just(Where::First),
        Just(Where::Last),
        (any::<Index>(), anywhere()).prop_map(|(index, anywhere)| Where::After(index, anywhere)),
        (any::<Index>(), anywhere()).prop_map(|(index, anywhere)| Where::Before(index, anywhere)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let parent = || proptest::option::weighted(0.9, any::<Index>());
    let step = prop_oneof![
        4 => (parent(), places()).prop_map(|(parent, place)| Step::Create { parent, place }),
        4 => (any::<Index>(), parent(), places()).prop_map(|(node, parent, place)| Step::Move { node, parent, place }),
        1 => any::<Index>().prop_map(|node| Step::Delete { node }),
        1 => any::<Index>().prop_map(|node| Step::Archive { node }),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What the tree should be: plain lists of children.
#[derive(Default)]
struct Expected {
    alive: Vec<ContentId>,
    parents: BTreeMap<ContentId, Option<ContentId>>,
    children: BTreeMap<ContentId, Vec<ContentId>>,
}

impl Expected {
    fn pick(&self, index: Index) -> Option<ContentId> {
        (!self.alive.is_empty()).then(|| *index.get(&self.alive))
    }

    fn is_within(&self, node: ContentId, top: ContentId) -> bool {
        let up = std::iter::successors(Some(node), |node| self.parents[node]);
        up.into_iter().any(|node| node == top)
    }

    fn place(&self, parent: Option<ContentId>, place: &Where, node: ContentId) -> Place {
        let children = parent
            .and_then(|parent| self.children.get(&parent))
            .map_or(&[][..], Vec::as_slice);
        let neighbour = |index: &Index, anywhere: bool| {
            let among = if anywhere { self.alive.as_slice() } else { children };
            (!among.is_empty())
                .then(|| *index.get(among))
                .filter(|neighbour| *neighbour != node)
        };
        match place {
            Where::First => Place::First,
            Where::Last => Place::Last,
            Where::After(index, anywhere) => {
                neighbour(index, *anywhere).map_or(Place::Last, |content_id| Place::After { content_id })
            }
            Where::Before(index, anywhere) => {
                neighbour(index, *anywhere).map_or(Place::Last, |content_id| Place::Before { content_id })
            }
        }
    }

    fn detach(&mut self, node: ContentId) {
        if let Some(Some(parent)) = self.parents.get(&node) {
            self.children.get_mut(parent).unwrap().retain(|child| *child != node);
        }
    }

    fn attach(&mut self, node: ContentId, parent: Option<ContentId>, place: Place) {
        self.parents.insert(node, parent);
        let Some(parent) = parent else { return };
        let siblings = self.children.entry(parent).or_default();
        let beside = |neighbour| siblings.iter().position(|sibling| *sibling == neighbour);
        let index = match place {
            Place::First => 0,
            Place::Last => siblings.len(),
            Place::After { content_id } => beside(content_id).map_or(siblings.len(), |index| index + 1),
            Place::Before { content_id } => beside(content_id).unwrap_or(siblings.len()),
        };
        siblings.insert(index, node);
    }

    fn delete(&mut self, node: ContentId) {
        self.detach(node);
        self.alive.retain(|alive| *alive != node);
        self.parents.remove(&node);
        for child in self.children.remove(&node).unwrap_or_default() {
            self.parents.insert(child, None);
        }
    }

    /// Does the step here and tells what to write; nothing when it cannot be done.
    fn step(&mut self, step: &Step) -> Option<(ContentId, ContentEvent)> {
        match step {
            Step::Create { parent, place } => {
                let node: ContentId = fresh();
                let parent = parent.and_then(|parent| self.pick(parent));
                let place = self.place(parent, place, node);
                self.attach(node, parent, place);
                self.alive.push(node);
                Some((node, content_created(node, parent, place)))
            }
            Step::Move { node, parent, place } => {
                let node = self.pick(*node)?;
                let parent = parent.and_then(|parent| self.pick(parent));
                if parent.is_some_and(|parent| self.is_within(parent, node)) {
                    return None; // the command refuses this
                }
                let place = self.place(parent, place, node);
                self.detach(node);
                self.attach(node, parent, place);
                Some((
                    node,
                    ContentEvent::Moved {
                        parent_id: parent,
                        place,
                        at: at(1),
                    },
                ))
            }
            Step::Delete { node } => {
                let node = self.pick(*node)?;
                self.delete(node);
                Some((node, ContentEvent::Deleted { at: at(1) }))
            }
            Step::Archive { node } => Some((self.pick(*node)?, ContentEvent::Archived { at: at(1) })),
        }
    }
}

async fn assert_tree(log: &Log, expected: &Expected) {
    let rows = content::list(&system(), log.database(), Realm::Site, None)
        .await
        .unwrap()
        .rows;
    let rows: BTreeMap<ContentId, content::ContentRow> = rows.into_iter().map(|row| (row.content_id, row)).collect();
    assert_eq!(rows.len(), expected.alive.len());
    for (node, row) in &rows {
        assert_eq!(row.parent_id, expected.parents[node]);
        let children = expected.children.get(node).map_or(&[][..], Vec::as_slice);
        assert_eq!(row.first_child_id, children.first().copied());
        // Forth by the pointers, and back.
        let forth: Vec<ContentId> = std::iter::successors(row.first_child_id, |child| rows[child].next_sibling_id)
            .take(1000)
            .collect();
        assert_eq!(forth, children);
        let mut back: Vec<ContentId> =
            std::iter::successors(children.last().copied(), |child| rows[child].prev_sibling_id)
                .take(1000)
                .collect();
        back.reverse();
        assert_eq!(back, children);
        if row.parent_id.is_none() {
            assert_eq!((row.next_sibling_id, row.prev_sibling_id), (None, None));
        }
    }
    for (parent, children) in &expected.children {
        let listed = content::children_of(&system(), log.database(), *parent).await.unwrap();
        assert_eq!(listed.iter().map(|row| row.content_id).collect::<Vec<_>>(), *children);
    }
}

proptest! {
    #![proptest_config(Config { cases: 12, failure_persistence: None, ..Config::default() })]

    #[test]
    fn pointers_always_make_the_list_of_children(steps in steps(), batch_events in 1_usize..9) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = Log::new().await;
            let engine = log.engine_of(read_models(), EngineOptions { batch_events, ..EngineOptions::default() });
            let mut expected = Expected::default();
            for (number, step) in steps.iter().enumerate() {
                if let Some((node, event)) = expected.step(step) {
                    log.write(node, [event]).await;
                }
                if number % 10 == 9 {
                    log.wait_for(&engine).await;
                    assert_tree(&log, &expected).await;
                }
            }
            log.wait_for(&engine).await;
            assert_tree(&log, &expected).await;
            engine.stop().await;
            log.assert_rebuild_equal().await;
        });
    }
}

/// Nodes squeezed in at one spot until their keys run out of digits.
#[tokio::test]
async fn a_spot_used_without_end_is_numbered_anew() {
    let log = Log::new().await;
    let parent: ContentId = fresh();
    log.write(parent, [content_created(parent, None, Place::Last)]).await;
    let (first, last): (ContentId, ContentId) = (fresh(), fresh());
    log.write(first, [content_created(first, Some(parent), Place::Last)])
        .await;
    log.write(last, [content_created(last, Some(parent), Place::Last)])
        .await;
    let mut expected = vec![first, last];
    let engine = log.engine();
    for number in 0..700 {
        let node: ContentId = fresh();
        log.write(
            node,
            [content_created(node, Some(parent), Place::After { content_id: first })],
        )
        .await;
        expected.insert(1, node);
        if number % 100 == 0 {
            engine.wait(&["contents"], log.head().await, PATIENCE).await.unwrap();
        }
    }
    engine.wait(&["contents"], log.head().await, PATIENCE).await.unwrap();
    let children = content::children_of(&system(), log.database(), parent).await.unwrap();
    assert_eq!(children.iter().map(|row| row.content_id).collect::<Vec<_>>(), expected);
    let longest: i32 = sqlx::query_scalar("select max(length(order_key)) from view.contents")
        .fetch_one(log.database().pool())
        .await
        .unwrap();
    assert!(usize::try_from(longest).unwrap() <= order_key::LONGEST, "{longest}");
    engine.stop().await;
    log.assert_rebuild_equal().await;
}
