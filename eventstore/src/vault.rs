//! Sealing of personal data: one key per data subject, wrapped by a master key that never enters the database.
//!
//! A value marked `{"$personal":{"subject","value"}}` is stored as `{"$sealed":{"subject","box"}}`; the box is the
//! base64 of a 24-byte nonce and the XChaCha20-Poly1305 ciphertext of the value's JSON. The associated data names
//! stream, version and place in the payload, so that a box opens nowhere else. Sealing comes before hashing: the
//! chain holds after a key is destroyed, and the value then opens as null.
//!
//! Keys of claims that identify a person are stored as keyed hashes; that key, too, comes from the master key.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;
use zeroize::Zeroizing;

use annals_domain::personal::PERSONAL_MEMBER;
use annals_domain::{ClaimKey, ClaimScope, LinkId, LinkNonce};

use crate::append::StreamId;
use crate::database::Database;

/// The one member of the JSON object that holds sealed data.
pub const SEALED_MEMBER: &str = "$sealed";

/// Subject keys kept in memory.
const CACHED_KEYS: u64 = 100_000;
/// How long a process may go on reading the data of a subject whose key another process has destroyed.
const CACHED_FOR: Duration = Duration::from_mins(1);
/// A key that was made is there at the next look, unless the maker was cut off; then somebody else makes it.
const ATTEMPTS: usize = 5;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Not durable by itself, and need not be: the append that uses the keys is flushed later in the same WAL, and when a
/// crash loses the keys before that, [`Vault::replant`] notices.
const MAKE_KEYS: &str = "
    with relaxed as materialized (
        select set_config('synchronous_commit', 'off', true)
    ), made as (
        insert into vault.subject_keys (subject, wrapped_key)
        select k.subject, k.wrapped_key
        from relaxed, unnest($1::uuid[], $2::bytea[]) as k(subject, wrapped_key)
        on conflict (subject) do nothing
        returning subject, wrapped_key
    )
    select subject, wrapped_key
    from made
    union all
    select k.subject, k.wrapped_key
    from vault.subject_keys k
    where k.subject = any($1)
";

const REPLANT_KEYS: &str = "
    insert into vault.subject_keys (subject, wrapped_key)
    select k.subject, k.wrapped_key
    from unnest($1::uuid[], $2::bytea[]) as k(subject, wrapped_key)
    on conflict (subject) do nothing
";

const FETCH_KEYS: &str = "
    select subject, wrapped_key
    from vault.subject_keys
    where subject = any($1)
";

/// Answers kept for repeated requests show personal data too, and go with the key.
const ERASE_KEY: &str = "
    with gone as (
        delete from log.answers
        where $1 = any(subjects)
    )
    insert into vault.subject_keys as k (subject, erased_at)
    values ($1, clock_timestamp())
    on conflict (subject) do update
    set wrapped_key = null, erased_at = coalesce(k.erased_at, excluded.erased_at)
";

const REMEMBER_MASTER_KEY: &str = "
    insert into vault.master_key (fingerprint)
    values ($1)
    on conflict (only_row) do nothing
";

const MASTER_KEY: &str = "select fingerprint from vault.master_key";

/// Length of what [`Vault::refresh_hash`] gives.
pub const REFRESH_HASH_BYTES: usize = 44;

