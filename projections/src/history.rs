//! What the log says itself: events as they were recorded, and states folded from them. No read model of its own; here
//! is decided who may look, and how much of it they see.
//!
//! `audit.read` opens everything. Without it a user sees the streams about themselves (`user`, `auth` and their own
//! sessions), and of content, datatypes, fields and routes what the permission to read them opens anyway. Personal data is
//! shown to `personal.read` and to the person it is about. Password hashes and token digests are shown to nobody.

use annals_domain::personal::{HIDDEN, PERSONAL_MEMBER};
use annals_domain::registry::fold_state;
use annals_domain::{AnyEvent, Caller, DecodeError, Denied, Permission, SessionEvent, Timestamp};
use annals_eventstore::{EventFilter, EventStore, Head, Position, Record, StoreError, StreamId, Version};
use serde_json::Value;
use uuid::Uuid;

/// The most events of one answer.
pub const MOST_EVENTS: u32 = 1_000;

/// Events fetched at a time when a whole stream is folded.
const FOLD_STEP: usize = 500;

/// Members that prove who somebody is. They are facts of the log but no part of its history.
const SECRETS: &[&str] = &[
    "password",
    "refresh_digest",
    "totp_secret",
    "offered_totp_secret",
    "backup_codes",
];

/// Shown in place of a secret.
const SECRET: &str = "[secret]";

/// Why history was not told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The caller may not ask this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The log could not be read.
    #[error("the log cannot be read")]
    Store(#[from] StoreError),
    /// An event could not be shown or folded.
    #[error("an event cannot be read")]
    Decode(#[from] DecodeError),
    /// An event could not be written as JSON.
    #[error("an event cannot be shown")]
    Show(#[from] serde_json::Error),
}

/// An event as its reader may see it.
#[derive(Debug, Clone)]
pub struct ShownEvent {
    /// The event, with everything the chain is made of.
    pub record: Record,
    /// Its payload, personal data and secrets covered as the reader's rights demand.
    pub payload: Value,
}

/// Part of the log.
#[derive(Debug, Clone)]
pub struct Events {
    /// In the order of the log.
    pub events: Vec<ShownEvent>,
    /// Where to go on: everything up to here was looked through, and only a part of the log at a time. Once it is the
    /// head there is no more.
    pub next_after: Position,
    /// The end of the log after that.
    pub head: Head,
}

/// Events of the whole log after a position, as far as the filter lets them through.
///
/// # Errors
/// [`HistoryError::Denied`] without `audit.read`, unless the filter names one stream that the caller may see.
pub async fn events(
    caller: &Caller,
    store: &EventStore,
    filter: &EventFilter,
    after: Position,
    limit: u32,
) -> Result<Events, HistoryError> {
    match &filter.stream {
        Some(stream) => may_read(caller, store, stream).await?,
        None => caller.require(Permission::AuditRead)?,
    }
    let selection = store.read_filtered(filter, after, page_size(limit)).await?;
    let head = store.head().await?;
    Ok(Events {
        events: shown(caller, selection.records)?,
        next_after: selection.scanned_to.max(after),
        head,
    })
}

/// Events of one stream after a version; absent when there is no such stream.
///
/// # Errors
/// [`HistoryError::Denied`] when the caller may not see the stream, whether or not it exists.
pub async fn stream_events(
    caller: &Caller,
    store: &EventStore,
    stream: &StreamId,
    after: Version,
    limit: u32,
) -> Result<Option<Vec<ShownEvent>>, HistoryError> {
    may_read(caller, store, stream).await?;
    let records = store.read_stream(stream, after, page_size(limit)).await?;
    if records.is_empty() && (after == 0 || store.read_stream(stream, 0, 1).await?.is_empty()) {
        return Ok(None);
    }
    Ok(Some(shown(caller, records)?))
}

fn page_size(limit: u32) -> usize {
    limit.clamp(1, MOST_EVENTS) as usize
}

/// Which state of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The present one.
    Now,
    /// Right after the event of this version.
    Version(Version),
    /// As it was known at this moment.
    Moment(Timestamp),
}

/// The state of a stream at some time.
#[derive(Debug, Clone)]
pub struct StateThen {
    /// The last version in it.
    pub version: Version,
    /// The position of that version.
    pub position: Position,
    /// When that version was recorded.
    pub recorded_at: Timestamp,
    /// The folded state, covered as the reader's rights demand.
    pub state: Value,
}

/// The state of a stream, folded from the log; absent when the stream, or the version asked for, did not exist by then.
///
/// # Errors
/// [`HistoryError::Denied`] when the caller may not see the stream, whether or not it exists.
pub async fn state(
    caller: &Caller,
    store: &EventStore,
    stream: &StreamId,
    until: Until,
) -> Result<Option<StateThen>, HistoryError> {
    may_read(caller, store, stream).await?;
    let mut events = Vec::new();
    let mut last = None;
    'stream: loop {
        let after = last.map_or(0, |(version, _, _)| version);
        let records = store.read_stream(stream, after, FOLD_STEP).await?;
        if records.is_empty() {
            break;
        }
        for record in records {
            let belongs = match until {
                Until::Now => true,
                Until::Version(version) => record.version <= version,
                Until::Moment(moment) => record.recorded_at <= moment,
            };
            if !belongs {
                break 'stream;
            }
            last = Some((record.version, record.position, record.recorded_at));
            events.push(record.event);
        }
    }
    let Some((version, position, recorded_at)) = last else {
        return Ok(None);
    };
    if matches!(until, Until::Version(wanted) if wanted != version) {
        return Ok(None);
    }
    let mut state = fold_state(stream.aggregate_type, events.into_iter())?;
    cover(caller, &mut state);
    Ok(Some(StateThen {
        version,
        position,
        recorded_at,
        state,
    }))
}

