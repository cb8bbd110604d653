//! Rules of accounts: given facts, when a command, then facts or a broken rule.

use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{User, UserCommand, UserError, UserEvent};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::permission::Role;
use crate::personal::Personal;
use crate::registry::{DomainError, Event};
use crate::values::{EmailAddress, Timestamp, Username};

const USER: Uuid = Uuid::from_u128(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn email() -> Personal<EmailAddress> {
    Personal::new(USER, EmailAddress::parse("Ada@Example.org").unwrap())
}

fn username() -> Personal<Username> {
    Personal::new(USER, Username::parse("Ada").unwrap())
}

fn name(text: &str) -> Personal<String> {
    Personal::new(USER, text.to_owned())
}

fn registered() -> UserEvent {
    UserEvent::Registered {
        email: email(),
        username: username(),
        name: name("Ada Lovelace"),
        role: Role::Viewer,
        at: at(0),
    }
}

fn register(text: &str) -> UserCommand {
    UserCommand::Register {
        email: email(),
        username: username(),
        name: name(text),
        role: Role::Viewer,
        at: at(0),
    }
}

fn disabled() -> UserEvent {
    UserEvent::Disabled {
        reason: "left".to_owned(),
        at: at(1),
    }
}

fn disable(reason: &str) -> UserCommand {
    UserCommand::Disable {
        reason: reason.to_owned(),
        at: at(1),
    }
}

fn change(text: &str) -> UserCommand {
    UserCommand::ChangeProfile {
        name: name(text),
        at: at(2),
    }
}

fn given(facts: Vec<UserEvent>) -> AggregateTestExecutor<User> {
    TestFramework::<User>::with(()).given(facts)
}

#[test]
fn a_user_registers() {
    given(vec![])
        .when(register("Ada Lovelace"))
        .then_expect_events(vec![registered()]);
}

#[test]
fn a_user_registers_only_once() {
    given(vec![registered()])
        .when(register("Ada Lovelace"))
        .then_expect_error(UserError::AlreadyRegistered);
    given(vec![registered(), disabled()])
        .when(register("Ada Lovelace"))
        .then_expect_error(UserError::AlreadyRegistered);
}

#[test]
fn a_name_may_be_empty_but_must_be_storable() {
    assert!(given(vec![]).when(register("")).inspect_result().is_ok());
    given(vec![])
        .when(register("A\0"))
        .then_expect_error(UserError::TextInvalid("name"));
    given(vec![registered()])
        .when(change("A\0"))
        .then_expect_error(UserError::TextInvalid("name"));
    given(vec![registered()])
        .when(disable("\0"))
        .then_expect_error(UserError::TextInvalid("reason"));
}

#[test]
fn a_profile_is_changed() {
    given(vec![registered()])
        .when(change("Ada King"))
        .then_expect_events(vec![UserEvent::ProfileChanged {
            name: name("Ada King"),
            at: at(2),
        }]);
}

#[test]
fn the_same_name_again_changes_nothing() {
    given(vec![registered()])
        .when(change("Ada Lovelace"))
        .then_expect_events(vec![]);
}

#[test]
fn a_disabled_user_keeps_the_profile() {
    given(vec![registered(), disabled()])
        .when(change("Ada King"))
        .then_expect_error(UserError::Disabled);
}

#[test]
fn disabling_and_enabling_repeat_without_effect() {
    given(vec![registered()])
        .when(disable("left"))
        .then_expect_events(vec![disabled()]);
    given(vec![registered(), disabled()])
        .when(disable("again"))
        .then_expect_events(vec![]);
    let enable = UserCommand::Enable { at: at(3) };
    let enabled = UserEvent::Enabled { at: at(3) };
    given(vec![registered()])
        .when(enable.clone())
        .then_expect_events(vec![]);
    given(vec![registered(), disabled()])
        .when(enable.clone())
        .then_expect_events(vec![enabled.clone()]);
    given(vec![registered(), disabled(), enabled])
        .when(enable)
        .then_expect_events(vec![]);
}

#[test]
fn who_never_registered_is_unknown() {
    for command in [change("Ada"), disable("left"), UserCommand::Enable { at: at(1) }] {
        given(vec![]).when(command).then_expect_error(UserError::NotFound);
    }
}

#[test]
fn the_state_follows_the_facts() {
    let mut user = User::default();
    assert!(!user.is_registered());
    user.apply(registered());
    user.apply(disabled());
    assert!(user.is_registered() && user.disabled && !user.verified);
    assert_eq!(user.email, Some(email()));
    assert_eq!((user.registered_at, user.changed_at), (Some(at(0)), Some(at(1))));
    let json = serde_json::to_value(&user).unwrap();
    assert_eq!(serde_json::from_value::<User>(json).unwrap(), user);
}

#[test]
fn a_user_holds_address_name_and_identifier() {
    let take = |scope, key| ClaimChange::Take { scope, key };
    assert_eq!(
        registered().claims(USER),
        [
            take(ClaimScope::Email, ClaimKey::Personal("ada@example.org".to_owned())),
            take(ClaimScope::Username, ClaimKey::Personal("ada".to_owned())),
            take(ClaimScope::User, ClaimKey::id(USER)),
        ],
    );
}

#[test]
fn an_erased_user_holds_what_can_still_be_known() {
    let erased = UserEvent::Registered {
        email: Personal::erased(USER),
        username: Personal::erased(USER),
        name: Personal::erased(USER),
        role: Role::Viewer,
        at: at(0),
    };
    let take = ClaimChange::Take {
        scope: ClaimScope::User,
        key: ClaimKey::id(USER),
    };
    assert_eq!(erased.claims(USER), [take]);
}

#[test]
fn a_disabled_user_keeps_address_and_name_but_is_no_present_user() {
    let release = ClaimChange::ReleaseAll {
        scope: ClaimScope::User,
    };
    assert_eq!(disabled().claims(USER), [release]);
    let take = ClaimChange::Take {
        scope: ClaimScope::User,
        key: ClaimKey::id(USER),
    };
    assert_eq!(UserEvent::Enabled { at: at(1) }.claims(USER), [take]);
}

#[test]
fn nothing_personal_prints() {
    let text = format!("{:?} {:?}", registered(), register("Ada Lovelace"));
    assert!(!text.to_lowercase().contains("ada"), "{text}");
}

#[test]
fn codes_are_stable() {
    for (error, code, field) in [
        (UserError::NotFound, "user.not_found", None),
        (UserError::AlreadyRegistered, "user.already_registered", None),
        (UserError::Disabled, "user.disabled", None),
        (UserError::TextInvalid("name"), "user.text_invalid", Some("name")),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
}
