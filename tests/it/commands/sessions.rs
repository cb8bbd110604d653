//! Sessions after their start: continued by one, ended by their owner, over by time.

use annals_commands::auth::{Credential, SignedIn, authenticate, sign_in};
use annals_commands::session::{Refreshed, expire, refresh, refresh_signed, revoke, revoke_all};
use annals_commands::user::disable;
use annals_commands::{CommandError, TokenFault};
use annals_domain::{RevocationReason, Role, SessionId, UserId};
use futures::future::join_all;

use super::{Fixture, PASSWORD, assert_code, new_id, nobody, secret, signed_in_as, user};

const DAY: i64 = 24 * 3600;

async fn opaque(fixture: &Fixture) -> SignedIn {
    fixture.register("ada@example.org").await;
    fixture.sign_in("ada@example.org", PASSWORD).await.unwrap()
}

async fn signed(fixture: &Fixture) -> SignedIn {
    fixture.register("ada@example.org").await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let options = fixture.commands.settings().signed_sign_in();
    sign_in(&cx, Credential::Email("ada@example.org"), &secret(PASSWORD), options)
        .await
        .unwrap()
}

async fn refresh_with(fixture: &Fixture, token: &str) -> Result<Refreshed, CommandError> {
    refresh(&fixture.context(nobody()), token).await
}

#[track_caller]
fn assert_fault<T>(answer: Result<T, CommandError>, fault: TokenFault) {
    match answer {
        Err(CommandError::Token(found)) => assert_eq!(found, fault),
        Err(other) => panic!("{other:?} instead of {fault:?}"),
        Ok(_) => panic!("accepted instead of {fault:?}"),
    }
}

fn refresh_token(signed_in: &SignedIn) -> String {
    signed_in.tokens.refresh_token.clone().unwrap()
}

#[tokio::test]
async fn a_refresh_replaces_the_token_and_moves_the_end() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    fixture.clock.advance_seconds(29 * DAY);
    let next = refresh_with(&fixture, &refresh_token(&start)).await.unwrap();
    assert_eq!((next.session_id, next.user_id), (start.session_id, start.user_id));
    assert_ne!(next.tokens.refresh_token, start.tokens.refresh_token);
    assert_eq!(
        next.tokens.session_expires_at,
        fixture.commands.now().plus_seconds(30 * DAY)
    );
    assert!(
        authenticate(&fixture.commands, Some(&next.tokens.access_token))
            .await
            .is_ok()
    );
    fixture.clock.advance_seconds(29 * DAY);
    refresh_with(&fixture, &next.tokens.refresh_token.unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_twenty_uses_of_one_token_one_renews_and_all_get_the_same() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let token: &'static str = refresh_token(&start).leak();
    let here = fixture.context(nobody());
    let other: &'static _ = Box::leak(Box::new(fixture.other_process().await));
    let there = annals_commands::CommandContext {
        commands: other,
        caller: here.caller,
    };
    let head = fixture.head().await;
    let uses = (0..20).map(|number| {
        let cx = if number % 2 == 0 { here } else { there };
        tokio::spawn(async move { refresh(&cx, token).await })
    });
    let mut successors = Vec::new();
    for answer in join_all(uses).await {
        successors.push(answer.unwrap().unwrap().tokens.refresh_token.unwrap());
    }
    successors.dedup();
    assert_eq!(successors.len(), 1);
    assert_eq!(fixture.types_since(head).await, ["session.refreshed"]);
    refresh_with(&fixture, &successors[0]).await.unwrap();
}

#[tokio::test] // RF-3, RF-4
async fn a_lost_answer_can_be_asked_for_again_for_thirty_seconds() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let next = refresh_with(&fixture, &refresh_token(&start)).await.unwrap();
    let head = fixture.head().await;
    fixture.clock.advance_seconds(29);
    let again = refresh_with(&fixture, &refresh_token(&start)).await.unwrap();
    assert_eq!(again.tokens.refresh_token, next.tokens.refresh_token);
    assert_eq!(fixture.head().await, head, "nothing is recorded");
    fixture.clock.advance_seconds(1);
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Invalid,
    );
    assert_eq!(fixture.types_since(head).await, ["session.revoked"]);
    for token in [&next, &again].map(|refreshed| refreshed.tokens.refresh_token.clone().unwrap()) {
        assert_fault(refresh_with(&fixture, &token).await, TokenFault::Invalid);
    }
    assert!(
        authenticate(&fixture.commands, Some(&again.tokens.access_token))
            .await
            .is_err()
    );
    assert_eq!(fixture.types_since(head).await.len(), 1);
}

