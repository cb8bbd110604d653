//! Rules of organizations: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Organization, OrganizationCommand, OrganizationError, OrganizationEvent, OrganizationRole, SLUG_LIMIT};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::UserId;
use crate::registry::{DomainError, Event};
use crate::values::Timestamp;

const ADA: UserId = UserId::new(Uuid::from_u128(1));
const BOB: UserId = UserId::new(Uuid::from_u128(2));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn founded() -> Vec<OrganizationEvent> {
    vec![
        OrganizationEvent::Founded {
            name: "Engines".to_owned(),
            slug: "engines".to_owned(),
            at: at(0),
        },
        OrganizationEvent::MemberAdded {
            user_id: ADA,
            role: OrganizationRole::Owner,
            at: at(0),
        },
    ]
}

fn found(name: &str, slug: &str) -> OrganizationCommand {
    OrganizationCommand::Found {
        name: name.to_owned(),
        slug: slug.to_owned(),
        owner: ADA,
        at: at(0),
    }
}

fn add(user_id: UserId, role: OrganizationRole) -> OrganizationCommand {
    OrganizationCommand::AddMember {
        user_id,
        role,
        at: at(1),
    }
}

fn given(facts: Vec<OrganizationEvent>) -> AggregateTestExecutor<Organization> {
    TestFramework::<Organization>::with(()).given(facts)
}

#[test]
fn its_founder_is_its_owner() {
    given(vec![])
        .when(found("Engines", "engines"))
        .then_expect_events(founded());
}

#[test]
fn it_is_founded_only_once() {
    given(founded())
        .when(found("Engines", "engines"))
        .then_expect_error(OrganizationError::AlreadyExists);
}

#[test]
fn names_must_show_something() {
    for name in ["", "  ", "a\0"] {
        given(vec![])
            .when(found(name, "engines"))
            .then_expect_error(OrganizationError::NameInvalid);
    }
}

#[test]
fn short_names_have_a_form() {
    let long = "a".repeat(SLUG_LIMIT + 1);
    for slug in ["", "Engines", "a b", "-a", "a-", "a--b", "ä", "a/b", "a\0", &long] {
        given(vec![])
            .when(found("Engines", slug))
            .then_expect_error(OrganizationError::SlugInvalid);
    }
    for slug in ["a", "a-1", &"a".repeat(SLUG_LIMIT)] {
        assert!(
            given(vec![]).when(found("Engines", slug)).inspect_result().is_ok(),
            "{slug}"
        );
    }
}

#[test]
fn a_member_is_added_once() {
    let role = OrganizationRole::Member;
    let added = OrganizationEvent::MemberAdded {
        user_id: BOB,
        role,
        at: at(1),
    };
    given(founded())
        .when(add(BOB, role))
        .then_expect_events(vec![added.clone()]);
    given(founded())
        .and(vec![added])
        .when(add(BOB, role))
        .then_expect_events(vec![]);
}

#[test]
fn adding_does_not_change_a_members_role() {
    given(founded())
        .when(add(ADA, OrganizationRole::Viewer))
        .then_expect_error(OrganizationError::AlreadyMember);
}

#[test]
fn nobody_joins_what_was_never_founded() {
    given(vec![])
        .when(add(BOB, OrganizationRole::Member))
        .then_expect_error(OrganizationError::NotFound);
}

#[test]
fn it_holds_its_identifier_and_its_short_name() {
    let stream = Uuid::from_u128(9);
    let take = |scope, key| ClaimChange::Take { scope, key };
    assert_eq!(
        founded()[0].claims(stream),
        [
            take(ClaimScope::Organization, ClaimKey::id(stream)),
            take(ClaimScope::OrganizationSlug, ClaimKey::Public(b"engines".to_vec())),
        ],
    );
    assert_eq!(founded()[1].claims(stream), []);
}

#[test]
fn codes_and_role_names_are_stable() {
    for (error, code, field) in [
        (OrganizationError::NotFound, "organization.not_found", None),
        (OrganizationError::AlreadyExists, "organization.already_exists", None),
        (
            OrganizationError::AlreadyMember,
            "organization.already_member",
            Some("user_id"),
        ),
        (
            OrganizationError::NameInvalid,
            "organization.name_invalid",
            Some("name"),
        ),
        (
            OrganizationError::SlugInvalid,
            "organization.slug_invalid",
            Some("slug"),
        ),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
    for role in OrganizationRole::ALL {
        assert_eq!(role.as_str().parse(), Ok(*role));
        assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
    }
}
