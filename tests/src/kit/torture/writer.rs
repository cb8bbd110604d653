//! A process that writes: many callers at once on one store, each with streams of its own and some that all compete
//! for, in every kind of command there is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_domain::{
    Actor, AnyEvent, ClaimKey, ClaimScope, ContentEvent, ContentFieldId, ContentId, ContentStatus, EmailAddress,
    FieldValue, Personal, Place, Realm, Role, RouteEvent, Slug, Timestamp, UserEvent, UserId, Username,
};
use annals_eventstore::{Append, Condition, EventStore, Hash, Idempotency, StreamAppend, StreamId};
use uuid::Uuid;

use super::worker::{Ending, open_store};
use crate::kit::KitError;
use crate::kit::history::{Answer, Call, Line, Recorder, Told, now_us};
use crate::kit::random::Random;

/// Content nodes that every caller of every process writes to.
const SHARED_NODES: usize = 8;
/// Paths that every caller of every process wants for its route.
const SLUGS: u64 = 24;
/// How long those paths are wanted, in microseconds.
const SLUGS_CHANGE_US: u64 = 10_000_000;
/// Content nodes of one caller.
const OWN_NODES: usize = 8;
/// Field values of one node.
const FIELDS: u64 = 3;
/// How often a command is repeated whose outcome is unknown, before it is left in doubt.
const MOST_REPETITIONS: u32 = 5;
/// The pause of a caller when its process is ahead of its rate.
const AHEAD: Duration = Duration::from_millis(20);
/// Finished commands that a caller may repeat.
const REMEMBERED: usize = 4;

/// What a writer is told to do.
#[derive(Debug, Clone)]
pub struct WriterTask {
    /// A `DATABASE_URL`.
    pub url: String,
    /// Its history, one for each life.
    pub history: PathBuf,
    /// For its choices.
    pub seed: u64,
    /// Callers at once.
    pub callers: usize,
    /// The most events of one stream in one command.
    pub events: u64,
    /// The most events a second, over its life: what was missed is made up for.
    pub events_per_second: u64,
}

