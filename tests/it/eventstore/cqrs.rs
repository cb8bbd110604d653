//! cqrs-es and postgres-es over our log, and the defects of theirs that our path is free of.

use std::collections::HashMap;

use annals_domain::{
    Auth, AuthCommand, ClaimScope, Content, ContentCommand, ContentStatus, Metadata, PasswordHash, Place, Realm, User,
    UserCommand,
};
use annals_eventstore::load::{append_error, with_receipt};
use annals_eventstore::{AppendError, CommitScope, Position};
use cqrs_es::persist::{PersistedEventRepository, PersistedEventStore};
use cqrs_es::{AggregateError, CqrsFramework, EventStore as _};
use postgres_es::PostgresEventRepository;

use super::*;

fn metadata() -> HashMap<String, String> {
    let id = Uuid::now_v7();
    Metadata {
        event_id: id,
        command_id: id,
        actor: Actor::System("tests".to_owned()),
        correlation_id: id,
        causation_id: id,
    }
    .to_map()
}

fn create(id: ContentId) -> ContentCommand {
    ContentCommand::Create {
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
        at: at(),
    }
}

fn first_password(user: &str) -> AuthCommand {
    let hash = PasswordHash::parse("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$dGVzdHRlc3R0ZXN0dGVzdA").unwrap();
    AuthCommand::SetPassword {
        hash: Personal::new(user.parse::<Uuid>().unwrap(), hash),
        at: at(),
    }
}

fn wrong_password() -> AuthCommand {
    AuthCommand::RecordFailure {
        address: None,
        device: None,
        at: at(),
    }
}

#[tokio::test]
async fn stock_postgres_es_loads_a_stream_of_ours() {
    let log = TestLog::new().await;
    let id = new_content();
    log.store.append(created(id)).await.unwrap();
    log.store.append(published(id, 1)).await.unwrap();
    let stock =
        PostgresEventRepository::new(log.test.database().pool().clone()).with_tables("log.events", "log.snapshots");
    let store = PersistedEventStore::<_, Content>::new_event_store(stock);
    let loaded = store.load_aggregate(&id.to_string()).await.unwrap();
    assert_eq!(loaded.current_sequence, 2);
    assert_eq!(loaded.aggregate.status, ContentStatus::Published);
    let envelopes = store.load_events(&id.to_string()).await.unwrap();
    assert_eq!(envelopes[0].metadata["actor"], "system:tests");
    let ours = log.store.load::<Content>(id).await.unwrap();
    assert_eq!(ours.version, 2);
    assert_eq!(
        serde_json::to_value(&ours.state).unwrap(),
        serde_json::to_value(&loaded.aggregate).unwrap()
    );
    assert_eq!(log.store.load::<Content>(new_content()).await.unwrap().version, 0);
}

#[tokio::test]
async fn the_framework_of_cqrs_es_works_on_our_repository() {
    let log = TestLog::new().await;
    let id = new_user();
    let framework = CqrsFramework::new(
        PersistedEventStore::<_, User>::new_event_store(log.store.repository()),
        vec![],
        (),
    );
    let register = UserCommand::Register {
        email: Personal::new(id, EmailAddress::parse("ada@example.org").unwrap()),
        username: Personal::new(id, Username::parse("ada").unwrap()),
        name: Personal::new(id, "Ada".to_owned()),
        role: Role::Viewer,
        at: at(),
    };
    let (done, receipt) = with_receipt(
        CommitScope::default(),
        framework.execute_with_metadata(&id.to_string(), register.clone(), metadata()),
    )
    .await;
    done.unwrap();
    assert_eq!(receipt.unwrap().last_position, Position(1));
    assert_eq!(log.count("vault.subject_keys").await, 1);
    log.verify().await.unwrap();

    // A name that is taken comes through as what it is.
    let other = new_user();
    let refused = framework
        .execute_with_metadata(&other.to_string(), register, metadata())
        .await
        .unwrap_err();
    let Some(AppendError::Taken { scopes }) = append_error(&refused) else {
        panic!("{refused}")
    };
    assert_eq!(*scopes, [ClaimScope::Email, ClaimScope::Username]);
    // And so does a commit without an actor.
    let nameless = framework
        .execute(
            &id.to_string(),
            UserCommand::Disable {
                reason: String::new(),
                at: at(),
            },
        )
        .await;
    let nameless = nameless.unwrap_err();
    assert!(
        matches!(append_error(&nameless), Some(AppendError::Refused(text)) if text.contains("metadata lacks")),
        "{nameless}"
    );
}

#[tokio::test]
async fn a_stale_commit_through_cqrs_es_is_a_conflict() {
    let log = TestLog::new().await;
    let id = new_content();
    let store = PersistedEventStore::<_, Content>::new_event_store(log.store.repository());
    let early = store.load_aggregate(&id.to_string()).await.unwrap();
    log.store.append(created(id)).await.unwrap();
    let event = ContentEvent::Published { at: at() };
    let refused = store.commit(vec![event], early, metadata()).await.unwrap_err();
    assert!(matches!(refused, AggregateError::AggregateConflict));
    // Nothing to commit is nothing done.
    let now = store.load_aggregate(&id.to_string()).await.unwrap();
    assert!(store.commit(vec![], now, metadata()).await.unwrap().is_empty());
    assert_eq!(log.count("log.commands").await, 1);
}

