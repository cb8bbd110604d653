//! Why a command was refused, or why nobody knows what became of it.

use std::sync::Arc;
use std::time::Duration;

use annals_domain::registry::DomainError;
use annals_domain::{ClaimScope, Denied};
use annals_eventstore::{Position, StoreError, Version};

use crate::services::password::{MAX_PASSWORD_BYTES, PasswordError};
use crate::services::token::{SigningError, TokenFault};

/// Why a command failed. Nothing was written, except perhaps under [`CommandError::OutcomeUnknown`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// The caller may not ask for this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A rule is broken.
    #[error("{message}")]
    Domain {
        /// A stable name for clients, `<aggregate>.<rule>`.
        code: &'static str,
        /// The member that breaks the rule; absent when it is the state that does.
        field: Option<&'static str>,
        /// For people.
        message: String,
    },
    /// Something that must be unique is somebody else's.
    #[error("already taken: {}", names(.scopes))]
    Taken {
        /// What was taken, among what the caller asked for by name; none twice.
        scopes: Vec<ClaimScope>,
    },
    /// A reference to something that does not exist, or no longer.
    #[error("there is no such {scope}")]
    Missing {
        /// What is referred to.
        scope: ClaimScope,
        /// The member that refers to it; absent when it is the thing asked for itself.
        field: Option<&'static str>,
    },
    /// A token is refused.
    #[error(transparent)]
    Token(#[from] TokenFault),
    /// The version that the caller has seen is no longer the current one.
    #[error("the present version is {actual}, not {expected}")]
    Stale {
        /// The version demanded.
        expected: Version,
        /// The version found.
        actual: Version,
    },
    /// Others were always quicker. Asking again is safe.
    #[error("others keep changing the same thing")]
    Conflict,
    /// Another request under the same idempotency key was carried out before; this one has written nothing.
    #[error("the request was carried out before, at position {position}")]
    AlreadyCarriedOut {
        /// Position of the last event of that commit.
        position: Position,
    },
    /// The idempotency key was used before, for another request.
    #[error("the idempotency key belongs to another request")]
    IdempotencyKeyReused,
    /// Too many attempts have failed; the next one is looked at later.
    #[error("{message}")]
    TooManyAttempts {
        /// A stable name for clients.
        code: &'static str,
        /// For people.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Too much work is waiting.
    #[error("too much work is waiting")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The log cannot be read or written now.
    #[error("the log cannot be reached")]
    Unavailable(#[source] Arc<StoreError>),
    /// The connection was lost while committing; the command may or may not have been carried out.
    #[error("the connection was lost while committing")]
    OutcomeUnknown,
    /// Our mistake, or damage in the log. The text is for the log, not for clients.
    #[error("internal error: {0}")]
    Internal(String),
}

fn names(scopes: &[ClaimScope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

impl CommandError {
    pub(crate) fn rule(code: &'static str, field: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::Domain {
            code,
            field,
            message: message.into(),
        }
    }

    pub(crate) fn broken(error: &impl DomainError) -> Self {
        Self::rule(error.code(), error.field(), error.to_string())
    }

    pub(crate) const fn not_found(scope: ClaimScope) -> Self {
        Self::Missing { scope, field: None }
    }

    /// A stable name for clients.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Domain { code, .. } | Self::TooManyAttempts { code, .. } => code,
            Self::Taken { scopes } => scopes.first().map_or("claim.taken", |scope| taken_code(*scope)),
            Self::Missing { scope, .. } => missing_code(*scope),
            Self::Token(fault) => fault.code(),
            Self::Stale { .. } => "version.stale",
            Self::Conflict => "version.conflict",
            Self::AlreadyCarriedOut { .. } => "idempotency.carried_out",
            Self::IdempotencyKeyReused => "idempotency.key_reused",
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal(_) => "internal",
        }
    }

    /// The member of the request that is at fault, if it is one.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Domain { field, .. } | Self::Missing { field, .. } => *field,
            Self::Taken { scopes } => scopes.first().and_then(|scope| match scope {
                ClaimScope::Email | ClaimScope::PendingEmail | ClaimScope::PendingInvitation => Some("email"),
                ClaimScope::Username => Some("username"),
                ClaimScope::OrganizationSlug | ClaimScope::Slug => Some("slug"),
                ClaimScope::DatatypeField => Some("id"),
                ClaimScope::ContentField => Some("content_field_id"),
                _ => None,
            }),
            _ => None,
        }
    }
}

const fn taken_code(scope: ClaimScope) -> &'static str {
    match scope {
        ClaimScope::Email => "user.email_taken",
        ClaimScope::Username => "user.username_taken",
        ClaimScope::User => "user.already_registered",
        ClaimScope::Session | ClaimScope::RefreshToken => "session.already_started",
        ClaimScope::Organization => "organization.already_exists",
        ClaimScope::OrganizationSlug => "organization.slug_taken",
        ClaimScope::Datatype => "datatype.already_exists",
        ClaimScope::DatatypeField => "datatype.attachment_already_exists",
        ClaimScope::Field => "field.already_exists",
        ClaimScope::Route => "route.already_exists",
        ClaimScope::Slug => "route.slug_taken",
        ClaimScope::Content => "content.already_exists",
        ClaimScope::ContentField => "content.field_already_exists",
        ClaimScope::LinkToken => "link.already_exists",
        ClaimScope::PendingEmail => "registration.already_pending",
        ClaimScope::PendingInvitation => "invitation.already_pending",
        ClaimScope::VerifiedUser => "user.already_verified",
    }
}

const fn missing_code(scope: ClaimScope) -> &'static str {
    match scope {
        ClaimScope::Email | ClaimScope::Username | ClaimScope::User => "user.not_found",
        ClaimScope::Session | ClaimScope::RefreshToken => "session.not_found",
        ClaimScope::Organization | ClaimScope::OrganizationSlug => "organization.not_found",
        ClaimScope::Datatype => "datatype.not_found",
        ClaimScope::DatatypeField => "datatype.attachment_not_found",
        ClaimScope::Field => "field.not_found",
        ClaimScope::Route | ClaimScope::Slug => "route.not_found",
        ClaimScope::Content => "content.not_found",
        ClaimScope::ContentField => "content.field_not_found",
        ClaimScope::LinkToken => "link.invalid",
        ClaimScope::PendingEmail => "registration.not_found",
        ClaimScope::PendingInvitation => "invitation.not_found",
        ClaimScope::VerifiedUser => "user.not_verified",
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<StoreError>> for CommandError {
    fn from(error: Arc<StoreError>) -> Self {
        match &*error {
            StoreError::Decode { .. } | StoreError::Damaged { .. } => Self::Internal(chain(&*error)),
            StoreError::Database(_)
            | StoreError::Vault(_)
            | StoreError::Standby
            | StoreError::Closed
            | StoreError::KeysLost => Self::Unavailable(error),
        }
    }
}

/// An error with everything behind it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl From<PasswordError> for CommandError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::TooLong => Self::rule(
                "password.too_long",
                Some("password"),
                format!("The password must not be longer than {MAX_PASSWORD_BYTES} bytes."),
            ),
            PasswordError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            PasswordError::Stopped => Self::Internal(error.to_string()),
        }
    }
}

impl From<getrandom::Error> for CommandError {
    fn from(error: getrandom::Error) -> Self {
        Self::Internal(format!("no random numbers: {error}"))
    }
}

impl From<SigningError> for CommandError {
    fn from(error: SigningError) -> Self {
        Self::Internal(error.to_string())
    }
}
