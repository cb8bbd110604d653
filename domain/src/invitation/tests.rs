//! Rules of invitations: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Invitation, InvitationCommand, InvitationError, InvitationEvent, pending_key};
use crate::claims::{ClaimChange, ClaimScope};
use crate::ids::{OrganizationId, UserId};
use crate::organization::OrganizationRole;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, Timestamp};

const SUBJECT: Uuid = Uuid::from_u128(9);
const LIFETIME_S: i64 = 600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn organization() -> OrganizationId {
    OrganizationId::new(Uuid::from_u128(2))
}

fn user() -> UserId {
    UserId::new(Uuid::from_u128(3))
}

fn issue(role: OrganizationRole) -> InvitationCommand {
    InvitationCommand::Issue {
        organization_id: organization(),
        email: Personal::new(SUBJECT, address("ada@example.org")),
        role,
        invited_by: UserId::new(Uuid::from_u128(4)),
        expires_at: at(LIFETIME_S),
        at: at(0),
    }
}

fn issued() -> InvitationEvent {
    InvitationEvent::Issued {
        organization_id: organization(),
        email: Personal::new(SUBJECT, address("ada@example.org")),
        role: OrganizationRole::Member,
        invited_by: UserId::new(Uuid::from_u128(4)),
        expires_at: at(LIFETIME_S),
        at: at(0),
    }
}

fn accept(email: &str, seconds: i64) -> InvitationCommand {
    InvitationCommand::Accept {
        user_id: user(),
        email: address(email),
        at: at(seconds),
    }
}

fn given(facts: Vec<InvitationEvent>) -> AggregateTestExecutor<Invitation> {
    TestFramework::<Invitation>::with(()).given(facts)
}

#[test]
fn somebody_is_invited_but_never_as_an_owner() {
    given(vec![])
        .when(issue(OrganizationRole::Member))
        .then_expect_events(vec![issued()]);
    given(vec![])
        .when(issue(OrganizationRole::Owner))
        .then_expect_error(InvitationError::RoleInvalid);
    given(vec![issued()])
        .when(issue(OrganizationRole::Member))
        .then_expect_error(InvitationError::AlreadyIssued);
}

#[test]
fn it_is_accepted_once_in_time_and_by_its_address() {
    let accepted = InvitationEvent::Accepted {
        user_id: user(),
        at: at(1),
    };
    given(vec![issued()])
        .when(accept("ada@example.org", 1))
        .then_expect_events(vec![accepted.clone()]);
    given(vec![issued()])
        .when(accept("eve@example.org", 1))
        .then_expect_error(InvitationError::OtherAddress);
    given(vec![issued(), accepted])
        .when(accept("ada@example.org", 2))
        .then_expect_error(InvitationError::AlreadyUsed);
    given(vec![issued()])
        .when(accept("ada@example.org", LIFETIME_S))
        .then_expect_error(InvitationError::Expired);
    given(vec![])
        .when(accept("ada@example.org", 1))
        .then_expect_error(InvitationError::NotFound);
}

#[test]
fn it_lapses_after_its_time_and_not_before() {
    let lapse = |seconds| InvitationCommand::Lapse { at: at(seconds) };
    let lapsed = InvitationEvent::Lapsed { at: at(LIFETIME_S) };
    given(vec![issued()])
        .when(lapse(LIFETIME_S))
        .then_expect_events(vec![lapsed.clone()]);
    given(vec![issued()])
        .when(lapse(1))
        .then_expect_error(InvitationError::NotExpired);
    given(vec![issued(), lapsed])
        .when(lapse(LIFETIME_S))
        .then_expect_events(vec![]);
}

#[test]
fn it_holds_its_address_within_the_organization_until_it_ends() {
    let key = pending_key(organization(), &address("ada@example.org"));
    assert_eq!(
        issued().claims(SUBJECT),
        vec![ClaimChange::take(ClaimScope::PendingInvitation, key)]
    );
    let lapsed = InvitationEvent::Lapsed { at: at(LIFETIME_S) };
    assert_eq!(
        lapsed.claims(SUBJECT),
        vec![ClaimChange::release_all(ClaimScope::PendingInvitation)]
    );
}
