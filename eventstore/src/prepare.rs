//! Makes a commit ready for the database: checked, sealed, hashed, its claims worked out. This happens in the task of
//! the caller, so that the writer has little left to do.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;
use uuid::Uuid;

use annals_domain::{ClaimKey, ClaimScope, Metadata};

use crate::admission::{Footprint, Touched};
use crate::append::{Append, AppendError, Condition, Idempotency, StreamId, Version};
use crate::chain::RawEvent;
use crate::claims::{self, ClaimStep, MAX_KEY_BYTES, Step, StoredChange};
use crate::error::StoreError;
use crate::position::Hash;
use crate::vault::{self, SealPlace, SubjectKeys, Vault, VaultError};

/// The most events of one commit.
const MAX_EVENTS: usize = 4096;
/// The most bytes of payload in one commit.
const MAX_BYTES: usize = 16 << 20;
/// The longest principal or idempotency key, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// One event, as it will be stored.
#[derive(Debug)]
pub(crate) struct PreparedEvent {
    pub(crate) stream: StreamId,
    pub(crate) aggregate_id: String,
    pub(crate) sequence: i64,
    pub(crate) event_type: &'static str,
    pub(crate) event_version: &'static str,
    pub(crate) event_id: Uuid,
    pub(crate) payload: String,
    pub(crate) metadata: String,
    pub(crate) leaf_hash: Hash,
}

impl PreparedEvent {
    /// Whether both have one entry in the registry.
    pub(crate) fn is_kind_of(&self, other: &Self) -> bool {
        self.event_type == other.event_type
            && self.stream.aggregate_type == other.stream.aggregate_type
            && self.event_version == other.event_version
    }
}

/// A stream that must be at a version, and the numbers of the first and last event it gets, counted within the
/// command from 0.
#[derive(Debug)]
pub(crate) struct PreparedStream {
    pub(crate) stream: StreamId,
    pub(crate) expected: Version,
    pub(crate) events: Option<(usize, usize)>,
}

/// A claim that must be held.
#[derive(Debug)]
pub(crate) struct PreparedHeld {
    pub(crate) scope: ClaimScope,
    pub(crate) key: ClaimKey,
    pub(crate) stored_key: Vec<u8>,
}

/// A commit, ready to be sent.
pub(crate) struct Prepared {
    pub(crate) command_id: Uuid,
    pub(crate) actor: String,
    pub(crate) correlation_id: Uuid,
    pub(crate) causation_id: Uuid,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) events: Vec<PreparedEvent>,
    pub(crate) streams: Vec<PreparedStream>,
    pub(crate) held: Vec<PreparedHeld>,
    pub(crate) claims: Vec<ClaimStep>,
    pub(crate) footprint: Footprint,
    /// Bytes of its payloads.
    pub(crate) size: usize,
    /// What it was sealed with, and when in the life of the connection.
    pub(crate) keys: SubjectKeys,
    pub(crate) generation: u64,
}

/// Prepares one commit. Makes keys for data subjects that have none yet.
pub(crate) async fn prepare(vault: &Vault, append: Append) -> Result<Prepared, AppendError> {
    check(&append)?;
    let generation = vault.generation();

    let mut payloads = Vec::new();
    let mut subjects = BTreeSet::new();
    let mut changes = Vec::new();
    for appended in &append.streams {
        for event in &appended.events {
            let payload = event
                .payload()
                .map_err(|error| AppendError::Refused(error.to_string()))?;
            subjects.extend(vault::personal_subjects(&payload).map_err(vault_error)?);
            let number = payloads.len();
            for change in event.claims(appended.stream.id) {
                changes.push((appended.stream, number, StoredChange::new(&change, vault)));
            }
            payloads.push(payload);
        }
    }
    let claims = claims::steps(changes).map_err(|scopes| AppendError::Taken { scopes })?;
    if let Some(step) = claims.iter().find(|step| step.key.len() > MAX_KEY_BYTES) {
        return Err(AppendError::Refused(format!(
            "a key of scope {} is longer than {MAX_KEY_BYTES} bytes",
            step.scope
        )));
    }
    let keys = if subjects.is_empty() {
        SubjectKeys::new()
    } else {
        vault.keys_for_sealing(&subjects).await.map_err(vault_error)?
    };

    let actor = append.actor.to_string();
    let (events, streams) = seal_events(&append, &actor, payloads, &keys)?;
    let size = events
        .iter()
        .map(|event| event.payload.len() + event.metadata.len())
        .sum();
    if size > MAX_BYTES {
        return Err(AppendError::Refused(format!(
            "a commit of {size} bytes is larger than {MAX_BYTES}"
        )));
    }
    let (streams, held) = with_conditions(streams, append.conditions, vault);
    let footprint = footprint(append.command_id, append.idempotency.as_ref(), &streams, &held, &claims);
    Ok(Prepared {
        command_id: append.command_id,
        actor,
        correlation_id: append.correlation_id,
        causation_id: append.causation_id,
        idempotency: append.idempotency,
        events,
        streams,
        held,
        claims,
        footprint,
        size,
        keys,
        generation,
    })
}

fn vault_error(error: VaultError) -> AppendError {
    match error {
        VaultError::Database(_) | VaultError::Random(_) => StoreError::from(error).into(),
        error => AppendError::Refused(error.to_string()),
    }
}

