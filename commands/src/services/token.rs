//! Tokens: signed ones (JWT, HS256) that name a session, and opaque ones that continue it.
//!
//! This is the only place that signs or checks a JWT. The library's own checking is not used: it allows a minute of
//! leeway, rounds fractional times, ignores `typ`, `crit` and duplicate members, and reads the system clock. What is
//! accepted here is exactly what is made here (RFC 8725): one algorithm, a known key, a type in the header and in the
//! claims, whole seconds, our issuer and audience. A token that passes proves who and which session; whether that
//! session still lives is asked of the log.

pub mod pending;

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use annals_domain::{OrganizationId, Role, SessionId, Timestamp, TokenDigest, UserId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Longest signed token that is looked at, in bytes. Ours stay below 1,200.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// How far ahead of ours the clock of another process may be, in seconds.
const MAX_SKEW_SECONDS: u64 = 30;

const KEY_BYTES: usize = 32;
/// Of an opaque token, before it is written as text.
pub(crate) const OPAQUE_BYTES: usize = 64;
const OPAQUE_CHARACTERS: usize = 86;

const ALGORITHM: &str = "HS256";
/// The header's `typ` of an access token (RFC 9068, section 2.1).
const ACCESS_TYP: &str = "at+jwt";
/// The header's `typ` of a signed refresh token; ours alone.
const REFRESH_TYP: &str = "refresh+jwt";

/// Why a token is refused. The signature is checked before everything that is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three parts of base64, or too long.
    #[error("Token is malformed")]
    Malformed,
    /// Not signed by us, or not in the form in which we sign.
    #[error("Token is invalid")]
    Invalid,
    /// Ours, but its time is over.
    #[error("Token is expired")]
    Expired,
    /// Ours, but of the other kind: a refresh token shown for access, or the reverse.
    #[error("Token has wrong type")]
    WrongType,
}

impl TokenFault {
    /// A stable name for clients.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token.malformed",
            Self::Invalid => "token.invalid",
            Self::Expired => "token.expired",
            Self::WrongType => "token.wrong_type",
        }
    }
}

/// A token could not be made: the system gives no random numbers, or the clock stands before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token could not be signed")]
pub struct SigningError;

/// A secret that signs tokens. `Debug` shows only its public name.
#[derive(Clone)]
pub struct TokenKey {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// A key of 256 bits.
    #[must_use]
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"annals token key\0");
        hash.update(secret);
        Self {
            id: hex::encode(&hash.finalize()[..8]),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        }
    }

    /// A fresh random key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> io::Result<Self> {
        Ok(Self::new(&*random_key()?))
    }

    /// Reads the key from a file of 64 hexadecimal digits; makes one, readable by its owner alone, when there is none.
    /// Processes that start together agree on one key.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds something else.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        if !path.try_exists()? {
            create_key_file(path)?;
        }
        let text = Zeroizing::new(fs::read_to_string(path)?);
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut *secret).map_err(|_| {
            let message = format!("{} does not hold 64 hexadecimal digits", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        Ok(Self::new(&secret))
    }

    /// The name that tokens carry in `kid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

fn random_key() -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *secret).map_err(io::Error::other)?;
    Ok(secret)
}

fn create_key_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = path.with_extension(format!("{}.new", Uuid::now_v7().simple()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let digits = Zeroizing::new(hex::encode(*random_key()?));
    let written = file.write_all(digits.as_bytes()).and_then(|()| file.sync_all());
    // A link, unlike a rename, does not replace the key of a process that was quicker.
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// What an access token says about its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user_id: UserId,
    /// By which sign-in.
    pub session_id: SessionId,
    /// Where mail reaches them; absent once erased.
    pub email: Option<String>,
    /// The organization they founded at registration, if they did.
    pub organization_id: Option<OrganizationId>,
    /// What they may do.
    pub role: Role,
}

/// An access token that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Who shows it.
    pub identity: Identity,
    /// Names this token alone.
    pub token_id: Uuid,
    /// When its time is over.
    pub expires_at: Timestamp,
}

/// A signed refresh token that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshToken {
    /// Who shows it.
    pub user_id: UserId,
    /// The session it continues.
    pub session_id: SessionId,
    /// When its time is over.
    pub expires_at: Timestamp,
}

/// Every claim of an access token. Several contracts read it, so some things are said twice; no name collides.
#[derive(Serialize, Deserialize)]
struct AccessClaims {
    iss: String,
    aud: String,
    sub: UserId,
    user_id: UserId,
    session_id: SessionId,
    email: Option<String>,
    org_id: Option<OrganizationId>,
    role: Role,
    #[serde(rename = "type")]
    kind: TokenKind,
    token_type: TokenKind,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    jti: Uuid,
    /// Clients of one contract read a token version here. Ours ends sessions instead of counting, so it never moves.
    tv: u32,
}

