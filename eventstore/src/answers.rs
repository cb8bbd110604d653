//! Idempotency keys of clients: what identifies a request under one, and the first answer, kept for a while.
//!
//! Whether a request was carried out is known from `log.commands`, for good, and decided inside the append. The answer
//! lies beside it in `log.answers`, sealed, and may be gone. Neither key nor request is stored in clear: a log that
//! only grows must not keep what a client wrote into a key, nor a plain hash by which a password in a request could be
//! guessed. Both are keyed hashes, and the hash of the request covers the key, so that somebody who has the database
//! and the master key still lacks what a random key brings along.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use annals_domain::{Actor, SessionId, UserId};

use crate::append::Idempotency;
use crate::error::StoreError;
use crate::position::{Hash, Position};
use crate::vault::{Vault, VaultError};

/// The purpose of a request's hash, and of a key's.
const REQUEST: &[u8] = b"annals/request/1";
const KEY: &[u8] = b"annals/idempotency-key/1";

/// Answers deleted in one statement.
const SWEPT_ANSWERS: i64 = 500;

const LOOK_UP: &str = "
    select k.request_hash, k.last_position, a.command_id, a.status, a.session_id, a.headers, a.body,
        extract(epoch from clock_timestamp() - e.recorded_at)::float8 as age_s
    from log.commands k
    join log.events e on e.position = k.last_position
    left join log.answers a on a.principal = k.principal
        and a.idempotency_key = k.idempotency_key
        and a.command_id = k.command_id
        and a.created_at > clock_timestamp() - make_interval(secs => $3)
        and not exists (
            select
            from vault.subject_keys s
            where s.subject = any(a.subjects) and s.erased_at is not null
        )
    where k.principal = $1 and k.idempotency_key = $2
";

/// Nothing is kept about somebody who has been erased meanwhile.
const KEEP: &str = "
    insert into log.answers (
        principal, idempotency_key, command_id, status, session_id, subjects, headers, body
    )
    select $1, $2, $3, $4, $5, $6, $7, $8
    where not exists (
        select
        from vault.subject_keys s
        where s.subject = any($6) and s.erased_at is not null
    )
    on conflict (principal, idempotency_key) do nothing
";

const SWEEP: &str = "
    delete from log.answers a
    using (
        select o.principal, o.idempotency_key
        from log.answers o
        where o.created_at <= clock_timestamp() - make_interval(secs => $1)
        order by o.created_at
        limit $2
    ) as old
    where a.principal = old.principal and a.idempotency_key = old.idempotency_key
";

/// What tells one request from another under the same key.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// Such as `POST`.
    pub method: &'a str,
    /// Path and query, as they were sent.
    pub target: &'a str,
    /// The value of `Content-Type`; empty when there is none.
    pub media_type: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Names and values of its headers, in order; neither holds a line break, and no name a colon.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// To which commit an answer was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredCommit {
    /// Names the commit.
    pub command_id: Uuid,
    /// Whom it is about: with the key of any of them the answer goes.
    pub subjects: Vec<UserId>,
    /// The session that the request was made in, when the commit ended it.
    pub session_id: Option<SessionId>,
}

/// What the log knows of a request under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The key was never used, or nothing came of it.
    Nothing,
    /// The key was used for another request.
    OtherRequest,
    /// This very request was carried out.
    CarriedOut {
        /// Position of the last event of its commit.
        position: Position,
        /// How long ago it was committed, by the database's clock.
        age: Duration,
        /// What was answered; absent when it is not kept, not yet or no longer.
        answer: Option<KeptAnswer>,
    },
}

/// An answer that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The answer.
    pub answer: Answer,
    /// The session that the request was made in, when the request itself ended it.
    pub session_id: Option<SessionId>,
}

/// The keyed hash by which a request under `key` is known again. Every part is preceded by its length.
pub(crate) fn request_hash(vault: &Vault, key: &str, request: &RequestParts<'_>) -> Hash {
    Hash(vault.request_hash(
        REQUEST,
        &[
            key.as_bytes(),
            request.method.as_bytes(),
            request.target.as_bytes(),
            request.media_type,
            request.body,
        ],
    ))
}

/// A request of `actor` under `key`, as it is stored. Of nobody known, each request is a principal of its own: whoever
/// is to get an answer that was given to a stranger must bring the whole request.
pub(crate) fn idempotency(vault: &Vault, actor: &Actor, key: &str, request_hash: Hash) -> Idempotency {
    let principal = match actor {
        Actor::Anonymous => format!("anonymous:{request_hash}"),
        Actor::User(_) | Actor::System(_) => actor.to_string(),
    };
    let key = hex::encode(vault.request_hash(KEY, &[principal.as_bytes(), key.as_bytes()]));
    Idempotency {
        principal,
        key,
        request_hash,
    }
}

/// What is known of a request, by one look at the primary keys. An answer that does not open counts as gone, for the
/// request must not be carried out again.
pub(crate) async fn look_up(
    pool: &PgPool,
    vault: &Vault,
    request: &Idempotency,
    retention: Duration,
) -> Result<Known, StoreError> {
    let row = sqlx::query(LOOK_UP)
        .bind(&request.principal)
        .bind(&request.key)
        .bind(retention.as_secs_f64())
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(Known::Nothing) };
    if Hash::from_column(&row, "request_hash")? != request.request_hash {
        return Ok(Known::OtherRequest);
    }
    let answer = kept(vault, request, &row)?;
    Ok(Known::CarriedOut {
        position: Position::from_i64(row.try_get("last_position")?),
        // The log's time never goes back, so after a clock was set back an event may lie in the future.
        age: Duration::try_from_secs_f64(row.try_get("age_s")?).unwrap_or_default(),
        answer,
    })
}

