//! The one list of aggregates: how stored events become typed ones, and what all aggregates have in common.

use cqrs_es::persist::{EventUpcaster, SemanticVersion, SerializedEvent};
use cqrs_es::{Aggregate, DomainEvent};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::{self, Auth, AuthEvent};
use crate::claims::ClaimChange;
use crate::content::{self, Content, ContentEvent};
use crate::datatype::{self, Datatype, DatatypeEvent};
use crate::field::{self, Field, FieldEvent};
use crate::invitation::{self, Invitation, InvitationEvent};
use crate::link::{self, Link, LinkEvent};
use crate::mfa::{self, Mfa, MfaEvent};
use crate::organization::{self, Organization, OrganizationEvent};
use crate::registration::{self, Registration, RegistrationEvent};
use crate::route::{self, Route, RouteEvent};
use crate::session::{self, Session, SessionEvent};
use crate::user::{self, User, UserEvent};

pub use crate::kind::EventKind;

/// Names the rules that states are folded by: a hash of the sources of this crate, in 16 hexadecimal digits. A state
/// that was kept under another name must be folded anew.
pub const STATE_SCHEMA: &str = env!("ANNALS_STATE_SCHEMA");

/// An event of one aggregate.
pub trait Event: DomainEvent + Into<AnyEvent> {
    /// What this event does to the claims of its stream, in order.
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange>;
}

/// A broken rule of one aggregate.
pub trait DomainError: std::error::Error + Send + Sync + 'static {
    /// A stable name for clients, `<aggregate>.<rule>`.
    fn code(&self) -> &'static str;

    /// The member of the command that breaks the rule; absent when it is the state that does.
    fn field(&self) -> Option<&'static str>;
}

