//! Identifiers: 128 bits, made by the caller as UUIDv7, shown as a UUID or as a ULID of the same bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::Ulid;
use uuid::Uuid;

/// Characters of a ULID.
const ULID_LENGTH: usize = 26;
/// Characters of a hyphenated UUID.
const UUID_LENGTH: usize = 36;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Neither 26 characters (ULID) nor 36 (hyphenated UUID).
    #[error("invalid length {0} (expected 26)")]
    Length(usize),
    /// A character that its place does not allow; in a ULID also a first one above `7`, which would not fit 128 bits.
    #[error("invalid character {character:?} at position {position}")]
    Character {
        /// What was found.
        character: char,
        /// Counted in characters from 1.
        position: usize,
    },
}

/// Reads a hyphenated UUID or a ULID, in either case.
///
/// # Errors
/// [`IdError`] naming the length or the first character that does not fit.
pub fn parse_uuid(text: &str) -> Result<Uuid, IdError> {
    match text.chars().count() {
        ULID_LENGTH => parse_ulid(text),
        UUID_LENGTH => parse_hyphenated(text),
        length => Err(IdError::Length(length)),
    }
}

fn parse_ulid(text: &str) -> Result<Uuid, IdError> {
    for (index, character) in text.chars().enumerate() {
        // Crockford's alphabet leaves out I, L, O and U; the wire contract refuses them instead of guessing.
        let allowed = character.is_ascii_alphanumeric()
            && !matches!(character.to_ascii_uppercase(), 'I' | 'L' | 'O' | 'U')
            && (index > 0 || character.is_ascii_digit() && character <= '7');
        if !allowed {
            return Err(IdError::Character {
                character,
                position: index + 1,
            });
        }
    }
    Ulid::from_string(text)
        .map(|ulid| Uuid::from_u128(ulid.into()))
        .map_err(|_| IdError::Length(text.len()))
}

fn parse_hyphenated(text: &str) -> Result<Uuid, IdError> {
    for (index, character) in text.chars().enumerate() {
        let allowed = if matches!(index, 8 | 13 | 18 | 23) {
            character == '-'
        } else {
            character.is_ascii_hexdigit()
        };
        if !allowed {
            return Err(IdError::Character {
                character,
                position: index + 1,
            });
        }
    }
    Uuid::try_parse(text).map_err(|_| IdError::Length(text.len()))
}

/// The same 128 bits as 26 upper-case characters of Crockford's base 32.
#[must_use]
pub fn ulid_text(id: Uuid) -> String {
    Ulid::from(id.as_u128()).to_string()
}

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps an identifier made elsewhere.
            #[must_use]
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The bare identifier.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// The same 128 bits as 26 upper-case characters of Crockford's base 32.
            #[must_use]
            pub fn to_ulid(&self) -> String {
                ulid_text(self.0)
            }

            /// Reads either form, in either case.
            ///
            /// # Errors
            /// [`IdError`] naming the length or the first character that does not fit.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map(Self)
            }
        }
    )+};
}

struct IdVisitor;

impl de::Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID or a ULID")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse_uuid(text).map_err(E::custom)
    }
}

ids! {
    /// A person with an account; also names the stream of their credentials.
    UserId
    /// One sign-in of a user on a device.
    SessionId
    /// A group of users.
    OrganizationId
    /// A kind of content node.
    DatatypeId
    /// The attachment of a field to a datatype.
    DatatypeFieldId
    /// The definition of a field.
    FieldId
    /// A public path that content hangs under.
    RouteId
    /// A node of the content tree.
    ContentId
    /// One field value of one content node.
    ContentFieldId
    /// The mailed links of one purpose for one subject.
    LinkId
    /// A wish for an account whose address is not proven.
    RegistrationId
    /// An invitation into an organization.
    InvitationId
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{ContentId, IdError};
    use uuid::Uuid;

    #[test]
    fn the_same_bits_print_as_uuid_and_as_ulid() {
        let id = ContentId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(id.to_ulid(), "01H455VB4PEX5VSKNK084SN02Q");
        assert_eq!(ContentId::parse("01h455vb4pex5vsknk084sn02q").unwrap(), id);
        assert_eq!(ContentId::parse("01890A5D-AC96-774B-BCCE-B302099A8057").unwrap(), id);
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (text, message) in [
            ("", "invalid length 0 (expected 26)"),
            ("abc", "invalid length 3 (expected 26)"),
            ("01890a5dac96774bbcceb302099a8057", "invalid length 32 (expected 26)"),
            ("81H45NVB4PEX5VSKNK084SN02Q", "invalid character '8' at position 1"),
            ("01H455VB4PEX5VSKNK084SN02U", "invalid character 'U' at position 26"),
            ("01H455VB4PEX5VSKNK084SN02é", "invalid character 'é' at position 26"),
            (
                "01890a5d-ac96-774b-bcce-b302099a805g",
                "invalid character 'g' at position 36",
            ),
            (
                "01890a5d0ac96-774b-bcce-b302099a8057",
                "invalid character '0' at position 9",
            ),
            (
                "01890a5d-ac96-774b-bcce-b302099a80\u{0}7",
                "invalid character '\\0' at position 35",
            ),
        ] {
            assert_eq!(ContentId::parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn the_largest_identifier_has_both_forms() {
        let id = ContentId::new(Uuid::max());
        assert_eq!(id.to_ulid(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(ContentId::parse(&id.to_ulid()), Ok(id));
        assert_eq!(
            ContentId::parse("80000000000000000000000000"),
            Err(IdError::Character {
                character: '8',
                position: 1
            }),
        );
    }

    proptest! {
        #[test]
        fn both_forms_read_back_the_same_identifier(bits in any::<u128>()) {
            let id = ContentId::new(Uuid::from_u128(bits));
            prop_assert_eq!(ContentId::parse(&id.to_string()), Ok(id));
            prop_assert_eq!(ContentId::parse(&id.to_ulid()), Ok(id));
            prop_assert_eq!(ContentId::parse(&id.to_ulid().to_lowercase()), Ok(id));
            let json = serde_json::to_value(id).unwrap();
            prop_assert_eq!(json.as_str().unwrap(), id.to_string());
            prop_assert_eq!(serde_json::from_value::<ContentId>(json).unwrap(), id);
            let ulid = serde_json::Value::String(id.to_ulid());
            prop_assert_eq!(serde_json::from_value::<ContentId>(ulid).unwrap(), id);
        }

        #[test]
        fn ulids_sort_as_their_identifiers_do(a in any::<u128>(), b in any::<u128>()) {
            let (a, b) = (ContentId::new(Uuid::from_u128(a)), ContentId::new(Uuid::from_u128(b)));
            prop_assert_eq!(a.to_ulid().cmp(&b.to_ulid()), a.cmp(&b));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,40}") {
            if let Ok(id) = ContentId::parse(&text) {
                prop_assert_eq!(ContentId::parse(&id.to_string()), Ok(id));
            }
        }
    }
}
