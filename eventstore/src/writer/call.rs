//! The two functions of the database that append: what they are called with, what their answers mean.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use annals_domain::Timestamp;

use super::{Answer, Request};
use crate::append::{AppendError, Appended};
use crate::position::{Hash, Position};
use crate::prepare::{Prepared, PreparedEvent, PreparedHeld, PreparedStream};

const APPEND: &str = "
    select head, recorded_at, entry_hashes, outcomes, command_ids, first_positions, last_positions, times, items, actuals,
        scopes
    from log.append(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
        $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36
    )
";

const APPEND_SINGLE: &str = "
    select head, recorded_at, entry_hash
    from log.append_single(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
        $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29
    )
";

/// Beyond so many events, streams, or claims, one statement for all of them is cheaper than one for each.
const SINGLE_PARTS: usize = 8;

/// Carries out a batch, in one round trip unless a lone command is refused. What is answered is durable: sqlx reads on to
/// the end of the statement, which comes after the commit, before it hands out a row.
pub(super) async fn append(connection: &mut PgConnection, batch: &[Request]) -> Result<Vec<Answer>, sqlx::Error> {
    if let [request] = batch
        && is_small(&request.prepared)
        && let Some(appended) = append_single(connection, &request.prepared).await?
    {
        return Ok(vec![Ok(appended)]);
    }
    append_batch(connection, batch).await
}

fn is_small(command: &Prepared) -> bool {
    let parts = command.events.len() + command.streams.len() + command.held.len() + command.claims.len();
    parts <= SINGLE_PARTS
}

/// Numbers fit: a batch is bounded by the options of the writer, a command by what a commit may hold.
fn number(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

fn from_one(index: usize) -> i32 {
    number(index + 1)
}

/// None when there is something to be judged; nothing was written then.
async fn append_single(connection: &mut PgConnection, command: &Prepared) -> Result<Option<Appended>, sqlx::Error> {
    let (events, streams, held, claims) = (&command.events, &command.streams, &command.held, &command.claims);
    let idempotency = command.idempotency.as_ref();
    let row = sqlx::query(APPEND_SINGLE)
        .bind(command.command_id)
        .bind(idempotency.map(|key| key.principal.as_str()))
        .bind(idempotency.map(|key| key.key.as_str()))
        .bind(idempotency.map(|key| key.request_hash.0.as_slice()))
        .bind(column(streams, |stream| stream.stream.aggregate_type))
        .bind(column(streams, |stream| stream.stream.id))
        .bind(column(streams, |stream| stream.expected.cast_signed()))
        .bind(column(streams, |stream| {
            stream.events.map(|(first, _)| from_one(first))
        }))
        .bind(column(streams, |stream| stream.events.map(|(_, last)| from_one(last))))
        .bind(column(held, |held| held.scope.as_str()))
        .bind(column(held, |held| held.stored_key.as_slice()))
        .bind(column(claims, |step| step.step.as_str()))
        .bind(column(claims, |step| step.scope.as_str()))
        .bind(column(claims, |step| step.key.as_slice()))
        .bind(column(claims, |step| step.owner.aggregate_type))
        .bind(column(claims, |step| step.owner.id))
        .bind(column(claims, |step| from_one(step.event)))
        .bind(column(events, |event| event.stream.aggregate_type))
        .bind(column(events, |event| event.aggregate_id.as_str()))
        .bind(column(events, |event| event.sequence))
        .bind(column(events, |event| event.event_type))
        .bind(column(events, |event| event.event_version))
        .bind(column(events, |event| event.payload.as_str()))
        .bind(column(events, |event| event.metadata.as_str()))
        .bind(column(events, |event| event.event_id))
        .bind(command.actor.as_str())
        .bind(command.correlation_id)
        .bind(command.causation_id)
        .bind(column(events, |event| event.leaf_hash.0.as_slice()))
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        let head: i64 = row.try_get("head")?;
        Ok(Appended {
            command_id: command.command_id,
            first_position: Position::from_i64(head + 1),
            last_position: Position::from_i64(head + i64::from(number(events.len()))),
            entry_hash: Hash::from_column(&row, "entry_hash")?,
            recorded_at: Timestamp::from_offset(row.try_get::<OffsetDateTime, _>("recorded_at")?),
            duplicate: false,
        })
    })
    .transpose()
}

fn column<'a, T, U>(items: &'a [T], member: impl Fn(&'a T) -> U) -> Vec<U> {
    items.iter().map(member).collect()
}

