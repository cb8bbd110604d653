//! Rules of credentials: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::TestFramework;
use uuid::Uuid;

use super::{Auth, AuthCommand, AuthError, AuthEvent};
use crate::caller::Device;
use crate::personal::Personal;
use crate::registry::{AnyEvent, DomainError, Event, fold_state};
use crate::values::{PasswordHash, Timestamp};

const USER: Uuid = Uuid::from_u128(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn hash(text: &str) -> Personal<PasswordHash> {
    Personal::new(USER, PasswordHash::parse(&format!("$argon2id${text}")).unwrap())
}

fn set() -> AuthEvent {
    AuthEvent::PasswordSet {
        password: hash("first"),
        at: at(0),
    }
}

fn failed(seconds: i64) -> AuthEvent {
    AuthEvent::PasswordFailed {
        address: None,
        device: None,
        at: at(seconds),
    }
}

fn given(facts: Vec<AuthEvent>) -> cqrs_es::test::AggregateTestExecutor<Auth> {
    TestFramework::<Auth>::with(()).given(facts)
}

#[test]
fn a_first_password_is_set() {
    given(vec![])
        .when(AuthCommand::SetPassword {
            hash: hash("first"),
            at: at(0),
        })
        .then_expect_events(vec![set()]);
}

#[test]
fn a_first_password_is_set_only_once() {
    given(vec![set()])
        .when(AuthCommand::SetPassword {
            hash: hash("second"),
            at: at(1),
        })
        .then_expect_error(AuthError::PasswordAlreadySet);
}

#[test]
fn an_erased_password_still_counts_as_set() {
    let erased = AuthEvent::PasswordSet {
        password: Personal::erased(USER),
        at: at(0),
    };
    given(vec![erased])
        .when(AuthCommand::SetPassword {
            hash: hash("second"),
            at: at(1),
        })
        .then_expect_error(AuthError::PasswordAlreadySet);
}

#[test]
fn a_password_is_changed() {
    given(vec![set()])
        .when(AuthCommand::ChangePassword {
            hash: hash("second"),
            at: at(1),
        })
        .then_expect_events(vec![AuthEvent::PasswordChanged {
            password: hash("second"),
            at: at(1),
        }]);
}

#[test]
fn without_a_password_there_is_nothing_to_change_or_to_fail() {
    given(vec![])
        .when(AuthCommand::ChangePassword {
            hash: hash("second"),
            at: at(1),
        })
        .then_expect_error(AuthError::NotFound);
    given(vec![])
        .when(AuthCommand::RecordFailure {
            address: None,
            device: None,
            at: at(1),
        })
        .then_expect_error(AuthError::NotFound);
}

#[test]
fn a_failure_is_recorded_with_its_origin() {
    let address = Some(Personal::new(USER, "192.0.2.7".to_owned()));
    let device = Some(Personal::new(USER, Device::default()));
    given(vec![set()])
        .when(AuthCommand::RecordFailure {
            address: address.clone(),
            device: device.clone(),
            at: at(1),
        })
        .then_expect_events(vec![AuthEvent::PasswordFailed {
            address,
            device,
            at: at(1),
        }]);
}

#[test]
fn failures_are_counted_since_the_last_change() {
    let changed = AuthEvent::PasswordChanged {
        password: hash("second"),
        at: at(3),
    };
    let facts = [set(), failed(1), failed(2), changed, failed(4)].map(AnyEvent::from);
    let state = fold_state("auth", facts.clone().into_iter()).unwrap();
    assert_eq!(state["failures"], 1);
    let state = fold_state("auth", facts.into_iter().take(3)).unwrap();
    assert_eq!(state["failures"], 2);
}

#[test]
fn credentials_claim_nothing() {
    assert_eq!(set().claims(USER), vec![]);
    assert_eq!(failed(1).claims(USER), vec![]);
}

#[test]
fn codes_are_stable() {
    assert_eq!(AuthError::NotFound.code(), "auth.not_found");
    assert_eq!(AuthError::PasswordAlreadySet.code(), "auth.password_already_set");
}
