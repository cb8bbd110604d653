//! The two worlds of content: what the site shows, and what the administration interface is built from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a datatype, field, route or content node lives. Realms never meet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Realm {
    /// What visitors see.
    #[default]
    Site,
    /// What the administration interface is built from.
    Admin,
}

impl Realm {
    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is neither `site` nor `admin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown realm {0:?}")]
pub struct UnknownRealm(pub String);

impl FromStr for Realm {
    type Err = UnknownRealm;

    fn from_str(text: &str) -> Result<Self, UnknownRealm> {
        match text {
            "site" => Ok(Self::Site),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownRealm(text.to_owned())),
        }
    }
}
