//! Rules of routes: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Route, RouteCommand, RouteError, RouteEvent};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::registry::{DomainError, Event};
use crate::values::{Realm, Slug, Timestamp};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn slug(text: &str) -> Slug {
    Slug::parse(text).unwrap()
}

fn created() -> RouteEvent {
    RouteEvent::Created {
        realm: Realm::Admin,
        slug: slug("/home"),
        title: "Home".to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn create(title: &str) -> RouteCommand {
    RouteCommand::Create {
        realm: Realm::Admin,
        slug: slug("/home"),
        title: title.to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(0),
    }
}

fn changed(path: &str) -> RouteEvent {
    RouteEvent::Changed {
        realm: Realm::Admin,
        slug: slug(path),
        title: "Home".to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(1),
    }
}

fn change(path: &str, title: &str) -> RouteCommand {
    RouteCommand::Change {
        slug: slug(path),
        title: title.to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(1),
    }
}

fn deleted() -> RouteEvent {
    RouteEvent::Deleted { at: at(9) }
}

fn given(facts: Vec<RouteEvent>) -> AggregateTestExecutor<Route> {
    TestFramework::<Route>::with(()).given(facts)
}

#[test]
fn a_route_is_created_once() {
    given(vec![]).when(create("Home")).then_expect_events(vec![created()]);
    given(vec![created()])
        .when(create("Home"))
        .then_expect_error(RouteError::AlreadyExists);
    given(vec![created(), deleted()])
        .when(create("Home"))
        .then_expect_error(RouteError::NotFound);
}

#[test]
fn a_change_names_the_realm_the_route_was_created_in() {
    given(vec![created()])
        .when(change("/start", "Home"))
        .then_expect_events(vec![changed("/start")]);
}

#[test]
fn the_same_route_again_changes_nothing() {
    given(vec![created()])
        .when(change("/home", "Home"))
        .then_expect_events(vec![]);
    given(vec![created(), changed("/start")])
        .when(change("/start", "Home"))
        .then_expect_events(vec![]);
}

#[test]
fn a_title_must_be_storable() {
    given(vec![])
        .when(create("\0"))
        .then_expect_error(RouteError::TextInvalid("title"));
    given(vec![created()])
        .when(change("/home", "\0"))
        .then_expect_error(RouteError::TextInvalid("title"));
}

#[test]
fn what_is_absent_or_deleted_obeys_nothing() {
    let delete = RouteCommand::Delete { at: at(9) };
    given(vec![created()])
        .when(delete.clone())
        .then_expect_events(vec![deleted()]);
    for facts in [vec![], vec![created(), deleted()]] {
        given(facts.clone())
            .when(change("/home", "Home"))
            .then_expect_error(RouteError::NotFound);
        given(facts)
            .when(delete.clone())
            .then_expect_error(RouteError::NotFound);
    }
}

#[test]
fn a_route_holds_its_identifier_and_one_path() {
    let stream = Uuid::from_u128(9);
    let take = |scope, key| ClaimChange::Take { scope, key };
    let release = |scope| ClaimChange::ReleaseAll { scope };
    let path = |text: &[u8]| take(ClaimScope::Slug, ClaimKey::Public(text.to_vec()));
    assert_eq!(
        created().claims(stream),
        [take(ClaimScope::Route, ClaimKey::id(stream)), path(b"admin\0/home")],
    );
    assert_eq!(
        changed("/start").claims(stream),
        [release(ClaimScope::Slug), path(b"admin\0/start")],
    );
    assert_eq!(
        deleted().claims(stream),
        [release(ClaimScope::Route), release(ClaimScope::Slug)]
    );
}

#[test]
fn codes_are_stable() {
    for (error, code, field) in [
        (RouteError::NotFound, "route.not_found", None),
        (RouteError::AlreadyExists, "route.already_exists", None),
        (RouteError::TextInvalid("title"), "route.text_invalid", Some("title")),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
}
