//! Rules of datatypes: given facts, when a command, then facts or a broken rule.

use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Datatype, DatatypeCommand, DatatypeError, DatatypeEvent};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{DatatypeFieldId, FieldId};
use crate::lifecycle::Lifecycle;
use crate::registry::{DomainError, Event};
use crate::values::{Realm, Timestamp};

const ATTACHMENT: DatatypeFieldId = DatatypeFieldId::new(Uuid::from_u128(1));
const TITLE: FieldId = FieldId::new(Uuid::from_u128(2));
const BODY: FieldId = FieldId::new(Uuid::from_u128(3));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn created() -> DatatypeEvent {
    DatatypeEvent::Created {
        realm: Realm::Admin,
        parent_id: None,
        label: "Page".to_owned(),
        kind: "ROOT".to_owned(),
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn create(label: &str, kind: &str) -> DatatypeCommand {
    DatatypeCommand::Create {
        realm: Realm::Admin,
        parent_id: None,
        label: label.to_owned(),
        kind: kind.to_owned(),
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(0),
    }
}

fn change(label: &str) -> DatatypeCommand {
    DatatypeCommand::Change {
        parent_id: None,
        label: label.to_owned(),
        kind: "ROOT".to_owned(),
        author_id: None,
        date_created: Some(at(0)),
        date_modified: None,
        at: at(1),
    }
}

fn deleted() -> DatatypeEvent {
    DatatypeEvent::Deleted { at: at(9) }
}

fn attached() -> DatatypeEvent {
    DatatypeEvent::FieldAttached {
        datatype_field_id: ATTACHMENT,
        field_id: TITLE,
        sort_order: 1,
        at: at(2),
    }
}

fn attach() -> DatatypeCommand {
    DatatypeCommand::AttachField {
        datatype_field_id: ATTACHMENT,
        field_id: TITLE,
        sort_order: 1,
        at: at(2),
    }
}

fn change_attachment(field_id: FieldId, sort_order: i64) -> DatatypeCommand {
    DatatypeCommand::ChangeAttachment {
        datatype_field_id: ATTACHMENT,
        field_id,
        sort_order,
        at: at(3),
    }
}

fn detach() -> DatatypeCommand {
    DatatypeCommand::DetachField {
        datatype_field_id: ATTACHMENT,
        at: at(4),
    }
}

fn detached() -> DatatypeEvent {
    DatatypeEvent::FieldDetached {
        datatype_field_id: ATTACHMENT,
        at: at(4),
    }
}

fn given(facts: Vec<DatatypeEvent>) -> AggregateTestExecutor<Datatype> {
    TestFramework::<Datatype>::with(()).given(facts)
}

#[test]
fn a_datatype_is_created_once() {
    given(vec![])
        .when(create("Page", "ROOT"))
        .then_expect_events(vec![created()]);
    given(vec![created()])
        .when(create("Page", "ROOT"))
        .then_expect_error(DatatypeError::AlreadyExists);
    given(vec![created(), deleted()])
        .when(create("Page", "ROOT"))
        .then_expect_error(DatatypeError::NotFound);
}

#[test]
fn texts_must_be_storable() {
    given(vec![])
        .when(create("\0", ""))
        .then_expect_error(DatatypeError::TextInvalid("label"));
    given(vec![])
        .when(create("", "\0"))
        .then_expect_error(DatatypeError::TextInvalid("type"));
    given(vec![created()])
        .when(change("\0"))
        .then_expect_error(DatatypeError::TextInvalid("label"));
}

#[test]
fn details_are_replaced() {
    given(vec![created()])
        .when(change("Front page"))
        .then_expect_events(vec![DatatypeEvent::Changed {
            parent_id: None,
            label: "Front page".to_owned(),
            kind: "ROOT".to_owned(),
            author_id: None,
            date_created: Some(at(0)),
            date_modified: None,
            at: at(1),
        }]);
}

#[test]
fn the_same_details_again_change_nothing() {
    given(vec![created()]).when(change("Page")).then_expect_events(vec![]);
}

#[test]
fn changing_keeps_realm_and_attachments() {
    let mut datatype = Datatype::default();
    let changed = given(vec![created()])
        .when(change("Front page"))
        .inspect_result()
        .unwrap();
    for fact in [created(), attached()].into_iter().chain(changed) {
        datatype.apply(fact);
    }
    assert_eq!((datatype.realm, datatype.attachments.len()), (Realm::Admin, 1));
    let json = serde_json::to_value(&datatype).unwrap();
    assert_eq!(serde_json::from_value::<Datatype>(json).unwrap(), datatype);
    datatype.apply(deleted());
    assert_eq!(
        (datatype.lifecycle, datatype.attachments.len()),
        (Lifecycle::Deleted, 0)
    );
}

#[test]
fn a_field_is_attached_under_an_identifier_of_its_own() {
    given(vec![created()])
        .when(attach())
        .then_expect_events(vec![attached()]);
    given(vec![created(), attached()])
        .when(attach())
        .then_expect_error(DatatypeError::AttachmentAlreadyExists);
    given(vec![created(), attached(), detached()])
        .when(attach())
        .then_expect_events(vec![attached()]);
}

#[test]
fn an_attachment_is_changed() {
    given(vec![created(), attached()])
        .when(change_attachment(BODY, 1))
        .then_expect_events(vec![DatatypeEvent::FieldAttachmentChanged {
            datatype_field_id: ATTACHMENT,
            field_id: BODY,
            sort_order: 1,
            at: at(3),
        }]);
    given(vec![created(), attached()])
        .when(change_attachment(TITLE, 1))
        .then_expect_events(vec![]);
}

#[test]
fn an_attachment_is_removed_once() {
    given(vec![created(), attached()])
        .when(detach())
        .then_expect_events(vec![detached()]);
    given(vec![created(), attached(), detached()])
        .when(detach())
        .then_expect_error(DatatypeError::AttachmentNotFound);
    given(vec![created()])
        .when(change_attachment(BODY, 1))
        .then_expect_error(DatatypeError::AttachmentNotFound);
}

#[test]
fn what_is_absent_or_deleted_obeys_nothing() {
    let delete = DatatypeCommand::Delete { at: at(9) };
    given(vec![created()])
        .when(delete.clone())
        .then_expect_events(vec![deleted()]);
    for facts in [vec![], vec![created(), attached(), deleted()]] {
        for command in [
            change("Page"),
            delete.clone(),
            attach(),
            change_attachment(BODY, 2),
            detach(),
        ] {
            given(facts.clone())
                .when(command)
                .then_expect_error(DatatypeError::NotFound);
        }
    }
}

#[test]
fn attachments_are_claimed_one_by_one() {
    let stream = Uuid::from_u128(9);
    let (scope, key) = (ClaimScope::DatatypeField, ClaimKey::id(ATTACHMENT));
    assert_eq!(
        attached().claims(stream),
        [ClaimChange::Take {
            scope,
            key: key.clone()
        }]
    );
    assert_eq!(detached().claims(stream), [ClaimChange::Release { scope, key }]);
    let all = [ClaimScope::Datatype, ClaimScope::DatatypeField].map(|scope| ClaimChange::ReleaseAll { scope });
    assert_eq!(deleted().claims(stream), all);
}

#[test]
fn codes_are_stable() {
    for (error, code, field) in [
        (DatatypeError::NotFound, "datatype.not_found", None),
        (DatatypeError::AlreadyExists, "datatype.already_exists", None),
        (
            DatatypeError::AttachmentNotFound,
            "datatype.attachment_not_found",
            Some("id"),
        ),
        (
            DatatypeError::AttachmentAlreadyExists,
            "datatype.attachment_already_exists",
            Some("id"),
        ),
        (
            DatatypeError::TextInvalid("label"),
            "datatype.text_invalid",
            Some("label"),
        ),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
}
