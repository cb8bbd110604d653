//! Rules of second factors: given facts, when a command, then facts or a broken rule.

use cqrs_es::test::TestFramework;
use uuid::Uuid;

use super::{ChallengeRef, LOCKS, Mfa, MfaCommand, MfaError, MfaEvent, WRONG_CODES_OF_A_CHALLENGE};
use crate::personal::Personal;
use crate::registry::{AnyEvent, DomainError, Event, fold_state};
use crate::values::{PasswordHash, Timestamp, TotpSecret};

const USER: Uuid = Uuid::from_u128(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(0).plus_seconds(seconds)
}

fn secret(letter: &str) -> Personal<TotpSecret> {
    Personal::new(USER, TotpSecret::parse(&letter.repeat(32)).unwrap())
}

fn hashes(text: &str) -> Personal<Vec<PasswordHash>> {
    let hashes = (0..10).map(|number| PasswordHash::parse(&format!("$argon2id${text}{number}")).unwrap());
    Personal::new(USER, hashes.collect())
}

fn begun(letter: &str) -> MfaEvent {
    MfaEvent::SetupBegun {
        totp_secret: secret(letter),
        at: at(0),
    }
}

/// A second factor in force since step 100.
fn enabled() -> Vec<MfaEvent> {
    vec![
        begun("A"),
        MfaEvent::Enabled { step: 100, at: at(1) },
        MfaEvent::BackupCodesMade {
            backup_codes: hashes("first"),
            at: at(1),
        },
    ]
}

fn challenge(number: u128) -> Option<ChallengeRef> {
    Some(ChallengeRef {
        id: Uuid::from_u128(number),
        expires_at: at(300),
    })
}

fn accept(step: u64, challenge: Option<ChallengeRef>, seconds: i64) -> MfaCommand {
    MfaCommand::AcceptCode {
        step,
        challenge,
        session_id: None,
        at: at(seconds),
    }
}

fn accepted(step: u64, challenge: Option<ChallengeRef>, seconds: i64) -> MfaEvent {
    MfaEvent::CodeAccepted {
        step,
        challenge,
        session_id: None,
        at: at(seconds),
    }
}

fn use_backup(index: u8, challenge: Option<ChallengeRef>) -> MfaCommand {
    MfaCommand::UseBackupCode {
        index,
        challenge,
        session_id: None,
        at: at(9),
    }
}

fn used(index: u8) -> MfaEvent {
    MfaEvent::BackupCodeUsed {
        index,
        challenge: None,
        session_id: None,
        at: at(9),
    }
}

fn refused(challenge: Option<ChallengeRef>, seconds: i64) -> MfaEvent {
    MfaEvent::CodeRefused {
        challenge,
        address: None,
        at: at(seconds),
    }
}

fn refuse(challenge: Option<ChallengeRef>, seconds: i64) -> MfaCommand {
    MfaCommand::RefuseCode {
        challenge,
        address: None,
        at: at(seconds),
    }
}

fn given(facts: Vec<MfaEvent>) -> cqrs_es::test::AggregateTestExecutor<Mfa> {
    TestFramework::<Mfa>::with(()).given(facts)
}

fn and(mut facts: Vec<MfaEvent>, more: impl IntoIterator<Item = MfaEvent>) -> Vec<MfaEvent> {
    facts.extend(more);
    facts
}

fn state_after(facts: Vec<MfaEvent>) -> Mfa {
    let state = fold_state("mfa", facts.into_iter().map(AnyEvent::from)).unwrap();
    serde_json::from_value(state).unwrap()
}

#[test]
fn setting_up_again_replaces_the_offered_secret_until_one_is_in_force() {
    let begin = |letter| MfaCommand::BeginSetup {
        totp_secret: secret(letter),
        at: at(0),
    };
    given(vec![]).when(begin("A")).then_expect_events(vec![begun("A")]);
    given(vec![begun("A")])
        .when(begin("B"))
        .then_expect_events(vec![begun("B")]);
    given(enabled())
        .when(begin("B"))
        .then_expect_error(MfaError::AlreadyEnabled);
    let state = state_after(vec![begun("A"), begun("B"), MfaEvent::Enabled { step: 1, at: at(1) }]);
    assert_eq!(state.totp_secret, Some(secret("B")));
    assert_eq!(state.offered_totp_secret, None);
}

/// MF-2
#[test]
fn an_offered_secret_is_no_second_factor() {
    let state = state_after(vec![begun("A")]);
    assert!(!state.is_enabled());
    given(vec![begun("A")])
        .when(accept(1, None, 1))
        .then_expect_error(MfaError::NotEnabled);
}

#[test]
fn enabling_makes_backup_codes_and_uses_its_code_up() {
    let enable = MfaCommand::Enable {
        step: 100,
        backup_codes: hashes("first"),
        at: at(1),
    };
    given(vec![]).when(enable.clone()).then_expect_error(MfaError::NotSetUp);
    given(vec![begun("A")])
        .when(enable.clone())
        .then_expect_events(enabled()[1..].to_vec());
    given(enabled())
        .when(enable)
        .then_expect_error(MfaError::AlreadyEnabled);
    given(enabled())
        .when(accept(100, None, 2))
        .then_expect_error(MfaError::CodeUsed);
}

/// MF-3, MF-4
#[test]
fn a_step_is_accepted_once_and_none_before_it() {
    let facts = and(enabled(), [accepted(102, None, 2)]);
    for step in [99, 100, 101, 102] {
        given(facts.clone())
            .when(accept(step, None, 3))
            .then_expect_error(MfaError::CodeUsed);
    }
    given(facts)
        .when(accept(103, None, 3))
        .then_expect_events(vec![accepted(103, None, 3)]);
}

