//! Commands about datatypes and the fields attached to them.

use annals_domain::{
    ClaimKey, ClaimScope, Datatype, DatatypeCommand, DatatypeFieldId, DatatypeId, FieldId, Permission, Realm,
    Timestamp, UserId,
};
use annals_eventstore::Version;
use tracing::instrument;
use uuid::Uuid;

use crate::ancestry::must_not_be_above;
use crate::{CommandContext, CommandError, Committed, Reference, UnitOfWork};

/// Everything about a datatype that a client decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatatypeRecord {
    /// The datatype it belongs under.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read.
    pub label: String,
    /// Free text; `ROOT` marks page roots.
    pub kind: String,
    /// Who is named as its author; when absent at creation, the caller.
    pub author_id: Option<UserId>,
    /// When absent: now at creation, unchanged later.
    pub date_created: Option<Timestamp>,
    /// When absent: now.
    pub date_modified: Option<Timestamp>,
}

/// A field's attachment to a datatype, as a client decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachmentRecord {
    /// The datatype.
    pub datatype_id: DatatypeId,
    /// The field.
    pub field_id: FieldId,
    /// Its place among the fields; equal ones are ordered by id.
    pub sort_order: i64,
}

/// Creates a datatype, under its own identifier when the client gives one.
///
/// # Errors
/// `datatype.already_exists`, `datatype.text_invalid`; [`CommandError::Missing`] of `parent_id` or `author_id`;
/// [`CommandError::Denied`].
#[instrument(name = "datatype.create", skip_all)]
pub async fn create(
    cx: &CommandContext<'_>,
    id: Option<DatatypeId>,
    realm: Realm,
    record: DatatypeRecord,
) -> Result<Committed<Datatype>, CommandError> {
    cx.caller.require(Permission::DatatypeCreate)?;
    let id = id.unwrap_or_else(|| DatatypeId::new(Uuid::now_v7()));
    if record.parent_id == Some(id) {
        return Err(own_parent());
    }
    let at = cx.now();
    let author_id = record.author_id.or(cx.caller.user_id());
    let references = Reference::if_changed(ClaimScope::Datatype, record.parent_id, None, "parent_id")
        .into_iter()
        .chain(cx.author(author_id, None))
        .collect();
    let command = DatatypeCommand::Create {
        realm,
        parent_id: record.parent_id,
        label: record.label,
        kind: record.kind,
        author_id,
        date_created: record.date_created.or(Some(at)),
        date_modified: record.date_modified.or(Some(at)),
        at,
    };
    cx.create::<Datatype>(id, vec![command], references).await
}

fn own_parent() -> CommandError {
    CommandError::rule(
        "datatype.own_parent",
        Some("parent_id"),
        "a datatype cannot belong under itself",
    )
}

