//! What may happen: aggregates with their commands and events, values, permissions.
//!
//! This crate is pure. It reads no clock, draws no random numbers and does no input or output: times, identifiers
//! and hashes arrive inside commands, so that the same state and the same command always yield the same facts.
//! Storing facts belongs to the event store, asking for them to the commands.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")
)]

#[macro_use]
mod kind;

pub mod auth;
pub mod caller;
pub mod claims;
pub mod clock;
pub mod content;
pub mod datatype;
pub mod field;
pub mod format;
pub mod ids;
pub mod invitation;
pub mod lifecycle;
pub mod link;
pub mod metadata;
pub mod mfa;
pub mod organization;
pub mod permission;
pub mod personal;
pub mod promise;
pub mod registration;
pub mod registry;
pub mod route;
pub mod session;
pub mod user;
pub mod values;

pub use auth::{Auth, AuthCommand, AuthError, AuthEvent};
pub use caller::{Actor, Caller, Denied, Device};
pub use claims::{ClaimChange, ClaimKey, ClaimScope};
pub use clock::Clock;
pub use content::{Content, ContentCommand, ContentError, ContentEvent, ContentStatus, FieldValue, Place};
pub use datatype::{Attachment, Datatype, DatatypeCommand, DatatypeError, DatatypeEvent};
pub use field::{Field, FieldCommand, FieldError, FieldEvent, FieldKind};
pub use ids::{
    ContentFieldId, ContentId, DatatypeFieldId, DatatypeId, FieldId, IdError, InvitationId, LinkId, OrganizationId,
    RegistrationId, RouteId, SessionId, UserId,
};
pub use invitation::{Invitation, InvitationCommand, InvitationError, InvitationEvent, InvitationStatus};
pub use kind::EventKind;
pub use lifecycle::Lifecycle;
pub use link::{Link, LinkCommand, LinkError, LinkEvent, LinkPurpose, LinkStatus};
pub use metadata::Metadata;
pub use mfa::{ChallengeRef, Mfa, MfaCommand, MfaError, MfaEvent};
pub use organization::{Organization, OrganizationCommand, OrganizationError, OrganizationEvent, OrganizationRole};
pub use permission::{Permission, Role};
pub use personal::Personal;
pub use promise::{Promise, PromiseOutcome, PromisedCommit, PromisedRequest};
pub use registration::{Registration, RegistrationCommand, RegistrationError, RegistrationEvent, RegistrationStatus};
pub use registry::{AnyEvent, DecodeError, DomainError, Event, EventSourced};
pub use route::{Route, RouteCommand, RouteError, RouteEvent};
pub use session::{RevocationReason, Session, SessionCommand, SessionError, SessionEvent, SessionStatus};
pub use user::{User, UserCommand, UserError, UserEvent};
pub use values::{
    DisplayName, EmailAddress, LinkNonce, PasswordHash, Realm, Slug, Timestamp, TokenDigest, TotpSecret, Username,
    ValueError,
};
