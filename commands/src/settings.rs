//! What an operator, or a contract, decides about commands.

use annals_domain::{LinkPurpose, Role};

use crate::CommandError;

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// The role of those who register themselves. Any other role takes a caller who may manage users.
    pub registration_role: Role,
    /// Lifetimes of sessions that an opaque token continues.
    pub opaque_sessions: Lifetimes,
    /// Lifetimes of sessions that a signed token continues.
    pub signed_sessions: Lifetimes,
    /// How long a refresh token that was exchanged may be shown again while its successor was not used, in seconds; it
    /// then gives the same successor. Zero for not at all.
    pub refresh_grace_seconds: u32,
    /// How many sessions a user may have; one sign-in more ends the one in least use. Zero for any number.
    pub sessions_per_user: usize,
    /// How often a command is decided again when somebody else was quicker.
    pub conflict_retries: u32,
    /// Wrong passwords recorded for one user in a minute by this process; more are refused all the same, but not
    /// written. How many there can be in all is bounded by [`crate::auth::MOST_FAILURES_RECORDED`].
    pub failures_per_minute: u32,
    /// Lifetimes and numbers of mailed links.
    pub links: LinkSettings,
    /// Second factors.
    pub mfa: MfaSettings,
}

impl Default for CommandSettings {
    fn default() -> Self {
        Self {
            registration_role: Role::Viewer,
            opaque_sessions: Lifetimes {
                access_seconds: 24 * 3600,
                refresh_seconds: 30 * 24 * 3600,
            },
            signed_sessions: Lifetimes {
                access_seconds: 30 * 60,
                refresh_seconds: 7 * 24 * 3600,
            },
            refresh_grace_seconds: 30,
            sessions_per_user: 10,
            conflict_retries: 10,
            failures_per_minute: 20,
            links: LinkSettings::default(),
            mfa: MfaSettings::default(),
        }
    }
}

impl CommandSettings {
    /// A sign-in whose session is continued by an opaque token that rotates.
    #[must_use]
    pub const fn opaque_sign_in(&self) -> SignInOptions {
        SignInOptions {
            refresh: RefreshKind::Opaque,
            lifetimes: self.opaque_sessions,
        }
    }

    /// A sign-in whose session is continued by a signed token that stays the same.
    #[must_use]
    pub const fn signed_sign_in(&self) -> SignInOptions {
        SignInOptions {
            refresh: RefreshKind::Signed,
            lifetimes: self.signed_sessions,
        }
    }
}

/// How long mailed links last, in seconds, and how many there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// Of a link by which a password is reset.
    pub reset_seconds: u32,
    /// Of a link that proves the address of an account.
    pub verification_seconds: u32,
    /// Of a link that turns a pending registration into an account, and of that registration.
    pub sign_up_seconds: u32,
    /// Of an invitation and its link.
    pub invitation_seconds: u32,
    /// Links of one purpose for one account, registration or invitation within an hour; more are not made.
    pub most_per_hour: u32,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            reset_seconds: 3600,
            verification_seconds: 24 * 3600,
            sign_up_seconds: 24 * 3600,
            invitation_seconds: 7 * 24 * 3600,
            most_per_hour: 3,
        }
    }
}

impl LinkSettings {
    pub(crate) const fn seconds(&self, purpose: LinkPurpose) -> u32 {
        match purpose {
            LinkPurpose::PasswordReset => self.reset_seconds,
            LinkPurpose::EmailVerification => self.verification_seconds,
            LinkPurpose::SignUp => self.sign_up_seconds,
            LinkPurpose::Invitation => self.invitation_seconds,
        }
    }
}

/// What an operator decides about second factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MfaSettings {
    /// Who authenticators say that their codes are for.
    pub issuer: String,
    /// How long after a sign-in a second factor can be set up without giving the password again, in seconds; 0: always.
    pub fresh_sign_in_seconds: u32,
}

impl Default for MfaSettings {
    fn default() -> Self {
        Self {
            issuer: "Annals".to_owned(),
            fresh_sign_in_seconds: 600,
        }
    }
}

/// How long tokens and sessions last, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an access token; never beyond the end of its session.
    pub access_seconds: u32,
    /// Of a session from its start or its last renewal.
    pub refresh_seconds: u32,
}

/// What continues a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshKind {
    /// A random token that is replaced at each use and moves the session's end.
    Opaque,
    /// A signed token that can be used again and does not move the session's end.
    Signed,
    /// Nothing: when the session has ended, the user signs in again.
    None,
}