/// The parts of a batch, each with what it belongs to.
struct Parts<'a> {
    commands: Vec<&'a Prepared>,
    /// Command numbers count from 1.
    streams: Vec<(i32, &'a PreparedStream)>,
    held: Vec<(i32, &'a PreparedHeld)>,
    events: Vec<(i32, &'a PreparedEvent)>,
    /// Of each command, how many events come before its own.
    events_before: Vec<usize>,
    /// The first event of each kind.
    kinds: Vec<&'a PreparedEvent>,
}

impl<'a> Parts<'a> {
    fn of(batch: &'a [Request]) -> Self {
        let mut parts = Self {
            commands: batch.iter().map(|request| &request.prepared).collect(),
            streams: Vec::with_capacity(batch.len()),
            held: Vec::new(),
            events: Vec::with_capacity(batch.len()),
            events_before: Vec::with_capacity(batch.len()),
            kinds: Vec::new(),
        };
        for (command, number) in batch.iter().map(|request| &request.prepared).zip(1..) {
            parts.events_before.push(parts.events.len());
            parts
                .streams
                .extend(command.streams.iter().map(|stream| (number, stream)));
            parts.held.extend(command.held.iter().map(|held| (number, held)));
            for event in &command.events {
                // There are few kinds in a batch, and mostly the same one again.
                if !parts.kinds.iter().rev().any(|kind| kind.is_kind_of(event)) {
                    parts.kinds.push(event);
                }
                parts.events.push((number, event));
            }
        }
        parts
    }

    /// The number, within the batch, of an event of a command.
    fn event_number(&self, command: i32, event: usize) -> i32 {
        let index = usize::try_from(command - 1).unwrap_or_default();
        from_one(self.events_before[index] + event)
    }
}

async fn append_batch(connection: &mut PgConnection, batch: &[Request]) -> Result<Vec<Answer>, sqlx::Error> {
    let parts = Parts::of(batch);
    let Parts {
        commands,
        streams,
        held,
        events,
        kinds,
        ..
    } = &parts;
    let claims: Vec<_> = commands
        .iter()
        .zip(1..)
        .flat_map(|(command, number)| command.claims.iter().map(move |step| (number, step)))
        .collect();
    let owner = |(command, _): &(i32, &PreparedEvent)| commands[usize::try_from(command - 1).unwrap_or_default()];

    let row = sqlx::query(APPEND)
        .bind(column(commands, |command| command.command_id))
        .bind(column(commands, |command| {
            command.idempotency.as_ref().map(|key| key.principal.as_str())
        }))
        .bind(column(commands, |command| {
            command.idempotency.as_ref().map(|key| key.key.as_str())
        }))
        .bind(column(commands, |command| {
            command.idempotency.as_ref().map(|key| key.request_hash.0.as_slice())
        }))
        .bind(column(kinds, |event| event.stream.aggregate_type))
        .bind(column(kinds, |event| event.event_type))
        .bind(column(kinds, |event| event.event_version))
        .bind(column(streams, |(command, _)| *command))
        .bind(column(streams, |(_, stream)| stream.stream.aggregate_type))
        .bind(column(streams, |(_, stream)| stream.stream.id))
        .bind(column(streams, |(_, stream)| stream.expected.cast_signed()))
        .bind(column(streams, |(command, stream)| {
            stream.events.map(|(first, _)| parts.event_number(*command, first))
        }))
        .bind(column(streams, |(command, stream)| {
            stream.events.map(|(_, last)| parts.event_number(*command, last))
        }))
        .bind(column(held, |(command, _)| *command))
        .bind(column(held, |(_, held)| held.scope.as_str()))
        .bind(column(held, |(_, held)| held.stored_key.as_slice()))
        .bind(column(&claims, |(command, _)| *command))
        .bind(column(&claims, |(_, step)| step.step.as_str()))
        .bind(column(&claims, |(_, step)| step.scope.as_str()))
        .bind(column(&claims, |(_, step)| step.key.as_slice()))
        .bind(column(&claims, |(_, step)| step.owner.aggregate_type))
        .bind(column(&claims, |(_, step)| step.owner.id))
        .bind(column(&claims, |(command, step)| {
            parts.event_number(*command, step.event)
        }))
        .bind(column(events, |(_, event)| event.stream.aggregate_type))
        .bind(column(events, |(_, event)| event.aggregate_id.as_str()))
        .bind(column(events, |(_, event)| event.sequence))
        .bind(column(events, |(_, event)| event.event_type))
        .bind(column(events, |(_, event)| event.event_version))
        .bind(column(events, |(_, event)| event.payload.as_str()))
        .bind(column(events, |(_, event)| event.metadata.as_str()))
        .bind(column(events, |(_, event)| event.event_id))
        .bind(column(events, |(command, _)| *command))
        .bind(column(events, |event| owner(event).actor.as_str()))
        .bind(column(events, |event| owner(event).correlation_id))
        .bind(column(events, |event| owner(event).causation_id))
        .bind(column(events, |(_, event)| event.leaf_hash.0.as_slice()))
        .fetch_one(connection)
        .await?;
    answers(&row, &parts)
}

/// What a batch was answered that was not recorded as a whole.
struct Judged {
    outcomes: Vec<String>,
    command_ids: Vec<Uuid>,
    first_positions: Vec<Option<i64>>,
    last_positions: Vec<Option<i64>>,
    times: Vec<Option<OffsetDateTime>>,
    items: Vec<Option<i32>>,
    actuals: Vec<Option<i64>>,
    scopes: Vec<Option<String>>,
}

fn answers(row: &PgRow, parts: &Parts<'_>) -> Result<Vec<Answer>, sqlx::Error> {
    let recorded_at = Timestamp::from_offset(row.try_get::<OffsetDateTime, _>("recorded_at")?);
    let hashes: Vec<Option<[u8; 32]>> = row.try_get("entry_hashes")?;
    let outcomes: Option<Vec<String>> = row.try_get("outcomes")?;
    let Some(outcomes) = outcomes else {
        if hashes.len() != parts.commands.len() {
            return Err(unexpected("number of answers"));
        }
        let mut position: i64 = row.try_get("head")?;
        return parts
            .commands
            .iter()
            .zip(hashes)
            .map(|(command, hash)| {
                let first = position + 1;
                position += i64::from(number(command.events.len()));
                Ok(Ok(Appended {
                    command_id: command.command_id,
                    first_position: Position::from_i64(first),
                    last_position: Position::from_i64(position),
                    entry_hash: hash_of(hash)?,
                    recorded_at,
                    duplicate: false,
                }))
            })
            .collect();
    };
    let judged = Judged {
        outcomes,
        command_ids: row.try_get("command_ids")?,
        first_positions: row.try_get("first_positions")?,
        last_positions: row.try_get("last_positions")?,
        times: row.try_get("times")?,
        items: row.try_get("items")?,
        actuals: row.try_get("actuals")?,
        scopes: row.try_get("scopes")?,
    };
    let lengths = [
        hashes.len(),
        judged.outcomes.len(),
        judged.command_ids.len(),
        judged.first_positions.len(),
        judged.last_positions.len(),
        judged.times.len(),
        judged.items.len(),
        judged.actuals.len(),
        judged.scopes.len(),
    ];
    if lengths.iter().any(|length| *length != parts.commands.len()) {
        return Err(unexpected("number of answers"));
    }
    (0..parts.commands.len())
        .map(|index| judged.answer(index, hashes[index], recorded_at, parts))
        .collect()
}

impl Judged {
    fn answer(
        &self,
        index: usize,
        hash: Option<[u8; 32]>,
        recorded_at: Timestamp,
        parts: &Parts<'_>,
    ) -> Result<Answer, sqlx::Error> {
        let item = || {
            self.items[index]
                .and_then(|item| usize::try_from(item).ok()?.checked_sub(1))
                .ok_or_else(|| unexpected("item"))
        };
        let position = |positions: &[Option<i64>]| {
            positions[index]
                .map(Position::from_i64)
                .ok_or_else(|| unexpected("position"))
        };
        Ok(match self.outcomes[index].as_str() {
            outcome @ ("ok" | "duplicate") => Ok(Appended {
                command_id: self.command_ids[index],
                first_position: position(&self.first_positions)?,
                last_position: position(&self.last_positions)?,
                entry_hash: hash_of(hash)?,
                recorded_at: self.times[index].map_or(recorded_at, Timestamp::from_offset),
                duplicate: outcome == "duplicate",
            }),
            "reused" => Err(AppendError::IdempotencyKeyReused),
            "unregistered" => {
                let (_, event) = parts.events.get(item()?).ok_or_else(|| unexpected("event"))?;
                Err(AppendError::Unregistered {
                    event_type: event.event_type,
                    event_version: event.event_version,
                })
            }
            "conflict" => {
                let (_, stream) = parts.streams.get(item()?).ok_or_else(|| unexpected("stream"))?;
                Err(AppendError::Conflict {
                    stream: stream.stream,
                    expected: stream.expected,
                    actual: self.actuals[index]
                        .ok_or_else(|| unexpected("version"))?
                        .cast_unsigned(),
                })
            }
            "taken" => {
                let mut scopes = self.scopes[index]
                    .as_deref()
                    .unwrap_or_default()
                    .split(',')
                    .map(|scope| scope.parse().map_err(|_| unexpected("scope")))
                    .collect::<Result<Vec<_>, _>>()?;
                scopes.sort_unstable();
                Err(AppendError::Taken { scopes })
            }
            "missing" => {
                let (_, held) = parts.held.get(item()?).ok_or_else(|| unexpected("claim"))?;
                Err(AppendError::Missing {
                    scope: held.scope,
                    key: held.key.clone(),
                })
            }
            _ => return Err(unexpected("outcome")),
        })
    }
}

fn unexpected(what: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("log.append answered with an unexpected {what}"))
}

fn hash_of(bytes: Option<[u8; 32]>) -> Result<Hash, sqlx::Error> {
    bytes.map(Hash).ok_or_else(|| unexpected("hash"))
}