fn kept(vault: &Vault, request: &Idempotency, row: &PgRow) -> Result<Option<KeptAnswer>, StoreError> {
    let Some(command_id) = row.try_get::<Option<Uuid>, _>("command_id")? else {
        return Ok(None);
    };
    let status: i16 = row.try_get("status")?;
    let session_id = row.try_get::<Option<Uuid>, _>("session_id")?.map(SessionId::new);
    let open = |part: &str, column: &str| -> Result<Option<Vec<u8>>, sqlx::Error> {
        let sealed: &[u8] = row.try_get(column)?;
        Ok(vault.open_answer(sealed, &context(request, command_id, session_id, status, part)))
    };
    let (Some(headers), Some(body)) = (open("headers", "headers")?, open("body", "body")?) else {
        tracing::error!(%command_id, "a kept answer does not open, and counts as gone");
        return Ok(None);
    };
    Ok(Some(KeptAnswer {
        answer: Answer {
            status: status.cast_unsigned(),
            headers: lines(&headers),
            body,
        },
        session_id,
    }))
}

/// Keeps an answer, durably. Nothing is kept when there is one already, or about a subject that was erased.
pub(crate) async fn keep(
    pool: &PgPool,
    vault: &Vault,
    request: &Idempotency,
    commit: &AnsweredCommit,
    answer: &Answer,
) -> Result<(), StoreError> {
    let status = i16::try_from(answer.status)
        .map_err(|_| StoreError::damaged("an answer to be kept", "its status is no status"))?;
    let seal = |part: &str, plain: &[u8]| -> Result<Vec<u8>, VaultError> {
        vault.seal_answer(
            plain,
            &context(request, commit.command_id, commit.session_id, status, part),
        )
    };
    sqlx::query(KEEP)
        .bind(&request.principal)
        .bind(&request.key)
        .bind(commit.command_id)
        .bind(status)
        .bind(commit.session_id.map(|id| id.as_uuid()))
        .bind(commit.subjects.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .bind(seal("headers", &block(&answer.headers))?)
        .bind(seal("body", &answer.body)?)
        .execute(pool)
        .await?;
    Ok(())
}

/// Deletes a batch of the answers that are older than `retention`, oldest first. Returns how many, and whether there may
/// be more.
pub(crate) async fn sweep(pool: &PgPool, retention: Duration) -> Result<(u64, bool), StoreError> {
    let deleted = sqlx::query(SWEEP)
        .bind(retention.as_secs_f64())
        .bind(SWEPT_ANSWERS)
        .execute(pool)
        .await?
        .rows_affected();
    Ok((deleted, deleted >= SWEPT_ANSWERS.cast_unsigned()))
}

/// Where a sealed part belongs; it opens nowhere else. Every part is preceded by its length.
fn context(request: &Idempotency, command_id: Uuid, session_id: Option<SessionId>, status: i16, part: &str) -> Vec<u8> {
    let mut context = b"annals/answer/1".to_vec();
    let session_id = session_id.map(|id| id.as_uuid());
    for part in [
        request.principal.as_bytes(),
        request.key.as_bytes(),
        command_id.as_bytes(),
        session_id.as_ref().map_or(&[], |id| id.as_bytes().as_slice()),
        &status.to_be_bytes(),
        part.as_bytes(),
    ] {
        context.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.extend_from_slice(part);
    }
    context
}

/// Headers as HTTP/1 writes them, one a line.
fn block(headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.extend_from_slice(name.as_bytes());
        block.push(b':');
        block.extend_from_slice(value);
        block.push(b'\n');
    }
    block
}

fn lines(block: &[u8]) -> Vec<(String, Vec<u8>)> {
    block
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            Some((String::from_utf8_lossy(name).into_owned(), value.get(1..)?.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let headers = vec![
            ("content-type".to_owned(), b"application/json".to_vec()),
            ("set-cookie".to_owned(), b"a=b; Path=/".to_vec()),
            ("set-cookie".to_owned(), b"c=\xe9:d".to_vec()),
            ("x-empty".to_owned(), Vec::new()),
        ];
        assert_eq!(lines(&block(&headers)), headers);
        assert!(lines(&block(&[])).is_empty());
    }

    #[test]
    fn no_two_places_have_one_context() {
        let request = |principal: &str, key: &str| Idempotency {
            principal: principal.to_owned(),
            key: key.to_owned(),
            request_hash: Hash::ZERO,
        };
        let id = Uuid::from_u128(7);
        let contexts = [
            context(&request("ab", "c"), id, None, 200, "body"),
            context(&request("a", "bc"), id, None, 200, "body"),
            context(&request("ab", "c"), id, None, 201, "body"),
            context(&request("ab", "c"), id, None, 200, "headers"),
            context(&request("ab", "c"), id, Some(SessionId::new(id)), 200, "body"),
            context(&request("ab", "c"), Uuid::from_u128(8), None, 200, "body"),
        ];
        let distinct: std::collections::BTreeSet<_> = contexts.iter().collect();
        assert_eq!(distinct.len(), contexts.len());
    }
}
