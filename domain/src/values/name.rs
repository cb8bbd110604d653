//! Names for people to read.

use super::{ValueError, text_value};

/// Longest name, in characters.
const LIMIT: usize = 200;

/// A name of 1 to 200 characters without surrounding space. Contracts with stricter minima check those themselves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DisplayName(String);

text_value!(DisplayName);

impl DisplayName {
    /// Trims, then reads 1 to 200 characters, none of them a control character.
    ///
    /// # Errors
    /// [`ValueError`] for `name`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let broken = |rule| Err(ValueError::new("name", rule));
        let name = text.trim();
        if name.is_empty() {
            return broken("must not be empty");
        }
        if name.chars().count() > LIMIT {
            return broken("must be at most 200 characters");
        }
        if name.chars().any(char::is_control) {
            return broken("must not contain control characters");
        }
        Ok(Self(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::DisplayName;

    #[test]
    fn a_name_is_trimmed() {
        assert_eq!(DisplayName::parse("  Ada Lovelace\n").unwrap().as_str(), "Ada Lovelace");
    }

    #[test]
    fn empty_long_and_unprintable_names_are_refused() {
        assert!(DisplayName::parse(&"é".repeat(200)).is_ok());
        for text in ["", " \t", "a\u{0}b", "a\nb", &"a".repeat(201)] {
            assert!(DisplayName::parse(text).is_err(), "{text:?}");
        }
    }
}