/// Whether the caller may see a stream.
async fn may_read(caller: &Caller, store: &EventStore, stream: &StreamId) -> Result<(), HistoryError> {
    if caller.can(Permission::AuditRead) {
        return Ok(());
    }
    let noun = match stream.aggregate_type {
        "content" => Permission::ContentRead,
        "datatype" => Permission::DatatypeRead,
        "field" => Permission::FieldRead,
        "route" => Permission::RouteRead,
        "user" | "auth" | "mfa" if is_self(caller, stream.id) => return Ok(()),
        "session" if is_own_session(caller, store, stream).await? => return Ok(()),
        _ => Permission::AuditRead,
    };
    Ok(caller.require(noun)?)
}

fn is_self(caller: &Caller, subject: Uuid) -> bool {
    caller.user_id().is_some_and(|user| user.as_uuid() == subject)
}

async fn is_own_session(caller: &Caller, store: &EventStore, stream: &StreamId) -> Result<bool, HistoryError> {
    let first = store.read_stream(stream, 0, 1).await?;
    Ok(match first.first().map(|record| &record.event) {
        Some(AnyEvent::Session(SessionEvent::Started { user_id, .. })) => is_self(caller, user_id.as_uuid()),
        _ => false,
    })
}

fn shown(caller: &Caller, records: Vec<Record>) -> Result<Vec<ShownEvent>, HistoryError> {
    records
        .into_iter()
        .map(|record| {
            let mut payload = record.event.payload()?;
            cover(caller, &mut payload);
            Ok(ShownEvent { record, payload })
        })
        .collect()
}

/// Puts the value in place of every mark of personal data, or covers it; covers secrets in any case.
fn cover(caller: &Caller, json: &mut Value) {
    let sees_all = caller.can(Permission::PersonalRead);
    reveal(json, &|subject| {
        sees_all || subject.is_some_and(|subject| is_self(caller, subject))
    });
}

fn reveal(json: &mut Value, shows: &dyn Fn(Option<Uuid>) -> bool) {
    match json {
        Value::Object(members) => {
            if members.len() == 1
                && let Some(content) = members.get_mut(PERSONAL_MEMBER)
            {
                let subject = content
                    .get("subject")
                    .and_then(Value::as_str)
                    .and_then(|text| text.parse().ok());
                let value = content.get_mut("value").map_or(Value::Null, Value::take);
                *json = if shows(subject) {
                    value
                } else {
                    Value::String(HIDDEN.to_owned())
                };
                return;
            }
            for (name, member) in members {
                if SECRETS.contains(&name.as_str()) {
                    if !member.is_null() {
                        *member = Value::String(SECRET.to_owned());
                    }
                } else {
                    reveal(member, shows);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| reveal(item, shows)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use annals_domain::{Actor, Role, UserId};
    use serde_json::json;

    use super::*;

    fn user(number: u128, role: Role) -> Caller {
        let actor = Actor::User(UserId::new(Uuid::from_u128(number)));
        Caller {
            actor,
            role: Some(role),
            ..Caller::anonymous(Uuid::nil())
        }
    }

    fn mark(number: u128, value: &str) -> Value {
        json!({"$personal": {"subject": Uuid::from_u128(number), "value": value}})
    }

    #[test]
    fn a_reader_sees_their_own_personal_data_and_that_of_others_only_with_the_permission() {
        let payload = json!({"name": mark(7, "Ann"), "list": [{"email": mark(8, "b@x.org")}], "role": "viewer"});
        let seen_by = |caller: &Caller| {
            let mut payload = payload.clone();
            cover(caller, &mut payload);
            payload
        };
        assert_eq!(
            seen_by(&user(7, Role::Viewer)),
            json!({"name": "Ann", "list": [{"email": "[personal]"}], "role": "viewer"})
        );
        assert_eq!(
            seen_by(&user(9, Role::Administrator)),
            json!({"name": "Ann", "list": [{"email": "b@x.org"}], "role": "viewer"})
        );
        assert_eq!(
            seen_by(&Caller::anonymous(Uuid::nil())),
            json!({"name": "[personal]", "list": [{"email": "[personal]"}], "role": "viewer"})
        );
    }

    #[test]
    fn secrets_are_shown_to_nobody() {
        let mut payload =
            json!({"password": mark(7, "$argon2id$"), "refresh_digest": "ab", "next": {"refresh_digest": null}});
        cover(&user(7, Role::Administrator), &mut payload);
        assert_eq!(
            payload,
            json!({"password": "[secret]", "refresh_digest": "[secret]", "next": {"refresh_digest": null}})
        );
    }

    #[test]
    fn erased_data_reads_as_null() {
        let mut payload = json!({"name": {"$personal": {"subject": Uuid::from_u128(7), "value": null}}});
        cover(&user(7, Role::Viewer), &mut payload);
        assert_eq!(payload, json!({"name": null}));
    }
}
