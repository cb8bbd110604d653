//! Commands against a real log: what is written, what is refused, and who wins when several ask at once.

#![allow(clippy::unwrap_used, reason = "a fixture that fails fails its test")]

mod accounts;
mod cache;
mod content;
mod datatypes;
mod promises;
mod registration;
mod routes;
mod second_factors;
mod sessions;
mod sign_in;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use annals_commands::auth::{self, Credential, SignedIn};
use annals_commands::user::{self, Register, Registered};
use annals_commands::{
    CommandContext, CommandError, CommandSettings, Commands, ManualClock, PasswordPolicy, PasswordPool,
    PasswordSettings, SecretString, TokenKey, TokenSettings, Tokens,
};
use annals_domain::{Actor, Caller, Device, EmailAddress, Role, Timestamp, UserId, Username};
use annals_eventstore::{EventStore, MasterKey, Position, Record, Vault, WriterOptions};
use annals_tests::TestDatabase;
use uuid::Uuid;

pub(crate) const PASSWORD: &str = "Correct-h0rse!";

/// A log of its own, a clock that stands still, and hashing that costs nothing.
pub(crate) struct Fixture {
    pub(crate) commands: Commands,
    pub(crate) clock: ManualClock,
    key: TokenKey,
    master: MasterKey,
    database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(CommandSettings::default(), PasswordSettings::insecure_and_fast()).await
    }

    pub(crate) async fn with(settings: CommandSettings, passwords: PasswordSettings) -> Self {
        let database = TestDatabase::new().await;
        let master = MasterKey::generate().unwrap();
        let key = TokenKey::generate().unwrap();
        let clock = ManualClock::new(Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").unwrap());
        let commands = Self::start(&database, &master, &key, &clock, settings, &passwords).await;
        Self {
            commands,
            clock,
            key,
            master,
            database,
        }
    }

    /// The same log, asked by another process.
    pub(crate) async fn other_process(&self) -> Commands {
        let passwords = PasswordSettings::insecure_and_fast();
        let settings = CommandSettings::default();
        Self::start(
            &self.database,
            &self.master,
            &self.key,
            &self.clock,
            settings,
            &passwords,
        )
        .await
    }

    async fn start(
        database: &TestDatabase,
        master: &MasterKey,
        key: &TokenKey,
        clock: &ManualClock,
        settings: CommandSettings,
        passwords: &PasswordSettings,
    ) -> Commands {
        let vault = Vault::open(&database.database(), master).await.unwrap();
        let store = EventStore::start(database.database(), vault, WriterOptions::default());
        let tokens = Tokens::new(key.clone(), Vec::new(), TokenSettings::default());
        let pool = PasswordPool::start(passwords).unwrap();
        Commands::new(store, Arc::new(clock.clone()), pool, tokens, settings)
    }

    pub(crate) async fn register(&self, email: &str) -> Registered {
        let caller = nobody();
        let cx = self.commands.on_behalf_of(&caller);
        user::register(&cx, wish(email)).await.unwrap()
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Result<SignedIn, CommandError> {
        let caller = nobody();
        let cx = self.commands.on_behalf_of(&caller);
        let options = self.commands.settings().opaque_sign_in();
        auth::sign_in(&cx, Credential::Email(email), &secret(password), options).await
    }

    pub(crate) async fn head(&self) -> Position {
        self.commands.store().head().await.unwrap().position
    }

    /// Everything after `position`.
    pub(crate) async fn since(&self, position: Position) -> Vec<Record> {
        self.commands.store().read_after(position, 1000).await.unwrap()
    }

    pub(crate) async fn types_since(&self, position: Position) -> Vec<&'static str> {
        self.since(position)
            .await
            .iter()
            .map(|record| record.event.event_type())
            .collect()
    }

    /// Asks in the name of a part of the program, which may do everything.
    pub(crate) async fn as_system<T, F>(&self, ask: impl FnOnce(CommandContext<'static>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        ask(self.context(Caller::system("test", Uuid::now_v7()))).await
    }

    /// A context that lives as long as the test, for tests that ask many things at once.
    pub(crate) fn context(&self, caller: Caller) -> CommandContext<'static> {
        let commands: &'static Commands = Box::leak(Box::new(self.commands.clone()));
        commands.on_behalf_of(Box::leak(Box::new(caller)))
    }

    pub(crate) fn system(&self) -> CommandContext<'static> {
        self.context(Caller::system("test", Uuid::now_v7()))
    }
}

pub(crate) fn nobody() -> Caller {
    Caller {
        address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        device: Device {
            name: Some("Test phone".to_owned()),
            kind: "mobile".to_owned(),
            ..Device::default()
        },
        ..Caller::anonymous(Uuid::now_v7())
    }
}

pub(crate) fn user(id: UserId, role: Role) -> Caller {
    Caller {
        actor: Actor::User(id),
        role: Some(role),
        ..nobody()
    }
}

pub(crate) fn signed_in_as(signed_in: &SignedIn) -> Caller {
    Caller {
        session_id: Some(signed_in.session_id),
        ..user(signed_in.user_id, Role::Viewer)
    }
}

pub(crate) fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

pub(crate) fn wish(email: &str) -> Register {
    Register {
        email: EmailAddress::parse(email).unwrap(),
        password: secret(PASSWORD),
        policy: PasswordPolicy::EIGHT,
        name: "Ada Lovelace".to_owned(),
        username: None,
        organization_name: None,
        role: Role::Viewer,
        sign_in: None,
    }
}

pub(crate) fn username(text: &str) -> Option<Username> {
    Some(Username::parse(text).unwrap())
}

pub(crate) fn new_id<I: From<Uuid>>() -> I {
    I::from(Uuid::now_v7())
}

#[track_caller]
pub(crate) fn assert_code<T>(answer: Result<T, CommandError>, code: &str) {
    match answer {
        Ok(_) => panic!("accepted instead of {code}"),
        Err(error) => assert_eq!(error.code(), code, "{error:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_refused<T>(answer: Result<T, CommandError>, code: &str, field: &str) {
    match answer {
        Ok(_) => panic!("accepted instead of {code}"),
        Err(error) => assert_eq!((error.code(), error.field()), (code, Some(field)), "{error:?}"),
    }
}
