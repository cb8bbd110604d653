//! Values derived from secrets. They do not print.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ValueError;

/// Longest password hash, in bytes; far above what any known algorithm writes.
const HASH_LIMIT: usize = 512;

/// A password hash in PHC string form, such as `$argon2id$v=19$m=...`. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Reads `$`-separated printable ASCII; the algorithm is checked when a password is.
    ///
    /// # Errors
    /// [`ValueError`] for `password_hash`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let broken = |rule| Err(ValueError::new("password_hash", rule));
        if !text.starts_with('$') || text.len() < 2 {
            return broken("must be a PHC string");
        }
        if text.len() > HASH_LIMIT {
            return broken("must be at most 512 bytes");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return broken("must be printable ASCII");
        }
        Ok(Self(text.to_owned()))
    }

    /// The PHC string, for the one who verifies passwords.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The SHA-256 digest of an opaque token. Tokens have 512 random bits, so digests need no salt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Wraps a digest made elsewhere.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ValueError`] for `token_digest`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map_err(|_| ValueError::new("token_digest", "must be 64 hexadecimal digits"))?;
        Ok(Self(digest))
    }

    /// The digest as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two of them apart in a log.
        write!(f, "TokenDigest({}...)", hex::encode(&self.0[..4]))
    }
}

impl From<[u8; 32]> for TokenDigest {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Random bytes that a mailed token is derived from, together with a key of the server. By themselves they are no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkNonce([u8; 16]);

impl LinkNonce {
    /// Wraps random bytes made elsewhere.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Serialize for LinkNonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for LinkNonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map_err(|_| de::Error::custom("must be 32 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{PasswordHash, TokenDigest};

    #[test]
    fn a_password_hash_does_not_print() {
        let hash = PasswordHash::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA").unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(redacted)");
        assert!(hash.as_str().starts_with("$argon2id$"));
    }

    #[test]
    fn what_is_no_phc_string_is_refused() {
        for text in [
            "",
            "$",
            "secret",
            "$a b",
            "$a\u{0}",
            "$é",
            &format!("${}", "a".repeat(512)),
        ] {
            assert!(PasswordHash::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_reads_back_from_its_hex(bytes in any::<[u8; 32]>()) {
            let digest = TokenDigest::new(bytes);
            prop_assert_eq!(TokenDigest::parse(&digest.to_hex()), Ok(digest));
            let json = serde_json::to_value(digest).unwrap();
            prop_assert_eq!(json.as_str().unwrap(), digest.to_hex());
            prop_assert_eq!(serde_json::from_value::<TokenDigest>(json).unwrap(), digest);
        }

        #[test]
        fn a_digest_has_exactly_64_digits(text in "[0-9a-fg]{0,70}") {
            let fits = text.len() == 64 && !text.contains('g');
            prop_assert_eq!(TokenDigest::parse(&text).is_ok(), fits);
        }
    }
}
