//! Rules of registrations: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Registration, RegistrationCommand, RegistrationError, RegistrationEvent};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::UserId;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, PasswordHash, Timestamp};

const USER: Uuid = Uuid::from_u128(1);
const LIFETIME_S: i64 = 600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn requested() -> RegistrationEvent {
    RegistrationEvent::Requested {
        user_id: UserId::new(USER),
        email: Personal::new(USER, EmailAddress::parse("ada@example.org").unwrap()),
        password: Personal::new(USER, PasswordHash::parse("$argon2id$hash").unwrap()),
        name: Personal::new(USER, "Ada".to_owned()),
        organization_name: None,
        invitation_id: None,
        expires_at: at(LIFETIME_S),
        at: at(0),
    }
}

fn request(name: &str) -> RegistrationCommand {
    RegistrationCommand::Request {
        user_id: UserId::new(USER),
        email: Personal::new(USER, EmailAddress::parse("ada@example.org").unwrap()),
        password: Personal::new(USER, PasswordHash::parse("$argon2id$hash").unwrap()),
        name: Personal::new(USER, name.to_owned()),
        organization_name: None,
        invitation_id: None,
        expires_at: at(LIFETIME_S),
        at: at(0),
    }
}

fn given(facts: Vec<RegistrationEvent>) -> AggregateTestExecutor<Registration> {
    TestFramework::<Registration>::with(()).given(facts)
}

#[test]
fn a_registration_is_asked_for_once() {
    given(vec![]).when(request("Ada")).then_expect_events(vec![requested()]);
    given(vec![requested()])
        .when(request("Ada"))
        .then_expect_error(RegistrationError::AlreadyRequested);
    given(vec![])
        .when(request("A\0da"))
        .then_expect_error(RegistrationError::TextInvalid("name"));
}

#[test]
fn it_becomes_an_account_once_and_in_time() {
    let verified = RegistrationEvent::Verified { at: at(1) };
    given(vec![requested()])
        .when(RegistrationCommand::Verify { at: at(1) })
        .then_expect_events(vec![verified.clone()]);
    given(vec![requested(), verified])
        .when(RegistrationCommand::Verify { at: at(2) })
        .then_expect_error(RegistrationError::NotPending);
    given(vec![requested()])
        .when(RegistrationCommand::Verify { at: at(LIFETIME_S) })
        .then_expect_error(RegistrationError::NotPending);
    given(vec![])
        .when(RegistrationCommand::Verify { at: at(1) })
        .then_expect_error(RegistrationError::NotFound);
}

#[test]
fn it_lapses_after_its_time_and_not_before() {
    let lapsed = RegistrationEvent::Lapsed { at: at(LIFETIME_S) };
    given(vec![requested()])
        .when(RegistrationCommand::Lapse { at: at(LIFETIME_S) })
        .then_expect_events(vec![lapsed.clone()]);
    given(vec![requested()])
        .when(RegistrationCommand::Lapse { at: at(1) })
        .then_expect_error(RegistrationError::NotExpired);
    given(vec![requested(), lapsed])
        .when(RegistrationCommand::Lapse { at: at(LIFETIME_S) })
        .then_expect_events(vec![]);
}

#[test]
fn it_holds_its_address_until_it_ends() {
    let key = ClaimKey::Personal("ada@example.org".to_owned());
    assert_eq!(
        requested().claims(USER),
        vec![ClaimChange::take(ClaimScope::PendingEmail, key)]
    );
    for end in [
        RegistrationEvent::Verified { at: at(1) },
        RegistrationEvent::Lapsed { at: at(1) },
    ] {
        assert_eq!(
            end.claims(USER),
            vec![ClaimChange::release_all(ClaimScope::PendingEmail)]
        );
    }
}
