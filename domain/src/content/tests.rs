//! Rules of content nodes: given facts, when a command, then facts or a broken rule.

use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use serde_json::json;
use uuid::Uuid;

use super::{Content, ContentCommand, ContentError, ContentEvent, ContentStatus, FieldValue, Place};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{ContentFieldId, ContentId, DatatypeId};
use crate::registry::{DomainError, Event, EventSourced};
use crate::values::{Realm, Timestamp};

const NODE: ContentId = ContentId::new(Uuid::from_u128(1));
const OTHER: ContentId = ContentId::new(Uuid::from_u128(2));
const PAGE: DatatypeId = DatatypeId::new(Uuid::from_u128(3));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn value_id(number: u128) -> ContentFieldId {
    ContentFieldId::new(Uuid::from_u128(number))
}

fn value(number: u128, text: &str) -> FieldValue {
    FieldValue {
        content_field_id: value_id(number),
        field_id: None,
        route_id: None,
        value: text.to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

fn created() -> ContentEvent {
    ContentEvent::Created {
        content_id: NODE,
        realm: Realm::Admin,
        datatype_id: Some(PAGE),
        route_id: None,
        parent_id: None,
        place: Place::Last,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn create(parent_id: Option<ContentId>, place: Place) -> ContentCommand {
    ContentCommand::Create {
        content_id: NODE,
        realm: Realm::Admin,
        datatype_id: Some(PAGE),
        route_id: None,
        parent_id,
        place,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn changed(set: Vec<FieldValue>, removed: Vec<ContentFieldId>) -> ContentEvent {
    ContentEvent::FieldsChanged {
        set,
        removed,
        at: at(1),
    }
}

fn change(set: Vec<FieldValue>, removed: Vec<ContentFieldId>) -> ContentCommand {
    ContentCommand::ChangeFields {
        set,
        removed,
        at: at(1),
    }
}

fn details(datatype_id: Option<DatatypeId>) -> ContentCommand {
    ContentCommand::ChangeDetails {
        route_id: None,
        datatype_id,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(2),
    }
}

fn move_to(parent_id: Option<ContentId>, place: Place) -> ContentCommand {
    ContentCommand::Move {
        parent_id,
        place,
        at: at(3),
    }
}

fn set_status(status: ContentStatus) -> ContentCommand {
    ContentCommand::SetStatus { status, at: at(4) }
}

fn deleted() -> ContentEvent {
    ContentEvent::Deleted { at: at(9) }
}

fn given(facts: Vec<ContentEvent>) -> AggregateTestExecutor<Content> {
    TestFramework::<Content>::with(()).given(facts)
}

fn folded(facts: Vec<ContentEvent>) -> Content {
    let mut content = Content::default();
    facts.into_iter().for_each(|fact| content.apply(fact));
    content
}

#[test]
fn a_node_is_created_once() {
    given(vec![])
        .when(create(None, Place::Last))
        .then_expect_events(vec![created()]);
    given(vec![created()])
        .when(create(None, Place::Last))
        .then_expect_error(ContentError::AlreadyExists);
    given(vec![created(), deleted()])
        .when(create(None, Place::Last))
        .then_expect_error(ContentError::NotFound);
}

#[test]
fn a_node_hangs_neither_under_nor_beside_itself() {
    for (parent_id, place) in [
        (Some(NODE), Place::Last),
        (None, Place::After { content_id: NODE }),
        (Some(OTHER), Place::Before { content_id: NODE }),
    ] {
        given(vec![])
            .when(create(parent_id, place))
            .then_expect_error(ContentError::OwnParent);
        given(vec![created()])
            .when(move_to(parent_id, place))
            .then_expect_error(ContentError::OwnParent);
    }
}

#[test]
fn a_node_moves() {
    let place = Place::After { content_id: OTHER };
    given(vec![created()])
        .when(move_to(Some(OTHER), place))
        .then_expect_events(vec![ContentEvent::Moved {
            parent_id: Some(OTHER),
            place,
            at: at(3),
        }]);
}

#[test]
fn moving_to_the_same_place_is_a_fact_again_for_siblings_may_have_moved() {
    let moved = ContentEvent::Moved {
        parent_id: None,
        place: Place::Last,
        at: at(3),
    };
    given(vec![created(), moved.clone()])
        .when(move_to(None, Place::Last))
        .then_expect_events(vec![moved]);
}

#[test]
fn values_are_set_and_removed_together() {
    given(vec![created(), changed(vec![value(10, "a")], vec![])])
        .when(change(vec![value(11, "b")], vec![value_id(10)]))
        .then_expect_events(vec![changed(vec![value(11, "b")], vec![value_id(10)])]);
}

#[test]
fn values_that_are_so_already_are_left_out() {
    let facts = vec![created(), changed(vec![value(10, "a"), value(11, "b")], vec![])];
    given(facts.clone())
        .when(change(vec![value(10, "a"), value(11, "c")], vec![]))
        .then_expect_events(vec![changed(vec![value(11, "c")], vec![])]);
    given(facts)
        .when(change(vec![value(10, "a")], vec![]))
        .then_expect_events(vec![]);
    given(vec![created()])
        .when(change(vec![], vec![]))
        .then_expect_events(vec![]);
}

#[test]
fn one_bad_value_keeps_all_from_changing() {
    let facts = vec![created(), changed(vec![value(10, "a")], vec![])];
    for (set, removed, error) in [
        (vec![value(11, "b")], vec![value_id(12)], ContentError::FieldNotFound),
        (
            vec![value(11, "b"), value(11, "c")],
            vec![],
            ContentError::FieldRepeated,
        ),
        (vec![value(10, "b")], vec![value_id(10)], ContentError::FieldRepeated),
        (vec![], vec![value_id(10), value_id(10)], ContentError::FieldRepeated),
        (
            vec![value(11, "b"), value(12, "\0")],
            vec![],
            ContentError::FieldValueInvalid,
        ),
    ] {
        given(facts.clone()).when(change(set, removed)).then_expect_error(error);
    }
}

#[test]
fn a_removed_value_is_gone() {
    let facts = vec![
        created(),
        changed(vec![value(10, "a")], vec![]),
        changed(vec![], vec![value_id(10)]),
    ];
    given(facts)
        .when(change(vec![], vec![value_id(10)]))
        .then_expect_error(ContentError::FieldNotFound);
}

#[test]
fn details_are_replaced_and_repeat_without_effect() {
    given(vec![created()])
        .when(details(None))
        .then_expect_events(vec![ContentEvent::DetailsChanged {
            route_id: None,
            datatype_id: None,
            author_id: None,
            date_created: None,
            date_modified: None,
            at: at(2),
        }]);
    given(vec![created()])
        .when(details(Some(PAGE)))
        .then_expect_events(vec![]);
}

#[test]
fn every_status_has_its_fact_and_repeats_without_effect() {
    let at = at(4);
    let facts = [
        (ContentStatus::Published, ContentEvent::Published { at }),
        (ContentStatus::Archived, ContentEvent::Archived { at }),
        (ContentStatus::Pending, ContentEvent::Submitted { at }),
        (ContentStatus::Draft, ContentEvent::Withdrawn { at }),
    ];
    for (from, before) in &facts {
        for (to, after) in &facts {
            let expected = if from == to { vec![] } else { vec![after.clone()] };
            given(vec![created(), before.clone()])
                .when(set_status(*to))
                .then_expect_events(expected);
            assert_eq!(folded(vec![created(), after.clone()]).status, *to);
        }
    }
    given(vec![created()])
        .when(set_status(ContentStatus::Draft))
        .then_expect_events(vec![]);
}

#[test]
fn what_is_absent_or_deleted_obeys_nothing() {
    let delete = ContentCommand::Delete { at: at(9) };
    given(vec![created()])
        .when(delete.clone())
        .then_expect_events(vec![deleted()]);
    for facts in [
        vec![],
        vec![created(), changed(vec![value(10, "a")], vec![]), deleted()],
    ] {
        for command in [
            change(vec![value(10, "b")], vec![]),
            move_to(None, Place::Last),
            details(None),
            set_status(ContentStatus::Published),
            delete.clone(),
        ] {
            given(facts.clone())
                .when(command)
                .then_expect_error(ContentError::NotFound);
        }
    }
}

#[test]
fn a_deleted_node_keeps_no_values() {
    let content = folded(vec![created(), changed(vec![value(10, "a")], vec![]), deleted()]);
    assert!(content.fields.is_empty() && !content.lifecycle.is_live());
}

#[test]
fn the_state_reads_back_from_json() {
    let content = folded(vec![created(), changed(vec![value(10, "a")], vec![])]);
    let json = serde_json::to_value(&content).unwrap();
    assert_eq!(serde_json::from_value::<Content>(json).unwrap(), content);
}

#[test]
fn places_are_stored_flat() {
    for (place, stored) in [
        (Place::First, json!({"at": "first"})),
        (Place::Last, json!({"at": "last"})),
        (
            Place::After { content_id: OTHER },
            json!({"at": "after", "content_id": OTHER}),
        ),
        (
            Place::Before { content_id: OTHER },
            json!({"at": "before", "content_id": OTHER}),
        ),
    ] {
        assert_eq!(serde_json::to_value(place).unwrap(), stored);
        assert_eq!(serde_json::from_value::<Place>(stored).unwrap(), place);
    }
}

#[test]
fn values_are_claimed_one_by_one() {
    let (scope, stream) = (ClaimScope::ContentField, NODE.as_uuid());
    let key = |number| ClaimKey::id(value_id(number));
    assert_eq!(
        changed(vec![value(10, "a"), value(11, "b")], vec![value_id(12)]).claims(stream),
        [
            ClaimChange::Release { scope, key: key(12) },
            ClaimChange::Take { scope, key: key(10) },
            ClaimChange::Take { scope, key: key(11) },
        ],
    );
    let all = [ClaimScope::Content, scope].map(|scope| ClaimChange::ReleaseAll { scope });
    assert_eq!(deleted().claims(stream), all);
    assert_eq!(ContentEvent::Published { at: at(1) }.claims(stream), []);
}

#[test]
fn codes_and_status_names_are_stable() {
    for (error, code, field) in [
        (ContentError::NotFound, "content.not_found", None),
        (ContentError::AlreadyExists, "content.already_exists", None),
        (ContentError::OwnParent, "content.own_parent", Some("parent_id")),
        (
            ContentError::FieldNotFound,
            "content.field_not_found",
            Some("content_field_id"),
        ),
        (
            ContentError::FieldRepeated,
            "content.field_repeated",
            Some("content_field_id"),
        ),
        (
            ContentError::FieldValueInvalid,
            "content.field_value_invalid",
            Some("field_value"),
        ),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
    for status in ContentStatus::ALL {
        assert_eq!(status.as_str().parse(), Ok(*status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
    }
    assert!("live".parse::<ContentStatus>().is_err());
}

proptest! {
    #[test]
    fn the_values_held_are_those_set_and_not_removed(
        steps in proptest::collection::vec((0_u128..4, any::<bool>(), "[a-c]{0,2}"), 0..30),
    ) {
        let mut content = folded(vec![created()]);
        let mut expected = std::collections::BTreeMap::new();
        for (number, remove, text) in steps {
            let command = if remove {
                change(vec![], vec![value_id(number)])
            } else {
                change(vec![value(number, &text)], vec![])
            };
            let decided = content.decide(command.clone());
            prop_assert_eq!(&content.decide(command), &decided);
            if remove {
                prop_assert_eq!(decided.is_ok(), expected.remove(&number).is_some());
            } else {
                prop_assert!(decided.is_ok());
                expected.insert(number, text);
            }
            for fact in decided.unwrap_or_default() {
                content.apply(fact);
            }
            let held: Vec<_> = content.fields.values().map(|value| value.value.clone()).collect();
            prop_assert_eq!(held, expected.values().cloned().collect::<Vec<_>>());
        }
    }
}
