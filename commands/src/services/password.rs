//! Password hashing on a pool of its own: argon2id, as many threads as cores, a bounded queue in front of them.
//!
//! A hash costs tens of milliseconds of one core and 19 MiB; it is the only slow thing a stranger can ask for. The
//! pool therefore refuses work ([`PasswordError::Overloaded`]) instead of letting it wait without end, each thread
//! keeps one block buffer for all its hashes, and work whose client has gone is dropped before it starts.

mod codes;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use annals_domain::PasswordHash;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Longest password after normalisation, in bytes. Longer ones are refused before anything is hashed.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Longest password that is normalised at all, in bytes. NFKC composes at most about three bytes into one.
const MAX_INPUT_BYTES: usize = 4 * MAX_PASSWORD_BYTES;

const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// Stored hashes that ask for more than this are not computed: a corrupted or imported row must not take the machine.
const MAX_STORED_MEMORY_KIB: u32 = 256 * 1024;
const MAX_STORED_ITERATIONS: u32 = 16;
const MAX_STORED_LANES: u32 = 16;

/// Why a password could not be hashed or compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// More than [`MAX_PASSWORD_BYTES`] after normalisation; nothing was hashed.
    #[error("the password is longer than {MAX_PASSWORD_BYTES} bytes")]
    TooLong,
    /// The queue is full; nothing was hashed.
    #[error("too many passwords are waiting to be hashed")]
    Overloaded {
        /// How long to wait before asking again; differs from call to call, so that clients do not return together.
        retry_after: Duration,
    },
    /// The pool has been shut down, or the system gives no random numbers.
    #[error("the password pool does not answer")]
    Stopped,
}

/// Cost of a hash and size of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordSettings {
    /// Memory of one hash, in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub iterations: u32,
    /// Lanes; computed one after the other, so more of them only add memory traffic.
    pub lanes: u32,
    /// Threads, and so hashes at one time.
    pub threads: usize,
    /// Passwords that may wait beside those being hashed.
    pub queue: usize,
}

impl Default for PasswordSettings {
    /// 19 MiB, two passes, one lane (OWASP, equal to its other choices); a thread for each core; a second's work queued.
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory_kib: Params::DEFAULT_M_COST,
            iterations: Params::DEFAULT_T_COST,
            lanes: Params::DEFAULT_P_COST,
            threads,
            queue: 40 * threads,
        }
    }
}

impl PasswordSettings {
    /// The least that argon2 allows. Protects nothing; for tests, where hashing is not what is tested.
    #[must_use]
    pub fn insecure_and_fast() -> Self {
        Self {
            memory_kib: Params::MIN_M_COST,
            iterations: 1,
            lanes: 1,
            queue: 4096,
            ..Self::default()
        }
    }
}

/// Parameters that argon2 does not accept, or a pool without threads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordSettingsError {
    /// Argon2 refuses the cost.
    #[error("unusable argon2 parameters: {0}")]
    Cost(argon2::Error),
    /// More than would be accepted of a stored hash, so that nobody could sign in.
    #[error(
        "argon2 parameters above {MAX_STORED_MEMORY_KIB} KiB, {MAX_STORED_ITERATIONS} passes or {MAX_STORED_LANES} lanes"
    )]
    TooCostly,
    /// No thread, or no place in the queue.
    #[error("the password pool needs a thread and a place in its queue")]
    Empty,
    /// The system gives no thread or no random numbers.
    #[error("the password pool cannot start: {0}")]
    Start(String),
}

/// Hashes and compares passwords. Clones share the pool; its threads end with the last clone.
#[derive(Clone)]
pub struct PasswordPool {
    jobs: SyncSender<Job>,
    hashes: Arc<AtomicU64>,
    /// A hash of nothing at the present cost, for users that do not exist.
    dummy: Arc<Stored>,
}

impl fmt::Debug for PasswordPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordPool")
            .field("hashes", &self.hashes())
            .finish_non_exhaustive()
    }
}

