//! Tokens of sign-ins that wait for their second factor. They prove that the password was right, and are good for
//! nothing but to show a code with; that each is used once is decided by the second factor's stream.

use annals_domain::{PasswordHash, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Frame, SigningError, TokenFault, TokenKind, Tokens, moment, random_id, seconds};

/// How long a sign-in waits for its second factor, in seconds.
pub const PENDING_SECONDS: u32 = 300;

/// The header's `typ` of such a token; ours alone.
pub(super) const PENDING_TYP: &str = "mfa-pending+jwt";

/// Bytes of the password's trace.
const TRACE_BYTES: usize = 16;

/// A sign-in that waits for its second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSignIn {
    /// Whose.
    pub user_id: UserId,
    /// Names this sign-in alone.
    pub challenge_id: Uuid,
    /// When it waits no longer.
    pub expires_at: Timestamp,
    trace: String,
}

impl PendingSignIn {
    /// A new one, of a user whose password was right; it ends with that password.
    ///
    /// # Errors
    /// [`SigningError`] when the system gives no random numbers.
    pub fn new(user_id: UserId, password: &PasswordHash, now: Timestamp) -> Result<Self, SigningError> {
        let challenge_id = random_id()?;
        Ok(Self {
            user_id,
            challenge_id,
            expires_at: now.plus_seconds(PENDING_SECONDS.into()),
            trace: trace(challenge_id, password),
        })
    }

    /// Whether the password that it was made with is this one.
    #[must_use]
    pub fn is_of(&self, password: &PasswordHash) -> bool {
        self.trace == trace(self.challenge_id, password)
    }
}

/// Tells whether a password has been changed. It gives nothing away about it: the hash has a salt of 128 random bits.
fn trace(challenge_id: Uuid, password: &PasswordHash) -> String {
    let mut hash = Sha256::new();
    hash.update(b"annals pending sign-in\0");
    hash.update(challenge_id.as_bytes());
    hash.update(password.as_str().as_bytes());
    hex::encode(&hash.finalize()[..TRACE_BYTES])
}

/// What the token is for. There is one purpose, and it is named so that a further one cannot be taken for it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Purpose {
    SignIn,
}

#[derive(Serialize, Deserialize)]
struct PendingClaims {
    iss: String,
    aud: String,
    sub: UserId,
    user_id: UserId,
    #[serde(rename = "type")]
    kind: TokenKind,
    token_type: TokenKind,
    purpose: Purpose,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    jti: Uuid,
    /// The trace of the password.
    pwd: String,
}

impl Tokens {
    /// Signs the token of a pending sign-in.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign_pending(&self, pending: &PendingSignIn, now: Timestamp) -> Result<String, SigningError> {
        let claims = PendingClaims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: pending.user_id,
            user_id: pending.user_id,
            kind: TokenKind::MfaPending,
            token_type: TokenKind::MfaPending,
            purpose: Purpose::SignIn,
            iat: seconds(now).ok_or(SigningError)?,
            exp: seconds(pending.expires_at).ok_or(SigningError)?,
            nbf: None,
            jti: pending.challenge_id,
            pwd: pending.trace.clone(),
        };
        self.sign(TokenKind::MfaPending, &claims)
    }

    /// Checks the token of a pending sign-in in the same way as the others. Whether it was used before is not known here.
    ///
    /// # Errors
    /// [`TokenFault`]; nothing inside a token of unknown origin is believed or reported.
    pub fn verify_pending(&self, token: &str, now: Timestamp) -> Result<PendingSignIn, TokenFault> {
        let claims: PendingClaims = self.open(token, TokenKind::MfaPending, now)?;
        let frame = Frame {
            iss: &claims.iss,
            aud: &claims.aud,
            kinds: [claims.kind, claims.token_type],
            subjects: [claims.sub, claims.user_id],
            iat: claims.iat,
            exp: claims.exp,
            nbf: claims.nbf,
        };
        self.check(&frame, TokenKind::MfaPending, now)?;
        if claims.purpose != Purpose::SignIn {
            return Err(TokenFault::WrongType);
        }
        Ok(PendingSignIn {
            user_id: claims.user_id,
            challenge_id: claims.jti,
            expires_at: moment(claims.exp),
            trace: claims.pwd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TokenKey, TokenSettings};
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(TokenKey::new(&[7; 32]), Vec::new(), TokenSettings::default())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000)
    }

    fn hash(text: &str) -> PasswordHash {
        PasswordHash::parse(&format!("$argon2id${text}")).unwrap()
    }

    fn pending() -> PendingSignIn {
        PendingSignIn::new(UserId::new(Uuid::from_u128(1)), &hash("one"), at(1000)).unwrap()
    }

    #[test]
    fn a_token_reads_back_until_it_ends() {
        let (tokens, pending) = (tokens(), pending());
        let token = tokens.sign_pending(&pending, at(1000)).unwrap();
        assert_eq!(tokens.verify_pending(&token, at(1299)), Ok(pending));
        assert_eq!(tokens.verify_pending(&token, at(1300)), Err(TokenFault::Expired));
    }

    #[test]
    fn it_belongs_to_one_password() {
        let pending = pending();
        assert!(pending.is_of(&hash("one")) && !pending.is_of(&hash("two")));
    }

    /// MF-1, MF-10
    #[test]
    fn it_is_no_other_token_and_no_other_token_is_one() {
        let tokens = tokens();
        let token = tokens.sign_pending(&pending(), at(1000)).unwrap();
        assert_eq!(tokens.verify_access(&token, at(1001)), Err(TokenFault::WrongType));
        assert_eq!(tokens.verify_refresh(&token, at(1001)), Err(TokenFault::WrongType));
        let (user, session) = (UserId::new(Uuid::from_u128(1)), Uuid::from_u128(2).into());
        let refresh = tokens.sign_refresh(user, session, at(1000), at(2000)).unwrap();
        assert_eq!(tokens.verify_pending(&refresh, at(1001)), Err(TokenFault::WrongType));
    }

    #[test]
    fn a_token_of_another_key_is_refused() {
        let other = Tokens::new(TokenKey::new(&[8; 32]), Vec::new(), TokenSettings::default());
        let token = other.sign_pending(&pending(), at(1000)).unwrap();
        assert_eq!(tokens().verify_pending(&token, at(1001)), Err(TokenFault::Invalid));
    }
}
