//! Who asks: the actor named in every event, and the caller that permissions are checked against.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::ids::{OrganizationId, SessionId, UserId};
use crate::permission::{Permission, Role};
use crate::promise::Promise;

/// Longest text kept of each member of a [`Device`], in characters.
const DEVICE_TEXT_LIMIT: usize = 255;

/// Who causes an event. Stored as `user:<uuid>`, `system:<name>` or `anonymous`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// A signed-in person.
    User(UserId),
    /// A part of the program that acts by itself, named so that the trail says which.
    System(String),
    /// Nobody known, such as someone who registers.
    Anonymous,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::System(name) => write!(f, "system:{name}"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// A text that names no actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not user:<id>, system:<name> or anonymous")]
pub struct ActorError(pub String);

impl FromStr for Actor {
    type Err = ActorError;

    fn from_str(text: &str) -> Result<Self, ActorError> {
        let refused = || ActorError(text.to_owned());
        match text.split_once(':') {
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("user", id)) => id.parse().map(Self::User).map_err(|_| refused()),
            Some(("system", name)) if !name.is_empty() => Ok(Self::System(name.to_owned())),
            _ => Err(refused()),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a client says about itself. Nothing here is verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// An identifier the client chose for the device.
    #[serde(default)]
    pub id: Option<String>,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// `mobile`, `tablet`, `desktop` or whatever the client sent; `unknown` when it sent nothing.
    #[serde(default = "Device::unknown_kind")]
    pub kind: String,
    /// The `User-Agent` header.
    #[serde(default)]
    pub user_agent: Option<String>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            id: None,
            name: None,
            kind: Self::unknown_kind(),
            user_agent: None,
        }
    }
}

impl Device {
    fn unknown_kind() -> String {
        "unknown".to_owned()
    }

    /// The same device with control characters removed and each text cut to 255 characters; empty texts are absent.
    #[must_use]
    pub fn capped(self) -> Self {
        let cap = |text: String| -> Option<String> {
            let text: String = text
                .chars()
                .filter(|c| !c.is_control())
                .take(DEVICE_TEXT_LIMIT)
                .collect();
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        Self {
            id: self.id.and_then(cap),
            name: self.name.and_then(cap),
            kind: cap(self.kind).unwrap_or_else(Self::unknown_kind),
            user_agent: self.user_agent.and_then(cap),
        }
    }
}

/// Why a caller may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody is signed in.
    #[error("authentication required")]
    Unauthenticated,
    /// Somebody is signed in, but their role does not grant this.
    #[error("permission denied: {0}")]
    Forbidden(Permission),
}

impl Denied {
    /// A stable name for clients.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "auth.unauthenticated",
            Self::Forbidden(_) => "auth.forbidden",
        }
    }
}

/// Whoever is asking, with what is known about the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is; recorded with every event.
    pub actor: Actor,
    /// The session the request was authenticated with, if any.
    pub session_id: Option<SessionId>,
    /// The user's role; absent for everyone else.
    pub role: Option<Role>,
    /// The user's organization, if there is one.
    pub organization_id: Option<OrganizationId>,
    /// Where the request came from, behind trusted proxies.
    pub address: Option<IpAddr>,
    /// What the client says about itself.
    pub device: Device,
    /// Shared by everything that one request set off.
    pub correlation_id: Uuid,
    /// The message that set this off: the request itself, or an event when a reaction acts.
    pub causation_id: Uuid,
    /// What the client promised with an idempotency key, if it did.
    pub promise: Option<Arc<Promise>>,
}

impl Caller {
    /// A part of the program that acts by itself. It may do everything.
    #[must_use]
    pub fn system(name: impl Into<String>, correlation: Uuid) -> Self {
        Self {
            actor: Actor::System(name.into()),
            ..Self::anonymous(correlation)
        }
    }

    /// Nobody known. May do only what asks for no permission.
    #[must_use]
    pub fn anonymous(correlation: Uuid) -> Self {
        Self {
            actor: Actor::Anonymous,
            session_id: None,
            role: None,
            organization_id: None,
            address: None,
            device: Device::default(),
            correlation_id: correlation,
            causation_id: correlation,
            promise: None,
        }
    }