#[tokio::test] // RF-2
async fn a_token_whose_successor_was_used_ends_the_session() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let second = refresh_with(&fixture, &refresh_token(&start)).await.unwrap();
    let third = refresh_with(&fixture, &second.tokens.refresh_token.unwrap())
        .await
        .unwrap();
    let head = fixture.head().await;
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Invalid,
    );
    assert_eq!(fixture.types_since(head).await, ["session.revoked"]);
    assert_fault(
        refresh_with(&fixture, &third.tokens.refresh_token.unwrap()).await,
        TokenFault::Invalid,
    );
}

#[tokio::test] // RF-7
async fn a_forged_token_does_not_touch_the_session() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let token = refresh_token(&start);
    refresh_with(&fixture, &token).await.unwrap();
    let head = fixture.head().await;
    for place in 0..token.len() {
        let mut forged = token.clone().into_bytes();
        forged[place] = if forged[place] == b'A' { b'E' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        if forged != token {
            let answer = refresh_with(&fixture, &forged).await;
            assert!(matches!(answer, Err(CommandError::Token(_))), "place {place}");
        }
    }
    for cut in [0, 1, 43, 85] {
        let answer = refresh_with(&fixture, &token[..cut]).await;
        assert!(matches!(answer, Err(CommandError::Token(_))), "{cut} characters");
    }
    assert_fault(
        refresh_with(&fixture, &format!("{token}A")).await,
        TokenFault::Malformed,
    );
    assert_eq!(fixture.head().await, head);
    refresh_with(&fixture, &token).await.unwrap();
}

#[tokio::test]
async fn a_session_past_its_time_is_recorded_as_such() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    fixture.clock.advance_seconds(30 * DAY);
    let head = fixture.head().await;
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Expired,
    );
    assert_eq!(fixture.types_since(head).await, ["session.expired"]);
    // Its token is not known any more.
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Invalid,
    );
    assert_eq!(fixture.types_since(head).await.len(), 1);
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let head = fixture.head().await;
    let cut = refresh_token(&start)[..85].to_owned();
    for token in ["", "x", &cut, &format!("{cut}="), &start.tokens.access_token] {
        assert_fault(refresh_with(&fixture, token).await, TokenFault::Malformed);
    }
    let other = annals_commands::services::token::OpaqueToken::generate().unwrap();
    assert_fault(refresh_with(&fixture, other.as_str()).await, TokenFault::Invalid);
    assert_eq!(fixture.head().await, head);
    refresh_with(&fixture, &refresh_token(&start)).await.unwrap();
}

#[tokio::test]
async fn a_disabled_user_refreshes_nothing() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    disable(&fixture.system(), start.user_id, "left".to_owned(), None)
        .await
        .unwrap();
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Invalid,
    );
}

#[tokio::test]
async fn a_signed_refresh_token_stays_until_its_session_ends() {
    let fixture = Fixture::new().await;
    let start = signed(&fixture).await;
    let token = refresh_token(&start);
    let cx = fixture.context(nobody());
    for day in 1..=6 {
        fixture.clock.advance_seconds(DAY);
        let next = refresh_signed(&cx, &token).await.unwrap();
        assert_eq!(next.session_id, start.session_id, "day {day}");
        assert_eq!(next.tokens.refresh_token, None);
        assert_eq!(next.tokens.session_expires_at, start.tokens.session_expires_at);
        assert!(
            authenticate(&fixture.commands, Some(&next.tokens.access_token))
                .await
                .is_ok()
        );
    }
    assert_fault(
        refresh_signed(&cx, &start.tokens.access_token).await,
        TokenFault::Expired,
    );
    fixture.clock.advance_seconds(DAY);
    assert_fault(refresh_signed(&cx, &token).await, TokenFault::Expired);
}

