//! Paths that content is delivered under.

use super::{ValueError, text_value};

/// Longest slug, in bytes.
const LIMIT: usize = 255;

/// A path such as `/blog/first-post`; `/` alone is the front page. Rules of the ModulaCMS contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(String);

text_value!(Slug);

impl Slug {
    /// Reads a path of lower-case letters, digits, hyphens and slashes that starts with a slash.
    ///
    /// # Errors
    /// [`ValueError`] for `slug`, naming the broken rule.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let broken = |rule| Err(ValueError::new("slug", rule));
        if !text.starts_with('/') {
            return broken("must start with \"/\"");
        }
        if text.len() > LIMIT {
            return broken("must be at most 255 characters");
        }
        if !text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'/'))
        {
            return broken("may contain only a-z, 0-9, \"-\" and \"/\"");
        }
        if text.contains("//") || text.contains("--") {
            return broken("must not contain \"//\" or \"--\"");
        }
        if text.len() > 1 && text.ends_with(['/', '-']) {
            return broken("must not end with \"/\" or \"-\"");
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::Slug;

    #[test]
    fn usual_paths_pass() {
        for text in ["/", "/home", "/blog/first-post", "/2026/02/15", "/-a", "/a-/b"] {
            assert_eq!(Slug::parse(text).unwrap().as_str(), text);
        }
        assert!(Slug::parse(&format!("/{}", "a".repeat(254))).is_ok());
    }

    #[test]
    fn broken_paths_are_refused() {
        let long = format!("/{}", "a".repeat(255));
        for text in [
            "", "home", "//", "/home/", "/home-", "/-", "/a//b", "/a--b", "/Home", "/a b", "/ä", "/a_b", "/a?b",
            "/a\u{0}", " /a", "/..", &long,
        ] {
            assert!(Slug::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stored_slug_is_checked_like_any_other() {
        assert!(serde_json::from_str::<Slug>("\"home\"").is_err());
    }

    proptest! {
        #[test]
        fn a_slug_has_no_empty_segment(text in "/[a-c/-]{0,12}") {
            if let Ok(slug) = Slug::parse(&text) {
                let path = slug.as_str();
                prop_assert!(path == "/" || path[1..].split('/').all(|segment| !segment.is_empty()));
                let json = serde_json::to_value(&slug).unwrap();
                prop_assert_eq!(serde_json::from_value::<Slug>(json).unwrap(), slug);
            }
        }
    }
}
