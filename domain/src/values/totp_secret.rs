//! The secret that a person's authenticator shares with us.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ValueError;

/// Characters of a secret: 160 bits, five in a character.
const CHARACTERS: usize = 32;

/// The shared secret of time-based one-time passwords (RFC 6238): 160 bits, kept in base32 as authenticators read it.
/// `Debug` never shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TotpSecret(String);

impl TotpSecret {
    /// Reads 32 characters of base32 (RFC 4648) in upper case, without padding.
    ///
    /// # Errors
    /// [`ValueError`] for `totp_secret`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let fits = text.len() == CHARACTERS && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
        if !fits {
            return Err(ValueError::new("totp_secret", "must be 32 characters of base32"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The secret in base32, for the one who computes codes and for its owner's authenticator.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret(redacted)")
    }
}

impl Serialize for TotpSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TotpSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::TotpSecret;

    const TEXT: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    #[test]
    fn a_secret_does_not_print_and_reads_back() {
        let secret = TotpSecret::parse(TEXT).unwrap();
        assert_eq!(format!("{secret:?}"), "TotpSecret(redacted)");
        let json = serde_json::to_value(&secret).unwrap();
        assert_eq!(json, TEXT);
        assert_eq!(serde_json::from_value::<TotpSecret>(json).unwrap(), secret);
    }

    #[test]
    fn what_is_not_160_bits_of_base32_is_refused() {
        for text in [
            "",
            &TEXT[1..],
            &TEXT.to_lowercase(),
            &TEXT.replace('G', "1"),
            &format!("{TEXT}A"),
        ] {
            assert!(TotpSecret::parse(text).is_err(), "{text}");
        }
    }
}