/// Replaces everything about a datatype but its realm and its fields.
///
/// # Errors
/// `datatype.not_found`, `datatype.text_invalid`, `datatype.own_parent`, `datatype.cycle`, `datatype.too_deep`;
/// [`CommandError::Missing`] of a new `parent_id` or `author_id`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "datatype.replace", skip_all, fields(datatype.id = %id))]
pub async fn replace(
    cx: &CommandContext<'_>,
    id: DatatypeId,
    record: DatatypeRecord,
    expected: Option<Version>,
) -> Result<Committed<Datatype>, CommandError> {
    cx.caller.require(Permission::DatatypeUpdate)?;
    let at = cx.now();
    let mut retry = cx.retry();
    loop {
        match replace_once(cx, retry.unit(cx), id, &record, expected, at).await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn replace_once(
    cx: &CommandContext<'_>,
    mut unit: UnitOfWork<'_>,
    id: DatatypeId,
    record: &DatatypeRecord,
    expected: Option<Version>,
    at: Timestamp,
) -> Result<Committed<Datatype>, CommandError> {
    let read = unit.load::<Datatype>(id).await?;
    read.must_be_at(expected)?;
    let before = read.state.clone();
    let command = DatatypeCommand::Change {
        parent_id: record.parent_id,
        label: record.label.clone(),
        kind: record.kind.clone(),
        author_id: record.author_id,
        date_created: record.date_created.or(before.date_created),
        date_modified: record.date_modified.or(Some(at)),
        at,
    };
    let staged = unit.stage(read, [command])?;
    if let Some(parent_id) = record.parent_id.filter(|_| record.parent_id != before.parent_id) {
        if parent_id == id {
            return Err(own_parent());
        }
        must_not_be_above::<Datatype>(&mut unit, id, parent_id).await?;
    }
    unit.require(Reference::if_changed(
        ClaimScope::Datatype,
        record.parent_id,
        before.parent_id,
        "parent_id",
    ));
    unit.require(cx.author(record.author_id, before.author_id));
    let commit = unit.commit().await?;
    Ok(staged.committed(commit))
}

/// Deletes a datatype with its attachments. Its content stays, without a datatype.
///
/// # Errors
/// `datatype.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "datatype.delete", skip_all, fields(datatype.id = %id))]
pub async fn delete(
    cx: &CommandContext<'_>,
    id: DatatypeId,
    expected: Option<Version>,
) -> Result<Committed<Datatype>, CommandError> {
    cx.caller.require(Permission::DatatypeDelete)?;
    cx.execute::<Datatype>(id, DatatypeCommand::Delete { at: cx.now() }, expected, Vec::new())
        .await
}

/// Attaches a field to a datatype, under its own identifier when the client gives one. Returns the attachment's name
/// beside the datatype.
///
/// # Errors
/// `datatype.attachment_already_exists`; [`CommandError::Missing`] of `datatype_id` or `field_id`;
/// [`CommandError::Denied`].
#[instrument(name = "datatype.attach_field", skip_all)]
pub async fn attach_field(
    cx: &CommandContext<'_>,
    id: Option<DatatypeFieldId>,
    record: AttachmentRecord,
) -> Result<(DatatypeFieldId, Committed<Datatype>), CommandError> {
    cx.caller.require(Permission::FieldCreate)?;
    let id = id.unwrap_or_else(|| DatatypeFieldId::new(Uuid::now_v7()));
    let at = cx.now();
    let committed = cx
        .execute_on::<Datatype>(record.datatype_id, None, |datatype| {
            must_be_live(datatype)?;
            Ok((vec![attach(id, record, at)], vec![field_of(record)]))
        })
        .await?;
    Ok((id, committed))
}

fn attach(id: DatatypeFieldId, record: AttachmentRecord, at: Timestamp) -> DatatypeCommand {
    DatatypeCommand::AttachField {
        datatype_field_id: id,
        field_id: record.field_id,
        sort_order: record.sort_order,
        at,
    }
}

fn field_of(record: AttachmentRecord) -> Reference {
    Reference::to(ClaimScope::Field, record.field_id, "field_id")
}

/// Refuses a datatype that is only referred to; [`CommandError::Missing`] names the member.
fn must_be_live(datatype: &Datatype) -> Result<(), CommandError> {
    if datatype.lifecycle.is_live() {
        Ok(())
    } else {
        Err(CommandError::Missing {
            scope: ClaimScope::Datatype,
            field: Some("datatype_id"),
        })
    }
}

/// Replaces everything about an attachment; when it belongs to another datatype from now on, it leaves the one and
/// joins the other in one commit. Returns the datatype that it belongs to.
///
/// # Errors
/// `datatype.attachment_not_found`; [`CommandError::Missing`] of `datatype_id` or of a new `field_id`;
/// [`CommandError::Denied`].
#[instrument(name = "datatype.replace_attachment", skip_all, fields(datatype_field.id = %id))]
pub async fn replace_attachment(
    cx: &CommandContext<'_>,
    id: DatatypeFieldId,
    record: AttachmentRecord,
) -> Result<Committed<Datatype>, CommandError> {
    cx.caller.require(Permission::FieldUpdate)?;
    let mut retry = cx.retry();
    loop {
        match replace_attachment_once(cx, retry.unit(cx), id, record).await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn replace_attachment_once(
    cx: &CommandContext<'_>,
    mut unit: UnitOfWork<'_>,
    id: DatatypeFieldId,
    record: AttachmentRecord,
) -> Result<Committed<Datatype>, CommandError> {
    let at = cx.now();
    let owner = owner_of(cx, id).await?;
    let read = unit.load::<Datatype>(owner).await?;
    let Some(before) = read.state.attachments.get(&id).copied() else {
        return Err(CommandError::Conflict); // it has moved since its claim was read
    };
    unit.require(Reference::if_changed(
        ClaimScope::Field,
        Some(record.field_id),
        Some(before.field_id),
        "field_id",
    ));
    let staged = if owner == record.datatype_id {
        let command = DatatypeCommand::ChangeAttachment {
            datatype_field_id: id,
            field_id: record.field_id,
            sort_order: record.sort_order,
            at,
        };
        unit.stage(read, [command])?
    } else {
        // First the one that gives the claim up, then the one that takes it.
        unit.stage(
            read,
            [DatatypeCommand::DetachField {
                datatype_field_id: id,
                at,
            }],
        )?;
        let target = unit.load::<Datatype>(record.datatype_id).await?;
        must_be_live(&target.state)?;
        unit.stage(target, [attach(id, record, at)])?
    };
    let commit = unit.commit().await?;
    Ok(staged.committed(commit))
}

/// Removes an attachment. Returns the datatype that it belonged to.
///
/// # Errors
/// `datatype.attachment_not_found`; [`CommandError::Denied`].
#[instrument(name = "datatype.detach_field", skip_all, fields(datatype_field.id = %id))]
pub async fn detach_field(cx: &CommandContext<'_>, id: DatatypeFieldId) -> Result<Committed<Datatype>, CommandError> {
    cx.caller.require(Permission::FieldDelete)?;
    let owner = owner_of(cx, id).await?;
    let command = DatatypeCommand::DetachField {
        datatype_field_id: id,
        at: cx.now(),
    };
    cx.execute::<Datatype>(owner, command, None, Vec::new()).await
}

async fn owner_of(cx: &CommandContext<'_>, id: DatatypeFieldId) -> Result<DatatypeId, CommandError> {
    let owner = cx
        .store()
        .owner_of(ClaimScope::DatatypeField, &ClaimKey::id(id))
        .await?;
    owner
        .map(DatatypeId::new)
        .ok_or_else(|| CommandError::not_found(ClaimScope::DatatypeField))
}