#[derive(Serialize, Deserialize)]
struct RefreshClaims {
    iss: String,
    aud: String,
    sub: UserId,
    user_id: UserId,
    session_id: SessionId,
    #[serde(rename = "type")]
    kind: TokenKind,
    token_type: TokenKind,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    jti: Uuid,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TokenKind {
    Access,
    Refresh,
    /// A sign-in that waits for its second factor; the name is that of the Aragora document.
    #[serde(rename = "mfa_pending")]
    MfaPending,
}

impl TokenKind {
    const fn typ(self) -> &'static str {
        match self {
            Self::Access => ACCESS_TYP,
            Self::Refresh => REFRESH_TYP,
            Self::MfaPending => pending::PENDING_TYP,
        }
    }
}

/// The whole header. Everything else, such as `crit`, `zip`, `jwk` or `jku`, is refused by its presence.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    alg: std::borrow::Cow<'a, str>,
    typ: std::borrow::Cow<'a, str>,
    kid: std::borrow::Cow<'a, str>,
}

/// The members that must be right whatever kind of token it is.
struct Frame<'a> {
    iss: &'a str,
    aud: &'a str,
    kinds: [TokenKind; 2],
    subjects: [UserId; 2],
    iat: u64,
    exp: u64,
    nbf: Option<u64>,
}

/// Who signs, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The `iss` of every token; tokens of another issuer are refused.
    pub issuer: String,
    /// The `aud` of every token; tokens for another audience are refused.
    pub audience: String,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            issuer: "annals".to_owned(),
            audience: "annals".to_owned(),
        }
    }
}

/// Makes and checks tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    current: TokenKey,
    previous: Vec<TokenKey>,
    settings: TokenSettings,
}

impl Tokens {
    /// Signs with `current`; also accepts what `previous` keys have signed, for a rotation without sign-outs.
    #[must_use]
    pub fn new(current: TokenKey, previous: Vec<TokenKey>, settings: TokenSettings) -> Self {
        Self {
            current,
            previous,
            settings,
        }
    }

    /// Signs an access token that ends at `expires_at`, in whole seconds.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign_access(
        &self,
        identity: &Identity,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<String, SigningError> {
        let claims = AccessClaims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: identity.user_id,
            user_id: identity.user_id,
            session_id: identity.session_id,
            email: identity.email.clone(),
            org_id: identity.organization_id,
            role: identity.role,
            kind: TokenKind::Access,
            token_type: TokenKind::Access,
            iat: seconds(now).ok_or(SigningError)?,
            exp: seconds(expires_at).ok_or(SigningError)?,
            nbf: None,
            jti: random_id()?,
            tv: 1,
        };
        self.sign(TokenKind::Access, &claims)
    }

    /// Signs a refresh token for one session.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign_refresh(
        &self,
        user_id: UserId,
        session_id: SessionId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<String, SigningError> {
        let claims = RefreshClaims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: user_id,
            user_id,
            session_id,
            kind: TokenKind::Refresh,
            token_type: TokenKind::Refresh,
            iat: seconds(now).ok_or(SigningError)?,
            exp: seconds(expires_at).ok_or(SigningError)?,
            nbf: None,
            jti: random_id()?,
        };
        self.sign(TokenKind::Refresh, &claims)
    }

    /// Checks an access token: form, key, signature, issuer, audience, times, type.
    ///
    /// # Errors
    /// [`TokenFault`]; nothing inside a token of unknown origin is believed or reported.
    pub fn verify_access(&self, token: &str, now: Timestamp) -> Result<AccessToken, TokenFault> {
        let claims: AccessClaims = self.open(token, TokenKind::Access, now)?;
        self.check(
            &Frame {
                iss: &claims.iss,
                aud: &claims.aud,
                kinds: [claims.kind, claims.token_type],
                subjects: [claims.sub, claims.user_id],
                iat: claims.iat,
                exp: claims.exp,
                nbf: claims.nbf,
            },
            TokenKind::Access,
            now,
        )?;
        Ok(AccessToken {
            identity: Identity {
                user_id: claims.user_id,
                session_id: claims.session_id,
                email: claims.email,
                organization_id: claims.org_id,
                role: claims.role,
            },
            token_id: claims.jti,
            expires_at: moment(claims.exp),
        })
    }

    /// Checks a signed refresh token in the same way.
    ///
    /// # Errors
    /// [`TokenFault`]; nothing inside a token of unknown origin is believed or reported.
    pub fn verify_refresh(&self, token: &str, now: Timestamp) -> Result<RefreshToken, TokenFault> {
        let claims: RefreshClaims = self.open(token, TokenKind::Refresh, now)?;
        self.check(
            &Frame {
                iss: &claims.iss,
                aud: &claims.aud,
                kinds: [claims.kind, claims.token_type],
                subjects: [claims.sub, claims.user_id],
                iat: claims.iat,
                exp: claims.exp,
                nbf: claims.nbf,
            },
            TokenKind::Refresh,
            now,
        )?;
        Ok(RefreshToken {
            user_id: claims.user_id,
            session_id: claims.session_id,
            expires_at: moment(claims.exp),
        })
    }

    fn sign<C: Serialize>(&self, kind: TokenKind, claims: &C) -> Result<String, SigningError> {
        let header = Header {
            alg: ALGORITHM.into(),
            typ: kind.typ().into(),
            kid: self.current.id.as_str().into(),
        };
        let mut token = encode(&header)?;
        token.push('.');
        token.push_str(&encode(claims)?);
        let signature = jsonwebtoken::crypto::sign(token.as_bytes(), &self.current.encoding, Algorithm::HS256)
            .map_err(|_| SigningError)?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// The claims of a token that one of our keys has signed as the wanted kind.
    fn open<C: DeserializeOwned>(&self, token: &str, kind: TokenKind, now: Timestamp) -> Result<C, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        if claims.contains('.') || claims.is_empty() || signature.is_empty() {
            return Err(TokenFault::Malformed);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenFault::Malformed)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenFault::Malformed)?;
        let header: Header<'_> = parse(&header)?;
        if header.alg != ALGORITHM {
            return Err(TokenFault::Invalid);
        }
        // The name is compared, never looked up anywhere.
        let key = std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == header.kid)
            .ok_or(TokenFault::Invalid)?;
        let signed = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, Algorithm::HS256);
        if !matches!(signed, Ok(true)) {
            return Err(TokenFault::Invalid);
        }
        if header.typ != kind.typ() {
            return Err(self.misused(&claims, now));
        }
        parse(&claims)
    }

    /// The fault of a token that is ours but of another type: what contracts ask first is whether it has expired.
    fn misused(&self, claims: &[u8], now: Timestamp) -> TokenFault {
        #[derive(Deserialize)]
        struct Expiry {
            exp: u64,
        }
        match parse::<Expiry>(claims) {
            Ok(Expiry { exp }) if is_past(exp, now) => TokenFault::Expired,
            Ok(_) => TokenFault::WrongType,
            Err(fault) => fault,
        }
    }

    fn check(&self, frame: &Frame<'_>, kind: TokenKind, now: Timestamp) -> Result<(), TokenFault> {
        if frame.iss != self.settings.issuer
            || frame.aud != self.settings.audience
            || frame.subjects[0] != frame.subjects[1]
        {
            return Err(TokenFault::Invalid);
        }
        let latest = seconds(now).unwrap_or(0).saturating_add(MAX_SKEW_SECONDS);
        if frame.iat > latest || frame.nbf.is_some_and(|start| start > latest) || frame.exp < frame.iat {
            return Err(TokenFault::Invalid);
        }
        if is_past(frame.exp, now) {
            return Err(TokenFault::Expired);
        }
        if frame.kinds != [kind; 2] {
            return Err(TokenFault::WrongType);
        }
        Ok(())
    }
}

