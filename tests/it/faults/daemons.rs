//! Two programs of different ages on one log.

use std::sync::Arc;
use std::time::Duration;

use annals_domain::{Actor, AnyEvent, Caller, Realm, RouteEvent, RouteId, Slug, Timestamp};
use annals_eventstore::database::DatabaseOptions;
use annals_eventstore::{
    Append, Database, EventStore, MasterKey, Position, StreamAppend, StreamId, Vault, WriterOptions,
};
use annals_projections::{Engine, EngineOptions, Projection, read_models, route};
use annals_tests::TestDatabase;
use annals_tests::kit::proxy::Proxy;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

async fn store_on(database: Database) -> EventStore {
    let vault = Vault::open(&database, &MasterKey::from_bytes([7; 32])).await.unwrap();
    EventStore::start(database, vault, WriterOptions::default())
}

fn routes() -> Vec<Arc<dyn Projection>> {
    let routes: Vec<_> = read_models()
        .into_iter()
        .filter(|model| model.name() == "routes")
        .collect();
    assert_eq!(routes.len(), 1);
    routes
}

fn engine(store: &EventStore, owner: &str) -> Engine {
    let options = EngineOptions {
        lease: Duration::from_secs(2),
        retry_first: Duration::from_millis(20),
        retry_longest: Duration::from_millis(200),
        owner: owner.to_owned(),
        ..EngineOptions::default()
    };
    Engine::start(store.clone(), routes(), options)
}

async fn write(store: &EventStore, id: RouteId, expected: u64, event: RouteEvent) -> Position {
    let command_id = Uuid::now_v7();
    let append = Append {
        command_id,
        actor: Actor::System("tests".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream: StreamId::new("route", id),
            expected,
            events: vec![AnyEvent::from(event)],
        }],
        conditions: Vec::new(),
    };
    store.append(append).await.unwrap().last_position
}

#[tokio::test]
async fn a_daemon_that_cannot_read_an_event_leaves_the_model_to_a_newer_one() {
    let test = TestDatabase::new().await;
    let newer = store_on(test.database()).await;
    // To the older program, a change of a route is of a type that it has never heard of.
    let proxy = Proxy::start(test.connect_options()).await.unwrap();
    proxy.rewrite("route.changed", "route.unheard");
    let database = Database::connect_with(proxy.connect_options(), DatabaseOptions::default())
        .await
        .unwrap();
    let older = store_on(database).await;

    let id = RouteId::new(Uuid::now_v7());
    let at = Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").unwrap();
    let slug = |text: &str| Slug::parse(text).unwrap();
    let created = RouteEvent::Created {
        realm: Realm::Site,
        slug: slug("/old"),
        title: String::new(),
        status: 0,
        author_id: None,
        date_created: None,
        date_modified: None,
        at,
    };
    let first = write(&newer, id, 0, created).await;
    let leading = engine(&older, "older");
    leading.wait(&["routes"], first, PATIENCE).await.unwrap();
    let following = engine(&newer, "newer");

    let changed = RouteEvent::Changed {
        realm: Realm::Site,
        slug: slug("/new"),
        title: String::new(),
        status: 0,
        author_id: None,
        date_created: None,
        date_modified: None,
        at,
    };
    let second = write(&newer, id, 1, changed).await;
    following.wait(&["routes"], second, PATIENCE).await.unwrap();
    let caller = Caller::system("tests", Uuid::nil());
    let found = route::by_slug(&caller, newer.database(), Realm::Site, &slug("/new")).await;
    assert!(found.unwrap().is_some());
    let held = annals_eventstore::checkpoint::load(newer.database().pool(), "routes")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (held.owner.as_deref(), held.position),
        (Some("newer"), second),
        "and it keeps it"
    );
    leading.stop().await;
    following.stop().await;
}