impl PasswordPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`PasswordSettingsError`] when the settings are unusable or the system refuses threads.
    pub fn start(settings: &PasswordSettings) -> Result<Self, PasswordSettingsError> {
        let params = Params::new(
            settings.memory_kib,
            settings.iterations,
            settings.lanes,
            Some(OUTPUT_BYTES),
        )
        .map_err(PasswordSettingsError::Cost)?;
        if !acceptable(&params) {
            return Err(PasswordSettingsError::TooCostly);
        }
        if settings.threads == 0 || settings.queue == 0 {
            return Err(PasswordSettingsError::Empty);
        }
        let no_random = |error: getrandom::Error| PasswordSettingsError::Start(error.to_string());
        let mut dummy = Stored {
            params: params.clone(),
            salt: vec![0; SALT_BYTES],
            output: vec![0; OUTPUT_BYTES],
        };
        getrandom::fill(&mut dummy.salt).map_err(no_random)?;
        getrandom::fill(&mut dummy.output).map_err(no_random)?;

        let (jobs, queue) = sync_channel(settings.queue);
        let queue = Arc::new(Mutex::new(queue));
        let hashes = Arc::new(AtomicU64::new(0));
        for number in 0..settings.threads {
            let (queue, hashes, params) = (Arc::clone(&queue), Arc::clone(&hashes), params.clone());
            thread::Builder::new()
                .name(format!("annals-password-{number}"))
                .spawn(move || Worker::new(params, hashes).run(&queue))
                .map_err(|error| PasswordSettingsError::Start(error.to_string()))?;
        }
        Ok(Self {
            jobs,
            hashes,
            dummy: Arc::new(dummy),
        })
    }

    /// How many hashes were computed since the start. What costs time shows here, so tests can compare classes of
    /// sign-ins without a stopwatch.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// Hashes a new password with a fresh salt at the present cost. Its length is checked, no other rule.
    ///
    /// # Errors
    /// [`PasswordError`]; nothing was hashed unless the answer is a hash.
    pub async fn hash(&self, password: &SecretString) -> Result<PasswordHash, PasswordError> {
        let password = normalise(password.expose_secret())?;
        let salt = fresh_salt()?;
        self.ask(|reply| Job::Hash { password, salt, reply }).await?
    }

    /// Whether `password` is the one that was hashed. Costs exactly one hash, whether there is a stored one or not:
    /// without one, or with one that is unreadable or absurdly costly, a dummy is computed and the answer is no.
    ///
    /// # Errors
    /// [`PasswordError`]; nothing was hashed then.
    pub async fn verify(&self, password: &SecretString, stored: Option<&PasswordHash>) -> Result<bool, PasswordError> {
        let password = normalise(password.expose_secret())?;
        let known = stored.and_then(|hash| {
            let known = Stored::parse(hash.as_str());
            if known.is_none() {
                tracing::warn!("a stored password hash is unreadable or too costly; it matches nothing");
            }
            known
        });
        // Contracts exist that accept an empty password at registration; it must not open anything.
        let usable = known.is_some() && !password.is_empty();
        let stored = known.map_or_else(|| Arc::clone(&self.dummy), Arc::new);
        let matches = self
            .ask(|reply| Job::Verify {
                password,
                stored,
                reply,
            })
            .await?;
        Ok(matches && usable)
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, PasswordError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(job(reply)).map_err(|error| match error {
            TrySendError::Full(_) => PasswordError::Overloaded {
                retry_after: spread_retry(),
            },
            TrySendError::Disconnected(_) => PasswordError::Stopped,
        })?;
        answer.await.map_err(|_| PasswordError::Stopped)
    }
}

fn fresh_salt() -> Result<[u8; SALT_BYTES], PasswordError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| PasswordError::Stopped)?;
    Ok(salt)
}

/// One to three seconds.
fn spread_retry() -> Duration {
    let mut random = [0; 2];
    // Without random numbers the spread is lost, not the answer.
    let spread = getrandom::fill(&mut random).map_or(0, |()| u64::from(u16::from_le_bytes(random)) % 2001);
    Duration::from_millis(1000 + spread)
}

/// The form that is hashed: NFKC, so that the same password typed on two keyboards is the same.
///
/// # Errors
/// [`PasswordError::TooLong`].
pub(crate) fn normalise(password: &str) -> Result<Zeroizing<String>, PasswordError> {
    if password.len() > MAX_INPUT_BYTES {
        return Err(PasswordError::TooLong);
    }
    // Reserved in full, so that growing leaves no copies behind.
    let mut normal = Zeroizing::new(String::with_capacity(MAX_PASSWORD_BYTES + 4));
    for character in password.nfkc() {
        normal.push(character);
        if normal.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
    }
    Ok(normal)
}

