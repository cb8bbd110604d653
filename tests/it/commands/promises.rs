//! What a client promised with an idempotency key reaches the log with the first commit, and with no other.

use std::sync::Arc;

use annals_commands::route::{self, RouteRecord};
use annals_commands::{CommandContext, CommandError};
use annals_domain::{Actor, Caller, Promise, PromiseOutcome, PromisedRequest, Realm, Role, Slug, UserId};
use annals_eventstore::{Idempotency, Known, RequestParts};

use super::{Fixture, new_id, user};

fn record(slug: &str) -> RouteRecord {
    RouteRecord {
        slug: Slug::parse(slug).unwrap(),
        title: "Home".to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

fn request(fixture: &Fixture, id: UserId, key: &str, body: &str) -> Idempotency {
    let store = fixture.commands.store();
    let parts = RequestParts {
        method: "POST",
        target: "/api/v1/routes",
        media_type: b"application/json",
        body: body.as_bytes(),
    };
    store.idempotency(&Actor::User(id), key, store.request_hash(key, &parts))
}

fn promised(id: UserId, request: &Idempotency) -> (Caller, Arc<Promise>) {
    let promise = Arc::new(Promise::default());
    promise.bind(PromisedRequest {
        principal: request.principal.clone(),
        key: request.key.clone(),
        request_hash: request.request_hash.0,
    });
    let caller = Caller {
        promise: Some(Arc::clone(&promise)),
        ..user(id, Role::Editor)
    };
    (caller, promise)
}

async fn create(cx: &CommandContext<'_>, slug: &str) -> Result<u64, CommandError> {
    let created = route::create(cx, None, Realm::Site, record(slug)).await?;
    Ok(created.position.get())
}

#[tokio::test]
async fn the_first_commit_of_a_request_takes_the_key_and_later_ones_go_without() {
    let fixture = Fixture::new().await;
    let id: UserId = new_id();
    let first = request(&fixture, id, "k", "1");
    let (caller, promise) = promised(id, &first);
    let cx = fixture.commands.on_behalf_of(&caller);
    let position = create(&cx, "/one").await.unwrap();
    create(&cx, "/two").await.unwrap();
    let Some(PromiseOutcome::CarriedOut(commit)) = promise.outcome() else {
        panic!("{promise:?}");
    };
    assert_eq!(
        (commit.position, commit.subjects.as_slice()),
        (position, [id].as_slice())
    );
    let known = fixture
        .commands
        .store()
        .first_answer(&first, std::time::Duration::from_secs(3600))
        .await;
    assert!(
        matches!(known.unwrap(), Known::CarriedOut { position: at, answer: None, .. } if at.get() == position),
        "known by its first commit"
    );

    // The same request by another process, and another request under the same key: both write nothing.
    let head = fixture.head().await;
    let other = fixture.other_process().await;
    let (again, promise) = promised(id, &first);
    let refused = create(&other.on_behalf_of(&again), "/three").await;
    assert!(matches!(refused, Err(CommandError::AlreadyCarriedOut { position: at }) if at.get() == position));
    assert_eq!(promise.outcome(), Some(&PromiseOutcome::CarriedOutBefore { position }));
    let (reused, promise) = promised(id, &request(&fixture, id, "k", "2"));
    let refused = create(&other.on_behalf_of(&reused), "/three").await;
    assert!(!matches!(refused, Err(CommandError::AlreadyCarriedOut { .. })) && refused.is_err());
    // The hash covers the body, so that the log knows this for another request.
    assert_eq!(promise.outcome(), Some(&PromiseOutcome::KeyReused));
    assert_eq!(fixture.head().await, head);
}

#[tokio::test]
async fn a_refused_command_leaves_the_promise_open() {
    let fixture = Fixture::new().await;
    let id: UserId = new_id();
    create(&fixture.system(), "/taken").await.unwrap();
    let (caller, promise) = promised(id, &request(&fixture, id, "k", "1"));
    let cx = fixture.commands.on_behalf_of(&caller);
    create(&cx, "/taken").await.unwrap_err();
    assert_eq!(promise.outcome(), None);
    create(&cx, "/free").await.unwrap();
    assert!(matches!(promise.outcome(), Some(PromiseOutcome::CarriedOut(_))));
}

#[tokio::test]
async fn a_key_of_which_nobody_said_whose_it_is_commits_nothing() {
    let fixture = Fixture::new().await;
    let caller = Caller {
        promise: Some(Arc::default()),
        ..user(new_id(), Role::Editor)
    };
    let head = fixture.head().await;
    let refused = create(&fixture.commands.on_behalf_of(&caller), "/one").await;
    assert!(matches!(refused, Err(CommandError::Internal(_))), "{refused:?}");
    assert_eq!(fixture.head().await, head);
}