/// An aggregate whose decisions are a pure function of its state and a command.
pub trait EventSourced:
    Aggregate<Command: Clone + Send + Sync + 'static, Event: Event + 'static, Error: DomainError, Services = ()>
    + Clone
    + 'static
{
    /// Names the streams of this aggregate.
    type Id: Into<Uuid> + From<Uuid> + Copy + Send + Sync + 'static;

    /// The facts that follow from `command` in this state; none when it asks for what already is.
    ///
    /// # Errors
    /// The rule that `command` breaks.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Why a stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No aggregate of this name.
    #[error("unknown aggregate type {0:?}")]
    UnknownAggregate(String),
    /// The aggregate has no event of this name.
    #[error("unknown event type {event_type:?} of aggregate {aggregate_type:?}")]
    UnknownEvent {
        /// The aggregate asked.
        aggregate_type: String,
        /// The stored type.
        event_type: String,
    },
    /// The version is not a whole number, optionally with minor parts.
    #[error("malformed version {version:?} of {event_type}")]
    MalformedVersion {
        /// The stored type.
        event_type: String,
        /// The stored version.
        version: String,
    },
    /// A newer program wrote this event.
    #[error("{event_type} has version {version}, this program knows {known}")]
    NewerVersion {
        /// The stored type.
        event_type: String,
        /// The stored version.
        version: String,
        /// The newest version known here.
        known: &'static str,
    },
    /// An older version that no upcaster lifts to the next one.
    #[error("{event_type} of version {version} cannot be lifted to {known}")]
    NoUpcaster {
        /// The stored type.
        event_type: String,
        /// The version reached.
        version: String,
        /// The present version.
        known: &'static str,
    },
    /// The payload says that it is an event of another type.
    #[error("stored as {stored}, but the payload is {found}")]
    TypeMismatch {
        /// The stored type.
        stored: String,
        /// The type named in the payload.
        found: &'static str,
    },
    /// The payload does not have the members of its type.
    #[error("malformed payload of {event_type}")]
    Payload {
        /// The stored type.
        event_type: String,
        /// What serde found.
        source: serde_json::Error,
    },
    /// The state cannot be shown as JSON, or read from it.
    #[error("state of {aggregate_type} has another JSON form")]
    State {
        /// Whose state.
        aggregate_type: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
}

macro_rules! registry {
    ($($name:ident: $event:ident, $aggregate:ident, $module:ident;)+) => {
        /// An event of any aggregate.
        #[derive(Debug, Clone, PartialEq)]
        pub enum AnyEvent {
            $(
                #[doc = concat!("An event of a `", stringify!($module), "` stream.")]
                $name($event),
            )+
        }

        $(
            impl From<$event> for AnyEvent {
                fn from(event: $event) -> Self {
                    Self::$name(event)
                }
            }
        )+

        /// The types of all aggregates, in the order of the source.
        #[must_use]
        pub fn aggregate_types() -> &'static [&'static str] {
            const TYPES: &[&str] = &[$(<$aggregate as Aggregate>::TYPE,)+];
            TYPES
        }

        /// Every event type of every aggregate, each at its present version.
        #[must_use]
        pub fn event_kinds() -> &'static [EventKind] {
            const LENGTH: usize = 0 $(+ $event::KINDS.len())+;
            const KINDS: [EventKind; LENGTH] = concatenated::<LENGTH>(&[$($event::KINDS,)+]);
            &KINDS
        }

        /// The upcasters of one aggregate, oldest first; none for an unknown aggregate.
        #[must_use]
        pub fn upcasters(aggregate_type: &str) -> Vec<Box<dyn EventUpcaster>> {
            match aggregate_type {
                $(<$aggregate as Aggregate>::TYPE => $module::event::upcasters(),)+
                _ => Vec::new(),
            }
        }

        fn deserialize(event_type: &str, aggregate_type: &str, payload: Value)
            -> Result<AnyEvent, DecodeError> {
            match aggregate_type {
                $(<$aggregate as Aggregate>::TYPE => serde_json::from_value::<$event>(payload)
                    .map(AnyEvent::$name)
                    .map_err(|source| DecodeError::Payload { event_type: event_type.to_owned(), source }),)+
                _ => Err(DecodeError::UnknownAggregate(aggregate_type.to_owned())),
            }
        }

        /// The state that `events` of one stream lead to, as JSON, from the state `before` them; from the first event
        /// on when that is absent. Personal data keeps its mark.
        ///
        /// # Errors
        /// [`DecodeError::UnknownAggregate`]; [`DecodeError::UnknownEvent`] for an event of another aggregate;
        /// [`DecodeError::State`] when `before` is no state of this aggregate.
        pub fn fold_state_from(
            aggregate_type: &str,
            before: Option<Value>,
            events: impl Iterator<Item = AnyEvent>,
        ) -> Result<Value, DecodeError> {
            match aggregate_type {
                $(<$aggregate as Aggregate>::TYPE => {
                    let mut state: $aggregate = match before {
                        None => $aggregate::default(),
                        Some(before) => serde_json::from_value(before).map_err(|source| DecodeError::State {
                            aggregate_type: <$aggregate as Aggregate>::TYPE,
                            source,
                        })?,
                    };
                    for event in events {
                        let AnyEvent::$name(event) = event else {
                            return Err(DecodeError::UnknownEvent {
                                aggregate_type: aggregate_type.to_owned(),
                                event_type: event.event_type().to_owned(),
                            });
                        };
                        state.apply(event);
                    }
                    serde_json::to_value(&state).map_err(|source| DecodeError::State {
                        aggregate_type: <$aggregate as Aggregate>::TYPE,
                        source,
                    })
                })+
                _ => Err(DecodeError::UnknownAggregate(aggregate_type.to_owned())),
            }
        }

        impl AnyEvent {
            /// The stored type and version, and whose event it is.
            #[must_use]
            pub const fn kind(&self) -> EventKind {
                match self {
                    $(Self::$name(event) => event.kind(),)+
                }
            }

            /// The payload as it is stored, before personal data is sealed.
            ///
            /// # Errors
            /// None that the present events can cause; serde's signature allows for one.
            pub fn payload(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$name(event) => serde_json::to_value(event),)+
                }
            }

            /// What this event does to the claims of its stream, in order.
            #[must_use]
            pub fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
                match self {
                    $(Self::$name(event) => event.claims(stream),)+
                }
            }
        }
    };
}

registry! {
    Auth: AuthEvent, Auth, auth;
    Session: SessionEvent, Session, session;
    User: UserEvent, User, user;
    Organization: OrganizationEvent, Organization, organization;
    Datatype: DatatypeEvent, Datatype, datatype;
    Field: FieldEvent, Field, field;
    Route: RouteEvent, Route, route;
    Content: ContentEvent, Content, content;
    Link: LinkEvent, Link, link;
    Registration: RegistrationEvent, Registration, registration;
    Invitation: InvitationEvent, Invitation, invitation;
    Mfa: MfaEvent, Mfa, mfa;
}

impl AnyEvent {
    /// Whose event it is, such as `content`.
    #[must_use]
    pub const fn aggregate_type(&self) -> &'static str {
        self.kind().aggregate_type
    }

    /// The stored type, such as `content.created`.
    #[must_use]
    pub const fn event_type(&self) -> &'static str {
        self.kind().event_type
    }

    /// The version that is written today.
    #[must_use]
    pub const fn event_version(&self) -> &'static str {
        self.kind().version
    }
}

const fn concatenated<const LENGTH: usize>(lists: &[&[EventKind]]) -> [EventKind; LENGTH] {
    let mut kinds = [EventKind {
        aggregate_type: "",
        event_type: "",
        version: "",
    }; LENGTH];
    let (mut list, mut next) = (0, 0);
    while list < lists.len() {
        let mut index = 0;
        while index < lists[list].len() {
            kinds[next] = lists[list][index];
            index += 1;
            next += 1;
        }
        list += 1;
    }
    kinds
}

