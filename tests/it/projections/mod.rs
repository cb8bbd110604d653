//! Read models: facts in, rows out, and the same rows when built anew from the log.

mod engine;
mod history;
mod models;
mod restore;
mod tree;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_domain::{
    Actor, AnyEvent, Caller, ContentEvent, ContentFieldId, ContentId, ContentStatus, DatatypeEvent, FieldEvent,
    FieldId, FieldKind, FieldValue, Personal, Place, Realm, Role, RouteEvent, Timestamp, UserEvent, UserId,
};
use annals_eventstore::{
    Append, Database, EventStore, MasterKey, Position, StreamAppend, StreamId, Vault, WriterOptions,
};
use annals_projections::{Engine, EngineOptions, Projection, compare, read_models};
use annals_tests::TestDatabase;
use uuid::Uuid;

/// Longer than anything here takes, so that it ends only what hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log of a test's own.
struct Log {
    // Dropped last: everything else uses it.
    store: EventStore,
    versions: Mutex<HashMap<Uuid, u64>>,
    test: TestDatabase,
}

impl Log {
    async fn new() -> Self {
        let test = TestDatabase::new().await;
        let database = test.database();
        let vault = Vault::open(&database, &MasterKey::from_bytes([7; 32]))
            .await
            .expect("a vault");
        let store = EventStore::start(database, vault, WriterOptions::default());
        Self {
            store,
            versions: Mutex::default(),
            test,
        }
    }

    fn database(&self) -> &Database {
        self.store.database()
    }

    /// Commits facts about one stream.
    async fn write(&self, id: impl Into<Uuid>, events: impl IntoIterator<Item = impl Into<AnyEvent>>) -> Position {
        self.write_as(Actor::System("test".to_owned()), id, events).await
    }

    async fn write_as(
        &self,
        actor: Actor,
        id: impl Into<Uuid>,
        events: impl IntoIterator<Item = impl Into<AnyEvent>>,
    ) -> Position {
        let id = id.into();
        let events: Vec<AnyEvent> = events.into_iter().map(Into::into).collect();
        let count = events.len() as u64;
        let expected = *self.versions.lock().unwrap().get(&id).unwrap_or(&0);
        let stream = StreamId::new(events[0].aggregate_type(), id);
        let command_id = Uuid::now_v7();
        let append = Append {
            command_id,
            actor,
            correlation_id: command_id,
            causation_id: command_id,
            idempotency: None,
            streams: vec![StreamAppend {
                stream,
                expected,
                events,
            }],
            conditions: Vec::new(),
        };
        let appended = self.store.append(append).await.expect("the facts are written");
        self.versions.lock().unwrap().insert(id, expected + count);
        appended.last_position
    }

    async fn head(&self) -> Position {
        self.store.head().await.expect("the head").position
    }

    /// An engine over all read models.
    fn engine(&self) -> Engine {
        self.engine_of(read_models(), EngineOptions::default())
    }

    fn engine_of(&self, models: Vec<Arc<dyn Projection>>, options: EngineOptions) -> Engine {
        Engine::start(self.store.clone(), models, options)
    }

    /// Brings all read models to the head.
    async fn project(&self) {
        let engine = self.engine();
        self.wait_for(&engine).await;
        engine.stop().await;
    }

    async fn wait_for(&self, engine: &Engine) {
        let names: Vec<&str> = read_models().iter().map(|model| model.name()).collect();
        engine
            .wait(&names, self.head().await, PATIENCE)
            .await
            .expect("the read models follow");
    }

    /// Every read model is what the log says, row for row.
    async fn assert_rebuild_equal(&self) {
        let head = self.head().await;
        for model in read_models() {
            let report = compare(&system(), &self.store, model.as_ref())
                .await
                .expect("a comparison");
            assert!(report.compared, "{report:?}");
            assert!(report.is_equal(), "{report:#?}");
            assert_eq!((report.position, report.events), (head, head.get()));
        }
    }
}

fn system() -> Caller {
    Caller::system("test", Uuid::nil())
}

fn user(id: UserId, role: Role) -> Caller {
    Caller {
        actor: Actor::User(id),
        role: Some(role),
        ..Caller::anonymous(Uuid::nil())
    }
}

/// Seconds since some beginning.
fn at(second: i64) -> Timestamp {
    Timestamp::parse_rfc3339("2026-02-15T12:00:00.123456Z")
        .expect("a moment")
        .plus_seconds(second)
}

fn fresh<T: From<Uuid>>() -> T {
    Uuid::now_v7().into()
}

fn registered(subject: UserId, name: &str) -> UserEvent {
    UserEvent::Registered {
        email: Personal::new(subject, format!("{name}@example.com").parse().expect("an address")),
        username: Personal::new(subject, name.parse().expect("a username")),
        name: Personal::new(subject, name.to_owned()),
        role: Role::Editor,
        at: at(0),
    }
}

fn route_created(slug: &str) -> RouteEvent {
    RouteEvent::Created {
        realm: Realm::Site,
        slug: slug.parse().expect("a slug"),
        title: "Home".to_owned(),
        status: 1,
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn datatype_created(label: &str, kind: &str) -> DatatypeEvent {
    DatatypeEvent::Created {
        realm: Realm::Site,
        parent_id: None,
        label: label.to_owned(),
        kind: kind.to_owned(),
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn field_created(parent_id: Option<annals_domain::DatatypeId>, label: &str) -> FieldEvent {
    FieldEvent::Created {
        realm: Realm::Site,
        parent_id,
        label: label.to_owned(),
        data: String::new(),
        validation: "{}".to_owned(),
        ui_config: "{}".to_owned(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn content_created(content_id: ContentId, parent_id: Option<ContentId>, place: Place) -> ContentEvent {
    ContentEvent::Created {
        content_id,
        realm: Realm::Site,
        datatype_id: None,
        route_id: None,
        parent_id,
        place,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn value(content_field_id: ContentFieldId, field_id: Option<FieldId>, value: &str) -> FieldValue {
    FieldValue {
        content_field_id,
        field_id,
        route_id: None,
        value: value.to_owned(),
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
    }
}
