//! The text of each mail: a subject, plain text, and HTML in which everything foreign is escaped.

use annals_domain::{LinkPurpose, OrganizationRole};
use minijinja::{AutoEscape, Environment, Value, context};

use super::{MailSettingsError, TOKEN_PLACE};

/// Name, text and HTML of every template.
const TEMPLATES: &[(&str, &str, &str)] = &[
    (
        "password_reset",
        include_str!("templates/password_reset.txt"),
        include_str!("templates/password_reset.html"),
    ),
    (
        "email_verification",
        include_str!("templates/email_verification.txt"),
        include_str!("templates/email_verification.html"),
    ),
    (
        "sign_up",
        include_str!("templates/sign_up.txt"),
        include_str!("templates/sign_up.html"),
    ),
    (
        "invitation",
        include_str!("templates/invitation.txt"),
        include_str!("templates/invitation.html"),
    ),
    (
        "password_changed",
        include_str!("templates/password_changed.txt"),
        include_str!("templates/password_changed.html"),
    ),
];

/// What links of each purpose lead to, below the public address; `{token}` stands for the token.
#[derive(Debug, Clone)]
pub struct LinkPaths {
    /// Where a new password is asked for.
    pub password_reset: String,
    /// Where the address of an account is proven.
    pub email_verification: String,
    /// Where a pending registration becomes an account.
    pub sign_up: String,
    /// Where an invitation is accepted.
    pub invitation: String,
}

impl LinkPaths {
    fn of(&self, purpose: LinkPurpose) -> (&'static str, &str) {
        match purpose {
            LinkPurpose::PasswordReset => ("password_reset_path", &self.password_reset),
            LinkPurpose::EmailVerification => ("email_verification_path", &self.email_verification),
            LinkPurpose::SignUp => ("sign_up_path", &self.sign_up),
            LinkPurpose::Invitation => ("invitation_path", &self.invitation),
        }
    }
}

/// What a mail is about.
#[derive(Clone)]
pub enum Letter {
    /// A link with its token.
    Link {
        /// What it is good for.
        purpose: LinkPurpose,
        /// Its secret.
        token: crate::link::LinkToken,
        /// How long it is good for from now on, in whole hours, 1 at least.
        hours: u64,
        /// Which organization an invitation leads into, and as what.
        organization: Option<(String, OrganizationRole)>,
    },
    /// The password of an account was changed.
    PasswordChanged,
}

/// Names the kind of letter alone: the rest is not for logs.
impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Letter({})", self.name())
    }
}

impl Letter {
    /// A stable name of the kind of letter.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Link { purpose, .. } => purpose.as_str(),
            Self::PasswordChanged => "password_changed",
        }
    }

    const fn subject(&self) -> &'static str {
        match self {
            Self::Link { purpose, .. } => match purpose {
                LinkPurpose::PasswordReset => "Reset your password",
                LinkPurpose::EmailVerification => "Confirm your e-mail address",
                LinkPurpose::SignUp => "Finish your registration",
                LinkPurpose::Invitation => "You have been invited",
            },
            Self::PasswordChanged => "Your password was changed",
        }
    }
}

pub(super) struct Letters {
    templates: Environment<'static>,
    public_url: String,
    paths: LinkPaths,
}

pub(super) struct Written {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

impl Letters {
    pub(super) fn new(public_url: &str, paths: &LinkPaths) -> Result<Self, MailSettingsError> {
        for purpose in LinkPurpose::ALL {
            let (setting, path) = paths.of(*purpose);
            if !path.starts_with('/') || path.starts_with("//") || !path.contains(TOKEN_PLACE) {
                return Err(MailSettingsError::LinkPath(setting));
            }
        }
        let mut templates = Environment::new();
        templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|name| match name.rsplit_once('.') {
            Some((_, "html")) => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        for (name, text, html) in TEMPLATES {
            templates.add_template_owned(format!("{name}.txt"), *text)?;
            templates.add_template_owned(format!("{name}.html"), *html)?;
        }
        Ok(Self {
            templates,
            public_url: public_url.to_owned(),
            paths: paths.clone(),
        })
    }

    pub(super) fn write(&self, letter: &Letter) -> Result<Written, minijinja::Error> {
        let site = &self.public_url;
        let values = match letter {
            Letter::PasswordChanged => context! { site },
            Letter::Link {
                purpose,
                token,
                hours,
                organization,
            } => {
                let (_, path) = self.paths.of(*purpose);
                let link = format!("{site}{}", path.replace(TOKEN_PLACE, token.as_str()));
                let (organization, role) = match organization {
                    Some((name, role)) => (one_line(name), role.as_str()),
                    None => (String::new(), ""),
                };
                context! { site, link, hours, organization, role }
            }
        };
        let part = |kind: &str, values: &Value| {
            let name = format!("{}.{kind}", letter.name());
            self.templates.get_template(&name)?.render(values)
        };
        Ok(Written {
            subject: letter.subject().to_owned(),
            text: part("txt", &values)?,
            html: part("html", &values)?,
        })
    }
}

/// What somebody else has named cannot add lines of its own to our text.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use annals_domain::{LinkPurpose, OrganizationRole};

    use super::{Letter, Letters, LinkPaths};

    fn paths() -> LinkPaths {
        let path = |name: &str| format!("/{name}#token={{token}}");
        LinkPaths {
            password_reset: path("reset"),
            email_verification: path("verify"),
            sign_up: path("sign-up"),
            invitation: path("join"),
        }
    }

    #[test]
    fn every_letter_can_be_written_and_holds_its_link_in_both_parts() {
        let letters = Letters::new("https://example.com", &paths()).unwrap();
        for purpose in LinkPurpose::ALL {
            let letter = Letter::Link {
                purpose: *purpose,
                token: crate::link::LinkToken::for_tests("abc_DEF-1"),
                hours: 24,
                organization: Some((
                    "<b>Eve & Co</b>\nhttps://evil.example".to_owned(),
                    OrganizationRole::Member,
                )),
            };
            let written = letters.write(&letter).unwrap();
            assert!(written.text.contains("https://example.com/"), "{}", written.text);
            assert!(written.text.contains("#token=abc_DEF-1"), "{}", written.text);
            assert!(written.html.contains("token=abc_DEF-1"), "{}", written.html);
            assert!(!written.html.contains("<b>Eve"), "{}", written.html);
            assert!(!written.text.contains("\nhttps://evil"), "{}", written.text);
        }
        letters.write(&Letter::PasswordChanged).unwrap();
    }

    #[test]
    fn a_path_without_a_place_for_its_token_is_refused() {
        for path in ["/reset", "reset#{token}", "//evil.example/{token}"] {
            let paths = LinkPaths {
                password_reset: path.to_owned(),
                ..paths()
            };
            assert!(Letters::new("https://example.com", &paths).is_err(), "{path}");
        }
    }

    #[test]
    fn a_letter_does_not_print_its_token() {
        let letter = Letter::Link {
            purpose: LinkPurpose::PasswordReset,
            token: crate::link::LinkToken::for_tests("canary"),
            hours: 1,
            organization: None,
        };
        assert_eq!(format!("{letter:?}"), "Letter(password_reset)");
    }
}
