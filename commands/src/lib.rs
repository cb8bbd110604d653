//! How it is asked for: one function per command, and the services that commands need.
//!
//! Every public function of a noun's module takes a [`CommandContext`] and authorises on its first line, so that no
//! route, import or command line can forget to. What may happen is decided by the domain, what has happened is
//! written by the event store; this crate loads, asks, appends and repeats when somebody else was quicker. Existence
//! and uniqueness are never looked up beforehand: they are demanded of the commit itself, as claims.

mod afterwards;
mod ancestry;
pub mod auth;
pub mod cache;
pub mod clock;
pub mod content;
pub mod datatype;
pub mod email_verification;
mod error;
pub mod executor;
pub mod field;
pub mod invitation;
pub mod link;
pub mod mfa;
pub mod organization;
pub mod password_reset;
pub mod reactions;
pub mod registration;
pub mod route;
pub mod services;
pub mod session;
pub mod settings;
pub mod token;
pub mod user;

use std::fmt;
use std::sync::Arc;

use annals_domain::{Caller, Timestamp};
use annals_eventstore::EventStore;

use cache::AggregateCache;

pub use cache::CacheCounts;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::CommandError;
pub use executor::{Commit, Committed, Reference, Staged, UnitOfWork};
pub use secrecy::SecretString;
pub use services::password::{PasswordPool, PasswordSettings};
pub use services::token::{TokenFault, TokenKey, TokenSettings, Tokens};
pub use settings::{CommandSettings, Lifetimes, LinkSettings, MfaSettings, PasswordPolicy, RefreshKind, SignInOptions};

/// Everything that commands work with. Clones share it.
#[derive(Clone)]
pub struct Commands(Arc<Inner>);

struct Inner {
    store: EventStore,
    clock: Arc<dyn Clock>,
    passwords: PasswordPool,
    tokens: Tokens,
    settings: CommandSettings,
    failures: auth::FailureRecorder,
    cache: AggregateCache,
    afterwards: afterwards::Afterwards,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Commands {
    /// Puts the parts together; nothing runs yet.
    #[must_use]
    pub fn new(
        store: EventStore,
        clock: Arc<dyn Clock>,
        passwords: PasswordPool,
        tokens: Tokens,
        settings: CommandSettings,
    ) -> Self {
        let failures = auth::FailureRecorder::new(settings.failures_per_minute);
        Self(Arc::new(Inner {
            store,
            clock,
            passwords,
            tokens,
            settings,
            failures,
            cache: AggregateCache::new(),
            afterwards: afterwards::Afterwards::new(),
        }))
    }

    /// The context of one request.
    #[must_use]
    pub const fn on_behalf_of<'a>(&'a self, caller: &'a Caller) -> CommandContext<'a> {
        CommandContext { commands: self, caller }
    }

    /// The log that commands are written to.
    #[must_use]
    pub fn store(&self) -> &EventStore {
        &self.0.store
    }

    /// The pool that passwords are hashed on; its counter tells what sign-ins cost.
    #[must_use]
    pub fn passwords(&self) -> &PasswordPool {
        &self.0.passwords
    }

    /// What was configured.
    #[must_use]
    pub fn settings(&self) -> &CommandSettings {
        &self.0.settings
    }

    /// The present time, as commands see it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Waits until everything that runs behind answered requests is written. Call it before the store is closed.
    pub async fn quiesce(&self) {
        self.0.failures.quiesce().await;
        self.0.afterwards.quiesce().await;
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// How often states kept in memory were of use, since the start.
    #[must_use]
    pub fn cache_counts(&self) -> CacheCounts {
        self.0.cache.counts()
    }

    pub(crate) fn cache(&self) -> &AggregateCache {
        &self.0.cache
    }

    pub(crate) fn afterwards(&self) -> &afterwards::Afterwards {
        &self.0.afterwards
    }

    pub(crate) fn failures(&self) -> &auth::FailureRecorder {
        &self.0.failures
    }
}

/// Whoever asks, and what their command is carried out with.
#[derive(Debug, Clone, Copy)]
pub struct CommandContext<'a> {
    /// The parts that commands work with.
    pub commands: &'a Commands,
    /// Whoever asks.
    pub caller: &'a Caller,
}

impl CommandContext<'_> {
    pub(crate) fn store(&self) -> &EventStore {
        self.commands.store()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.commands.now()
    }
}
