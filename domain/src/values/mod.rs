//! Values that are checked once, when they are parsed, and never again.

mod email_address;
mod name;
mod realm;
mod secret;
mod slug;
mod timestamp;
mod totp_secret;
mod username;

pub use email_address::EmailAddress;
pub use name::DisplayName;
pub use realm::{Realm, UnknownRealm};
pub use secret::{LinkNonce, PasswordHash, TokenDigest};
pub use slug::Slug;
pub use timestamp::Timestamp;
pub use totp_secret::TotpSecret;
pub use username::Username;

/// Why a text is not the value it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} {rule}")]
pub struct ValueError {
    /// What the text should have been, such as `email`.
    pub value: &'static str,
    /// The broken rule, to be read after the value's name: `must start with "/"`.
    pub rule: &'static str,
}

impl ValueError {
    pub(crate) const fn new(value: &'static str, rule: &'static str) -> Self {
        Self { value, rule }
    }
}

/// Whether free text can be stored: PostgreSQL keeps no zero characters.
pub(crate) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Whether a character shows nothing, or changes how its neighbours are shown; two names that differ only in such
/// characters look the same.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// Serde through the text form, so that what is read from anywhere is parsed like everything else.
macro_rules! text_value {
    ($name:ident) => {
        impl $name {
            /// The text as it is kept.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::values::ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
use text_value;
