//! Random histories against the store and against the model of it: the same answers, and the same log in the end.

use std::collections::{BTreeMap, HashMap};
use std::env;

use annals_domain::{ClaimKey, ClaimScope, ContentEvent, ContentFieldId, Realm, RouteEvent, Slug};
use annals_eventstore::{Condition, EventFilter, Position, Record};
use annals_tests::kit::model::{Claims, Model, Verdict};
use futures::future::join_all;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use sqlx::Row;

use super::*;

/// Histories of an ordinary run; `ANNALS_TEST_MODEL_CASES` asks for more.
const CASES: u32 = 16;
/// Tries to find a smaller history that fails too.
const SHRINKS: u32 = 300;

/// What a history is about, few of each so that commands meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Node(u8),
    Route(u8),
    User(u8),
}

#[derive(Debug, Clone)]
enum Change {
    Begin(u8),
    Alter { first: u8, second: u8, removed: u8 },
    Touch,
    End,
}

#[derive(Debug, Clone)]
enum Demand {
    Held(Thing),
    At(Thing, i8),
}

#[derive(Debug, Clone)]
struct Step {
    /// Repeats the id of an earlier command.
    again: Option<u8>,
    key: Option<(u8, u8)>,
    /// Streams, how far the expected version is from the right one, and what happens.
    streams: Vec<(Thing, i8, Vec<Change>)>,
    demands: Vec<Demand>,
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => (0_u8..3).prop_map(Thing::Node),
        4 => (0_u8..3).prop_map(Thing::Route),
        1 => (0_u8..3).prop_map(Thing::User),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0_u8..3).prop_map(Change::Begin),
        5 => (0_u8..4, 0_u8..4, 0_u8..6).prop_map(|(first, second, removed)| Change::Alter { first, second, removed }),
        1 => Just(Change::Touch),
        2 => Just(Change::End),
    ]
}

fn offset() -> impl Strategy<Value = i8> {
    prop_oneof![9 => Just(0_i8), 1 => -2_i8..3]
}

fn step() -> impl Strategy<Value = Step> {
    let stream = (thing(), offset(), prop::collection::vec(change(), 1..4));
    let demand = prop_oneof![
        thing().prop_map(Demand::Held),
        (thing(), offset()).prop_map(|(thing, offset)| Demand::At(thing, offset)),
    ];
    (
        prop_oneof![8 => Just(None), 1 => any::<u8>().prop_map(Some)],
        prop_oneof![4 => Just(None), 1 => (0_u8..3, 0_u8..2).prop_map(Some)],
        prop::collection::vec(stream, 1..4),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(demand, 1..3)],
    )
        .prop_map(|(again, key, streams, demands)| Step {
            again,
            key,
            streams,
            demands,
        })
}

/// Rounds of commands; those of one round are asked for at once.
fn history() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let round = prop_oneof![
        2 => prop::collection::vec(step(), 1..2),
        1 => prop::collection::vec(step(), 2..7),
    ];
    prop::collection::vec(round, 1..16)
}

impl Thing {
    fn stream(self) -> StreamId {
        let id = |kind: u128, number: u8| Uuid::from_u128(kind << 64 | u128::from(number));
        match self {
            Self::Node(number) => StreamId::new("content", id(1, number)),
            Self::Route(number) => StreamId::new("route", id(2, number)),
            Self::User(number) => StreamId::new("user", id(3, number)),
        }
    }

    fn claim(self) -> (ClaimScope, ClaimKey) {
        let scope = match self {
            Self::Node(_) => ClaimScope::Content,
            Self::Route(_) => ClaimScope::Route,
            Self::User(_) => ClaimScope::User,
        };
        (scope, ClaimKey::id(self.stream().id))
    }