/// Mistakes of the caller that the database would not word well, or would not notice.
fn check(append: &Append) -> Result<(), AppendError> {
    let refused = |text: String| Err(AppendError::Refused(text));
    if append.streams.is_empty() {
        return refused("a commit has at least one stream".to_owned());
    }
    let mut streams = HashSet::new();
    let mut count = 0;
    for appended in &append.streams {
        let stream = appended.stream;
        if !streams.insert(stream) {
            return refused(format!("stream {stream} is there twice"));
        }
        if appended.events.is_empty() {
            return refused(format!("stream {stream} gets no events"));
        }
        if i64::try_from(appended.expected).is_err() {
            return refused(format!("stream {stream} cannot be at version {}", appended.expected));
        }
        if let Some(event) = appended
            .events
            .iter()
            .find(|event| event.aggregate_type() != stream.aggregate_type)
        {
            return refused(format!("{} does not belong into stream {stream}", event.event_type()));
        }
        count += appended.events.len();
    }
    if count > MAX_EVENTS {
        return refused(format!("{count} events are more than {MAX_EVENTS}"));
    }
    for condition in &append.conditions {
        if let Condition::Version { stream, version } = condition {
            if !streams.insert(*stream) {
                return refused(format!("stream {stream} is there twice"));
            }
            if i64::try_from(*version).is_err() {
                return refused(format!("stream {stream} cannot be at version {version}"));
            }
        }
    }
    if append.actor.to_string().contains('\0') {
        return refused("an actor has no zero byte".to_owned());
    }
    if let Some(Idempotency { principal, key, .. }) = &append.idempotency {
        for text in [principal, key] {
            if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.contains('\0') {
                return refused(format!(
                    "principal and idempotency key have 1 to {MAX_TEXT_BYTES} bytes, none of them zero"
                ));
            }
        }
    }
    Ok(())
}

/// Seals, then hashes: what is hashed is what is stored, so that erasing a key leaves the chain whole.
fn seal_events(
    append: &Append,
    actor: &str,
    payloads: Vec<Value>,
    keys: &SubjectKeys,
) -> Result<(Vec<PreparedEvent>, Vec<PreparedStream>), AppendError> {
    let mut payloads = payloads.into_iter();
    let mut events = Vec::with_capacity(payloads.len());
    let mut streams = Vec::with_capacity(append.streams.len());
    for appended in &append.streams {
        let stream = appended.stream;
        let aggregate_id = stream.id.as_hyphenated().to_string();
        let first = events.len();
        for ((event, mut payload), version) in appended
            .events
            .iter()
            .zip(payloads.by_ref())
            .zip(appended.expected + 1..)
        {
            vault::seal(&mut payload, SealPlace { stream, version }, keys).map_err(vault_error)?;
            let metadata = Metadata {
                event_id: Uuid::now_v7(),
                command_id: append.command_id,
                actor: append.actor.clone(),
                correlation_id: append.correlation_id,
                causation_id: append.causation_id,
            };
            let payload = payload.to_string();
            let metadata_json =
                serde_json::to_string(&metadata).map_err(|error| AppendError::Refused(error.to_string()))?;
            let sequence = version.cast_signed();
            let leaf_hash = RawEvent {
                aggregate_type: stream.aggregate_type,
                aggregate_id: &aggregate_id,
                sequence,
                event_type: event.event_type(),
                event_version: event.event_version(),
                event_id: metadata.event_id,
                command_id: metadata.command_id,
                actor,
                correlation_id: metadata.correlation_id,
                causation_id: metadata.causation_id,
                payload: &payload,
                metadata: &metadata_json,
            }
            .leaf_hash();
            events.push(PreparedEvent {
                stream,
                aggregate_id: aggregate_id.clone(),
                sequence,
                event_type: event.event_type(),
                event_version: event.event_version(),
                event_id: metadata.event_id,
                payload,
                metadata: metadata_json,
                leaf_hash,
            });
        }
        streams.push(PreparedStream {
            stream,
            expected: appended.expected,
            events: Some((first, events.len() - 1)),
        });
    }
    Ok((events, streams))
}

fn with_conditions(
    mut streams: Vec<PreparedStream>,
    conditions: Vec<Condition>,
    vault: &Vault,
) -> (Vec<PreparedStream>, Vec<PreparedHeld>) {
    let mut held = Vec::new();
    for condition in conditions {
        match condition {
            Condition::Version { stream, version } => {
                streams.push(PreparedStream {
                    stream,
                    expected: version,
                    events: None,
                });
            }
            Condition::Held { scope, key } => {
                let stored_key = vault.claim_key(scope, &key);
                held.push(PreparedHeld { scope, key, stored_key });
            }
        }
    }
    (streams, held)
}

fn footprint(
    command_id: Uuid,
    idempotency: Option<&Idempotency>,
    streams: &[PreparedStream],
    held: &[PreparedHeld],
    claims: &[ClaimStep],
) -> Footprint {
    let mut footprint = Footprint::default();
    footprint.writes(Touched::Command(command_id));
    if let Some(Idempotency { principal, key, .. }) = idempotency {
        footprint.writes(Touched::IdempotencyKey(principal, key));
    }
    for stream in streams {
        match stream.events {
            Some(_) => footprint.writes(Touched::Stream(stream.stream)),
            None => footprint.reads(Touched::Stream(stream.stream)),
        }
    }
    for held in held {
        footprint.requires(held.scope, &held.stored_key);
    }
    for step in claims {
        match step.step {
            Step::Take | Step::Check | Step::Release => footprint.writes(Touched::Claim(step.scope, &step.key)),
            Step::ReleaseAll => footprint.releases_all(step.scope),
        }
    }
    footprint
}