/// Writes until standard input ends, then finishes what is under way.
///
/// # Errors
/// When the store cannot be opened or the history not be written.
pub async fn write(task: WriterTask) -> Result<(), KitError> {
    let ending = Ending::on_stdin();
    let recorder = Arc::new(Recorder::open(&task.history)?);
    let Some(store) = open_store(&task.url, &ending).await? else {
        return Ok(());
    };
    let shared = Arc::new(Shared::default());
    let begun = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..task.callers {
        let mut caller = Caller {
            store: store.clone(),
            recorder: Arc::clone(&recorder),
            shared: Arc::clone(&shared),
            random: Random::new(task.seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
            events: task.events.max(1),
            nodes: Vec::new(),
            route: None,
            done: Vec::new(),
        };
        let ending = ending.clone();
        callers.spawn(async move {
            while !ending.has_come() {
                let allowed = begun.elapsed().as_secs_f64() * task.events_per_second as f64;
                if caller.shared.events.load(Ordering::Relaxed) as f64 > allowed {
                    tokio::time::sleep(AHEAD).await;
                    continue;
                }
                caller.step().await?;
            }
            Ok::<(), KitError>(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    store.close().await;
    Ok(())
}

/// What the callers of one process believe of the streams that everybody writes.
#[derive(Debug, Default)]
struct Shared {
    versions: [AtomicU64; SHARED_NODES],
    /// Written by this process.
    events: AtomicU64,
    is_pointless: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    id: ContentId,
    version: u64,
}

#[derive(Debug, Clone, Copy)]
struct OwnRoute {
    id: Uuid,
    version: u64,
}

struct Caller {
    store: EventStore,
    recorder: Arc<Recorder>,
    shared: Arc<Shared>,
    random: Random,
    events: u64,
    nodes: Vec<Node>,
    route: Option<OwnRoute>,
    done: Vec<Append>,
}

impl Caller {
    /// One command, whatever becomes of it.
    async fn step(&mut self) -> Result<(), KitError> {
        if self.nodes.is_empty() {
            return self.create().await;
        }
        match self.random.below(1000) {
            0..40 => self.create().await,
            40..100 => self.write_several().await,
            100..130 => self.write_shared().await,
            130..170 => self.move_route().await,
            170..190 => self.write_under_key().await,
            190..210 => self.repeat().await,
            210..240 => self.write_on_condition().await,
            240..245 => self.register().await,
            _ => self.write_own().await,
        }
    }

    async fn create(&mut self) -> Result<(), KitError> {
        let id = ContentId::new(Uuid::now_v7());
        let mut events = vec![created(id)];
        let more = self.random.below(4);
        events.extend((0..more).map(|_| self.change(id)));
        let version = events.len() as u64;
        let told = self.commit(command(vec![of(content(id), 0, events)]), None).await?;
        // A node in doubt is left alone.
        if matches!(told, Told::Done { .. }) {
            if self.nodes.len() == OWN_NODES {
                let old = self.random.index(OWN_NODES);
                self.nodes.swap_remove(old);
            }
            self.nodes.push(Node { id, version });
        }
        Ok(())
    }

    /// New events for one of the caller's own nodes.
    fn of_own(&mut self, number: usize) -> StreamAppend {
        let Node { id, version } = self.nodes[number];
        let count = self.random.within(1, self.events);
        let events = (0..count).map(|_| self.change(id)).collect();
        of(content(id), version, events)
    }

    async fn write_own(&mut self) -> Result<(), KitError> {
        let number = self.random.index(self.nodes.len());
        let streams = vec![self.of_own(number)];
        self.commit(command(streams), None).await.map(drop)
    }

    async fn write_several(&mut self) -> Result<(), KitError> {
        let mut numbers: Vec<usize> = (0..self.nodes.len()).collect();
        self.random.shuffle(&mut numbers);
        numbers.truncate(3);
        let streams = numbers.into_iter().map(|number| self.of_own(number)).collect();
        self.commit(command(streams), None).await.map(drop)
    }

    async fn write_shared(&mut self) -> Result<(), KitError> {
        let place = self.random.index(SHARED_NODES);
        let id = ContentId::new(Uuid::from_u128(0x7011_u128 << 64 | place as u128));
        let mut expected = self.shared.versions[place].load(Ordering::Relaxed);
        if self.random.per_mille(50) {
            expected += self.random.within(1, 3); // from the future
        }
        let events = if expected == 0 {
            vec![created(id)]
        } else {
            vec![self.change_without_claims()]
        };
        let after = expected + events.len() as u64;
        let told = self
            .commit(command(vec![of(content(id), expected, events)]), None)
            .await?;
        match told {
            Told::Done { .. } => drop(self.shared.versions[place].fetch_max(after, Ordering::Relaxed)),
            Told::Conflict { actual, .. } => self.shared.versions[place].store(actual, Ordering::Relaxed),
            _ => {}
        }
        Ok(())
    }

    async fn move_route(&mut self) -> Result<(), KitError> {
        // New paths every while: those of writers that were killed are never given up.
        let path = format!("/torture/{}/{}", now_us() / SLUGS_CHANGE_US, self.random.below(SLUGS));
        let slug = Slug::parse(&path)?;
        let (route, event) = match self.route {
            Some(route) if self.random.per_mille(300) => (route, RouteEvent::Deleted { at: now() }),
            Some(route) => (
                route,
                RouteEvent::Changed {
                    realm: Realm::Site,
                    slug,
                    title: "Torture".to_owned(),
                    status: 1,
                    author_id: None,
                    date_created: None,
                    date_modified: None,
                    at: now(),
                },
            ),
            None => {
                let route = OwnRoute {
                    id: Uuid::now_v7(),
                    version: 0,
                };
                let event = RouteEvent::Created {
                    realm: Realm::Site,
                    slug,
                    title: "Torture".to_owned(),
                    status: 1,
                    author_id: None,
                    date_created: None,
                    date_modified: None,
                    at: now(),
                };
                (route, event)
            }
        };
        let is_end = matches!(event, RouteEvent::Deleted { .. });
        let stream = StreamId::new("route", route.id);
        let append = command(vec![of(stream, route.version, vec![event.into()])]);
        match self.commit(append, Some(path)).await? {
            Told::Done { .. } if is_end => self.route = None,
            Told::Done { .. } => {
                self.route = Some(OwnRoute {
                    version: route.version + 1,
                    ..route
                });
            }
            // What was in doubt had happened.
            Told::Conflict { actual, .. } => {
                self.route = Some(OwnRoute {
                    version: actual,
                    ..route
                });
            }
            Told::Unknown => self.route = Some(route),
            _ => {}
        }
        Ok(())
    }

    async fn write_under_key(&mut self) -> Result<(), KitError> {
        let number = self.random.index(self.nodes.len());
        let key = Uuid::now_v7().to_string();
        let under = |append: Append, hash: u8| Append {
            idempotency: Some(Idempotency {
                principal: "torture".to_owned(),
                key: key.clone(),
                request_hash: Hash([hash; 32]),
            }),
            ..append
        };
        let append = under(command(vec![self.of_own(number)]), 1);
        let told = self.commit(append.clone(), None).await?;
        if !matches!(told, Told::Done { .. }) {
            return Ok(());
        }
        let again = Append {
            command_id: Uuid::now_v7(),
            ..append
        };
        let again = under(again, if self.random.per_mille(300) { 2 } else { 1 });
        self.ask(&again, None).await.map(drop)
    }

    async fn repeat(&mut self) -> Result<(), KitError> {
        if self.done.is_empty() {
            return Ok(());
        }
        let again = self.done[self.random.index(self.done.len())].clone();
        self.ask(&again, None).await.map(drop)
    }

    async fn write_on_condition(&mut self) -> Result<(), KitError> {
        let number = self.random.index(self.nodes.len());
        let streams = vec![self.of_own(number)];
        let other = self.nodes[self.random.index(self.nodes.len())];
        let mut conditions = vec![Condition::Held {
            scope: ClaimScope::Content,
            key: ClaimKey::id(other.id),
        }];
        if other.id != self.nodes[number].id {
            conditions.push(Condition::Version {
                stream: content(other.id),
                version: other.version,
            });
        }
        let append = Append {
            conditions,
            ..command(streams)
        };
        self.commit(append, None).await.map(drop)
    }

    async fn register(&mut self) -> Result<(), KitError> {
        let id = UserId::new(Uuid::now_v7());
        let name = format!("u{}", id.as_uuid().simple());
        let event = UserEvent::Registered {
            email: Personal::new(id, EmailAddress::parse(&format!("{name}@example.org"))?),
            username: Personal::new(id, Username::parse(&name)?),
            name: Personal::new(id, "Ada Lovelace".to_owned()),
            role: Role::Viewer,
            at: now(),
        };
        let stream = StreamId::new("user", id);
        self.commit(command(vec![of(stream, 0, vec![event.into()])]), None)
            .await
            .map(drop)
    }

    /// Asks until there is an answer, or patience is at its end, and learns from it where its own streams are.
    async fn commit(&mut self, append: Append, slug: Option<String>) -> Result<Told, KitError> {
        let mut repetitions = 0;
        let told = loop {
            let told = self.ask(&append, slug.clone()).await?;
            let again = match told {
                Told::Unknown => repetitions < MOST_REPETITIONS && !self.random.per_mille(150),
                Told::Unavailable | Told::Overloaded => repetitions < MOST_REPETITIONS && self.random.per_mille(500),
                _ => false,
            };
            if matches!(told, Told::Unknown | Told::Unavailable | Told::Overloaded) {
                tokio::time::sleep(Duration::from_millis(self.random.within(10, 200))).await;
            }
            if !again {
                break told;
            }
            repetitions += 1;
        };
        match &told {
            Told::Done { .. } => {
                for written in &append.streams {
                    let events = written.events.len() as u64;
                    self.at(written.stream, written.expected + events);
                    self.shared.events.fetch_add(events, Ordering::Relaxed);
                }
                if self.done.len() == REMEMBERED {
                    self.done.remove(0);
                }
                self.done.push(append);
            }
            Told::Conflict { stream, actual } => self.at(StreamId::parse(stream)?, *actual),
            _ => {}
        }
        Ok(told)
    }

    fn at(&mut self, stream: StreamId, version: u64) {
        if let Some(node) = self.nodes.iter_mut().find(|node| content(node.id) == stream) {
            node.version = version;
        }
    }

    async fn ask(&mut self, append: &Append, slug: Option<String>) -> Result<Told, KitError> {
        if self.shared.is_pointless.load(Ordering::Relaxed) {
            return Err("the history cannot be written".into());
        }
        let call = Line::Call(Call::of(append, slug));
        let answer = match self.recorder.write(&call) {
            Ok(()) => self.store.append(append.clone()).await,
            Err(error) => {
                self.shared.is_pointless.store(true, Ordering::Relaxed);
                return Err(error.into());
            }
        };
        let told = Told::from(&answer);
        self.recorder.write(&Line::Answer(Answer {
            id: append.command_id,
            at: now_us(),
            told: told.clone(),
        }))?;
        Ok(told)
    }

    fn change(&mut self, id: ContentId) -> AnyEvent {
        if !self.random.per_mille(150) {
            return self.change_without_claims();
        }
        let field = |number: u64| ContentFieldId::new(Uuid::from_u128(id.as_uuid().as_u128() ^ u128::from(number + 1)));
        let length = usize::try_from(self.random.within(5, 300)).unwrap_or(5);
        let value = FieldValue {
            content_field_id: field(self.random.below(FIELDS)),
            field_id: None,
            route_id: None,
            value: "what is written here does not matter ".repeat(9)[..length].to_owned(),
            author_id: None,
            date_created: None,
            date_modified: None,
        };
        let removed = if self.random.per_mille(200) {
            vec![field(self.random.below(FIELDS))]
        } else {
            Vec::new()
        };
        ContentEvent::FieldsChanged {
            set: vec![value],
            removed,
            at: now(),
        }
        .into()
    }

    fn change_without_claims(&mut self) -> AnyEvent {
        let at = now();
        match self.random.below(5) {
            0 => ContentEvent::Published { at },
            1 => ContentEvent::Archived { at },
            2 => ContentEvent::Submitted { at },
            3 => ContentEvent::Withdrawn { at },
            _ => ContentEvent::Moved {
                parent_id: None,
                place: Place::First,
                at,
            },
        }
        .into()
    }
}

fn now() -> Timestamp {
    Timestamp::from_offset(time::OffsetDateTime::now_utc())
}

fn content(id: ContentId) -> StreamId {
    StreamId::new("content", id)
}

fn of(stream: StreamId, expected: u64, events: Vec<AnyEvent>) -> StreamAppend {
    StreamAppend {
        stream,
        expected,
        events,
    }
}

fn created(id: ContentId) -> AnyEvent {
    ContentEvent::Created {
        content_id: id,
        realm: Realm::Site,
        datatype_id: None,
        route_id: None,
        parent_id: None,
        place: Place::Last,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: now(),
    }
    .into()
}

fn command(streams: Vec<StreamAppend>) -> Append {
    let id = Uuid::now_v7();
    Append {
        command_id: id,
        actor: Actor::System("torture".to_owned()),
        correlation_id: id,
        causation_id: id,
        idempotency: None,
        streams,
        conditions: Vec::new(),
    }
}
