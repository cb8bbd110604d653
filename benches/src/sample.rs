//! What is appended: `datatype.created`, its label padded so that the stored payload has the size wanted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use annals_commands::SystemClock;
use annals_domain::{
    Actor, AnyEvent, ClaimKey, ClaimScope, Clock, Datatype, DatatypeEvent, EmailAddress, Personal, Realm, Role,
    Timestamp, User, UserEvent, Username,
};
use annals_eventstore::{Append, Condition, EventStore, Hash, Idempotency, StreamAppend, StreamId};
use anyhow::{Context, Result};
use cqrs_es::persist::SerializedEvent;
use cqrs_es::{Aggregate, DomainEvent};
use uuid::Uuid;

/// Different labels, used in turn, so that no two rows next to each other are alike.
const LABELS: usize = 512;

/// Words of the labels: text that compresses about as well as text does.
const WORDS: &[&str] = &[
    "annals", "archive", "article", "author", "banner", "branch", "calendar", "caption", "chapter", "column",
    "contact", "contents", "digest", "draft", "edition", "entry", "essay", "event", "feature", "folio", "footer",
    "gallery", "glossary", "header", "heading", "history", "imprint", "index", "journal", "layout", "ledger", "letter",
    "library", "listing", "margin", "member", "menu", "notice", "outline", "page", "parcel", "people", "picture",
    "product", "profile", "quarter", "record", "register", "report", "review", "schedule", "section", "series",
    "sketch", "story", "summary", "survey", "teaser", "ticket", "title", "topic", "volume", "weekly", "yearbook",
];

/// Events of one size. Clones share their labels.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Bytes of each stored payload.
    pub(crate) payload_bytes: usize,
    author: Uuid,
    labels: Arc<[String]>,
    next: Arc<AtomicUsize>,
}

impl Sample {
    /// Events of `payload_bytes` each, by an author whose claim every command demands. See [`register_author`].
    ///
    /// # Errors
    /// A payload of that size cannot be: its other members need more.
    pub(crate) fn new(payload_bytes: usize, author: Uuid) -> Result<Self> {
        let bare = serde_json::to_string(&created(String::new()))?.len();
        let room = payload_bytes
            .checked_sub(bare)
            .with_context(|| format!("a payload has at least {bare} bytes"))?;
        let labels = (0..LABELS).map(|number| label(number, room)).collect();
        Ok(Self {
            payload_bytes,
            author,
            labels,
            next: Arc::default(),
        })
    }

    /// The next event.
    pub(crate) fn event(&self) -> DatatypeEvent {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        created(self.labels[number % self.labels.len()].clone())
    }

    /// One event in a stream of its own. It takes one claim, demands another one, and carries an idempotency key with
    /// the hash of its request.
    pub(crate) fn command(&self) -> Append {
        self.command_of(vec![AnyEvent::from(self.event())])
    }

    /// The same with several events of one stream.
    pub(crate) fn command_of(&self, events: Vec<AnyEvent>) -> Append {
        let command_id = Uuid::now_v7();
        let mut request_hash = [0; 32];
        request_hash[..16].copy_from_slice(command_id.as_bytes());
        Append {
            command_id,
            actor: Actor::User(self.author.into()),
            correlation_id: command_id,
            causation_id: command_id,
            idempotency: Some(Idempotency {
                principal: format!("user:{}", self.author),
                key: Uuid::now_v7().to_string(),
                request_hash: Hash(request_hash),
            }),
            streams: vec![StreamAppend {
                stream: StreamId::new(Datatype::TYPE, Uuid::now_v7()),
                expected: 0,
                events,
            }],
            conditions: vec![Condition::Held {
                scope: ClaimScope::User,
                key: ClaimKey::id(self.author),
            }],
        }
    }

    /// One event in a stream of its own, as cqrs-es hands it to a repository, with the same metadata.
    ///
    /// # Errors
    /// None in practice: it has a JSON form.
    pub(crate) fn serialized(&self) -> Result<SerializedEvent> {
        let event = self.event();
        let command_id = Uuid::now_v7().to_string();
        let metadata: HashMap<&str, String> = HashMap::from([
            ("event_id", Uuid::now_v7().to_string()),
            ("command_id", command_id.clone()),
            ("correlation_id", command_id.clone()),
            ("causation_id", command_id),
            ("actor", format!("user:{}", self.author)),
        ]);
        Ok(SerializedEvent::new(
            Uuid::now_v7().to_string(),
            1,
            Datatype::TYPE.to_owned(),
            event.event_type(),
            event.event_version(),
            serde_json::to_value(&event)?,
            serde_json::to_value(metadata)?,
        ))
    }
}

/// Registers somebody whose claim commands can demand.
///
/// # Errors
/// What the log says.
pub(crate) async fn register_author(store: &EventStore) -> Result<Uuid> {
    let author = Uuid::now_v7();
    let command_id = Uuid::now_v7();
    let registered = UserEvent::Registered {
        email: Personal::new(author, EmailAddress::parse("ada@example.com")?),
        username: Personal::new(author, Username::parse("ada")?),
        name: Personal::new(author, "Ada Example".to_owned()),
        role: Role::Editor,
        at: SystemClock.now(),
    };
    let append = Append {
        command_id,
        actor: Actor::System("benches".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream: StreamId::new(User::TYPE, author),
            expected: 0,
            events: vec![AnyEvent::from(registered)],
        }],
        conditions: Vec::new(),
    };
    store.append(append).await.context("registering an author")?;
    Ok(author)
}

fn created(label: String) -> DatatypeEvent {
    DatatypeEvent::Created {
        realm: Realm::Site,
        parent_id: None,
        label,
        kind: "page".to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
        at: moment(),
    }
}

/// Any moment has the same length when stored.
fn moment() -> Timestamp {
    SystemClock.now()
}

/// Words in an order that differs with `number`, cut to `bytes`.
fn label(number: usize, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    let mut state = number;
    while text.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 33) % WORDS.len()]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_exactly_the_size_wanted() {
        for wanted in [200, 2048] {
            let sample = Sample::new(wanted, Uuid::nil()).unwrap();
            for _ in 0..LABELS {
                assert_eq!(serde_json::to_string(&sample.event()).unwrap().len(), wanted);
            }
        }
        assert!(Sample::new(100, Uuid::nil()).is_err());
    }
}