#[tokio::test]
async fn a_receipt_is_for_the_task_that_commits() {
    let log = TestLog::new().await;
    let (here, there) = (new_content(), new_content());
    let execute = |id: ContentId| {
        let events = PersistedEventStore::<_, Content>::new_event_store(log.store.repository());
        let framework = CqrsFramework::new(events, vec![], ());
        async move {
            framework
                .execute_with_metadata(&id.to_string(), create(id), metadata())
                .await
                .unwrap();
        }
    };
    let ((), receipt) = with_receipt(CommitScope::default(), execute(here)).await;
    assert!(receipt.is_some());
    let spawned = execute(there);
    let (spawned, receipt) = with_receipt(CommitScope::default(), async move { tokio::spawn(spawned).await }).await;
    spawned.unwrap();
    assert!(receipt.is_none());

    let scope = CommitScope {
        conditions: vec![held(ClaimScope::Content, ClaimKey::id(new_content()))],
        ..CommitScope::default()
    };
    let events = PersistedEventStore::<_, Content>::new_event_store(log.store.repository());
    let framework = CqrsFramework::new(events, vec![], ());
    let id = new_content();
    let (refused, receipt) = with_receipt(
        scope,
        framework.execute_with_metadata(&id.to_string(), create(id), metadata()),
    )
    .await;
    assert!(matches!(
        append_error(&refused.unwrap_err()),
        Some(AppendError::Missing { .. })
    ));
    assert!(receipt.is_none());
}

/// The tables of postgres-es 0.5.0, from its init script.
const STOCK_TABLES: &str = "
    create schema stock;
    create table stock.events (
        aggregate_type text not null, aggregate_id text not null, sequence bigint check (sequence >= 0) not null,
        event_type text not null, event_version text not null, payload json not null, metadata json not null,
        primary key (aggregate_type, aggregate_id, sequence)
    );
    create table stock.snapshots (
        aggregate_type text not null, aggregate_id text not null, last_sequence bigint check (last_sequence >= 0) not null,
        current_snapshot bigint check (current_snapshot >= 0) not null, payload json not null,
        primary key (aggregate_type, aggregate_id, last_sequence)
    );
";

/// If this fails after an upgrade of cqrs-es, the defect is mended there and the reason for our path has changed.
#[tokio::test]
async fn the_snapshot_modes_of_cqrs_es_apply_events_twice_and_ours_does_not() {
    let log = TestLog::new().await;
    let owner = log.test.owner();
    sqlx::raw_sql(STOCK_TABLES).execute(owner.pool()).await.unwrap();
    let stock = || PostgresEventRepository::new(owner.pool().clone()).with_tables("stock.events", "stock.snapshots");
    let id = new_user().to_string();

    let theirs = CqrsFramework::new(PersistedEventStore::<_, Auth>::new_aggregate_store(stock()), vec![], ());
    theirs.execute(&id, first_password(&id)).await.unwrap();
    theirs.execute(&id, wrong_password()).await.unwrap();
    let state = PersistedEventStore::<_, Auth>::new_aggregate_store(stock())
        .load_aggregate(&id)
        .await
        .unwrap()
        .aggregate;
    assert_eq!(state.failures, 2, "one wrong password is counted twice");
    let truth = PersistedEventStore::<_, Auth>::new_event_store(stock())
        .load_aggregate(&id)
        .await
        .unwrap()
        .aggregate;
    assert_eq!(truth.failures, 1);

    let ours = [
        PersistedEventStore::<_, Auth>::new_event_store(log.store.repository()),
        PersistedEventStore::<_, Auth>::new_snapshot_store(log.store.repository(), 1),
    ];
    for store in ours {
        let framework = CqrsFramework::new(store, vec![], ());
        let id = new_user();
        let set = first_password(&id.to_string());
        framework
            .execute_with_metadata(&id.to_string(), set, metadata())
            .await
            .unwrap();
        framework
            .execute_with_metadata(&id.to_string(), wrong_password(), metadata())
            .await
            .unwrap();
        assert_eq!(log.store.load::<Auth>(id).await.unwrap().state.failures, 1);
    }
    assert_eq!(log.count("log.snapshots").await, 0);
}

#[tokio::test]
async fn replays_bring_everything_and_end_with_an_error_if_there_is_one() {
    let log = TestLog::new().await;
    let id = new_content();
    log.store.append(created(id)).await.unwrap();
    log.store
        .append(registered(new_user(), "ada@example.org", "ada"))
        .await
        .unwrap();
    log.store.append(created(new_content())).await.unwrap();
    log.store.append(published(id, 1)).await.unwrap();
    let repository = log.store.repository();
    let mut all = repository.stream_all_events::<Content>().await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = all.next::<Content>(&[]).await {
        seen.push((event.as_ref().unwrap().aggregate_id.clone(), event.unwrap().sequence));
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(
        (&seen[0], &seen[2]),
        (&(id.to_string(), 1), &(id.to_string(), 2)),
        "in the order of the log"
    );
    let mut one = repository.stream_events::<Content>(&id.to_string()).await.unwrap();
    let mut count = 0;
    while let Some(event) = one.next::<Content>(&[]).await {
        event.unwrap();
        count += 1;
    }
    assert_eq!(count, 2);
    assert_eq!(
        repository
            .get_last_events::<Content>(&id.to_string(), 1)
            .await
            .unwrap()
            .len(),
        1
    );

    log.tamper("alter table log.events rename column payload to gone").await;
    let mut broken = repository.stream_all_events::<Content>().await.unwrap();
    assert!(broken.next::<Content>(&[]).await.unwrap().is_err());
}

#[tokio::test]
async fn a_stream_with_a_hole_is_not_loaded() {
    let log = TestLog::new().await;
    let id = new_content();
    log.store.append(created(id)).await.unwrap();
    log.store.append(published(id, 1)).await.unwrap();
    log.tamper("delete from log.events where position = 1").await;
    let error = log.store.load::<Content>(id).await.unwrap_err();
    assert!(error.to_string().contains("version 1"), "{error}");
}