#[tokio::test]
async fn a_signed_refresh_token_ends_with_its_session() {
    let fixture = Fixture::new().await;
    let start = signed(&fixture).await;
    let cx = fixture.context(nobody());
    assert_fault(
        refresh_signed(&cx, &start.tokens.access_token).await,
        TokenFault::WrongType,
    );
    assert_fault(refresh_signed(&cx, "a.b.c").await, TokenFault::Malformed);
    // A signed token cannot continue a session of opaque tokens, nor the reverse.
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Malformed,
    );
    let own = fixture.context(signed_in_as(&start));
    revoke(&own, start.session_id, RevocationReason::UserLogout)
        .await
        .unwrap();
    assert_fault(refresh_signed(&cx, &refresh_token(&start)).await, TokenFault::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_uses_of_a_signed_token_at_once_all_succeed() {
    let fixture = Fixture::new().await;
    let start = signed(&fixture).await;
    let token: &'static str = refresh_token(&start).leak();
    let cx = fixture.context(nobody());
    let uses = (0..8).map(|_| tokio::spawn(async move { refresh_signed(&cx, token).await }));
    for answer in join_all(uses).await {
        answer.unwrap().unwrap();
    }
}

#[tokio::test]
async fn only_its_owner_ends_a_session_and_only_once() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let other = fixture.register("eve@example.org").await.user_id;
    let head = fixture.head().await;
    let reason = RevocationReason::UserRevoke;
    let eve = fixture.context(user(other, Role::Administrator));
    assert_code(revoke(&eve, start.session_id, reason).await, "session.not_found");
    let own = fixture.context(signed_in_as(&start));
    assert_code(revoke(&own, new_id::<SessionId>(), reason).await, "session.not_found");
    let anonymous = fixture.context(nobody());
    assert!(matches!(
        revoke(&anonymous, start.session_id, reason).await,
        Err(CommandError::Denied(_))
    ));
    assert_eq!(fixture.head().await, head);

    let ended = revoke(&own, start.session_id, reason).await.unwrap();
    assert_eq!(ended.state.revocation, Some(reason));
    assert_code(revoke(&own, start.session_id, reason).await, "session.not_found");
    assert_fault(
        refresh_with(&fixture, &refresh_token(&start)).await,
        TokenFault::Invalid,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_who_end_a_session_at_once_one_does() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let own = fixture.context(signed_in_as(&start));
    let id = start.session_id;
    let tasks = (0..6).map(|_| tokio::spawn(async move { revoke(&own, id, RevocationReason::UserLogout).await }));
    let mut ended = 0;
    for answer in join_all(tasks).await {
        match answer.unwrap() {
            Ok(_) => ended += 1,
            other => assert_code(other, "session.not_found"),
        }
    }
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn ending_all_sessions_counts_those_that_were_live() {
    let fixture = Fixture::new().await;
    let id: UserId = fixture.register("ada@example.org").await.user_id;
    let old = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    fixture.clock.advance_seconds(30 * DAY);
    let first = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let second = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let eve = fixture.register("eve@example.org").await.user_id;
    let hers = fixture.sign_in("eve@example.org", PASSWORD).await.unwrap();

    let reason = RevocationReason::UserLogoutAll;
    let denied = revoke_all(&fixture.context(user(eve, Role::Editor)), id, reason).await;
    assert!(matches!(denied, Err(CommandError::Denied(_))));
    let own = fixture.context(signed_in_as(&first));
    assert_eq!(revoke_all(&own, id, reason).await.unwrap().sessions, 2);
    for session in [&old, &first, &second] {
        assert!(
            authenticate(&fixture.commands, Some(&session.tokens.access_token))
                .await
                .is_err()
        );
    }
    assert!(
        authenticate(&fixture.commands, Some(&hers.tokens.access_token))
            .await
            .is_ok()
    );
    let again = revoke_all(&own, id, reason).await.unwrap();
    assert_eq!((again.sessions, again.position), (0, fixture.head().await));
    assert_eq!(revoke_all(&fixture.system(), eve, reason).await.unwrap().sessions, 1);
}

#[tokio::test]
async fn a_session_expires_only_when_its_time_is_over() {
    let fixture = Fixture::new().await;
    let start = opaque(&fixture).await;
    let system = fixture.system();
    assert_code(expire(&system, start.session_id).await, "session.not_expired");
    assert_code(expire(&system, new_id::<SessionId>()).await, "session.not_found");
    fixture.clock.advance_seconds(30 * DAY);
    expire(&system, start.session_id).await.unwrap();
    let head = fixture.head().await;
    expire(&system, start.session_id).await.unwrap();
    assert_eq!(fixture.head().await, head);
}
