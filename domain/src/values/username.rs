//! Usernames: shown as they were sent, unique without regard to case or Unicode spelling.

use unicode_normalization::UnicodeNormalization;

use super::{ValueError, is_invisible, text_value};

/// Longest username, in characters (Django's limit, whose clients may hold such names).
const LIMIT: usize = 150;

/// A name to sign in with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(String);

text_value!(Username);

impl Username {
    /// Reads 1 to 150 visible characters; no `@`, so that no username can be taken for somebody's mail address.
    ///
    /// # Errors
    /// [`ValueError`] for `username`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let broken = |rule| Err(ValueError::new("username", rule));
        if text.chars().count() > LIMIT {
            return broken("must be at most 150 characters");
        }
        if text.chars().any(|c| c.is_control() || is_invisible(c)) {
            return broken("must not contain control or invisible characters");
        }
        let key = fold(text);
        if key.is_empty() {
            return broken("must not be empty");
        }
        // The folded form is asked, for full-width and other compatibility forms of the sign fold to it.
        if key.contains('@') {
            return broken("must not contain \"@\"");
        }
        Ok(Self(text.to_owned()))
    }

    /// The form that must be unique: trimmed, NFKC, case folded.
    #[must_use]
    pub fn key(&self) -> String {
        fold(&self.0)
    }
}

/// Upper then lower case, character by character, comes close to full case folding: `ß` meets `ss`, `ς` meets `σ`.
fn fold(text: &str) -> String {
    let upper = text.nfkc().collect::<String>().to_uppercase();
    let folded: String = upper.chars().flat_map(char::to_lowercase).nfkc().collect();
    folded.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::Username;

    #[test]
    fn a_username_is_shown_as_sent() {
        let name = Username::parse("Ada Lovelace").unwrap();
        assert_eq!(name.as_str(), "Ada Lovelace");
        assert_eq!(name.key(), "ada lovelace");
    }

    #[test]
    fn names_that_look_alike_share_a_key() {
        for (a, b) in [
            ("ADA", "ada"),
            (" ada ", "ada"),
            ("ａｄａ", "ada"),
            ("ﬁn", "fin"),
            ("straße", "STRASSE"),
            ("ΟΔΟΣ", "οδος"),
            ("e\u{301}", "é"),
        ] {
            assert_eq!(
                Username::parse(a).unwrap().key(),
                Username::parse(b).unwrap().key(),
                "{a} {b}"
            );
        }
    }

    #[test]
    fn what_cannot_be_told_apart_or_shown_is_refused() {
        let long = "a".repeat(151);
        for text in [
            "",
            " ",
            "\u{a0}",
            "ada@example.org",
            "＠",
            "a\u{0}",
            "a\nb",
            "a\u{200b}",
            "a\u{202e}b",
            "a\u{7f}",
            &long,
        ] {
            assert!(Username::parse(text).is_err(), "{text:?}");
        }
        assert!(Username::parse(&"é".repeat(150)).is_ok());
    }

    proptest! {
        #[test]
        fn keys_are_stable_and_ignore_case(text in "\\PC{1,150}") {
            if let Ok(name) = Username::parse(&text) {
                let key = name.key();
                prop_assert!(!key.contains('@') && !key.contains('\0'));
                let ascii_upper = Username::parse(&text.to_ascii_uppercase()).unwrap();
                prop_assert_eq!(ascii_upper.key(), key);
                let json = serde_json::to_value(&name).unwrap();
                prop_assert_eq!(serde_json::from_value::<Username>(json).unwrap(), name);
            }
        }
    }
}
