//! Mail addresses in one canonical form, so that letter case and Unicode spelling cannot make two accounts of one.

use email_address::{EmailAddress as Syntax, Options};
use unicode_normalization::UnicodeNormalization;

use super::{ValueError, is_invisible, text_value};

/// Longest address, in bytes (RFC 5321, section 4.5.3.1.3, less the angle brackets).
const LIMIT: usize = 254;

/// A mail address: trimmed, NFKC, lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailAddress(String);

text_value!(EmailAddress);

impl EmailAddress {
    /// Reads an address with a dotted domain, without display name, comment or address literal.
    ///
    /// # Errors
    /// [`ValueError`] for `email`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let broken = |rule| Err(ValueError::new("email", rule));
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return broken("must not be empty");
        }
        // Compatibility forms can expand eighteenfold; refuse long input before working on it.
        if trimmed.len() > 4 * LIMIT {
            return broken("must be at most 254 bytes");
        }
        // Lowering can undo the composition, so the form is taken again.
        let address: String = trimmed.nfkc().collect::<String>().to_lowercase().nfkc().collect();
        if address.len() > LIMIT {
            return broken("must be at most 254 bytes");
        }
        if address
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || is_invisible(c))
        {
            return broken("must not contain spaces or control characters");
        }
        let options = Options::default()
            .without_display_text()
            .without_domain_literal()
            .with_required_tld();
        let Ok(parsed) = Syntax::parse_with_options(&address, options) else {
            return broken("must be a valid mail address");
        };
        match parsed.domain().rsplit_once('.') {
            Some((_, last)) if last.chars().count() >= 2 => Ok(Self(address)),
            _ => broken("must have a domain with a dot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::EmailAddress;

    #[test]
    fn case_spelling_and_surrounding_space_do_not_matter() {
        for text in ["ada@example.org", " Ada@Example.ORG\n", "ａｄａ@example.org"] {
            assert_eq!(EmailAddress::parse(text).unwrap().as_str(), "ada@example.org");
        }
    }

    #[test]
    fn usual_addresses_pass() {
        for text in [
            "a.b+c@mail.example.co",
            "o'hara@example.org",
            "müller@exämple.org",
            "x@xn--bcher-kva.example",
        ] {
            assert_eq!(EmailAddress::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(64 + 1));
        let very_long = format!("a@{}.org", "b.".repeat(130));
        for text in [
            "",
            " ",
            "ada",
            "@example.org",
            "ada@",
            "ada@localhost",
            "ada@example.o",
            "ada@@example.org",
            "a@b@example.org",
            "ada@[127.0.0.1]",
            "Ada <ada@example.org>",
            "ada @example.org",
            "ada@exam ple.org",
            "\"a b\"@example.org",
            "ada\u{0}@example.org",
            "ada\u{200b}@example.org",
            "ada@example..org",
            ".ada@example.org",
            "ada@-example.org",
            "ada@example.org.",
            &long,
            &very_long,
        ] {
            assert!(EmailAddress::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_names_value_and_rule() {
        let error = EmailAddress::parse("  ").unwrap_err();
        assert_eq!((error.value, error.rule), ("email", "must not be empty"));
        assert_eq!(error.to_string(), "email must not be empty");
    }

    proptest! {
        #[test]
        fn an_address_reads_back_as_itself(text in "[a-zA-ZÄÖÜİςΣﬁ0-9.+]{1,20}@[a-zA-ZÄß0-9-]{1,10}\\.[a-zA-Z]{2,5}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert_eq!(EmailAddress::parse(address.as_str()).unwrap(), address.clone());
                prop_assert_eq!(EmailAddress::parse(&text.to_uppercase()).is_ok(), true);
                let json = serde_json::to_value(&address).unwrap();
                prop_assert_eq!(serde_json::from_value::<EmailAddress>(json).unwrap(), address);
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,60}") {
            let _ = EmailAddress::parse(&text);
            let _ = EmailAddress::parse(&format!("a@{text}.org"));
        }
    }
}