/// Why something could not be sealed, opened or hashed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The keys could not be read or made.
    #[error("the keys of the vault could not be had")]
    Database(#[from] sqlx::Error),
    /// The operating system gave no random numbers.
    #[error("no random numbers")]
    Random(#[source] getrandom::Error),
    /// The master key is not the one that this database was first opened with.
    #[error("the master key is not the one of this database")]
    WrongMasterKey,
    /// A master key is 32 bytes, written as 64 hexadecimal digits.
    #[error("a master key is 64 hexadecimal digits")]
    MalformedMasterKey,
    /// The file of the master key could not be read or made.
    #[error("key file {0} cannot be used")]
    KeyFile(PathBuf, #[source] io::Error),
    /// The subject was erased; data about it is not to be written again.
    #[error("subject {0} was erased")]
    Erased(Uuid),
    /// A mark of personal or sealed data that is none.
    #[error("malformed mark at {0:?}")]
    MalformedMark(String),
    /// A sealed value was tampered with, or moved here from elsewhere.
    #[error("the sealed value at {0:?} does not open")]
    DoesNotOpen(String),
}

/// The key that everything else in the vault hangs on. Lost, all personal data is.
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

impl MasterKey {
    /// A fresh one.
    ///
    /// # Errors
    /// [`VaultError::Random`].
    pub fn generate() -> Result<Self, VaultError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).map_err(VaultError::Random)?;
        Ok(Self(key))
    }

    /// One that was kept elsewhere.
    #[must_use]
    pub fn from_bytes(key: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Reads 64 hexadecimal digits, with white space around them.
    ///
    /// # Errors
    /// [`VaultError::MalformedMasterKey`].
    pub fn from_text(text: &SecretString) -> Result<Self, VaultError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.expose_secret().trim(), &mut *key).map_err(|_| VaultError::MalformedMasterKey)?;
        Ok(Self(key))
    }

    /// Reads the file, or makes a fresh key and the file, readable by its owner alone. Processes that do so at once
    /// end with one key.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`], [`VaultError::MalformedMasterKey`], [`VaultError::Random`].
    pub fn load_or_create(path: &Path) -> Result<Self, VaultError> {
        let failed = |error| VaultError::KeyFile(path.to_owned(), error);
        match std::fs::read_to_string(path) {
            Ok(text) => return Self::from_text(&SecretString::from(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let key = Self::generate()?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        make_private_folder(folder).map_err(failed)?;
        // Written beside and linked into place, so that nobody ever reads half a key and the first one wins.
        let draft = folder.join(format!(".{}.{}", file_name(path), Uuid::now_v7().simple()));
        let written = write_private(&draft, Zeroizing::new(hex::encode(*key.0)).as_bytes())
            .and_then(|()| std::fs::hard_link(&draft, path));
        let _ = std::fs::remove_file(&draft);
        match written {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(path).map_err(failed)?;
                Self::from_text(&SecretString::from(text))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut mac = keyed(&self.0);
        mac.update(purpose.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(unix)]
fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make_private_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("an HMAC takes keys of any length")
}

/// The key of one data subject, plain and as it is stored.
#[derive(Clone)]
pub(crate) struct SubjectKey {
    plain: Arc<Zeroizing<[u8; KEY_BYTES]>>,
    wrapped: Arc<[u8]>,
}

impl SubjectKey {
    /// Whether what is stored is this key.
    pub(crate) fn is(&self, stored: Option<&[u8]>) -> bool {
        stored == Some(&*self.wrapped)
    }
}

/// The keys that a payload was sealed with.
pub(crate) type SubjectKeys = HashMap<Uuid, SubjectKey>;

/// Where a sealed value belongs; it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealPlace {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
}

/// Seals and opens personal data, and hashes the keys of claims. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    wrapping: XChaCha20Poly1305,
    claims: Hmac<Sha256>,
    requests: Hmac<Sha256>,
    links: Hmac<Sha256>,
    answers: XChaCha20Poly1305,
    refresh: Hmac<Sha256>,
    /// Keys with the generation that they were read or made in; those of an earlier one do not count.
    cache: Cache<Uuid, (u64, SubjectKey)>,
    /// Raised when keys may have been lost with a crash of the database.
    generation: AtomicU64,
    /// Subjects that somebody wants a key for; whoever has the turn makes them all in one statement.
    wanted: Mutex<BTreeSet<Uuid>>,
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("cached_keys", &self.inner.cache.entry_count())
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the vault of a migrated database. The first master key that a database sees is the only one it accepts.
    ///
    /// # Errors
    /// [`VaultError::WrongMasterKey`], [`VaultError::Database`].
    pub async fn open(database: &Database, master: &MasterKey) -> Result<Self, VaultError> {
        let pool = database.pool().clone();
        let fingerprint = master.derive("annals/master-key-fingerprint/1");
        // A standby has it from its primary, and takes nothing in.
        if !database.is_standby() {
            sqlx::query(REMEMBER_MASTER_KEY)
                .bind(fingerprint.as_slice())
                .execute(&pool)
                .await?;
        }
        let known: Vec<u8> = sqlx::query_scalar(MASTER_KEY).fetch_one(&pool).await?;
        if known != fingerprint.as_slice() {
            return Err(VaultError::WrongMasterKey);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                wrapping: XChaCha20Poly1305::new((&*master.derive("annals/subject-key-wrapping/1")).into()),
                claims: keyed(&master.derive("annals/personal-claims/1")),
                requests: keyed(&master.derive("annals/requests/1")),
                links: keyed(&master.derive("annals/mailed-links/1")),
                answers: XChaCha20Poly1305::new((&*master.derive("annals/answers/1")).into()),
                refresh: keyed(&master.derive("annals/refresh-tokens/1")),
                cache: Cache::builder()
                    .max_capacity(CACHED_KEYS)
                    .time_to_live(CACHED_FOR)
                    .build(),
                generation: AtomicU64::new(0),
                wanted: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// The bytes under which a claim is stored: those of a public key, a keyed hash of a personal one.
    #[must_use]
    pub fn claim_key(&self, scope: ClaimScope, key: &ClaimKey) -> Vec<u8> {
        match key {
            ClaimKey::Public(bytes) => bytes.clone(),
            ClaimKey::Personal(text) => {
                let mut mac = self.inner.claims.clone();
                mac.update(scope.as_str().as_bytes());
                mac.update(&[0]);
                mac.update(text.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    /// The secret of a mailed link. Both parts have fixed lengths.
    pub(crate) fn link_token(&self, link: LinkId, nonce: &LinkNonce) -> [u8; KEY_BYTES] {
        let mut mac = self.inner.links.clone();
        mac.update(link.as_uuid().as_bytes());
        mac.update(nonce.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// A keyed hash of `parts`, each preceded by its length; hashes of different purposes never meet.
    pub(crate) fn request_hash(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.inner.requests.clone();
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// What only a holder of the master key can say of a session and a number of refreshes.
    #[must_use]
    pub fn refresh_hash(&self, session: Uuid, generation: u32) -> Zeroizing<[u8; REFRESH_HASH_BYTES]> {
        let mut hash = Zeroizing::new([0; REFRESH_HASH_BYTES]);
        for (number, part) in (0_u8..).zip(hash.chunks_mut(KEY_BYTES)) {
            let mut mac = self.inner.refresh.clone();
            mac.update(&[number]);
            mac.update(session.as_bytes());
            mac.update(&generation.to_be_bytes());
            let block = Zeroizing::new(<[u8; KEY_BYTES]>::from(mac.finalize().into_bytes()));
            part.copy_from_slice(&block[..part.len()]);
        }
        hash
    }

    /// Seals a part of an answer that is kept for a while; it opens in the same context alone.
    ///
    /// # Errors
    /// [`VaultError::Random`].
    pub(crate) fn seal_answer(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, VaultError> {
        encrypt(&self.inner.answers, plain, context)
    }

    /// Opens what [`Vault::seal_answer`] has sealed; nothing for anything else.
    pub(crate) fn open_answer(&self, sealed: &[u8], context: &[u8]) -> Option<Vec<u8>> {
        decrypt(&self.inner.answers, sealed, context).map(|plain| plain.to_vec())
    }

    /// Destroys the key of `subject` for good: what was sealed with it reads as erased, here at once and in other
    /// processes within a minute. No new key is made for the same subject. Answers kept about them are deleted.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn erase(&self, subject: Uuid) -> Result<(), VaultError> {
        sqlx::query(ERASE_KEY).bind(subject).execute(&self.inner.pool).await?;
        self.inner.cache.invalidate(&subject);
        Ok(())
    }

    /// Tells keys that may have been lost from those that cannot have been.
    pub(crate) fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// To be called when the writer's connection was lost, and when it has a new one: the database may have crashed,
    /// and keys that were not yet durable with it. Commands sealed before must be replanted.
    pub(crate) fn distrust_keys(&self) {
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The keys of `subjects`, made where there are none.
    ///
    /// # Errors
    /// [`VaultError::Erased`] for a subject that must not get another key.
    pub(crate) async fn keys_for_sealing(&self, subjects: &BTreeSet<Uuid>) -> Result<SubjectKeys, VaultError> {
        let (mut keys, mut missing) = self.cached(subjects);
        for _ in 0..ATTEMPTS {
            if missing.is_empty() {
                return Ok(keys);
            }
            self.make_keys(&missing).await?;
            let (made, rest) = self.cached(&missing);
            keys.extend(made);
            missing = rest;
            if !missing.is_empty() {
                // The cache is free to keep nothing, and an erased subject has nothing to be kept.
                for (subject, key) in self.fetch(&missing).await? {
                    missing.remove(&subject);
                    keys.insert(subject, key.ok_or(VaultError::Erased(subject))?);
                }
            }
        }
        Err(VaultError::Database(sqlx::Error::RowNotFound))
    }

    /// The keys of `subjects`, as far as they exist.
    pub(crate) async fn keys_for_opening(&self, subjects: &BTreeSet<Uuid>) -> Result<SubjectKeys, VaultError> {
        let (mut keys, missing) = self.cached(subjects);
        if !missing.is_empty() {
            let found = self.fetch(&missing).await?;
            keys.extend(found.into_iter().filter_map(|(subject, key)| Some((subject, key?))));
        }
        Ok(keys)
    }

    fn cached(&self, subjects: &BTreeSet<Uuid>) -> (SubjectKeys, BTreeSet<Uuid>) {
        let (mut keys, mut missing) = (SubjectKeys::new(), BTreeSet::new());
        let generation = self.generation();
        for subject in subjects {
            match self.inner.cache.get(subject) {
                Some((known_in, key)) if known_in == generation => drop(keys.insert(*subject, key)),
                _ => drop(missing.insert(*subject)),
            }
        }
        (keys, missing)
    }

    async fn fetch(&self, subjects: &BTreeSet<Uuid>) -> Result<Vec<(Uuid, Option<SubjectKey>)>, VaultError> {
        let generation = self.generation();
        let subjects: Vec<Uuid> = subjects.iter().copied().collect();
        let rows = sqlx::query(FETCH_KEYS)
            .bind(subjects)
            .fetch_all(&self.inner.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let subject = row.try_get("subject")?;
                let wrapped: Option<&[u8]> = row.try_get("wrapped_key")?;
                let key = wrapped.map(|wrapped| self.unwrap(subject, wrapped)).transpose()?;
                if let Some(key) = &key {
                    self.remember(generation, subject, key.clone());
                }
                Ok((subject, key))
            })
            .collect()
    }

    async fn make_keys(&self, subjects: &BTreeSet<Uuid>) -> Result<(), VaultError> {
        self.inner
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(subjects);
        let _turn = self.inner.turn.lock().await;
        let wanted = std::mem::take(&mut *self.inner.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        if wanted.is_empty() {
            return Ok(()); // whoever had the turn before made ours too
        }
        let generation = self.generation();
        let (mut subjects, mut fresh) = (Vec::with_capacity(wanted.len()), Vec::with_capacity(wanted.len()));
        for subject in wanted {
            let mut plain = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(&mut *plain).map_err(VaultError::Random)?;
            fresh.push(self.wrap(subject, &plain)?);
            subjects.push(subject);
        }
        let rows = sqlx::query(MAKE_KEYS)
            .bind(subjects)
            .bind(fresh)
            .fetch_all(&self.inner.pool)
            .await?;
        for row in rows {
            let subject = row.try_get("subject")?;
            if let Some(wrapped) = row.try_get::<Option<&[u8]>, _>("wrapped_key")? {
                self.remember(generation, subject, self.unwrap(subject, wrapped)?);
            }
        }
        Ok(())
    }

    fn remember(&self, generation: u64, subject: Uuid, key: SubjectKey) {
        self.inner.cache.insert(subject, (generation, key));
    }

    /// Puts keys back that a crash may have lost, and returns what is now stored for each subject. An erased subject's
    /// row is still there, so that its key does not come back.
    pub(crate) async fn replant(
        &self,
        connection: &mut PgConnection,
        keys: &[(Uuid, SubjectKey)],
    ) -> Result<HashMap<Uuid, Option<Vec<u8>>>, sqlx::Error> {
        let subjects: Vec<Uuid> = keys.iter().map(|(subject, _)| *subject).collect();
        let wrapped: Vec<&[u8]> = keys.iter().map(|(_, key)| &*key.wrapped).collect();
        sqlx::query(REPLANT_KEYS)
            .bind(&subjects)
            .bind(wrapped)
            .execute(&mut *connection)
            .await?;
        let rows = sqlx::query(FETCH_KEYS).bind(subjects).fetch_all(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get("subject")?, row.try_get("wrapped_key")?)))
            .collect()
    }

    fn wrap(&self, subject: Uuid, plain: &[u8; KEY_BYTES]) -> Result<Vec<u8>, VaultError> {
        encrypt(&self.inner.wrapping, plain, &wrapping_context(subject))
    }

    fn unwrap(&self, subject: Uuid, wrapped: &[u8]) -> Result<SubjectKey, VaultError> {
        let plain = decrypt(&self.inner.wrapping, wrapped, &wrapping_context(subject))
            .and_then(|plain| <[u8; KEY_BYTES]>::try_from(plain.as_slice()).ok())
            .ok_or_else(|| VaultError::DoesNotOpen(format!("key of {subject}")))?;
        Ok(SubjectKey {
            plain: Arc::new(Zeroizing::new(plain)),
            wrapped: wrapped.into(),
        })
    }
}

fn wrapping_context(subject: Uuid) -> Vec<u8> {
    [b"annals/subject-key/1".as_slice(), subject.as_bytes()].concat()
}

fn encrypt(cipher: &XChaCha20Poly1305, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(VaultError::Random)?;
    let sealed = cipher
        .encrypt(
            &XNonce::from(nonce),
            Payload {
                msg: plain,
                aad: context,
            },
        )
        .expect("only messages of 256 GiB are too long for the cipher");
    Ok([nonce.as_slice(), &sealed].concat())
}

fn decrypt(cipher: &XChaCha20Poly1305, sealed: &[u8], context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    cipher
        .decrypt(
            &XNonce::from(*nonce),
            Payload {
                msg: sealed,
                aad: context,
            },
        )
        .ok()
        .map(Zeroizing::new)
}

/// Set in the version of every place in a snapshot, and in that of no event: versions are stored as signed numbers.
const IN_SNAPSHOT: u64 = 1 << 63;

impl SealPlace {
    /// A place in the state of a stream after so many events, rather than in an event.
    pub(crate) const fn of_snapshot(stream: StreamId, version: u64) -> Self {
        Self {
            stream,
            version: version | IN_SNAPSHOT,
        }
    }

    /// Every part is preceded by its length, so that no two places have the same context.
    fn context(&self, path: &str) -> Vec<u8> {
        let mut context = b"annals/sealed-value/1".to_vec();
        let id = self.stream.id.as_bytes().as_slice();
        for part in [
            self.stream.aggregate_type.as_bytes(),
            id,
            &self.version.to_be_bytes(),
            path.as_bytes(),
        ] {
            context.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.extend_from_slice(part);
        }
        context
    }
}

/// Whose data `payload` holds in clear.
pub(crate) fn personal_subjects(payload: &Value) -> Result<BTreeSet<Uuid>, VaultError> {
    let mut subjects = BTreeSet::new();
    each_mark(
        payload,
        PERSONAL_MEMBER,
        SEALED_MEMBER,
        &mut String::new(),
        &mut |path, content| {
            subjects.insert(subject_of(path, content)?);
            Ok(())
        },
    )?;
    Ok(subjects)
}

/// Whose data `payload` holds sealed.
pub(crate) fn sealed_subjects(payload: &Value) -> Result<BTreeSet<Uuid>, VaultError> {
    let mut subjects = BTreeSet::new();
    each_mark(
        payload,
        SEALED_MEMBER,
        PERSONAL_MEMBER,
        &mut String::new(),
        &mut |path, content| {
            subjects.insert(subject_of(path, content)?);
            Ok(())
        },
    )?;
    Ok(subjects)
}

/// How many sealed values `json` holds, those aside that were null when they were sealed.
pub(crate) fn count_sealed(json: &Value) -> Result<usize, VaultError> {
    count(json, SEALED_MEMBER, PERSONAL_MEMBER, "box")
}

/// How many values about people `json` holds in clear, those aside that are null.
pub(crate) fn count_open(json: &Value) -> Result<usize, VaultError> {
    count(json, PERSONAL_MEMBER, SEALED_MEMBER, "value")
}

fn count(json: &Value, mark: &str, other: &str, member: &str) -> Result<usize, VaultError> {
    let mut count = 0;
    each_mark(json, mark, other, &mut String::new(), &mut |_, content| {
        count += usize::from(content.get(member).is_some_and(|value| !value.is_null()));
        Ok(())
    })?;
    Ok(count)
}

/// Seals every personal value in `payload` with the keys given, which cover its subjects.
pub(crate) fn seal(payload: &mut Value, place: SealPlace, keys: &SubjectKeys) -> Result<(), VaultError> {
    replace_marks(payload, PERSONAL_MEMBER, &mut String::new(), &mut |path, content| {
        let subject = subject_of(path, content)?;
        let value = content.get("value").unwrap_or(&Value::Null);
        let sealed = if value.is_null() {
            None // nothing to hide: the value was erased before this event was written
        } else {
            let key = keys.get(&subject).ok_or(VaultError::Erased(subject))?;
            let cipher = XChaCha20Poly1305::new((&**key.plain).into());
            let plain = Zeroizing::new(value.to_string());
            Some(STANDARD_NO_PAD.encode(encrypt(&cipher, plain.as_bytes(), &place.context(path))?))
        };
        Ok(json!({ SEALED_MEMBER: { "subject": subject, "box": sealed } }))
    })
}

/// Opens every sealed value in `payload`; without its key a value becomes null.
pub(crate) fn open(payload: &mut Value, place: SealPlace, keys: &SubjectKeys) -> Result<(), VaultError> {
    replace_marks(payload, SEALED_MEMBER, &mut String::new(), &mut |path, content| {
        let subject = subject_of(path, content)?;
        let value = match (content.get("box"), keys.get(&subject)) {
            (Some(Value::String(sealed)), Some(key)) => {
                let cipher = XChaCha20Poly1305::new((&**key.plain).into());
                STANDARD_NO_PAD
                    .decode(sealed)
                    .ok()
                    .and_then(|sealed| decrypt(&cipher, &sealed, &place.context(path)))
                    .and_then(|plain| serde_json::from_slice(&plain).ok())
                    .ok_or_else(|| VaultError::DoesNotOpen(path.to_owned()))?
            }
            (Some(Value::String(_)), None) | (Some(Value::Null), _) => Value::Null,
            _ => return Err(VaultError::MalformedMark(path.to_owned())),
        };
        Ok(json!({ PERSONAL_MEMBER: { "subject": subject, "value": value } }))
    })
}

fn subject_of(path: &str, content: &Value) -> Result<Uuid, VaultError> {
    content
        .get("subject")
        .and_then(Value::as_str)
        .and_then(|text| Uuid::try_parse(text).ok())
        .ok_or_else(|| VaultError::MalformedMark(path.to_owned()))
}

type Visit<'a> = dyn FnMut(&str, &Value) -> Result<(), VaultError> + 'a;
type Replace<'a> = dyn FnMut(&str, &Value) -> Result<Value, VaultError> + 'a;

/// Visits every `{mark: content}`. The other mark has no business here, and neither has one with company: whoever
/// reads it back would take data for a mark.
fn each_mark(
    json: &Value,
    mark: &str,
    other: &str,
    path: &mut String,
    visit: &mut Visit<'_>,
) -> Result<(), VaultError> {
    match json {
        Value::Object(members) => {
            if let Some(content) = members.get(mark)
                && members.len() == 1
            {
                return visit(path, content);
            }
            if members.contains_key(mark) || members.contains_key(other) {
                return Err(VaultError::MalformedMark(path.clone()));
            }
            for (name, member) in members {
                within(path, name, |path| each_mark(member, mark, other, path, visit))?;
            }
            Ok(())
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                within(path, &index.to_string(), |path| {
                    each_mark(item, mark, other, path, visit)
                })?;
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn replace_marks(json: &mut Value, mark: &str, path: &mut String, replace: &mut Replace<'_>) -> Result<(), VaultError> {
    match json {
        Value::Object(members) => {
            if members.len() == 1
                && let Some(content) = members.get(mark)
            {
                *json = replace(path, content)?;
                return Ok(());
            }
            for (name, member) in members.iter_mut() {
                within(path, name, |path| replace_marks(member, mark, path, replace))?;
            }
            Ok(())
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                within(path, &index.to_string(), |path| {
                    replace_marks(item, mark, path, replace)
                })?;
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Calls `then` with the path one step longer, written as a JSON Pointer (RFC 6901).
fn within<T>(path: &mut String, step: &str, then: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push('/');
    path.push_str(&step.replace('~', "~0").replace('/', "~1"));
    let answer = then(path);
    path.truncate(length);
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn key(byte: u8) -> SubjectKey {
        SubjectKey {
            plain: Arc::new(Zeroizing::new([byte; KEY_BYTES])),
            wrapped: Arc::from([byte].as_slice()),
        }
    }

    fn place(version: u64) -> SealPlace {
        SealPlace {
            stream: StreamId::new("user", Uuid::from_u128(9)),
            version,
        }
    }

    fn subject(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number))
    }

    fn keys() -> SubjectKeys {
        (0..4).map(|number| (subject(number), key(number))).collect()
    }

    fn personal(number: u8, value: &Value) -> Value {
        json!({ "$personal": { "subject": subject(number), "value": value } })
    }

    /// Any JSON whose member names are not marks, with personal values here and there.
    fn payload() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zäß/~\"\\\\ ]{0,12}".prop_map(Value::from),
        ];
        let leaf = prop_oneof![
            plain.clone(),
            (0_u8..4, plain).prop_map(|(number, value)| personal(number, &value)),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-z~/]{0,6}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_to_the_same(original in payload()) {
            let mut json = original.clone();
            let subjects = personal_subjects(&json).unwrap();
            seal(&mut json, place(3), &keys()).unwrap();
            prop_assert!(personal_subjects(&json).is_err() || subjects.is_empty());
            prop_assert_eq!(sealed_subjects(&json).unwrap(), subjects);
            open(&mut json, place(3), &keys()).unwrap();
            prop_assert_eq!(json, original);
        }

        #[test]
        fn without_keys_every_personal_value_is_null_and_the_rest_is_there(original in payload()) {
            let mut json = original.clone();
            seal(&mut json, place(3), &keys()).unwrap();
            open(&mut json, place(3), &SubjectKeys::new()).unwrap();
            let mut expected = original;
            replace_marks(&mut expected, PERSONAL_MEMBER, &mut String::new(), &mut |path, content| {
                Ok(json!({ "$personal": { "subject": subject_of(path, content)?, "value": null } }))
            }).unwrap();
            prop_assert_eq!(json, expected);
        }

        #[test]
        fn a_sealed_value_opens_nowhere_else(value in "[a-z]{1,20}", version in 2_u64..9) {
            let mut json = json!({ "name": personal(1, &Value::from(value)), "other": null });
            seal(&mut json, place(1), &keys()).unwrap();
            let mut elsewhere = json.clone();
            prop_assert!(matches!(open(&mut elsewhere, place(version), &keys()), Err(VaultError::DoesNotOpen(_))));
            let mut moved = json!({ "name": null, "other": json["name"] });
            prop_assert!(matches!(open(&mut moved, place(1), &keys()), Err(VaultError::DoesNotOpen(_))));
            let another_key = SubjectKeys::from([(subject(1), key(7))]);
            prop_assert!(matches!(open(&mut json, place(1), &another_key), Err(VaultError::DoesNotOpen(_))));
        }
    }

    #[test]
    fn a_sealed_payload_shows_nothing() {
        let mut json = json!({ "email": personal(1, &json!("ada@example.org")), "role": "viewer" });
        seal(&mut json, place(1), &keys()).unwrap();
        let text = json.to_string();
        assert!(!text.contains("ada") && !text.contains("$personal"), "{text}");
        assert_eq!(json["role"], "viewer");
    }

    #[test]
    fn a_value_that_looks_like_a_mark_is_refused() {
        for json in [
            json!({ "$sealed": { "subject": subject(1), "box": "AAAA" } }),
            json!({ "a": { "$personal": { "subject": subject(1), "value": 1 }, "b": 2 } }),
            json!({ "$personal": { "subject": "nobody", "value": 1 } }),
            json!([{ "$personal": 7 }]),
        ] {
            assert!(
                matches!(personal_subjects(&json), Err(VaultError::MalformedMark(_))),
                "{json}"
            );
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_private() {
        let folder = std::env::temp_dir().join(format!("annals-vault-{}", Uuid::now_v7()));
        let path = folder.join("keys").join("master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let second = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(*first.0, *second.0);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(
            MasterKey::load_or_create(&path),
            Err(VaultError::MalformedMasterKey)
        ));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
