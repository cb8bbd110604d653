//! Rules of sessions: given facts, when a command, then facts or a broken rule.

use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{MAX_REFRESHES, RevocationReason, Session, SessionCommand, SessionError, SessionEvent, SessionStatus};
use crate::caller::Device;
use crate::claims::{ClaimChange, ClaimKey, ClaimScope, session_key};
use crate::ids::{SessionId, UserId};
use crate::personal::Personal;
use crate::registry::{DomainError, Event};
use crate::values::{Timestamp, TokenDigest};

const USER: UserId = UserId::new(Uuid::from_u128(1));
const SESSION: SessionId = SessionId::new(Uuid::from_u128(2));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn digest(byte: u8) -> TokenDigest {
    TokenDigest::new([byte; 32])
}

fn device() -> Personal<Device> {
    Personal::new(USER, Device::default())
}

fn started(token: Option<TokenDigest>) -> SessionEvent {
    SessionEvent::Started {
        user_id: USER,
        refresh_digest: token,
        device: device(),
        address: None,
        expires_at: at(100),
        at: at(0),
    }
}

fn refreshed(token: Option<TokenDigest>) -> SessionEvent {
    SessionEvent::Refreshed {
        refresh_digest: token,
        expires_at: at(200),
        address: None,
        at: at(50),
    }
}

fn revoked() -> SessionEvent {
    SessionEvent::Revoked {
        reason: RevocationReason::UserLogout,
        at: at(60),
    }
}

fn refresh(presented: Option<TokenDigest>, next: Option<TokenDigest>, seconds: i64) -> SessionCommand {
    SessionCommand::Refresh {
        presented,
        generation: None,
        grace_seconds: 30,
        next,
        expires_at: at(seconds + 150),
        address: None,
        at: at(seconds),
    }
}

fn revoke(seconds: i64) -> SessionCommand {
    SessionCommand::Revoke {
        reason: RevocationReason::UserLogout,
        at: at(seconds),
    }
}

fn given(facts: Vec<SessionEvent>) -> AggregateTestExecutor<Session> {
    TestFramework::<Session>::with(()).given(facts)
}

fn folded(facts: Vec<SessionEvent>) -> Session {
    let mut session = Session::default();
    facts.into_iter().for_each(|fact| session.apply(fact));
    session
}

fn start() -> SessionCommand {
    SessionCommand::Start {
        user_id: USER,
        refresh_digest: Some(digest(1)),
        device: device(),
        address: None,
        expires_at: at(100),
        at: at(0),
    }
}

#[test]
fn a_session_starts() {
    given(vec![])
        .when(start())
        .then_expect_events(vec![started(Some(digest(1)))]);
}

#[test]
fn a_session_starts_only_once() {
    for facts in [
        vec![started(None)],
        vec![started(None), revoked()],
        vec![started(None), SessionEvent::Expired { at: at(100) }],
    ] {
        given(facts)
            .when(start())
            .then_expect_error(SessionError::AlreadyStarted);
    }
}

#[test]
fn the_current_token_refreshes() {
    given(vec![started(Some(digest(1)))])
        .when(refresh(Some(digest(1)), Some(digest(2)), 50))
        .then_expect_events(vec![refreshed(Some(digest(2)))]);
}

/// A token that is known to be of this generation.
fn refresh_of(generation: u32, presented: TokenDigest, seconds: i64) -> SessionCommand {
    match refresh(Some(presented), Some(digest(9)), seconds) {
        SessionCommand::Refresh {
            presented,
            grace_seconds,
            next,
            expires_at,
            address,
            at,
            ..
        } => SessionCommand::Refresh {
            presented,
            generation: Some(generation),
            grace_seconds,
            next,
            expires_at,
            address,
            at,
        },
        other => other,
    }
}