/// A random identifier, without the panic of `uuid`'s own constructor when the system gives no random numbers.
fn random_id() -> Result<Uuid, SigningError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| SigningError)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// Whole seconds since 1970; absent before.
fn seconds(moment: Timestamp) -> Option<u64> {
    u64::try_from(moment.unix_seconds()).ok()
}

fn is_past(exp: u64, now: Timestamp) -> bool {
    i64::try_from(exp).is_ok_and(|exp| exp <= now.unix_seconds())
}

/// The moment of a claim that was accepted; beyond the calendar it is the calendar's end.
fn moment(seconds: u64) -> Timestamp {
    let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    Timestamp::from_unix_micros(micros)
}

fn encode<T: Serialize>(part: &T) -> Result<String, SigningError> {
    serde_json::to_vec(part)
        .map(|json| URL_SAFE_NO_PAD.encode(json))
        .map_err(|_| SigningError)
}

/// Reads an object. serde would also read an array as a struct, member by member.
fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, TokenFault> {
    if json.first() != Some(&b'{') {
        return Err(TokenFault::Invalid);
    }
    serde_json::from_slice(json).map_err(|_| TokenFault::Invalid)
}

/// An opaque refresh token, for its one client. Not printed, not stored: the log knows its digest.
#[derive(Clone)]
pub struct OpaqueToken(Zeroizing<String>);

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueToken(redacted)")
    }
}

impl OpaqueToken {
    /// 64 random bytes as 86 URL-safe characters.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; OPAQUE_BYTES]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    pub(crate) fn from_bytes(bytes: &[u8; OPAQUE_BYTES]) -> Self {
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The token as the client gets it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the log keeps of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::new(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The digest of what a client shows; absent when no token of ours looks so.
    #[must_use]
    pub fn digest_of(text: &str) -> Option<TokenDigest> {
        let well_formed = text.len() == OPAQUE_CHARACTERS && URL_SAFE_NO_PAD.decode(text).is_ok();
        well_formed.then(|| TokenDigest::new(Sha256::digest(text.as_bytes()).into()))
    }
}

#[cfg(test)]
mod tests;