    fn event(self, change: &Change) -> AnyEvent {
        let at = at();
        let slug = |number: u8| Slug::parse(&format!("/{number}")).unwrap();
        let field = |number: u8| ContentFieldId::new(Uuid::from_u128(4 << 64 | u128::from(number)));
        let route = |number: u8| RouteEvent::Changed {
            realm: Realm::Site,
            slug: slug(number),
            title: String::new(),
            status: 0,
            author_id: None,
            date_created: None,
            date_modified: None,
            at,
        };
        let user = UserId::new(self.stream().id);
        match (self, change) {
            (Self::Node(_), Change::Begin(_)) => content_created(ContentId::new(self.stream().id)),
            (Self::Node(_), Change::Alter { first, second, removed }) => ContentEvent::FieldsChanged {
                set: vec![field_value(field(*first)), field_value(field(*second))],
                removed: vec![field(*removed)],
                at,
            }
            .into(),
            (Self::Node(_), Change::Touch) => ContentEvent::Published { at }.into(),
            (Self::Node(_), Change::End) => ContentEvent::Deleted { at }.into(),
            (Self::Route(_), Change::Begin(number)) => RouteEvent::Created {
                realm: Realm::Site,
                slug: slug(*number),
                title: String::new(),
                status: 0,
                author_id: None,
                date_created: None,
                date_modified: None,
                at,
            }
            .into(),
            (Self::Route(_), Change::Alter { first, .. }) => route(*first).into(),
            (Self::Route(_), Change::Touch) => route(3).into(),
            (Self::Route(_), Change::End) => RouteEvent::Deleted { at }.into(),
            // A name and an address of one number or of two: refused for either, or for both.
            (Self::User(_), Change::Begin(number)) => {
                user_registered(user, &format!("{number}@example.org"), "same name")
            }
            (Self::User(_), Change::Alter { first, second, .. }) => {
                user_registered(user, &format!("{first}@example.org"), &format!("name{second}"))
            }
            (Self::User(_), Change::Touch) => UserEvent::Enabled { at }.into(),
            (Self::User(_), Change::End) => UserEvent::Disabled {
                reason: String::new(),
                at,
            }
            .into(),
        }
    }
}

impl Step {
    fn has_personal_data(&self) -> bool {
        self.streams.iter().any(|(thing, ..)| matches!(thing, Thing::User(_)))
    }

    fn command(&self, number: u128, model: &Model) -> Append {
        let off = |thing: Thing, offset: i8| model.version(thing.stream()).saturating_add_signed(offset.into());
        let id = match self.again {
            Some(earlier) => u128::from(earlier) % (number + 1),
            None => number,
        };
        let mut streams: Vec<StreamAppend> = Vec::new();
        for (thing, offset, changes) in &self.streams {
            let stream = thing.stream();
            if streams.iter().all(|of| of.stream != stream) {
                let happened = changes.iter().map(|change| thing.event(change)).collect();
                streams.push(events(stream, off(*thing, *offset), happened));
            }
        }
        let mut conditions = Vec::new();
        for demand in &self.demands {
            let condition = match demand {
                Demand::Held(thing) => {
                    let (scope, key) = thing.claim();
                    held(scope, key)
                }
                Demand::At(thing, offset) => Condition::Version {
                    stream: thing.stream(),
                    version: off(*thing, *offset),
                },
            };
            let is_new = match &condition {
                // A stream is named once in a commit.
                Condition::Version { stream, .. } => {
                    streams.iter().all(|of| of.stream != *stream)
                        && !conditions
                            .iter()
                            .any(|known| matches!(known, Condition::Version { stream: other, .. } if other == stream))
                }
                Condition::Held { .. } => true,
            };
            if is_new {
                conditions.push(condition);
            }
        }
        Append {
            command_id: Uuid::from_u128(9 << 64 | id),
            idempotency: self.key.map(|(key, hash)| idempotency(&key.to_string(), hash)),
            conditions,
            ..command(streams)
        }
    }
}

/// Both, and the claims after every command that was carried out.
struct Pair {
    log: TestLog,
    model: Model,
    claims_at: BTreeMap<u64, Claims>,
    commands: u128,
}

impl Pair {
    async fn new() -> Self {
        Self {
            log: TestLog::new().await,
            model: Model::default(),
            claims_at: BTreeMap::new(),
            commands: 0,
        }
    }