/// The state that all `events` of one stream lead to, as JSON. Personal data keeps its mark.
///
/// # Errors
/// [`DecodeError::UnknownAggregate`]; [`DecodeError::UnknownEvent`] for an event of another aggregate.
pub fn fold_state(aggregate_type: &str, events: impl Iterator<Item = AnyEvent>) -> Result<Value, DecodeError> {
    fold_state_from(aggregate_type, None, events)
}

/// Reads a stored event: lifts an older version to the present one, then gives it its type.
///
/// # Errors
/// [`DecodeError`] for types this program does not know, versions newer than it, and payloads that do not fit.
pub fn decode(
    aggregate_type: &str,
    event_type: &str,
    event_version: &str,
    payload: Value,
) -> Result<AnyEvent, DecodeError> {
    let (payload, _) = lift(aggregate_type, event_type, event_version, payload)?;
    let event = deserialize(event_type, aggregate_type, payload)?;
    if event.event_type() != event_type {
        return Err(DecodeError::TypeMismatch {
            stored: event_type.to_owned(),
            found: event.event_type(),
        });
    }
    Ok(event)
}

/// The payload of a stored event as the present version of its type has it, and that version; unchanged when it is the
/// version stored.
///
/// # Errors
/// [`DecodeError`] for types this program does not know, versions newer than it, and versions that nothing lifts.
pub fn lift(
    aggregate_type: &str,
    event_type: &str,
    event_version: &str,
    payload: Value,
) -> Result<(Value, &'static str), DecodeError> {
    let kind = kind_of(aggregate_type, event_type)?;
    let payload = if event_version == kind.version {
        payload
    } else {
        upcast(kind, event_version, payload, &upcasters(aggregate_type))?
    };
    Ok((payload, kind.version))
}

fn kind_of(aggregate_type: &str, event_type: &str) -> Result<&'static EventKind, DecodeError> {
    if let Some(kind) = event_kinds().iter().find(|kind| kind.event_type == event_type)
        && kind.aggregate_type == aggregate_type
    {
        return Ok(kind);
    }
    if !aggregate_types().contains(&aggregate_type) {
        return Err(DecodeError::UnknownAggregate(aggregate_type.to_owned()));
    }
    Err(DecodeError::UnknownEvent {
        aggregate_type: aggregate_type.to_owned(),
        event_type: event_type.to_owned(),
    })
}

/// Lifts a payload version by version. Each step must lead to the very next version: an upcaster that is listed before
/// an older one would otherwise take a payload that it was not made for.
fn upcast(
    kind: &EventKind,
    event_version: &str,
    payload: Value,
    upcasters: &[Box<dyn EventUpcaster>],
) -> Result<Value, DecodeError> {
    let parse = |version: &str| {
        version
            .parse::<SemanticVersion>()
            .map_err(|_| DecodeError::MalformedVersion {
                event_type: kind.event_type.to_owned(),
                version: version.to_owned(),
            })
    };
    let known = parse(kind.version)?;
    let mut reached = parse(event_version)?;
    if reached.supersedes(&known) {
        return Err(DecodeError::NewerVersion {
            event_type: kind.event_type.to_owned(),
            version: event_version.to_owned(),
            known: kind.version,
        });
    }
    let mut event = SerializedEvent::new(
        String::new(),
        0,
        kind.aggregate_type.to_owned(),
        kind.event_type.to_owned(),
        event_version.to_owned(),
        payload,
        Value::Null,
    );
    while reached != known {
        let no_upcaster = |version: String| DecodeError::NoUpcaster {
            event_type: kind.event_type.to_owned(),
            version,
            known: kind.version,
        };
        let Some(upcaster) = upcasters
            .iter()
            .find(|upcaster| upcaster.can_upcast(&event.event_type, &event.event_version))
        else {
            return Err(no_upcaster(event.event_version));
        };
        let next = following(&reached);
        let before = event.event_version.clone();
        event = upcaster.upcast(event);
        reached = parse(&event.event_version)?;
        if next.as_deref() != Some(&*reached.to_string()) {
            return Err(no_upcaster(before));
        }
    }
    Ok(event.payload)
}

/// The next whole version, written as [`SemanticVersion`] is; none after the last that it can count.
fn following(version: &SemanticVersion) -> Option<String> {
    let version = version.to_string();
    let (major, _) = version.split_once('.')?;
    Some(format!("{}.0.0", major.parse::<u32>().ok()?.checked_add(1)?))
}

#[cfg(test)]
mod tests;
