//! The mails that events ask for. They leave behind the requests, at least once, and survive whatever is killed.
//!
//! A reader with the checkpoint `mail` notes every event that asks for a mail in `log.mails`, in the transaction that
//! moves the checkpoint. A sender then tries each noted mail until the transport takes it or it is of no use any more.
//! Of several processes one does this at a time, by the lease of the checkpoint. The texts are made from the events
//! when they are sent, so that no secret waits anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use annals_domain::{
    AnyEvent, AuthEvent, Caller, ClaimKey, ClaimScope, EmailAddress, Invitation, InvitationId, Link, LinkEvent, LinkId,
    LinkPurpose, LinkStatus, Organization, OrganizationRole, Personal, Timestamp, User, UserId,
};
use annals_eventstore::checkpoint::{self, Checkpoint};
use annals_eventstore::mails::{self, DueMail};
use annals_eventstore::{Database, EventFilter, Position, StoreError};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::link::LinkToken;
use crate::services::mail::{Letter, MailFailure, MailService};
use crate::{CommandError, Commands, UnitOfWork};

/// The name of the checkpoint.
pub const CHECKPOINT: &str = "mail";
const VERSION: i32 = 1;
/// The events that ask for mails.
const KINDS: &[&str] = &["link.issued", "auth.password_changed"];
/// Events noted in one transaction.
const BATCH_EVENTS: usize = 200;
/// Mails that are being sent at once: one that hangs does not keep the others.
const AT_ONCE: usize = 4;
/// A notice that could not be sent for this long is not sent any more.
const NOTICE_LIFETIME_S: i64 = 24 * 3600;
/// Finished mails are forgotten after this time.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// How often finished mails are looked for that can be forgotten.
const SWEEP_EVERY: Duration = Duration::from_hours(1);
/// The span in which mails to one address are counted.
const WINDOW: Duration = Duration::from_hours(1);
/// The checkpoint moves at least this often past events that ask for nothing.
const MOVE_EVERY: Duration = Duration::from_secs(5);

/// How the reaction runs.
#[derive(Debug, Clone)]
pub struct MailOptions {
    /// Life of the lease.
    pub lease: Duration,
    /// The wait after the first failure of a mail; doubled with each further one.
    pub retry_first: Duration,
    /// The longest wait between two attempts.
    pub retry_longest: Duration,
    /// The log is looked at no more often than this.
    pub pause: Duration,
    /// Mails to one address within an hour; further ones wait.
    pub most_per_hour: u32,
}

impl Default for MailOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_mins(10),
            pause: Duration::from_millis(50),
            most_per_hour: 10,
        }
    }
}

/// How far the reaction of this process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailProgress {
    /// Every event up to here was looked at.
    pub position: Position,
    /// Mails that could be sent now, or are being sent.
    pub pending: usize,
}

/// A running reaction.
#[derive(Debug)]
pub struct Mailer {
    end: CancellationToken,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
    progress: watch::Receiver<MailProgress>,
}

impl Mailer {
    /// Starts the reaction in the present Tokio runtime.
    #[must_use]
    pub fn start(commands: Commands, mail: MailService, options: MailOptions) -> Self {
        let end = CancellationToken::new();
        let (told, progress) = watch::channel(MailProgress::default());
        let follower = Follower {
            commands,
            mail: Arc::new(mail),
            owner: format!("mail of process {} ({})", std::process::id(), Uuid::now_v7()),
            options,
            progress: told,
            lead: None,
            under_way: BTreeSet::new(),
            sending: JoinSet::new(),
            is_away: false,
        };
        let task = tokio::spawn(follower.run(end.clone()));
        Self {
            end,
            task: std::sync::Mutex::new(Some(task)),
            progress,
        }
    }

    /// Waits until every event up to `position` was looked at and no mail can be sent that was not.
    pub async fn caught_up(&self, position: Position) {
        let mut progress = self.progress.clone();
        // When the reaction has ended there is nothing to wait for.
        drop(
            progress
                .wait_for(|progress| progress.position >= position && progress.pending == 0)
                .await,
        );
    }

    /// Ends the reaction after the mails that are being sent, and gives the lease back.
    pub async fn stop(&self) {
        self.end.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the reaction that sends mails did not end as it should");
        }
    }
}