    async fn round(&mut self, steps: &[Step]) {
        // Who needs a key of the vault first does not keep its place in the queue.
        if steps.len() == 1 || steps.iter().any(Step::has_personal_data) {
            for step in steps {
                let command = step.command(self.commands, &self.model);
                self.commands += 1;
                let answer = Verdict::of(self.log.store.append(command.clone()).await).unwrap();
                self.agree(&command, &answer);
            }
            return;
        }
        let mut scratch = self.model.clone();
        let mut expected = Vec::new();
        let mut commands = Vec::new();
        for step in steps {
            let command = step.command(self.commands, &scratch);
            self.commands += 1;
            expected.push(scratch.append(&command));
            commands.push(command);
        }
        let lock = self.log.hold_lock().await;
        let asked = join_all(commands.iter().map(|command| append(&self.log.store, command.clone())));
        let (answers, ()) = tokio::join!(asked, async {
            // Some are refused before they get to the database; then nobody may be waiting.
            if expected.iter().any(|verdict| !matches!(verdict, Verdict::Taken(_))) {
                self.log.until_waiting(1).await;
            }
            lock.give_back().await;
        });
        let answers: Vec<Verdict> = answers.into_iter().map(|answer| Verdict::of(answer).unwrap()).collect();
        self.explain(&commands, &answers);
    }

    /// Commands that were asked for at once may have been judged in any order, but there must be one that explains all
    /// answers. What wrote nothing belongs wherever its answer is right; the rest is in the order of positions.
    fn explain(&mut self, commands: &[Append], answers: &[Verdict]) {
        let mut unexplained: Vec<(&Append, &Verdict)> = commands.iter().zip(answers).collect();
        loop {
            let wrote_nothing = |answer: &Verdict| !matches!(answer, Verdict::Done { duplicate: false, .. });
            unexplained
                .retain(|(command, answer)| !wrote_nothing(answer) || self.model.clone().append(command) != **answer);
            let next = self.model.log().len() as u64 + 1;
            let following = unexplained.iter().position(
                |(_, answer)| matches!(answer, Verdict::Done { duplicate: false, first, .. } if *first == next),
            );
            let Some(following) = following else { break };
            let (command, answer) = unexplained.swap_remove(following);
            self.agree(command, answer);
        }
        assert!(unexplained.is_empty(), "no order explains {unexplained:#?}");
    }

    fn agree(&mut self, command: &Append, answer: &Verdict) {
        assert_eq!(*answer, self.model.append(command), "{command:#?}");
        if let Verdict::Done { last, .. } = answer {
            self.claims_at
                .entry(*last)
                .or_insert_with(|| self.model.claims().clone());
        }
    }

