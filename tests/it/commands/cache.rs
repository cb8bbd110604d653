//! States kept in memory: they save reading, and no answer rests on a stale one, whoever else writes.

use annals_commands::auth::{self, ChangePassword, Credential, authenticate};
use annals_commands::content::{
    ContentFieldRecord, NewContent, add_field, create, delete, move_to, put_field, remove_field, set_status,
};
use annals_commands::session::{refresh, revoke_all};
use annals_commands::user::{change_profile, disable};
use annals_commands::{CommandContext, CommandError, CommandSettings, Commands, PasswordPolicy, PasswordSettings};
use annals_domain::{Caller, ClaimScope, ContentFieldId, ContentId, ContentStatus, Place, RevocationReason};
use uuid::Uuid;

use super::{Fixture, PASSWORD, assert_code, new_id, nobody, secret, signed_in_as};

/// Two processes on one log. No conflict is retried, so that nothing but the rule of the cache mends a stale state.
struct Two {
    fixture: Fixture,
    here: CommandContext<'static>,
    there: CommandContext<'static>,
}

impl Two {
    async fn new() -> Self {
        let settings = CommandSettings {
            conflict_retries: 0,
            ..CommandSettings::default()
        };
        let fixture = Fixture::with(settings, PasswordSettings::insecure_and_fast()).await;
        let here = fixture.system();
        let there: &'static Commands = Box::leak(Box::new(fixture.other_process().await));
        let caller = Box::leak(Box::new(Caller::system("test", Uuid::now_v7())));
        let there = there.on_behalf_of(caller);
        Self { fixture, here, there }
    }

    /// A node that both have read.
    async fn node(&self) -> ContentId {
        let id = create(&self.here, NewContent::default()).await.unwrap().id;
        set_status(&self.there, id, ContentStatus::Draft, None).await.unwrap();
        id
    }

    fn hits(&self) -> u64 {
        self.here.commands.cache_counts().hits
    }
}