struct Follower {
    commands: Commands,
    mail: Arc<MailService>,
    owner: String,
    options: MailOptions,
    progress: watch::Sender<MailProgress>,
    /// While this process has the lease.
    lead: Option<Lead>,
    under_way: BTreeSet<Position>,
    sending: JoinSet<Position>,
    is_away: bool,
}

struct Lead {
    epoch: u64,
    /// Where the checkpoint stands.
    stored: Position,
    /// How far the log was looked at.
    seen: Position,
    moved_at: Instant,
}

impl Follower {
    async fn run(mut self, end: CancellationToken) {
        let mut head = self.commands.store().head_changes();
        let renew_every = self.options.lease / 3;
        let (mut renew_at, mut sweep_at) = (Instant::now(), Instant::now() + SWEEP_EVERY);
        while !end.is_cancelled() {
            head.mark_unchanged();
            let now = Instant::now();
            if now >= renew_at {
                renew_at = now + renew_every;
                let tended = self.tend_lease().await;
                self.judge(tended);
            }
            if self.lead.is_some() && now >= sweep_at {
                sweep_at = now + SWEEP_EVERY;
                let swept = mails::sweep(self.database().pool(), RETENTION).await.map(drop);
                self.judge(swept);
            }
            let worked = self.work().await;
            let wait = self.judge(worked).flatten().unwrap_or(renew_every);
            let wake_at = (Instant::now() + wait).min(renew_at);
            let (leads, pause) = (self.lead.is_some(), self.options.pause);
            let news = async {
                tokio::time::sleep(pause).await;
                head.changed().await
            };
            tokio::select! {
                () = end.cancelled() => {}
                Some(done) = self.sending.join_next() => {
                    if let Ok(position) = done {
                        self.under_way.remove(&position);
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
                changed = news, if leads => {
                    if changed.is_err() {
                        break; // the log has been closed
                    }
                }
            }
        }
        while self.sending.join_next().await.is_some() {}
        if let Err(error) = checkpoint::release(self.database().pool(), &self.owner).await {
            tracing::debug!(%error, "the lease of the mails was not given back; it runs out by itself");
        }
    }

    fn database(&self) -> &Database {
        self.commands.store().database()
    }

    /// What went through; what failed is told once, however long it lasts.
    fn judge<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(done) => {
                self.is_away = false;
                Some(done)
            }
            Err(error) => {
                if !self.is_away {
                    tracing::warn!(error = chain(&error), "mails stand still");
                }
                self.is_away = true;
                None
            }
        }
    }

    async fn tend_lease(&mut self) -> Result<(), StoreError> {
        let database = self.database().clone();
        let lease = self.options.lease;
        if self.lead.is_some() {
            let kept = checkpoint::renew(database.pool(), &self.owner, &[CHECKPOINT], lease).await?;
            if kept.is_empty() {
                tracing::warn!("another process sends the mails now");
                self.lead = None;
            }
            return Ok(());
        }
        let taken = checkpoint::acquire(database.pool(), CHECKPOINT, VERSION, &self.owner, lease).await?;
        let Some(Checkpoint {
            version,
            position,
            entry_hash,
            epoch,
            ..
        }) = taken
        else {
            return Ok(());
        };
        if version > VERSION {
            return Ok(()); // a newer program knows mails that this one does not
        }
        let known = self.commands.store().entry_hash_at(position).await? == Some(entry_hash);
        if !known {
            tracing::warn!(%position, "the log is not the one that mails were sent for; looking at all of it again");
        }
        self.lead = Some(Lead {
            epoch,
            stored: position,
            seen: if known { position } else { Position::START },
            moved_at: Instant::now(),
        });
        Ok(())
    }

    /// Notes what is new and starts what is due. Returns how long there is nothing to do, if that is known.
    async fn work(&mut self) -> Result<Option<Duration>, StoreError> {
        self.follow().await?;
        let Some(lead) = &self.lead else { return Ok(None) };
        let seen = lead.seen;
        let next = self.send_due().await?;
        let pending = self.under_way.len();
        self.progress.send_replace(MailProgress {
            position: seen,
            pending,
        });
        Ok(next)
    }