    /// The log by pages of one size.
    async fn read(&self, page: usize) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let after = records.last().map_or(Position::START, |record| record.position);
            let more = self.log.store.read_after(after, page).await.unwrap();
            if more.is_empty() {
                return records;
            }
            assert!(more.len() <= page);
            records.extend(more);
        }
    }

    async fn assert_equal(&self) {
        let records = self.read(1000).await;
        for page in [1, 2, 3, 7] {
            assert_eq!(self.read(page).await, records, "in pages of {page}");
        }
        assert_eq!(records.len(), self.model.log().len());
        let mut versions: HashMap<StreamId, u64> = HashMap::new();
        let mut claims = Claims::default();
        for (record, entry) in records.iter().zip(self.model.log()) {
            assert_eq!(
                (record.stream, record.version, &record.event, record.metadata.command_id),
                (entry.stream, entry.version, &entry.event, entry.command)
            );
            *versions.entry(record.stream).or_default() += 1;
            assert_eq!(versions[&record.stream], record.version);
            claims.apply(record.stream, &record.event).unwrap();
            if let Some(then) = self.claims_at.get(&record.position.get()) {
                assert_eq!(&claims, then, "after position {}", record.position);
            }
        }
        self.assert_filters(&records).await;
        self.assert_tables().await;
        self.log.verify().await.unwrap();
    }

    /// Whatever the page, a filter gives what matches of the whole.
    async fn assert_filters(&self, records: &[Record]) {
        let by_type = |aggregate: &str| EventFilter {
            aggregate_type: Some(aggregate.to_owned()),
            ..EventFilter::default()
        };
        let by_stream = |thing: Thing| EventFilter {
            stream: Some(thing.stream()),
            ..EventFilter::default()
        };
        let by_event = EventFilter {
            types: vec!["content.fields_changed".to_owned(), "route.deleted".to_owned()],
            ..EventFilter::default()
        };
        let filters = [
            by_type("content"),
            by_type("route"),
            by_stream(Thing::Node(1)),
            by_event,
        ];
        for (filter, page) in filters.into_iter().zip([1, 3, 2, 100]) {
            let matches: Vec<&Record> = records
                .iter()
                .filter(|record| {
                    filter.stream.is_none_or(|stream| stream == record.stream)
                        && filter
                            .aggregate_type
                            .as_ref()
                            .is_none_or(|aggregate| aggregate == record.stream.aggregate_type)
                        && (filter.types.is_empty()
                            || filter.types.iter().any(|kind| kind == record.event.event_type()))
                })
                .collect();
            let mut found: Vec<Record> = Vec::new();
            let mut after = Position::START;
            while after.get() < records.len() as u64 {
                let selection = self.log.store.read_filtered(&filter, after, page).await.unwrap();
                assert!(selection.scanned_to > after);
                after = selection.scanned_to;
                found.extend(selection.records);
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), matches, "{filter:?}");
        }
    }

    async fn assert_tables(&self) {
        let mut connection = self.log.test.superuser().await;
        let rows = sqlx::query("select aggregate_type, aggregate_id, version from log.streams")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let mut listed: Vec<(String, u64)> = rows
            .iter()
            .map(|row| {
                let (kind, id): (&str, Uuid) = (row.get(0), row.get(1));
                (format!("{kind}/{id}"), row.get::<i64, _>(2).cast_unsigned())
            })
            .collect();
        listed.sort();
        let mut versions: Vec<(String, u64)> = self
            .model
            .versions()
            .map(|(stream, version)| (stream.to_string(), version))
            .collect();
        versions.sort();
        assert_eq!(listed, versions);

        let (keys, owners): (Vec<_>, Vec<_>) = self
            .model
            .claims()
            .iter()
            .map(|(scope, key, owner)| ((scope, key.clone()), Some(owner.id)))
            .unzip();
        assert_eq!(self.log.store.owners_of(&keys).await.unwrap(), owners);
        assert_eq!(self.log.count("log.claims").await, i64::try_from(keys.len()).unwrap());

        let rows = sqlx::query("select command_id, first_position, last_position from log.commands")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let listed: HashMap<Uuid, (u64, u64)> = rows
            .iter()
            .map(|row| {
                let (first, last): (i64, i64) = (row.get(1), row.get(2));
                (row.get(0), (first.cast_unsigned(), last.cast_unsigned()))
            })
            .collect();
        assert_eq!(listed, self.model.commands().collect());
    }
}

#[test]
fn the_store_answers_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cases = env::var("ANNALS_TEST_MODEL_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        max_shrink_iters: SHRINKS,
        failure_persistence: None,
        ..Config::default()
    };
    let mut verdicts: BTreeMap<&str, u32> = BTreeMap::new();
    let seen = std::cell::RefCell::new(&mut verdicts);
    TestRunner::new(config)
        .run(&history(), |rounds| {
            runtime.block_on(async {
                let mut pair = Pair::new().await;
                for steps in &rounds {
                    pair.round(steps).await;
                }
                pair.assert_equal().await;
                *seen.borrow_mut().entry("events").or_default() += u32::try_from(pair.model.log().len()).unwrap();
                *seen.borrow_mut().entry("commands").or_default() += u32::try_from(pair.commands).unwrap();
                pair.log.store.close().await;
            });
            Ok(())
        })
        .unwrap();
    assert!(verdicts["events"] > 50 && verdicts["commands"] > 50, "{verdicts:?}");
}
