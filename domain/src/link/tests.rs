//! Rules of mailed links: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::{Link, LinkCommand, LinkError, LinkEvent, LinkPurpose, WINDOW_SECONDS};
use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::personal::Personal;
use crate::registry::{DomainError, Event};
use crate::values::{EmailAddress, LinkNonce, Timestamp, TokenDigest};

const USER: Uuid = Uuid::from_u128(1);
const LIFETIME_S: i64 = 600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn digest(number: u8) -> TokenDigest {
    TokenDigest::new([number; 32])
}

fn email() -> Personal<EmailAddress> {
    Personal::new(USER, EmailAddress::parse("ada@example.org").unwrap())
}

fn issued(number: u8, replaces: Option<u8>, seconds: i64) -> LinkEvent {
    LinkEvent::Issued {
        purpose: LinkPurpose::PasswordReset,
        subject: USER,
        email: email(),
        nonce: LinkNonce::new([number; 16]),
        digest: digest(number),
        replaces: replaces.map(digest),
        expires_at: at(seconds + LIFETIME_S),
        at: at(seconds),
    }
}

fn issue(number: u8, seconds: i64) -> LinkCommand {
    LinkCommand::Issue {
        purpose: LinkPurpose::PasswordReset,
        subject: USER,
        email: email(),
        nonce: LinkNonce::new([number; 16]),
        digest: digest(number),
        expires_at: at(seconds + LIFETIME_S),
        most: 3,
        at: at(seconds),
    }
}

fn redeem(number: u8, seconds: i64) -> LinkCommand {
    LinkCommand::Redeem {
        presented: digest(number),
        at: at(seconds),
    }
}

fn given(facts: Vec<LinkEvent>) -> AggregateTestExecutor<Link> {
    TestFramework::<Link>::with(()).given(facts)
}

#[test]
fn a_link_is_used_once() {
    let redeemed = LinkEvent::Redeemed { at: at(5) };
    given(vec![issued(1, None, 0)])
        .when(redeem(1, 5))
        .then_expect_events(vec![redeemed.clone()]);
    given(vec![issued(1, None, 0), redeemed])
        .when(redeem(1, 6))
        .then_expect_error(LinkError::AlreadyUsed);
}

#[test]
fn a_newer_link_voids_the_older() {
    given(vec![issued(1, None, 0)])
        .when(issue(2, 1))
        .then_expect_events(vec![issued(2, Some(1), 1)]);
    given(vec![issued(1, None, 0), issued(2, Some(1), 1)])
        .when(redeem(1, 2))
        .then_expect_error(LinkError::Invalid);
    let key = |number| ClaimKey::Public(vec![number; 32]);
    assert_eq!(
        issued(2, Some(1), 1).claims(Uuid::nil()),
        vec![
            ClaimChange::release(ClaimScope::LinkToken, key(1)),
            ClaimChange::take(ClaimScope::LinkToken, key(2)),
        ]
    );
}

#[test]
fn a_link_ends_with_its_time() {
    given(vec![issued(1, None, 0)])
        .when(redeem(1, LIFETIME_S - 1))
        .then_expect_events(vec![LinkEvent::Redeemed { at: at(LIFETIME_S - 1) }]);
    given(vec![issued(1, None, 0)])
        .when(redeem(1, LIFETIME_S))
        .then_expect_error(LinkError::Expired);
}

#[test]
fn a_voided_link_is_good_for_nothing_and_voiding_repeats() {
    let voided = LinkEvent::Voided {
        digest: digest(1),
        at: at(1),
    };
    given(vec![issued(1, None, 0)])
        .when(LinkCommand::Void { at: at(1) })
        .then_expect_events(vec![voided.clone()]);
    given(vec![issued(1, None, 0), voided.clone()])
        .when(LinkCommand::Void { at: at(2) })
        .then_expect_events(vec![]);
    given(vec![issued(1, None, 0), voided])
        .when(redeem(1, 2))
        .then_expect_error(LinkError::Invalid);
    given(vec![])
        .when(LinkCommand::Void { at: at(1) })
        .then_expect_events(vec![]);
}

#[test]
fn links_are_counted_within_an_hour() {
    let three = || vec![issued(1, None, 0), issued(2, Some(1), 10), issued(3, Some(2), 20)];
    given(three())
        .when(issue(4, 30))
        .then_expect_error(LinkError::TooMany(at(WINDOW_SECONDS)));
    given(three())
        .when(issue(4, WINDOW_SECONDS))
        .then_expect_events(vec![issued(4, Some(3), WINDOW_SECONDS)]);
}

#[test]
fn codes_are_stable() {
    assert_eq!(LinkError::Invalid.code(), "link.invalid");
    assert_eq!(LinkError::Expired.code(), "link.expired");
    assert_eq!(LinkError::AlreadyUsed.code(), "link.already_used");
    assert_eq!(LinkError::TooMany(at(0)).code(), "link.too_many");
}
