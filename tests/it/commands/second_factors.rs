//! Second factors with several processes on one log.

use annals_commands::auth::{SignIn, sign_in_in_parts};
use annals_commands::mfa::{self, Method};
use annals_commands::{Clock as _, Commands};
use annals_domain::{Mfa, MfaEvent};
use futures::future::join_all;
use secrecy::ExposeSecret as _;
use totp_rs::{Builder, Secret};

use super::{Credential, Fixture, PASSWORD, assert_code, nobody, secret, signed_in_as};

const EMAIL: &str = "ada@example.org";
/// Length of a time step, in seconds.
const STEP: i64 = 30;
/// Uses of one code at once, over both processes.
const PARALLEL: usize = 20;

struct Enrolled {
    fixture: Fixture,
    totp_secret: String,
}

impl Enrolled {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        fixture.register(EMAIL).await;
        let signed_in = fixture.sign_in(EMAIL, PASSWORD).await.unwrap();
        let cx = fixture.context(signed_in_as(&signed_in));
        let set_up = mfa::begin_setup(&cx, None).await.unwrap();
        let enrolled = Self {
            totp_secret: set_up.secret.expose_secret().to_owned(),
            fixture,
        };
        mfa::enable(&cx, &enrolled.code(0)).await.unwrap();
        enrolled
    }

    fn code(&self, steps: i64) -> String {
        let seconds = self.fixture.clock.now().unix_seconds() + steps * STEP;
        let secret = Secret::try_from_base32(&self.totp_secret).unwrap();
        let totp = Builder::new().with_secret(secret).build().unwrap();
        totp.generate(seconds.cast_unsigned()).to_string()
    }
}

async fn pending(commands: &Commands) -> String {
    let caller = nobody();
    let cx = commands.on_behalf_of(&caller);
    let options = commands.settings().opaque_sign_in();
    let answer = sign_in_in_parts(&cx, Credential::Email(EMAIL), &secret(PASSWORD), None, options).await;
    match answer.unwrap() {
        SignIn::SecondFactor(wanted) => wanted.pending_token.expose_secret().to_owned(),
        SignIn::Opened(_) => panic!("no second factor was asked for"),
    }
}

async fn verify(commands: &Commands, token: &str, code: &str) -> Result<mfa::Verified, annals_commands::CommandError> {
    let caller = nobody();
    let options = commands.settings().opaque_sign_in();
    mfa::verify(&commands.on_behalf_of(&caller), token, code, options).await
}

/// MF-3
#[tokio::test]
async fn a_pending_sign_in_is_completed_by_any_process_and_once() {
    let ada = Enrolled::new().await;
    let here = &ada.fixture.commands;
    let there = ada.fixture.other_process().await;
    let token = pending(here).await;
    let verified = verify(&there, &token, &ada.code(1)).await.unwrap();
    assert_eq!(verified.method, Method::Authenticator);
    ada.fixture.clock.advance_seconds(STEP);
    for commands in [here, &there] {
        assert_code(verify(commands, &token, &ada.code(1)).await, mfa::PENDING_TOKEN_INVALID);
    }
}

/// MF-3
#[tokio::test]
async fn two_processes_accept_one_code_once() {
    let ada = Enrolled::new().await;
    let here = &ada.fixture.commands;
    let there = ada.fixture.other_process().await;
    for _ in 0..10 {
        ada.fixture.clock.advance_seconds(STEP);
        let code = ada.code(0);
        let processes = [here, &there].into_iter().cycle().take(PARALLEL);
        let uses = processes.map(async |commands| verify(commands, &pending(commands).await, &code).await);
        let answers = join_all(uses).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for answer in answers.into_iter().filter(Result::is_err) {
            assert_code(answer, mfa::CODE_INVALID);
        }
    }
}

#[tokio::test]
async fn a_sign_in_that_knows_no_second_factor_is_refused() {
    let ada = Enrolled::new().await;
    assert_code(ada.fixture.sign_in(EMAIL, PASSWORD).await, mfa::REQUIRED);
}

#[tokio::test]
async fn the_log_says_which_session_a_code_has_opened() {
    let ada = Enrolled::new().await;
    let commands = &ada.fixture.commands;
    let before = ada.fixture.head().await;
    let token = pending(commands).await;
    let verified = verify(commands, &token, &ada.code(1)).await.unwrap();
    assert_eq!(
        ada.fixture.types_since(before).await,
        ["session.started", "mfa.code_accepted"]
    );
    let records = ada.fixture.since(before).await;
    let Some(annals_domain::AnyEvent::Mfa(MfaEvent::CodeAccepted { session_id, .. })) =
        records.last().map(|record| record.event.clone())
    else {
        panic!("{records:?}")
    };
    assert_eq!(session_id, Some(verified.signed_in.session_id));
    let state = commands
        .store()
        .load::<Mfa>(verified.signed_in.user_id)
        .await
        .unwrap()
        .state;
    assert!(state.is_enabled());
}