/// What a contract wants of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInOptions {
    /// What continues the session.
    pub refresh: RefreshKind,
    /// How long it lasts.
    pub lifetimes: Lifetimes,
}

/// What a contract demands of a new password. The cap of 1,024 bytes after normalisation holds for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PasswordPolicy {
    /// Least number of characters.
    pub min_characters: usize,
    /// Demands an upper-case letter.
    pub upper: bool,
    /// Demands a lower-case letter.
    pub lower: bool,
    /// Demands a digit.
    pub digit: bool,
    /// Demands one of [`PasswordPolicy::SPECIAL`].
    pub special: bool,
    /// Refuses the password that is being replaced.
    pub differs: bool,
}

impl PasswordPolicy {
    /// What counts as a special character.
    pub const SPECIAL: &'static str = r#"!@#$%^&*(),.?":{}|<>"#;

    /// Nothing is demanded; the Django contract accepts even the empty password, which never signs in.
    pub const NONE: Self = Self {
        min_characters: 0,
        upper: false,
        lower: false,
        digit: false,
        special: false,
        differs: false,
    };

    /// Eight characters, whatever they are: registration under `/api/v1`.
    pub const EIGHT: Self = Self {
        min_characters: 8,
        ..Self::NONE
    };

    /// Eight characters of all four kinds, and another password than before: a change under `/api/v1`.
    pub const CHANGE: Self = Self {
        min_characters: 8,
        upper: true,
        lower: true,
        digit: true,
        special: true,
        differs: true,
    };

    /// Checks a new password, which stands in `field` of the request.
    ///
    /// # Errors
    /// `password.too_short`, `password.needs_upper`, `password.needs_lower`, `password.needs_digit`,
    /// `password.needs_special`; the first that is broken.
    pub(crate) fn check(&self, password: &str, field: &'static str) -> Result<(), CommandError> {
        let broken = |code, message: String| Err(CommandError::rule(code, Some(field), message));
        if password.chars().count() < self.min_characters {
            let least = self.min_characters;
            return broken(
                "password.too_short",
                format!("Password must be at least {least} characters long"),
            );
        }
        if self.upper && !password.chars().any(char::is_uppercase) {
            let message = "Password must contain at least one uppercase letter";
            return broken("password.needs_upper", message.to_owned());
        }
        if self.lower && !password.chars().any(char::is_lowercase) {
            let message = "Password must contain at least one lowercase letter";
            return broken("password.needs_lower", message.to_owned());
        }
        if self.digit && !password.chars().any(char::is_numeric) {
            return broken(
                "password.needs_digit",
                "Password must contain at least one digit".to_owned(),
            );
        }
        if self.special && !password.chars().any(|character| Self::SPECIAL.contains(character)) {
            let message = "Password must contain at least one special character";
            return broken("password.needs_special", message.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::PasswordPolicy;

    fn code(policy: PasswordPolicy, password: &str) -> Option<&'static str> {
        policy.check(password, "password").err().map(|error| error.code())
    }

    #[test]
    fn each_policy_demands_what_its_contract_says() {
        assert_eq!(code(PasswordPolicy::NONE, ""), None);
        assert_eq!(code(PasswordPolicy::NONE, "secret123"), None);
        assert_eq!(code(PasswordPolicy::EIGHT, "1234567"), Some("password.too_short"));
        assert_eq!(code(PasswordPolicy::EIGHT, "12345678"), None);
        assert_eq!(code(PasswordPolicy::EIGHT, "éééééééé"), None);
        assert_eq!(code(PasswordPolicy::EIGHT, "ééééééé"), Some("password.too_short"));
        for (password, expected) in [
            ("Aa1!", Some("password.too_short")),
            ("aaaaaa1!", Some("password.needs_upper")),
            ("AAAAAA1!", Some("password.needs_lower")),
            ("AAAaaaa!", Some("password.needs_digit")),
            ("AAAaaa12", Some("password.needs_special")),
            ("AAAaaa1;", Some("password.needs_special")),
            ("AAAaaa1!", None),
        ] {
            assert_eq!(code(PasswordPolicy::CHANGE, password), expected, "{password}");
        }
        for special in PasswordPolicy::SPECIAL.chars() {
            assert_eq!(code(PasswordPolicy::CHANGE, &format!("AAAaaa1{special}")), None);
        }
    }
}
