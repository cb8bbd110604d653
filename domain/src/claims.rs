//! Claims: keys that at most one stream may hold at a time. Uniqueness and existence are decided by them.
//!
//! Events say which claims they take and give up; the event store applies that inside the append. A live entity
//! holds a claim of its own scope, so that a reference to it can be demanded as "this key is held".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{SessionId, UserId};
use crate::values::{Realm, Slug};

macro_rules! scopes {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)+) => {
        /// What a claimed key identifies; keys of different scopes never meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ClaimScope {
            $($(#[$meta])* $name,)+
        }

        impl ClaimScope {
            /// Every scope there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stored name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

scopes! {
    /// An e-mail address; the key is personal.
    Email = "email",
    /// A username without regard to case; the key is personal.
    Username = "username",
    /// A user that may sign in; given up while disabled.
    User = "user",
    /// A live session, keyed by user and session.
    Session = "session",
    /// The digest of the one refresh token that a session accepts next.
    RefreshToken = "refresh_token",
    /// A live organization.
    Organization = "organization",
    /// The short name of an organization.
    OrganizationSlug = "organization_slug",
    /// A live datatype.
    Datatype = "datatype",
    /// The attachment of a field to a datatype.
    DatatypeField = "datatype_field",
    /// A live field definition.
    Field = "field",
    /// A live route.
    Route = "route",
    /// The path of a route within its realm.
    Slug = "slug",
    /// A live content node.
    Content = "content",
    /// One field value of a content node.
    ContentField = "content_field",
    /// The digest of the token of a mailed link.
    LinkToken = "link_token",
    /// The address of a registration that waits to be proven; the key is personal.
    PendingEmail = "pending_email",
    /// An address within the organization that it is invited into; the key is personal.
    PendingInvitation = "pending_invitation",
    /// A user whose address is proven.
    VerifiedUser = "verified_user",
}

impl fmt::Display for ClaimScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scope name that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown claim scope {0:?}")]
pub struct UnknownScope(pub String);

impl FromStr for ClaimScope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// The key of a claim before it is stored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimKey {
    /// Stored as it is.
    Public(Vec<u8>),
    /// Identifies a person: the vault replaces it by a keyed hash before it reaches the database.
    Personal(String),
}

impl ClaimKey {
    /// The sixteen bytes of an identifier.
    #[must_use]
    pub fn id(id: impl Into<Uuid>) -> Self {
        Self::Public(id.into().as_bytes().to_vec())
    }
}

impl fmt::Debug for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public(bytes) => write!(f, "Public({})", hex::encode(bytes)),
            Self::Personal(_) => f.write_str("Personal(redacted)"),
        }
    }
}

/// The key of a live session: the user's sixteen bytes, then the session's, so that a prefix finds all of a user.
#[must_use]
pub fn session_key(user: UserId, session: SessionId) -> ClaimKey {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(user.as_uuid().as_bytes());
    key.extend_from_slice(session.as_uuid().as_bytes());
    ClaimKey::Public(key)
}

/// The key of a route's path: the realm, a zero byte, the slug. Neither part can hold a zero byte.
#[must_use]
pub fn slug_key(realm: Realm, slug: &Slug) -> ClaimKey {
    let mut key = realm.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(slug.as_str().as_bytes());
    ClaimKey::Public(key)
}

/// The events that end a session or bar a user: those that release a claim by which requests are authenticated. Processes
/// that remember who is live look for them alone.
pub const ENDS_OF_LIVENESS: &[&str] = &["session.revoked", "session.expired", "user.disabled"];

impl ClaimChange {
    /// Whether a session or a user may cease to be live by it.
    #[must_use]
    pub const fn ends_liveness(&self) -> bool {
        matches!(
            self,
            Self::Release { scope, .. } | Self::ReleaseAll { scope }
                if matches!(scope, ClaimScope::Session | ClaimScope::User)
        )
    }
}

/// What an event does to the claims of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClaimChange {
    /// The stream holds the key from here on; refused when another stream holds it, nothing new when it does itself.
    Take {
        /// What the key identifies.
        scope: ClaimScope,
        /// The key itself.
        key: ClaimKey,
    },
    /// The stream gives the key up, if it holds it.
    Release {
        /// What the key identifies.
        scope: ClaimScope,
        /// The key itself.
        key: ClaimKey,
    },
    /// The stream gives up every key that it holds in this scope.
    ReleaseAll {
        /// Which keys.
        scope: ClaimScope,
    },
}

impl ClaimChange {
    pub(crate) fn take(scope: ClaimScope, key: ClaimKey) -> Self {
        Self::Take { scope, key }
    }

    pub(crate) fn release(scope: ClaimScope, key: ClaimKey) -> Self {
        Self::Release { scope, key }
    }

    pub(crate) fn release_all(scope: ClaimScope) -> Self {
        Self::ReleaseAll { scope }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClaimKey, ClaimScope, session_key, slug_key};
    use crate::ids::{SessionId, UserId};
    use crate::values::{Realm, Slug};
    use uuid::Uuid;

    #[test]
    fn every_scope_reads_back_from_its_name() {
        for scope in ClaimScope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(*scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert!("emails".parse::<ClaimScope>().is_err());
    }

    #[test]
    fn a_session_key_starts_with_its_user() {
        let user = UserId::new(Uuid::from_u128(1));
        let ClaimKey::Public(key) = session_key(user, SessionId::new(Uuid::from_u128(2))) else {
            panic!("a session key is public");
        };
        assert_eq!(key.len(), 32);
        assert!(key.starts_with(user.as_uuid().as_bytes()));
    }

    #[test]
    fn the_same_slug_in_two_realms_has_two_keys() {
        let slug = Slug::parse("/home").unwrap();
        assert_eq!(slug_key(Realm::Site, &slug), ClaimKey::Public(b"site\0/home".to_vec()));
        assert_eq!(
            slug_key(Realm::Admin, &slug),
            ClaimKey::Public(b"admin\0/home".to_vec())
        );
    }

    #[test]
    fn a_personal_key_does_not_print() {
        let key = ClaimKey::Personal("ada@example.org".to_owned());
        assert!(!format!("{key:?}").contains("ada"));
    }
}