#[test] // RF-3
fn a_token_shown_again_within_the_grace_changes_nothing() {
    let facts = vec![started(Some(digest(1))), refreshed(Some(digest(2)))];
    for seconds in [50, 60, 79] {
        given(facts.clone())
            .when(refresh_of(0, digest(1), seconds))
            .then_expect_events(vec![]);
    }
}

#[test] // RF-2, RF-4
fn a_token_that_was_exchanged_before_ends_the_session() {
    let reused = |seconds| SessionEvent::Revoked {
        reason: RevocationReason::RefreshReuse,
        at: at(seconds),
    };
    let facts = vec![started(Some(digest(1))), refreshed(Some(digest(2)))];
    given(facts.clone())
        .when(refresh_of(0, digest(1), 80))
        .then_expect_events(vec![reused(80)]);
    // Its successor was used: there is no grace any more.
    let facts = [facts, vec![refreshed(Some(digest(3)))]].concat();
    given(facts.clone())
        .when(refresh_of(0, digest(1), 51))
        .then_expect_events(vec![reused(51)]);
    given(facts)
        .when(refresh_of(1, digest(2), 51))
        .then_expect_events(vec![]);
}

#[test] // RF-7
fn what_is_not_known_to_be_a_token_of_the_session_does_not_touch_it() {
    let facts = vec![started(Some(digest(1))), refreshed(Some(digest(2)))];
    given(facts.clone())
        .when(refresh(Some(digest(7)), Some(digest(3)), 60))
        .then_expect_error(SessionError::RefreshTokenUnknown);
    given(facts.clone())
        .when(refresh_of(2, digest(7), 60))
        .then_expect_error(SessionError::RefreshTokenUnknown);
    given(facts)
        .when(refresh_of(1, digest(7), 60))
        .then_expect_error(SessionError::RefreshTokenUnknown);
}

#[test]
fn a_session_with_an_opaque_token_is_not_refreshed_without_it() {
    given(vec![started(Some(digest(1)))])
        .when(refresh(None, None, 50))
        .then_expect_error(SessionError::RefreshTokenUnknown);
    given(vec![started(None)])
        .when(refresh(Some(digest(1)), Some(digest(2)), 50))
        .then_expect_error(SessionError::RefreshTokenUnknown);
}

#[test]
fn a_session_with_signed_tokens_is_refreshed_without_a_digest() {
    given(vec![started(None)])
        .when(refresh(None, None, 50))
        .then_expect_events(vec![refreshed(None)]);
}

#[test]
fn a_refresh_past_its_time_ends_the_session_instead() {
    for presented in [Some(digest(1)), Some(digest(9)), None] {
        given(vec![started(Some(digest(1)))])
            .when(refresh(presented, Some(digest(2)), 100))
            .then_expect_events(vec![SessionEvent::Expired { at: at(100) }]);
    }
}

#[test]
fn an_ended_session_is_not_refreshed() {
    for end in [revoked(), SessionEvent::Expired { at: at(60) }] {
        given(vec![started(Some(digest(1))), end])
            .when(refresh(Some(digest(1)), Some(digest(2)), 70))
            .then_expect_error(SessionError::NotLive);
    }
}

#[test]
fn refreshing_has_a_limit() {
    let mut facts = vec![started(None)];
    facts.extend((1..MAX_REFRESHES).map(|_| refreshed(None)));
    assert!(
        given(facts.clone())
            .when(refresh(None, None, 60))
            .inspect_result()
            .is_ok()
    );
    facts.push(refreshed(None));
    given(facts)
        .when(refresh(None, None, 60))
        .then_expect_error(SessionError::RefreshLimit);
}

#[test]
fn a_session_is_revoked_once() {
    given(vec![started(None)])
        .when(revoke(60))
        .then_expect_events(vec![revoked()]);
    given(vec![started(None), revoked()])
        .when(revoke(70))
        .then_expect_error(SessionError::NotLive);
}

#[test]
fn a_session_that_ran_out_unnoticed_can_still_be_revoked() {
    let events = given(vec![started(None)]).when(revoke(500)).inspect_result().unwrap();
    assert!(matches!(events[..], [SessionEvent::Revoked { .. }]));
}