fn acceptable(params: &Params) -> bool {
    params.m_cost() <= MAX_STORED_MEMORY_KIB
        && params.t_cost() <= MAX_STORED_ITERATIONS
        && params.p_cost() <= MAX_STORED_LANES
}

/// A stored hash taken apart; only what may be computed gets this far.
struct Stored {
    params: Params,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Stored {
    fn parse(text: &str) -> Option<Self> {
        let phc = Phc::new(text).ok()?;
        if phc.algorithm != ARGON2ID_IDENT || phc.version != Some(Version::V0x13.into()) {
            return None;
        }
        let (salt, output) = (phc.salt?, phc.hash?);
        let params = Params::try_from(&phc).ok()?;
        let sizes = salt.as_ref().len() >= argon2::MIN_SALT_LEN && output.as_bytes().len() >= SALT_BYTES;
        (acceptable(&params) && sizes).then(|| Self {
            params,
            salt: salt.as_ref().to_vec(),
            output: output.as_bytes().to_vec(),
        })
    }
}

enum Job {
    Hash {
        password: Zeroizing<String>,
        salt: [u8; SALT_BYTES],
        reply: oneshot::Sender<Result<PasswordHash, PasswordError>>,
    },
    Find {
        password: Zeroizing<String>,
        /// Absent where a stored hash is unreadable or too costly.
        stored: Vec<Option<Stored>>,
        reply: oneshot::Sender<Option<usize>>,
    },
    Verify {
        password: Zeroizing<String>,
        stored: Arc<Stored>,
        reply: oneshot::Sender<bool>,
    },
    /// Keeps one thread busy until the other end is dropped.
    #[cfg(test)]
    Hold {
        started: oneshot::Sender<()>,
        until: Receiver<()>,
    },
}

struct Worker {
    params: Params,
    hashes: Arc<AtomicU64>,
    /// Reused from hash to hash: page faults are half the cost of a fresh buffer.
    blocks: Vec<Block>,
}

impl Worker {
    fn new(params: Params, hashes: Arc<AtomicU64>) -> Self {
        Self {
            params,
            hashes,
            blocks: Vec::new(),
        }
    }

    fn run(mut self, queue: &Mutex<Receiver<Job>>) {
        loop {
            // One idle thread waits in `recv`, the others for the lock. Nothing can panic while it is held.
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                Ok(job) => self.work(job),
                Err(_) => return, // the last pool handle is gone
            }
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Hash { password, salt, reply } if !reply.is_closed() => {
                let _client_may_have_gone = reply.send(self.hash(&password, salt));
            }
            Job::Find {
                password,
                stored,
                reply,
            } if !reply.is_closed() => {
                let _client_may_have_gone = reply.send(self.find(&password, &stored));
            }
            Job::Verify {
                password,
                stored,
                reply,
            } if !reply.is_closed() => {
                let _client_may_have_gone = reply.send(self.verify(&password, &stored));
            }
            Job::Hash { .. } | Job::Verify { .. } | Job::Find { .. } => {} // the client has gone: spend nothing on it
            #[cfg(test)]
            Job::Hold { started, until } => {
                let _ = started.send(());
                let _ = until.recv();
            }
        }
    }

