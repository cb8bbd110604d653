//! Rules of field definitions: given facts, when a command, then facts or a broken rule.

use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Field, FieldCommand, FieldError, FieldEvent, FieldKind};
use crate::claims::{ClaimChange, ClaimScope};
use crate::registry::{DomainError, Event};
use crate::values::{Realm, Timestamp};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn created() -> FieldEvent {
    FieldEvent::Created {
        realm: Realm::Admin,
        parent_id: None,
        label: "Title".to_owned(),
        data: String::new(),
        validation: "{}".to_owned(),
        ui_config: "{}".to_owned(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn create(label: &str, validation: &str) -> FieldCommand {
    FieldCommand::Create {
        realm: Realm::Admin,
        parent_id: None,
        label: label.to_owned(),
        data: String::new(),
        validation: validation.to_owned(),
        ui_config: String::new(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn change(label: &str, ui_config: &str) -> FieldCommand {
    FieldCommand::Change {
        parent_id: None,
        label: label.to_owned(),
        data: String::new(),
        validation: String::new(),
        ui_config: ui_config.to_owned(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(1),
    }
}

fn deleted() -> FieldEvent {
    FieldEvent::Deleted { at: at(9) }
}

fn given(facts: Vec<FieldEvent>) -> AggregateTestExecutor<Field> {
    TestFramework::<Field>::with(()).given(facts)
}

#[test]
fn empty_json_texts_become_empty_objects() {
    given(vec![])
        .when(create("Title", ""))
        .then_expect_events(vec![created()]);
    let events = given(vec![created()])
        .when(change("Heading", ""))
        .inspect_result()
        .unwrap();
    let [
        FieldEvent::Changed {
            validation, ui_config, ..
        },
    ] = &events[..]
    else {
        panic!("one change, not {events:?}");
    };
    assert_eq!((validation.as_str(), ui_config.as_str()), ("{}", "{}"));
}

#[test]
fn json_texts_are_kept_as_sent() {
    let sent = "{ \"required\": true }";
    let events = given(vec![]).when(create("Title", sent)).inspect_result().unwrap();
    assert!(matches!(&events[..], [FieldEvent::Created { validation, .. }] if validation == sent));
}

#[test]
fn a_field_is_created_once() {
    given(vec![created()])
        .when(create("Title", ""))
        .then_expect_error(FieldError::AlreadyExists);
    given(vec![created(), deleted()])
        .when(create("Title", ""))
        .then_expect_error(FieldError::NotFound);
}

#[test]
fn the_same_definition_again_changes_nothing() {
    given(vec![created()])
        .when(change("Title", ""))
        .then_expect_events(vec![]);
    given(vec![created()])
        .when(change("Title", "{}"))
        .then_expect_events(vec![]);
}

#[test]
fn a_change_keeps_the_realm() {
    let mut field = Field::default();
    field.apply(created());
    for fact in given(vec![created()])
        .when(change("Heading", ""))
        .inspect_result()
        .unwrap()
    {
        field.apply(fact);
    }
    assert_eq!((field.realm, field.label.as_str()), (Realm::Admin, "Heading"));
    assert!(field.lifecycle.is_live());
    let json = serde_json::to_value(&field).unwrap();
    assert_eq!(serde_json::from_value::<Field>(json).unwrap(), field);
}

#[test]
fn texts_must_be_storable() {
    given(vec![])
        .when(create("\0", ""))
        .then_expect_error(FieldError::TextInvalid("label"));
    given(vec![])
        .when(create("", "\0"))
        .then_expect_error(FieldError::TextInvalid("validation"));
    given(vec![created()])
        .when(change("", "\0"))
        .then_expect_error(FieldError::TextInvalid("ui_config"));
}

#[test]
fn what_is_absent_or_deleted_obeys_nothing() {
    let delete = FieldCommand::Delete { at: at(9) };
    given(vec![created()])
        .when(delete.clone())
        .then_expect_events(vec![deleted()]);
    for facts in [vec![], vec![created(), deleted()]] {
        given(facts.clone())
            .when(change("Title", ""))
            .then_expect_error(FieldError::NotFound);
        given(facts)
            .when(delete.clone())
            .then_expect_error(FieldError::NotFound);
    }
}

#[test]
fn a_deleted_field_can_no_longer_be_referred_to() {
    let release = ClaimChange::ReleaseAll {
        scope: ClaimScope::Field,
    };
    assert_eq!(deleted().claims(Uuid::from_u128(9)), [release]);
}

#[test]
fn codes_and_kind_names_are_stable() {
    assert_eq!(FieldError::NotFound.code(), "field.not_found");
    assert_eq!(FieldError::AlreadyExists.code(), "field.already_exists");
    let invalid = FieldError::TextInvalid("data");
    assert_eq!((invalid.code(), invalid.field()), ("field.text_invalid", Some("data")));
    let names: Vec<_> = FieldKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(
        names.join(" "),
        "text textarea number date datetime boolean select media relation json richtext slug email url",
    );
    for kind in FieldKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert!("Text".parse::<FieldKind>().is_err());
}