    async fn follow(&mut self) -> Result<(), StoreError> {
        let store = self.commands.store().clone();
        let filter = EventFilter {
            types: KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
            ..EventFilter::default()
        };
        let head = *store.head_changes().borrow();
        while let Some(lead) = self.lead.as_mut().filter(|lead| lead.seen < head) {
            let found = store.read_filtered(&filter, lead.seen, BATCH_EVENTS).await?;
            if found.scanned_to <= lead.seen {
                break;
            }
            let asking: Vec<Position> = found.records.iter().map(|record| record.position).collect();
            if !asking.is_empty() || lead.moved_at.elapsed() >= MOVE_EVERY {
                let to = found.scanned_to;
                let Some(entry_hash) = store.entry_hash_at(to).await? else {
                    break;
                };
                let moved = mails::Move {
                    checkpoint: CHECKPOINT,
                    epoch: lead.epoch,
                    from: lead.stored,
                    to,
                    entry_hash,
                };
                if !mails::note(store.database().pool(), moved, &asking).await? {
                    self.lead = None;
                    break;
                }
                lead.stored = to;
                lead.moved_at = Instant::now();
            }
            lead.seen = found.scanned_to;
        }
        Ok(())
    }

    async fn send_due(&mut self) -> Result<Option<Duration>, StoreError> {
        let database = self.database().clone();
        let under_way: Vec<Position> = self.under_way.iter().copied().collect();
        let places = AT_ONCE.saturating_sub(under_way.len());
        if places == 0 {
            return Ok(None); // the next one to be done makes room
        }
        for mail in mails::due(database.pool(), places, &under_way).await? {
            self.under_way.insert(mail.position);
            let delivery = Delivery {
                commands: self.commands.clone(),
                mail: Arc::clone(&self.mail),
                options: self.options.clone(),
                due: mail,
            };
            self.sending.spawn(async move {
                delivery.run().await;
                mail.position
            });
        }
        if self.under_way.len() >= AT_ONCE {
            return Ok(None);
        }
        let under_way: Vec<Position> = self.under_way.iter().copied().collect();
        mails::next_due(database.pool(), &under_way).await
    }
}

/// One attempt to send one mail.
struct Delivery {
    commands: Commands,
    mail: Arc<MailService>,
    options: MailOptions,
    due: DueMail,
}

/// What is to be sent, or why nothing is.
enum Draft {
    Write(EmailAddress, Letter),
    Useless(&'static str),
}

impl Delivery {
    async fn run(self) {
        let position = self.due.position;
        let pool = self.commands.store().database().pool().clone();
        let noted = match self.attempt().await {
            Ok(Attempt::Sent(recipient)) => mails::sent(&pool, position, &recipient).await,
            Ok(Attempt::Dropped(reason)) => {
                tracing::info!(%position, reason, "a mail is not sent");
                mails::dropped(&pool, position, &reason).await
            }
            Ok(Attempt::Crowded(wait)) => mails::put_off(&pool, position, wait, None).await,
            Ok(Attempt::Failed(reason)) => {
                let wait = self.backoff();
                tracing::warn!(%position, attempts = self.due.attempts + 1, reason, "a mail could not be sent");
                mails::put_off(&pool, position, wait, Some(&reason)).await
            }
            Err(error) => {
                let wait = self.backoff();
                tracing::warn!(%position, %error, "a mail could not be written");
                mails::put_off(&pool, position, wait, Some(&error.to_string())).await
            }
        };
        if let Err(error) = noted {
            tracing::warn!(%position, error = chain(&error), "what became of a mail could not be noted; it is tried again");
        }
    }

    fn backoff(&self) -> Duration {
        let wait = self.options.retry_first.saturating_mul(1 << self.due.attempts.min(16));
        wait.min(self.options.retry_longest)
    }

    async fn attempt(&self) -> Result<Attempt, CommandError> {
        let (to, letter) = match self.draft().await? {
            Draft::Write(to, letter) => (to, letter),
            Draft::Useless(reason) => return Ok(Attempt::Dropped(reason.to_owned())),
        };
        let store = self.commands.store();
        let key = ClaimKey::Personal(to.to_string());
        let recipient = store.vault().claim_key(ClaimScope::Email, &key);
        let most = self.options.most_per_hour;
        if let Some(wait) = mails::wait_of(store.database().pool(), &recipient, WINDOW, most).await? {
            return Ok(Attempt::Crowded(wait.max(self.options.retry_first)));
        }
        let name = format!("{:012}-{}", self.due.position.get(), letter.name());
        Ok(match self.mail.send(&to, &letter, &name).await {
            Ok(()) => Attempt::Sent(recipient),
            Err(failure @ MailFailure::NotTaken(_)) => Attempt::Failed(failure.to_string()),
            Err(failure @ MailFailure::Unwritable(_)) => Attempt::Dropped(failure.to_string()),
        })
    }