    fn hash(&mut self, password: &str, salt: [u8; SALT_BYTES]) -> Result<PasswordHash, PasswordError> {
        let mut output = [0; OUTPUT_BYTES];
        let params = self.params.clone();
        self.compute(&params, password, &salt, &mut output)
            .map_err(|_| PasswordError::Stopped)?;
        let phc = Phc {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).map_err(|_| PasswordError::Stopped)?,
            salt: Some(Salt::new(&salt).map_err(|_| PasswordError::Stopped)?),
            hash: Some(Output::new(&output).map_err(|_| PasswordError::Stopped)?),
        };
        PasswordHash::parse(&phc.to_string()).map_err(|_| PasswordError::Stopped)
    }

    fn verify(&mut self, password: &str, stored: &Stored) -> bool {
        let mut output = vec![0; stored.output.len()];
        self.compute(&stored.params, password, &stored.salt, &mut output)
            .is_ok()
            && bool::from(output.ct_eq(&stored.output))
    }

    fn compute(&mut self, params: &Params, password: &str, salt: &[u8], output: &mut [u8]) -> argon2::Result<()> {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        let usual = self.params.block_count();
        let needed = params.block_count().max(usual);
        self.blocks.resize(needed, Block::default());
        let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone()).hash_password_into_with_memory(
            password.as_bytes(),
            salt,
            output,
            &mut self.blocks,
        );
        // A costlier stored hash must not keep its memory for ever.
        self.blocks.truncate(usual);
        self.blocks.shrink_to(usual);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::{
        Job, MAX_PASSWORD_BYTES, PasswordError, PasswordHash, PasswordPool, PasswordSettings, PasswordSettingsError,
        SecretString, oneshot,
    };

    fn pool() -> PasswordPool {
        PasswordPool::start(&PasswordSettings::insecure_and_fast()).unwrap()
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_and_no_other() {
        let pool = pool();
        let hash = pool.hash(&secret("correct horse")).await.unwrap();
        assert!(
            hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"),
            "{}",
            hash.as_str()
        );
        assert!(pool.verify(&secret("correct horse"), Some(&hash)).await.unwrap());
        assert!(!pool.verify(&secret("correct horsE"), Some(&hash)).await.unwrap());
        assert_ne!(pool.hash(&secret("correct horse")).await.unwrap(), hash);
    }

    #[tokio::test]
    async fn the_crate_itself_accepts_our_hashes() {
        use argon2::password_hash::phc::PasswordHash as Phc;
        use argon2::{Argon2, PasswordVerifier};
        let hash = pool().hash(&secret("correct horse")).await.unwrap();
        let phc = Phc::new(hash.as_str()).unwrap();
        Argon2::default().verify_password(b"correct horse", &phc).unwrap();
    }

    #[tokio::test]
    async fn spellings_of_one_password_are_one_password() {
        let pool = pool();
        let hash = pool.hash(&secret("caf\u{e9} \u{fb01}n")).await.unwrap();
        assert!(pool.verify(&secret("cafe\u{301} fin"), Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn no_byte_of_a_long_password_is_ignored() {
        let pool = pool();
        let start = "a".repeat(MAX_PASSWORD_BYTES - 1);
        let hash = pool.hash(&secret(&format!("{start}b"))).await.unwrap();
        assert!(pool.verify(&secret(&format!("{start}b")), Some(&hash)).await.unwrap());
        assert!(!pool.verify(&secret(&format!("{start}c")), Some(&hash)).await.unwrap());
        let nul = pool.hash(&secret("a\0b")).await.unwrap();
        assert!(!pool.verify(&secret("a\0c"), Some(&nul)).await.unwrap());
    }

    #[tokio::test]
    async fn a_password_over_the_cap_is_refused_without_a_hash() {
        let pool = pool();
        let long = [
            "a".repeat(MAX_PASSWORD_BYTES + 1),
            "\u{fdfa}".repeat(100), // each becomes eighteen characters
            "a".repeat(1 << 20),
        ];
        for password in long {
            assert_eq!(pool.hash(&secret(&password)).await, Err(PasswordError::TooLong));
            assert_eq!(pool.verify(&secret(&password), None).await, Err(PasswordError::TooLong));
        }
        assert_eq!(pool.hashes(), 0);
    }

    #[tokio::test]
    async fn nobody_and_somebody_cost_one_hash_each() {
        let pool = pool();
        let hash = pool.hash(&secret("right")).await.unwrap();
        let absurd = "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
        let other = absurd.replace("argon2id", "argon2i").replace("4194304", "64");
        let old = absurd.replace("v=19", "v=16").replace("4194304", "64");
        let mut before = pool.hashes();
        for stored in [
            None,
            Some(hash),
            Some(PasswordHash::parse(absurd).unwrap()),
            Some(PasswordHash::parse(&other).unwrap()),
            Some(PasswordHash::parse(&old).unwrap()),
            Some(PasswordHash::parse("$2b$12$abcdefghijklmnopqrstuv").unwrap()),
        ] {
            assert!(!pool.verify(&secret("wrong"), stored.as_ref()).await.unwrap());
            assert_eq!(pool.hashes(), before + 1, "{stored:?}");
            before = pool.hashes();
        }
    }

    #[tokio::test]
    async fn the_dummy_has_the_present_cost() {
        let settings = PasswordSettings {
            memory_kib: 64,
            iterations: 3,
            ..PasswordSettings::insecure_and_fast()
        };
        let pool = PasswordPool::start(&settings).unwrap();
        let hash = pool.hash(&secret("x")).await.unwrap();
        let made = super::Stored::parse(hash.as_str()).unwrap();
        assert_eq!(made.params.m_cost(), pool.dummy.params.m_cost());
        assert_eq!(made.params.t_cost(), pool.dummy.params.t_cost());
        assert_eq!(made.output.len(), pool.dummy.output.len());
        assert_eq!(made.salt.len(), pool.dummy.salt.len());
    }

    #[tokio::test]
    async fn an_empty_password_opens_nothing_and_costs_the_same() {
        let pool = pool();
        let hash = pool.hash(&secret("")).await.unwrap();
        assert!(!pool.verify(&secret(""), Some(&hash)).await.unwrap());
        assert_eq!(pool.hashes(), 2);
    }

    #[tokio::test]
    async fn a_cheaper_stored_hash_is_still_checked() {
        let costly = PasswordSettings {
            memory_kib: 256,
            iterations: 2,
            ..PasswordSettings::insecure_and_fast()
        };
        let hash = pool().hash(&secret("right")).await.unwrap();
        let upgraded = PasswordPool::start(&costly).unwrap();
        assert!(upgraded.verify(&secret("right"), Some(&hash)).await.unwrap());
        let dear = upgraded.hash(&secret("right")).await.unwrap();
        assert!(pool().verify(&secret("right"), Some(&dear)).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_recovers() {
        let settings = PasswordSettings {
            threads: 1,
            queue: 2,
            ..PasswordSettings::insecure_and_fast()
        };
        let pool = PasswordPool::start(&settings).unwrap();
        let (release, until) = channel();
        let (started, running) = oneshot::channel();
        pool.jobs.try_send(Job::Hold { started, until }).ok().unwrap();
        running.await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.hash(&secret("waits")).await })
            })
            .collect();
        tokio::task::yield_now().await; // both have asked now, and both wait
        let refused = pool.hash(&secret("refused")).await;
        let Err(PasswordError::Overloaded { retry_after }) = refused else {
            panic!("{refused:?}")
        };
        assert!((1000..=3000).contains(&retry_after.as_millis()));
        assert!(matches!(
            pool.verify(&secret("refused"), None).await,
            Err(PasswordError::Overloaded { .. })
        ));
        assert_eq!(pool.hashes(), 0);
        drop(release);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
        assert!(pool.hash(&secret("after")).await.is_ok());
    }

    #[tokio::test]
    async fn work_whose_client_has_gone_is_not_done() {
        let settings = PasswordSettings {
            threads: 1,
            queue: 4,
            ..PasswordSettings::insecure_and_fast()
        };
        let pool = PasswordPool::start(&settings).unwrap();
        let (release, until) = channel();
        let (started, running) = oneshot::channel();
        pool.jobs.try_send(Job::Hold { started, until }).ok().unwrap();
        running.await.unwrap();
        let (reply, answer) = oneshot::channel();
        let password = super::normalise("gone").unwrap();
        let salt = [0; super::SALT_BYTES];
        pool.jobs.try_send(Job::Hash { password, salt, reply }).ok().unwrap();
        drop(answer);
        drop(release);
        pool.hash(&secret("here")).await.unwrap();
        assert_eq!(pool.hashes(), 1);
    }

    #[test]
    fn unusable_settings_are_refused() {
        let fast = PasswordSettings::insecure_and_fast;
        let refused = |settings: PasswordSettings| PasswordPool::start(&settings).err();
        assert_eq!(
            refused(PasswordSettings { threads: 0, ..fast() }),
            Some(PasswordSettingsError::Empty)
        );
        assert_eq!(
            refused(PasswordSettings { queue: 0, ..fast() }),
            Some(PasswordSettingsError::Empty)
        );
        let huge = PasswordSettings {
            memory_kib: u32::MAX,
            ..fast()
        };
        assert_eq!(refused(huge), Some(PasswordSettingsError::TooCostly));
        let none = PasswordSettings {
            iterations: 0,
            ..fast()
        };
        assert!(matches!(refused(none), Some(PasswordSettingsError::Cost(_))));
    }
}