/// MF-6
#[test]
fn a_backup_code_is_used_once_and_new_ones_void_the_old() {
    given(enabled())
        .when(use_backup(3, None))
        .then_expect_events(vec![used(3)]);
    let facts = and(enabled(), [used(3)]);
    given(facts.clone())
        .when(use_backup(3, None))
        .then_expect_error(MfaError::CodeUsed);
    assert_eq!(state_after(facts.clone()).backup_codes_left(), 9);
    let made = MfaEvent::BackupCodesMade {
        backup_codes: hashes("second"),
        at: at(10),
    };
    given(facts.clone())
        .when(MfaCommand::MakeBackupCodes {
            backup_codes: hashes("second"),
            at: at(10),
        })
        .then_expect_events(vec![made.clone()]);
    let state = state_after(and(facts, [made]));
    assert_eq!(
        (state.backup_codes_left(), state.backup_codes),
        (10, Some(hashes("second")))
    );
    given(enabled())
        .when(use_backup(10, None))
        .then_expect_error(MfaError::CodeUsed);
}

#[test]
fn a_sign_in_is_completed_once() {
    let facts = and(enabled(), [accepted(101, challenge(7), 2)]);
    for command in [
        accept(102, challenge(7), 3),
        use_backup(0, challenge(7)),
        refuse(challenge(7), 3),
    ] {
        given(facts.clone())
            .when(command)
            .then_expect_error(MfaError::ChallengeSpent);
    }
    given(facts)
        .when(accept(102, challenge(8), 3))
        .then_expect_events(vec![accepted(102, challenge(8), 3)]);
}

/// TH-9
#[test]
fn five_wrong_codes_void_one_sign_in_and_no_other() {
    let four = (0..WRONG_CODES_OF_A_CHALLENGE - 1).map(|_| refused(challenge(7), 2));
    let facts = and(enabled(), four);
    given(facts.clone())
        .when(accept(101, challenge(7), 3))
        .then_expect_events(vec![accepted(101, challenge(7), 3)]);
    let facts = and(facts, [refused(challenge(7), 2)]);
    for command in [accept(101, challenge(7), 3), refuse(challenge(7), 3)] {
        given(facts.clone())
            .when(command)
            .then_expect_error(MfaError::ChallengeVoid);
    }
    given(facts)
        .when(accept(101, challenge(8), 3))
        .then_expect_events(vec![accepted(101, challenge(8), 3)]);
}

/// TH-9
#[test]
fn many_wrong_codes_in_whatever_sign_ins_lock_for_a_while() {
    let wrong = |count: u32| {
        and(
            enabled(),
            (0..count).map(|number| refused(challenge(number.into()), 10)),
        )
    };
    let [(many, long), (few, short)] = LOCKS;
    given(wrong(few - 1))
        .when(accept(101, None, 11))
        .then_expect_events(vec![accepted(101, None, 11)]);
    for (count, seconds) in [(few, short), (many - 1, short), (many, long), (many + 1, long)] {
        let until = at(10 + seconds);
        given(wrong(count))
            .when(accept(101, challenge(99), 9 + seconds))
            .then_expect_error(MfaError::Locked { until });
        given(wrong(count))
            .when(refuse(None, 9 + seconds))
            .then_expect_error(MfaError::Locked { until });
        given(wrong(count))
            .when(accept(101, None, 10 + seconds))
            .then_expect_events(vec![accepted(101, None, 10 + seconds)]);
    }
    let state = state_after(and(wrong(many), [accepted(101, None, 10_000)]));
    assert_eq!(state.failures, 0);
}

#[test]
fn ended_challenges_are_forgotten_after_a_while() {
    let facts = and(enabled(), [refused(challenge(7), 2)]);
    let later = |seconds| state_after(and(facts.clone(), [refused(challenge(8), seconds)])).challenges;
    assert!(later(359).contains_key(&Uuid::from_u128(7)));
    assert!(!later(360).contains_key(&Uuid::from_u128(7)));
}

#[test]
fn disabling_forgets_everything_but_completed_sign_ins() {
    given(vec![begun("A")])
        .when(MfaCommand::Disable { at: at(9) })
        .then_expect_error(MfaError::NotEnabled);
    given(enabled())
        .when(MfaCommand::Disable { at: at(9) })
        .then_expect_events(vec![MfaEvent::Disabled { at: at(9) }]);
    let facts = and(
        enabled(),
        [accepted(101, challenge(7), 2), MfaEvent::Disabled { at: at(9) }],
    );
    let state = state_after(facts);
    assert!(!state.is_enabled() && state.totp_secret.is_none() && state.backup_codes.is_none());
    assert!(state.challenges[&Uuid::from_u128(7)].spent);
}

#[test]
fn an_erased_factor_is_still_asked_for() {
    let erased = MfaEvent::SetupBegun {
        totp_secret: Personal::erased(USER),
        at: at(0),
    };
    assert!(state_after(vec![erased, MfaEvent::Enabled { step: 1, at: at(1) }]).is_enabled());
}

#[test]
fn a_second_factor_claims_nothing() {
    for event in enabled() {
        assert_eq!(event.claims(USER), vec![]);
    }
}

#[test]
fn codes_are_stable() {
    for (error, code, field) in [
        (MfaError::AlreadyEnabled, "mfa.already_enabled", None),
        (MfaError::NotSetUp, "mfa.not_set_up", None),
        (MfaError::NotEnabled, "mfa.not_enabled", None),
        (MfaError::CodeUsed, "mfa.code_used", Some("code")),
        (MfaError::ChallengeSpent, "mfa.challenge_spent", None),
        (MfaError::ChallengeVoid, "mfa.challenge_void", None),
        (MfaError::Locked { until: at(0) }, "mfa.locked", None),
    ] {
        assert_eq!((error.code(), error.field()), (code, field));
    }
}