#[test]
fn a_session_expires_at_its_time_and_not_before() {
    let expire = |seconds| SessionCommand::Expire { at: at(seconds) };
    given(vec![started(None)])
        .when(expire(99))
        .then_expect_error(SessionError::NotExpired);
    given(vec![started(None)])
        .when(expire(100))
        .then_expect_events(vec![SessionEvent::Expired { at: at(100) }]);
    given(vec![started(None), refreshed(None)])
        .when(expire(150))
        .then_expect_error(SessionError::NotExpired);
    for end in [revoked(), SessionEvent::Expired { at: at(100) }] {
        given(vec![started(None), end])
            .when(expire(100))
            .then_expect_events(vec![]);
    }
}

#[test]
fn a_session_that_never_started_is_unknown() {
    given(vec![])
        .when(refresh(None, None, 1))
        .then_expect_error(SessionError::NotFound);
    given(vec![]).when(revoke(1)).then_expect_error(SessionError::NotFound);
    given(vec![])
        .when(SessionCommand::Expire { at: at(1) })
        .then_expect_error(SessionError::NotFound);
}

#[test]
fn only_a_started_session_within_its_time_is_live() {
    assert!(!Session::default().is_live(at(0)));
    let session = folded(vec![started(None)]);
    assert!(session.is_live(at(0)) && session.is_live(at(99)));
    assert!(!session.is_live(at(100)));
    let session = folded(vec![started(None), refreshed(None)]);
    assert!(session.is_live(at(199)));
    assert_eq!((session.refresh_count, session.last_used_at), (1, Some(at(50))));
    let session = folded(vec![started(None), revoked()]);
    assert!(!session.is_live(at(61)));
    assert_eq!(session.status, Some(SessionStatus::Revoked));
    assert_eq!(session.revocation, Some(RevocationReason::UserLogout));
}

#[test]
fn a_live_session_holds_its_key_and_its_token() {
    let key = ClaimKey::Public(vec![1; 32]);
    let take_session = ClaimChange::Take {
        scope: ClaimScope::Session,
        key: session_key(USER, SESSION),
    };
    let take_token = ClaimChange::Take {
        scope: ClaimScope::RefreshToken,
        key,
    };
    let release = |scope| ClaimChange::ReleaseAll { scope };
    let stream = SESSION.as_uuid();
    assert_eq!(started(None).claims(stream), std::slice::from_ref(&take_session));
    assert_eq!(
        started(Some(digest(1))).claims(stream),
        [take_session, take_token.clone()]
    );
    assert_eq!(
        refreshed(Some(digest(1))).claims(stream),
        [release(ClaimScope::RefreshToken), take_token]
    );
    assert_eq!(refreshed(None).claims(stream), [release(ClaimScope::RefreshToken)]);
    let all = [release(ClaimScope::Session), release(ClaimScope::RefreshToken)];
    assert_eq!(revoked().claims(stream), all);
    assert_eq!(SessionEvent::Expired { at: at(1) }.claims(stream), all);
}

#[test]
fn codes_are_stable() {
    for (error, code) in [
        (SessionError::NotFound, "session.not_found"),
        (SessionError::AlreadyStarted, "session.already_started"),
        (SessionError::NotLive, "session.not_live"),
        (SessionError::NotExpired, "session.not_expired"),
        (SessionError::RefreshTokenUnknown, "session.refresh_token_unknown"),
        (SessionError::RefreshLimit, "session.refresh_limit"),
    ] {
        assert_eq!(error.code(), code);
    }
    for reason in [
        "user_logout",
        "user_logout_all",
        "user_revoke",
        "password_changed",
        "user_disabled",
        "refresh_reuse",
        "session_limit_exceeded",
    ] {
        let read: RevocationReason = serde_json::from_value(reason.into()).unwrap();
        assert_eq!(read.as_str(), reason);
    }
}
