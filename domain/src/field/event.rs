//! What has happened to a field definition.

use std::fmt;
use std::str::FromStr;

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{DatatypeId, UserId};
use crate::registry::Event;
use crate::values::{Realm, Timestamp};

macro_rules! field_kinds {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)+) => {
        /// What kind of value a field holds. Values are stored as text whatever the kind; it rules how they are shown.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum FieldKind {
            $($(#[$meta])* $name,)+
        }

        impl FieldKind {
            /// Every kind there is.
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

field_kinds! {
    /// One line.
    #[default]
    Text = "text",
    /// Several lines.
    Textarea = "textarea",
    /// A number in decimal notation.
    Number = "number",
    /// A day.
    Date = "date",
    /// A moment.
    Datetime = "datetime",
    /// `true` or anything else.
    Boolean = "boolean",
    /// One of several choices.
    Select = "select",
    /// A medium.
    Media = "media",
    /// Another content node.
    Relation = "relation",
    /// A JSON document.
    Json = "json",
    /// HTML.
    Richtext = "richtext",
    /// A path.
    Slug = "slug",
    /// A mail address.
    Email = "email",
    /// An address on the web.
    Url = "url",
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no kind of field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown field type {0:?}")]
pub struct UnknownFieldKind(pub String);

impl FromStr for FieldKind {
    type Err = UnknownFieldKind;

    fn from_str(text: &str) -> Result<Self, UnknownFieldKind> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownFieldKind(text.to_owned()))
    }
}

/// A fact about one field definition. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum FieldEvent {
    /// The field was created.
    #[serde(rename = "field.created")]
    Created {
        /// Where it lives.
        realm: Realm,
        /// The datatype it was made for.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text.
        data: String,
        /// JSON as text, never empty.
        validation: String,
        /// JSON as text, never empty.
        ui_config: String,
        /// What kind of value it holds.
        kind: FieldKind,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// The definition was replaced.
    #[serde(rename = "field.changed")]
    Changed {
        /// The datatype it was made for.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text.
        data: String,
        /// JSON as text, never empty.
        validation: String,
        /// JSON as text, never empty.
        ui_config: String,
        /// What kind of value it holds.
        kind: FieldKind,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// The field was deleted.
    #[serde(rename = "field.deleted")]
    Deleted {
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(FieldEvent of "field" {
    Created: "field.created", "1";
    Changed: "field.changed", "1";
    Deleted: "field.deleted", "1";
});

impl Event for FieldEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Created { .. } => {
                vec![ClaimChange::take(ClaimScope::Field, ClaimKey::id(stream))]
            }
            Self::Changed { .. } => Vec::new(),
            Self::Deleted { .. } => vec![ClaimChange::release_all(ClaimScope::Field)],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
