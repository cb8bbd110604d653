//! Commands about field definitions.

use annals_domain::{
    ClaimScope, DatatypeId, Field, FieldCommand, FieldId, FieldKind, Permission, Realm, Timestamp, UserId,
};
use annals_eventstore::Version;
use tracing::instrument;
use uuid::Uuid;

use crate::{CommandContext, CommandError, Committed, Reference};

/// Everything about a field that a client decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRecord {
    /// The datatype it is made for.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read.
    pub label: String,
    /// Free text.
    pub data: String,
    /// JSON as text; empty counts as `{}`.
    pub validation: String,
    /// JSON as text; empty counts as `{}`.
    pub ui_config: String,
    /// What kind of value it holds.
    pub kind: FieldKind,
    /// Who is named as its author; when absent at creation, the caller.
    pub author_id: Option<UserId>,
    /// When absent: now at creation, unchanged later.
    pub date_created: Option<Timestamp>,
    /// When absent: now.
    pub date_modified: Option<Timestamp>,
}

/// Creates a field, under its own identifier when the client gives one.
///
/// # Errors
/// `field.already_exists`, `field.text_invalid`; [`CommandError::Missing`] of `parent_id` or `author_id`;
/// [`CommandError::Denied`].
#[instrument(name = "field.create", skip_all)]
pub async fn create(
    cx: &CommandContext<'_>,
    id: Option<FieldId>,
    realm: Realm,
    record: FieldRecord,
) -> Result<Committed<Field>, CommandError> {
    cx.caller.require(Permission::FieldCreate)?;
    let id = id.unwrap_or_else(|| FieldId::new(Uuid::now_v7()));
    let at = cx.now();
    let author_id = record.author_id.or(cx.caller.user_id());
    let references = Reference::if_changed(ClaimScope::Datatype, record.parent_id, None, "parent_id")
        .into_iter()
        .chain(cx.author(author_id, None))
        .collect();
    let command = FieldCommand::Create {
        realm,
        parent_id: record.parent_id,
        label: record.label,
        data: record.data,
        validation: record.validation,
        ui_config: record.ui_config,
        kind: record.kind,
        author_id,
        date_created: record.date_created.or(Some(at)),
        date_modified: record.date_modified.or(Some(at)),
        at,
    };
    cx.create::<Field>(id, vec![command], references).await
}

/// Replaces everything about a field but its realm.
///
/// # Errors
/// `field.not_found`, `field.text_invalid`; [`CommandError::Missing`] of a new `parent_id` or `author_id`;
/// [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "field.replace", skip_all, fields(field.id = %id))]
pub async fn replace(
    cx: &CommandContext<'_>,
    id: FieldId,
    record: FieldRecord,
    expected: Option<Version>,
) -> Result<Committed<Field>, CommandError> {
    cx.caller.require(Permission::FieldUpdate)?;
    let at = cx.now();
    cx.execute_on::<Field>(id, expected, |before| {
        let command = FieldCommand::Change {
            parent_id: record.parent_id,
            label: record.label.clone(),
            data: record.data.clone(),
            validation: record.validation.clone(),
            ui_config: record.ui_config.clone(),
            kind: record.kind,
            author_id: record.author_id,
            date_created: record.date_created.or(before.date_created),
            date_modified: record.date_modified.or(Some(at)),
            at,
        };
        let references = Reference::if_changed(ClaimScope::Datatype, record.parent_id, before.parent_id, "parent_id")
            .into_iter()
            .chain(cx.author(record.author_id, before.author_id))
            .collect();
        Ok((vec![command], references))
    })
    .await
}

/// Deletes a field. Values of it stay.
///
/// # Errors
/// `field.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "field.delete", skip_all, fields(field.id = %id))]
pub async fn delete(
    cx: &CommandContext<'_>,
    id: FieldId,
    expected: Option<Version>,
) -> Result<Committed<Field>, CommandError> {
    cx.caller.require(Permission::FieldDelete)?;
    cx.execute::<Field>(id, FieldCommand::Delete { at: cx.now() }, expected, Vec::new())
        .await
}