fn record(content_id: ContentId, text: &str) -> ContentFieldRecord {
    ContentFieldRecord {
        content_id,
        field_id: None,
        route_id: None,
        value: text.to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

#[tokio::test]
async fn the_next_command_on_a_stream_reads_nothing() {
    let two = Two::new().await;
    let id = create(&two.here, NewContent::default()).await.unwrap().id;
    assert_eq!(two.hits(), 0);
    for (number, status) in [ContentStatus::Published, ContentStatus::Archived, ContentStatus::Draft]
        .into_iter()
        .enumerate()
    {
        let done = set_status(&two.here, id, status, None).await.unwrap();
        assert_eq!(done.version, number as u64 + 2);
        assert_eq!(done.state.status, status);
        assert_eq!(two.hits(), number as u64 + 1);
    }
    // What is so already is answered from memory too, and is where the log says it is.
    let head = two.fixture.head().await;
    let done = set_status(&two.here, id, ContentStatus::Draft, Some(4)).await.unwrap();
    assert_eq!((done.version, done.position), (4, head));
    let counts = two.here.commands.cache_counts();
    assert_eq!((counts.hits, counts.misses, counts.stale), (4, 0, 0));
}

#[tokio::test]
async fn what_another_process_has_written_is_decided_upon() {
    let two = Two::new().await;
    let id = two.node().await;
    let start = two.fixture.head().await;
    set_status(&two.there, id, ContentStatus::Published, None)
        .await
        .unwrap();
    let done = set_status(&two.here, id, ContentStatus::Published, None).await.unwrap();
    assert_eq!(done.version, 2);
    let done = set_status(&two.here, id, ContentStatus::Archived, None).await.unwrap();
    assert_eq!(done.version, 3);
    assert_eq!(
        two.fixture.types_since(start).await,
        ["content.published", "content.archived"]
    );
    assert_eq!(two.here.commands.cache_counts().stale, 1);
}

#[tokio::test]
async fn nothing_to_do_is_said_only_of_what_is_so_now() {
    let two = Two::new().await;
    let id = two.node().await;
    set_status(&two.here, id, ContentStatus::Published, None).await.unwrap();
    set_status(&two.there, id, ContentStatus::Archived, None).await.unwrap();
    let done = set_status(&two.here, id, ContentStatus::Published, None).await.unwrap();
    assert_eq!((done.version, done.state.status), (4, ContentStatus::Published));
}

#[tokio::test]
async fn a_refusal_is_given_only_for_what_is_so_now() {
    let two = Two::new().await;
    let id = two.node().await;
    let value: ContentFieldId = new_id();
    add_field(&two.here, Some(value), record(id, "one")).await.unwrap();
    // Here it is still taken.
    remove_field(&two.there, value).await.unwrap();
    add_field(&two.here, Some(value), record(id, "two")).await.unwrap();
    remove_field(&two.here, value).await.unwrap();
    // Here there is still no such value.
    add_field(&two.there, Some(value), record(id, "three")).await.unwrap();
    let put = put_field(&two.here, value, record(id, "four")).await.unwrap();
    assert_eq!(put.state.fields[&value].value, "four");
    remove_field(&two.there, value).await.unwrap();
    add_field(&two.there, Some(value), record(id, "five")).await.unwrap();
    remove_field(&two.here, value).await.unwrap();
    // What is refused by the present state stays refused.
    assert_code(remove_field(&two.here, value).await, "content.field_not_found");
}

#[tokio::test]
async fn what_was_deleted_elsewhere_is_gone_here() {
    let two = Two::new().await;
    let id = two.node().await;
    set_status(&two.here, id, ContentStatus::Published, None).await.unwrap();
    delete(&two.there, id, None).await.unwrap();
    assert_code(
        set_status(&two.here, id, ContentStatus::Archived, None).await,
        "content.not_found",
    );
    let other = two.node().await;
    delete(&two.there, other, None).await.unwrap();
    assert_code(
        set_status(&two.here, other, ContentStatus::Draft, None).await,
        "content.not_found",
    );
}

#[tokio::test]
async fn a_demanded_version_is_compared_with_the_present_one() {
    let two = Two::new().await;
    let id = two.node().await;
    set_status(&two.there, id, ContentStatus::Published, None)
        .await
        .unwrap();
    // Here version 1 is kept; the client has seen version 2.
    let done = set_status(&two.here, id, ContentStatus::Archived, Some(2))
        .await
        .unwrap();
    assert_eq!(done.version, 3);
    set_status(&two.there, id, ContentStatus::Draft, Some(3)).await.unwrap();
    // Here version 3 is kept, and the client has seen no more; with events to write, and without.
    for status in [ContentStatus::Pending, ContentStatus::Archived] {
        let refused = set_status(&two.here, id, status, Some(3)).await.unwrap_err();
        assert!(
            matches!(refused, CommandError::Stale { expected: 3, actual: 4 }),
            "{refused:?}"
        );
        // Stale here once more.
        set_status(&two.here, id, ContentStatus::Draft, None).await.unwrap();
    }
}

#[tokio::test]
async fn ancestors_moved_elsewhere_close_no_circle_and_forbid_nothing() {
    let two = Two::new().await;
    let (a, b) = (two.node().await, two.node().await);
    // Here neither has a parent.
    move_to(&two.there, b, Some(a), Place::Last, None).await.unwrap();
    assert_code(move_to(&two.here, a, Some(b), Place::Last, None).await, "content.cycle");
    // Here b still hangs under a.
    move_to(&two.there, b, None, Place::Last, None).await.unwrap();
    move_to(&two.here, a, Some(b), Place::Last, None).await.unwrap();
    two.fixture
        .commands
        .store()
        .verify(annals_eventstore::Position(1), |_| {})
        .await
        .unwrap();
}

#[tokio::test]
async fn two_processes_that_take_turns_never_collide() {
    let two = Two::new().await;
    let id = two.node().await;
    for round in 0..10 {
        let status = [ContentStatus::Published, ContentStatus::Archived];
        let first = set_status(&two.here, id, status[0], None).await.unwrap();
        let second = set_status(&two.there, id, status[1], None).await.unwrap();
        assert_eq!((first.version, second.version), (2 + 2 * round, 3 + 2 * round));
    }
}

/// Every answer of a long history of commands, by two processes in turn, is what a store without memory would give.
#[tokio::test]
async fn a_history_of_two_processes_goes_as_if_there_were_no_memory() {
    let two = Two::new().await;
    let nodes = [two.node().await, two.node().await];
    let mut model = [(ContentStatus::Draft, 1_u64); 2];
    let mut random = 7_u64;
    let mut below = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for step in 0..300 {
        let which = usize::from(below(2) == 1);
        let status = ContentStatus::ALL[usize::try_from(below(4)).unwrap()];
        let (present, version) = &mut model[which];
        let expected = (below(3) == 0).then(|| version.saturating_sub(below(2)));
        let cx = if below(2) == 0 { &two.here } else { &two.there };
        let answer = set_status(cx, nodes[which], status, expected).await;
        if let Some(expected) = expected.filter(|expected| *expected != *version) {
            let refused = answer.unwrap_err();
            let actual = *version;
            assert!(
                matches!(refused, CommandError::Stale { expected: e, actual: a } if (e, a) == (expected, actual)),
                "step {step}: {refused:?}"
            );
            continue;
        }
        *version += u64::from(*present != status);
        *present = status;
        let answer = answer.unwrap();
        assert_eq!(
            (answer.state.status, answer.version),
            (*present, *version),
            "step {step}"
        );
    }
    assert!(
        two.here.commands.cache_counts().stale > 10,
        "the history is a trial of nothing"
    );
}

#[tokio::test]
async fn what_revokes_elsewhere_revokes_here() {
    let two = Two::new().await;
    two.fixture.register("ada@example.org").await;
    let session = two.fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let token = session.tokens.refresh_token.clone().unwrap();
    // Whatever could be kept of the session, of its user and of their credentials has been read here.
    let again = refresh(&two.fixture.context(nobody()), &token).await.unwrap();
    let token = again.tokens.refresh_token.clone().unwrap();
    let access = again.tokens.access_token.clone();
    authenticate(&two.fixture.commands, Some(&access)).await.unwrap();

    revoke_all(&two.there, session.user_id, RevocationReason::UserLogoutAll)
        .await
        .unwrap();
    assert!(authenticate(&two.fixture.commands, Some(&access)).await.is_err());
    let refused = refresh(&two.fixture.context(nobody()), &token).await.unwrap_err();
    assert!(matches!(refused, CommandError::Token(_)), "{refused:?}");
    let counts = two.here.commands.cache_counts();
    assert_eq!((counts.hits, counts.stale), (0, 0));
}

#[tokio::test]
async fn a_password_changed_or_a_user_disabled_elsewhere_is_so_here() {
    const NEW: &str = "An0ther-h0rse!";
    let two = Two::new().await;
    two.fixture.register("ada@example.org").await;
    let session = two.fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let caller = Box::leak(Box::new(signed_in_as(&session)));
    let change = ChangePassword {
        current: secret(PASSWORD),
        new: secret(NEW),
        policy: PasswordPolicy::NONE,
        keep_current_session: false,
    };
    auth::change_password(&two.there.commands.on_behalf_of(caller), change)
        .await
        .unwrap();
    assert_code(
        two.fixture.sign_in("ada@example.org", PASSWORD).await,
        auth::INVALID_CREDENTIALS,
    );
    // The wrong password is recorded behind the answer, and would be in the way of what comes next.
    two.fixture.commands.quiesce().await;
    two.fixture.sign_in("ada@example.org", NEW).await.unwrap();
    disable(&two.there, session.user_id, "a test".to_owned(), None)
        .await
        .unwrap();
    assert_code(two.fixture.sign_in("ada@example.org", NEW).await, auth::USER_DISABLED);
    let options = two.here.commands.settings().opaque_sign_in();
    let refused = auth::sign_in(&two.here, Credential::Email("ada@example.org"), &secret(NEW), options).await;
    assert_code(refused, auth::USER_DISABLED);
}

#[tokio::test]
async fn nothing_of_a_person_is_kept_and_an_erasure_shows_at_once() {
    let two = Two::new().await;
    let ada = two.fixture.register("ada@example.org").await.user_id;
    change_profile(&two.here, ada, "Ada".to_owned(), None).await.unwrap();
    two.here.commands.store().vault().erase(ada.as_uuid()).await.unwrap();
    let done = disable(&two.here, ada, "erased".to_owned(), None).await.unwrap();
    assert_eq!(done.state.name.unwrap().get(), None);
    let refused = change_profile(&two.here, ada, "Ada".to_owned(), None).await;
    assert_code(refused, "user.disabled");
    assert_eq!(two.hits(), 0);
}

#[tokio::test]
async fn what_does_not_exist_is_not_kept_as_missing() {
    let two = Two::new().await;
    let id: ContentId = new_id();
    assert_code(
        set_status(&two.here, id, ContentStatus::Draft, None).await,
        "content.not_found",
    );
    let new = NewContent {
        content_id: Some(id),
        ..NewContent::default()
    };
    create(&two.there, new.clone()).await.unwrap();
    set_status(&two.here, id, ContentStatus::Published, None).await.unwrap();
    // A second creation is refused by the claim or by the aggregate itself, here as there.
    for cx in [&two.here, &two.there] {
        assert_code(create(cx, new.clone()).await, "content.already_exists");
    }
    let missing = ClaimScope::Content;
    let under = NewContent {
        parent_id: Some(new_id()),
        ..NewContent::default()
    };
    let refused = create(&two.here, under).await.unwrap_err();
    assert!(matches!(refused, CommandError::Missing { scope, .. } if scope == missing));
}
