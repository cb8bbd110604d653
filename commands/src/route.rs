//! Commands about routes.

use annals_domain::claims::slug_key;
use annals_domain::{ClaimScope, Permission, Realm, Route, RouteCommand, RouteId, Slug, Timestamp, UserId};
use annals_eventstore::Version;
use tracing::instrument;
use uuid::Uuid;

use crate::{CommandContext, CommandError, Committed};

/// Everything about a route that a client decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRecord {
    /// The path; no other route's in the realm.
    pub slug: Slug,
    /// The name for people to read.
    pub title: String,
    /// A number whose meaning is the client's.
    pub status: i64,
    /// Who is named as its author; when absent at creation, the caller.
    pub author_id: Option<UserId>,
    /// When absent: now at creation, unchanged later.
    pub date_created: Option<Timestamp>,
    /// When absent: now.
    pub date_modified: Option<Timestamp>,
}

/// Creates a route, under its own identifier when the client gives one.
///
/// # Errors
/// `route.already_exists`, `route.text_invalid`; [`CommandError::Taken`] with `Slug`; [`CommandError::Missing`] of
/// `author_id`; [`CommandError::Denied`].
#[instrument(name = "route.create", skip_all)]
pub async fn create(
    cx: &CommandContext<'_>,
    id: Option<RouteId>,
    realm: Realm,
    record: RouteRecord,
) -> Result<Committed<Route>, CommandError> {
    cx.caller.require(Permission::RouteCreate)?;
    let id = id.unwrap_or_else(|| RouteId::new(Uuid::now_v7()));
    let at = cx.now();
    let author_id = record.author_id.or(cx.caller.user_id());
    let command = RouteCommand::Create {
        realm,
        slug: record.slug,
        title: record.title,
        status: record.status,
        author_id,
        date_created: record.date_created.or(Some(at)),
        date_modified: record.date_modified.or(Some(at)),
        at,
    };
    cx.create::<Route>(id, vec![command], cx.author(author_id, None).into_iter().collect())
        .await
}

/// Replaces everything about a route but its realm.
///
/// # Errors
/// `route.not_found`, `route.text_invalid`; [`CommandError::Taken`] with `Slug`; [`CommandError::Missing`] of a new
/// `author_id`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "route.replace", skip_all, fields(route.id = %id))]
pub async fn replace(
    cx: &CommandContext<'_>,
    id: RouteId,
    record: RouteRecord,
    expected: Option<Version>,
) -> Result<Committed<Route>, CommandError> {
    cx.caller.require(Permission::RouteUpdate)?;
    let at = cx.now();
    cx.execute_on::<Route>(id, expected, |before| {
        let command = RouteCommand::Change {
            slug: record.slug.clone(),
            title: record.title.clone(),
            status: record.status,
            author_id: record.author_id,
            date_created: record.date_created.or(before.date_created),
            date_modified: record.date_modified.or(Some(at)),
            at,
        };
        Ok((
            vec![command],
            cx.author(record.author_id, before.author_id).into_iter().collect(),
        ))
    })
    .await
}

/// Replaces the route that is found at `slug` now.
///
/// # Errors
/// `route.not_found` when there is none; what [`replace`] reports.
#[instrument(name = "route.replace_at", skip_all)]
pub async fn replace_at(
    cx: &CommandContext<'_>,
    realm: Realm,
    slug: &Slug,
    record: RouteRecord,
    expected: Option<Version>,
) -> Result<Committed<Route>, CommandError> {
    cx.caller.require(Permission::RouteUpdate)?;
    let owner = cx.store().owner_of(ClaimScope::Slug, &slug_key(realm, slug)).await?;
    let id = owner
        .map(RouteId::new)
        .ok_or_else(|| CommandError::not_found(ClaimScope::Route))?;
    replace(cx, id, record, expected).await
}

/// Deletes a route. Content under it stays, without a route.
///
/// # Errors
/// `route.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "route.delete", skip_all, fields(route.id = %id))]
pub async fn delete(
    cx: &CommandContext<'_>,
    id: RouteId,
    expected: Option<Version>,
) -> Result<Committed<Route>, CommandError> {
    cx.caller.require(Permission::RouteDelete)?;
    cx.execute::<Route>(id, RouteCommand::Delete { at: cx.now() }, expected, Vec::new())
        .await
}