    /// Refuses unless the caller holds `permission`.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when nobody is signed in, [`Denied::Forbidden`] when the role does not grant it.
    pub fn require(&self, permission: Permission) -> Result<(), Denied> {
        match (&self.actor, self.role) {
            (Actor::System(_), _) => Ok(()),
            (Actor::User(_), Some(role)) if role.permits(permission) => Ok(()),
            (Actor::User(_), _) => Err(Denied::Forbidden(permission)),
            (Actor::Anonymous, _) => Err(Denied::Unauthenticated),
        }
    }

    /// Whether [`Caller::require`] would let `permission` pass.
    #[must_use]
    pub fn can(&self, permission: Permission) -> bool {
        self.require(permission).is_ok()
    }

    /// The signed-in user; absent for the system and for nobody.
    #[must_use]
    pub const fn user_id(&self) -> Option<UserId> {
        match self.actor {
            Actor::User(id) => Some(id),
            Actor::System(_) | Actor::Anonymous => None,
        }
    }

    /// The signed-in user, for commands about oneself.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when no user is signed in; the system has no self either.
    pub fn require_user(&self) -> Result<UserId, Denied> {
        self.user_id().ok_or(Denied::Unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Actor, Caller, Denied, Device};
    use crate::ids::UserId;
    use crate::permission::{Permission, Role};

    fn user(role: Option<Role>) -> Caller {
        let actor = Actor::User(UserId::new(Uuid::from_u128(7)));
        Caller {
            actor,
            role,
            ..Caller::anonymous(Uuid::nil())
        }
    }

    #[test]
    fn nobody_is_asked_to_sign_in() {
        let caller = Caller::anonymous(Uuid::nil());
        for permission in Permission::ALL {
            assert_eq!(caller.require(*permission), Err(Denied::Unauthenticated));
        }
        assert_eq!(caller.require_user(), Err(Denied::Unauthenticated));
    }

    #[test]
    fn a_role_without_a_user_grants_nothing() {
        let caller = Caller {
            role: Some(Role::Administrator),
            ..Caller::anonymous(Uuid::nil())
        };
        assert!(!caller.can(Permission::ContentRead));
    }

    #[test]
    fn a_user_without_a_role_is_forbidden() {
        let denied = user(None).require(Permission::ContentRead);
        assert_eq!(denied, Err(Denied::Forbidden(Permission::ContentRead)));
    }

    #[test]
    fn a_user_may_do_what_the_role_grants() {
        let viewer = user(Some(Role::Viewer));
        assert!(viewer.can(Permission::ContentRead));
        assert!(!viewer.can(Permission::ContentUpdate));
        assert_eq!(viewer.require_user(), Ok(UserId::new(Uuid::from_u128(7))));
    }

    #[test]
    fn the_system_may_do_everything_but_is_no_user() {
        let system = Caller::system("importer", Uuid::nil());
        assert!(Permission::ALL.iter().all(|permission| system.can(*permission)));
        assert_eq!(system.require_user(), Err(Denied::Unauthenticated));
    }

    #[test]
    fn an_actor_reads_back_from_its_text() {
        for actor in [
            Actor::User(UserId::new(Uuid::from_u128(7))),
            Actor::System("importer".to_owned()),
            Actor::Anonymous,
        ] {
            assert_eq!(actor.to_string().parse(), Ok(actor.clone()));
            let json = serde_json::to_value(&actor).unwrap();
            assert_eq!(serde_json::from_value::<Actor>(json).unwrap(), actor);
        }
        for text in ["", "user:", "user:7", "system:", "robot:x", "Anonymous", "anonymous:"] {
            assert!(text.parse::<Actor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_is_cut_and_cleaned() {
        let device = Device {
            id: Some("\u{0}\r\n".to_owned()),
            name: Some("é".repeat(300)),
            kind: " ".to_owned(),
            user_agent: Some("a\u{0}b".to_owned()),
        }
        .capped();
        assert_eq!(device.id, None);
        assert_eq!(device.name.unwrap().chars().count(), 255);
        assert_eq!(device.kind, "unknown");
        assert_eq!(device.user_agent.as_deref(), Some("ab"));
    }

    #[test]
    fn a_device_that_said_nothing_is_of_unknown_kind() {
        let device: Device = serde_json::from_str("{}").unwrap();
        assert_eq!(device, Device::default());
        assert_eq!(device.kind, "unknown");
    }
}