    async fn draft(&self) -> Result<Draft, CommandError> {
        let store = self.commands.store();
        let before = Position(self.due.position.get().saturating_sub(1));
        let records = store.read_after(before, 1).await?;
        let Some(record) = records.into_iter().next() else {
            return Ok(Draft::Useless("there is no such event"));
        };
        let caller = Caller::system(CHECKPOINT, record.metadata.correlation_id);
        let context = self.commands.on_behalf_of(&caller);
        let unit = UnitOfWork::new(&context);
        let now = self.commands.now();
        match &record.event {
            AnyEvent::Link(LinkEvent::Issued {
                purpose,
                subject,
                email,
                nonce,
                digest,
                expires_at,
                ..
            }) => {
                let Some(to) = email.get() else {
                    return Ok(Draft::Useless("the address was erased"));
                };
                let id = LinkId::new(record.stream.id);
                let link = unit.load::<Link>(id).await?.state;
                if link.digest != Some(*digest) || link.status != Some(LinkStatus::Open) {
                    return Ok(Draft::Useless("the link was used, voided or replaced"));
                }
                let Some(hours) = hours_until(*expires_at, now) else {
                    return Ok(Draft::Useless("the link has expired"));
                };
                let organization = match purpose {
                    LinkPurpose::Invitation => invited_into(&unit, InvitationId::new(*subject)).await?,
                    LinkPurpose::PasswordReset | LinkPurpose::EmailVerification | LinkPurpose::SignUp => None,
                };
                let letter = Letter::Link {
                    purpose: *purpose,
                    token: LinkToken::of(store, id, nonce),
                    hours,
                    organization,
                };
                Ok(Draft::Write(to.clone(), letter))
            }
            AnyEvent::Auth(AuthEvent::PasswordChanged { at, .. }) => {
                if now >= at.plus_seconds(NOTICE_LIFETIME_S) {
                    return Ok(Draft::Useless("it is too late for a notice"));
                }
                let user = unit.load::<User>(UserId::new(record.stream.id)).await?.state;
                Ok(match user.email.and_then(Personal::into_value) {
                    Some(to) => Draft::Write(to, Letter::PasswordChanged),
                    None => Draft::Useless("the address was erased"),
                })
            }
            _ => Ok(Draft::Useless("the event asks for no mail")),
        }
    }
}

/// What came of an attempt.
enum Attempt {
    /// The transport has taken it, for an address of this keyed hash.
    Sent(Vec<u8>),
    /// It is of no use any more.
    Dropped(String),
    /// The address got enough mails for now.
    Crowded(Duration),
    /// It is tried again.
    Failed(String),
}

async fn invited_into(
    unit: &UnitOfWork<'_>,
    id: InvitationId,
) -> Result<Option<(String, OrganizationRole)>, CommandError> {
    let invitation = unit.load::<Invitation>(id).await?.state;
    let (Some(organization_id), Some(role)) = (invitation.organization_id, invitation.role) else {
        return Ok(None);
    };
    let organization = unit.load::<Organization>(organization_id).await?.state;
    Ok(Some((organization.name, role)))
}

/// Whole hours, rounded up; absent when the time has come.
fn hours_until(moment: Timestamp, now: Timestamp) -> Option<u64> {
    let micros = moment.unix_micros().saturating_sub(now.unix_micros());
    let micros = u64::try_from(micros).ok().filter(|micros| *micros > 0)?;
    Some(micros.div_ceil(3_600_000_000))
}

/// An error with everything behind it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use annals_domain::Timestamp;

    use super::hours_until;

    #[test]
    fn hours_are_rounded_up_and_none_is_left_at_the_end() {
        let now = Timestamp::from_unix_micros(0);
        assert_eq!(hours_until(now, now), None);
        assert_eq!(hours_until(now.plus_seconds(-1), now), None);
        assert_eq!(hours_until(now.plus_seconds(1), now), Some(1));
        assert_eq!(hours_until(now.plus_seconds(3600), now), Some(1));
        assert_eq!(hours_until(now.plus_seconds(3601), now), Some(2));
    }
}
