//! Commands about content nodes: creating, filling, moving, publishing and deleting them.

use annals_domain::{
    ClaimKey, ClaimScope, Content, ContentCommand, ContentError, ContentFieldId, ContentId, ContentStatus, DatatypeId,
    FieldId, FieldValue, Permission, Place, Realm, RouteId, Timestamp, UserId,
};
use annals_eventstore::Version;
use tracing::instrument;
use uuid::Uuid;

use crate::ancestry::must_not_be_above;
use crate::{CommandContext, CommandError, Committed, Reference, Staged, UnitOfWork};

/// A node to be created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewContent {
    /// Its own identifier, when the client gives one.
    pub content_id: Option<ContentId>,
    /// Where it lives.
    pub realm: Realm,
    /// The node it hangs under.
    pub parent_id: Option<ContentId>,
    /// Its place among its siblings.
    pub place: Place,
    /// The route it is delivered under.
    pub route_id: Option<RouteId>,
    /// What kind of node it is.
    pub datatype_id: Option<DatatypeId>,
    /// How far it is from being public.
    pub status: ContentStatus,
    /// Who is named as its author; the caller when absent.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
    /// Its first values.
    pub fields: Vec<FieldValue>,
    /// A node that is to hang under it, before all others.
    pub first_child: Option<ContentId>,
}

/// What is neither place, status nor value of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentDetails {
    /// The route it is delivered under.
    pub route_id: Option<RouteId>,
    /// What kind of node it is.
    pub datatype_id: Option<DatatypeId>,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
}

/// The whole record of a node, without its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentRecord {
    /// The node it hangs under.
    pub parent_id: Option<ContentId>,
    /// Its place among its siblings. When absent: unchanged, or last when the parent changes.
    pub place: Option<Place>,
    /// How far it is from being public.
    pub status: ContentStatus,
    /// Everything else.
    pub details: ContentDetails,
    /// A node that is to hang under it, before all others; absent when its children stay as they are.
    pub first_child: Option<ContentId>,
}

/// The whole record of one value of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFieldRecord {
    /// The node it belongs to.
    pub content_id: ContentId,
    /// The definition it follows.
    pub field_id: Option<FieldId>,
    /// The route it is delivered under, as the client says.
    pub route_id: Option<RouteId>,
    /// The text.
    pub value: String,
    /// Who is named as its author; when absent at creation, the caller.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
}

impl ContentFieldRecord {
    fn into_value(self, content_field_id: ContentFieldId) -> FieldValue {
        FieldValue {
            content_field_id,
            field_id: self.field_id,
            route_id: self.route_id,
            value: self.value,
            author_id: self.author_id,
            date_created: self.date_created,
            date_modified: self.date_modified,
        }
    }
}

/// Creates a node, with its first values in the same commit.
///
/// # Errors
/// `content.already_exists`, `content.own_parent`, `content.field_repeated`, `content.field_value_invalid`;
/// [`CommandError::Taken`] with `ContentField` when a value's identifier is another node's; [`CommandError::Missing`]
/// of `parent_id`, `route_id`, `datatype_id`, `field_id`, `author_id`, `first_child_id` or the neighbour;
/// [`CommandError::Denied`].
#[instrument(name = "content.create", skip_all)]
pub async fn create(cx: &CommandContext<'_>, new: NewContent) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentCreate)?;
    let id = new.content_id.unwrap_or_else(|| ContentId::new(Uuid::now_v7()));
    let at = cx.now();
    let author_id = new.author_id.or(cx.caller.user_id());
    let mut references: Vec<Reference> = [
        Reference::if_changed(ClaimScope::Content, new.parent_id, None, "parent_id"),
        Reference::if_changed(ClaimScope::Route, new.route_id, None, "route_id"),
        Reference::if_changed(ClaimScope::Datatype, new.datatype_id, None, "datatype_id"),
        neighbour(new.place),
        cx.author(author_id, None),
    ]
    .into_iter()
    .flatten()
    .collect();
    references.extend(new.fields.iter().flat_map(|value| references_of(cx, value, None)));
    let mut commands = vec![ContentCommand::Create {
        content_id: id,
        realm: new.realm,
        datatype_id: new.datatype_id,
        route_id: new.route_id,
        parent_id: new.parent_id,
        place: new.place,
        status: new.status,
        author_id,
        date_created: new.date_created,
        date_modified: new.date_modified,
        at,
    }];
    if !new.fields.is_empty() {
        commands.push(ContentCommand::ChangeFields {
            set: new.fields,
            removed: Vec::new(),
            at,
        });
    }
    let Some(child) = new.first_child else {
        return cx.create::<Content>(id, commands, references).await;
    };
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = retry.unit(cx);
            unit.require(references.clone());
            let read = unit.load::<Content>(id).await?;
            let staged = unit.stage(read, commands.clone())?;
            bring_to_front(&mut unit, id, new.parent_id, child, at).await?;
            let commit = unit.commit().await?;
            Ok(staged.committed(commit))
        };
        match attempt.await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Stages the move of `child` to the front of the children of `id`, which will hang under `parent`.
async fn bring_to_front(
    unit: &mut UnitOfWork<'_>,
    id: ContentId,
    parent: Option<ContentId>,
    child: ContentId,
    at: Timestamp,
) -> Result<(), CommandError> {
    const FIELD: Option<&str> = Some("first_child_id");
    if child == id {
        return Err(CommandError::rule(
            "content.own_parent",
            FIELD,
            "a node cannot hang under itself",
        ));
    }
    let read = unit.load::<Content>(child).await?;
    if !read.state.lifecycle.is_live() {
        return Err(CommandError::Missing {
            scope: ClaimScope::Content,
            field: FIELD,
        });
    }
    if let Some(parent) = parent {
        must_not_be_above::<Content>(unit, child, parent)
            .await
            .map_err(|error| match error {
                CommandError::Domain { code, message, .. } => CommandError::Domain {
                    code,
                    field: FIELD,
                    message,
                },
                other => other,
            })?;
    }
    unit.stage(
        read,
        [ContentCommand::Move {
            parent_id: Some(id),
            place: Place::First,
            at,
        }],
    )?;
    Ok(())
}

fn neighbour(place: Place) -> Option<Reference> {
    let field = match place {
        Place::Before { .. } => "next_sibling_id",
        Place::After { .. } | Place::First | Place::Last => "prev_sibling_id",
    };
    place
        .neighbour()
        .map(|id| Reference::to(ClaimScope::Content, id, field))
}

/// What a value refers to that it did not refer to before.
fn references_of<'a>(
    cx: &CommandContext<'_>,
    value: &FieldValue,
    before: Option<&FieldValue>,
) -> impl Iterator<Item = Reference> + use<'a> {
    [
        Reference::if_changed(
            ClaimScope::Field,
            value.field_id,
            before.and_then(|old| old.field_id),
            "field_id",
        ),
        Reference::if_changed(
            ClaimScope::Route,
            value.route_id,
            before.and_then(|old| old.route_id),
            "route_id",
        ),
        cx.author(value.author_id, before.and_then(|old| old.author_id)),
    ]
    .into_iter()
    .flatten()
}

/// Sets and removes values of one node, all or none.
///
/// # Errors
/// `content.not_found`, `content.field_not_found`, `content.field_repeated`, `content.field_value_invalid`;
/// [`CommandError::Taken`] with `ContentField` when a value's identifier is another node's; [`CommandError::Missing`]
/// of a new `field_id`, `route_id` or `author_id`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "content.change_fields", skip_all, fields(content.id = %id))]
pub async fn change_fields(
    cx: &CommandContext<'_>,
    id: ContentId,
    set: Vec<FieldValue>,
    removed: Vec<ContentFieldId>,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let at = cx.now();
    cx.execute_on::<Content>(id, expected, |content| {
        let references = set
            .iter()
            .flat_map(|value| references_of(cx, value, content.fields.get(&value.content_field_id)))
            .collect();
        let command = ContentCommand::ChangeFields {
            set: set.clone(),
            removed: removed.clone(),
            at,
        };
        Ok((vec![command], references))
    })
    .await
}

/// Adds one value to a node, under its own identifier when the client gives one. Returns the value's identifier
/// beside the node.
///
/// # Errors
/// `content.field_already_exists`, `content.field_value_invalid`; [`CommandError::Missing`] of `content_data_id`,
/// `field_id`, `route_id` or `author_id`; [`CommandError::Denied`].
#[instrument(name = "content.add_field", skip_all)]
pub async fn add_field(
    cx: &CommandContext<'_>,
    id: Option<ContentFieldId>,
    record: ContentFieldRecord,
) -> Result<(ContentFieldId, Committed<Content>), CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let id = id.unwrap_or_else(|| ContentFieldId::new(Uuid::now_v7()));
    let at = cx.now();
    let content_id = record.content_id;
    let author_id = record.author_id.or(cx.caller.user_id());
    let value = ContentFieldRecord { author_id, ..record }.into_value(id);
    let committed = cx
        .execute_on::<Content>(content_id, None, |content| {
            must_be_live(content)?;
            if content.fields.contains_key(&id) {
                return Err(CommandError::Taken {
                    scopes: vec![ClaimScope::ContentField],
                });
            }
            let command = ContentCommand::ChangeFields {
                set: vec![value.clone()],
                removed: Vec::new(),
                at,
            };
            Ok((vec![command], references_of(cx, &value, None).collect()))
        })
        .await?;
    Ok((id, committed))
}

/// Refuses a node that is only referred to; [`CommandError::Missing`] names the member.
fn must_be_live(content: &Content) -> Result<(), CommandError> {
    if content.lifecycle.is_live() {
        Ok(())
    } else {
        Err(CommandError::Missing {
            scope: ClaimScope::Content,
            field: Some("content_data_id"),
        })
    }
}

/// Replaces one value, whichever node it belongs to; when it belongs to another from now on, it leaves the one and
/// joins the other in one commit. Returns the node that it belongs to.
///
/// # Errors
/// `content.field_not_found`, `content.field_value_invalid`; [`CommandError::Missing`] of `content_data_id` or of a
/// new `field_id`, `route_id` or `author_id`; [`CommandError::Denied`].
#[instrument(name = "content.put_field", skip_all, fields(content_field.id = %id))]
pub async fn put_field(
    cx: &CommandContext<'_>,
    id: ContentFieldId,
    record: ContentFieldRecord,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let mut retry = cx.retry();
    loop {
        match put_field_once(cx, retry.unit(cx), id, &record).await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn put_field_once(
    cx: &CommandContext<'_>,
    mut unit: UnitOfWork<'_>,
    id: ContentFieldId,
    record: &ContentFieldRecord,
) -> Result<Committed<Content>, CommandError> {
    let at = cx.now();
    let owner = owner_of(cx, id).await?;
    let read = unit.load::<Content>(owner).await?;
    let Some(before) = read.state.fields.get(&id) else {
        return Err(CommandError::Conflict); // it has moved since its claim was read
    };
    let value = record.clone().into_value(id);
    unit.require(references_of(cx, &value, Some(before)));
    let set = ContentCommand::ChangeFields {
        set: vec![value],
        removed: Vec::new(),
        at,
    };
    let staged = if owner == record.content_id {
        unit.stage(read, [set])?
    } else {
        // First the one that gives the claim up, then the one that takes it.
        unit.stage(
            read,
            [ContentCommand::ChangeFields {
                set: Vec::new(),
                removed: vec![id],
                at,
            }],
        )?;
        let target = unit.load::<Content>(record.content_id).await?;
        must_be_live(&target.state)?;
        unit.stage(target, [set])?
    };
    let commit = unit.commit().await?;
    Ok(staged.committed(commit))
}

/// Removes one value, whichever node it belongs to. Returns the node that it belonged to.
///
/// # Errors
/// `content.field_not_found`; [`CommandError::Denied`].
#[instrument(name = "content.remove_field", skip_all, fields(content_field.id = %id))]
pub async fn remove_field(cx: &CommandContext<'_>, id: ContentFieldId) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let owner = owner_of(cx, id).await?;
    let command = ContentCommand::ChangeFields {
        set: Vec::new(),
        removed: vec![id],
        at: cx.now(),
    };
    cx.execute::<Content>(owner, command, None, Vec::new()).await
}

async fn owner_of(cx: &CommandContext<'_>, id: ContentFieldId) -> Result<ContentId, CommandError> {
    let owner = cx.store().owner_of(ClaimScope::ContentField, &ClaimKey::id(id)).await?;
    owner
        .map(ContentId::new)
        .ok_or_else(|| CommandError::not_found(ClaimScope::ContentField))
}

/// Hangs a node under another, or among its siblings elsewhere. Whatever else is moved at the same time, no node
/// comes to hang under itself.
///
/// # Errors
/// `content.not_found`, `content.own_parent`, `content.cycle`, `content.too_deep`; [`CommandError::Missing`] of
/// `parent_id` or the neighbour; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "content.move", skip_all, fields(content.id = %id))]
pub async fn move_to(
    cx: &CommandContext<'_>,
    id: ContentId,
    parent_id: Option<ContentId>,
    place: Place,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let at = cx.now();
    change(cx, id, expected, |_| Change {
        place: Some((parent_id, place)),
        commands: vec![ContentCommand::Move { parent_id, place, at }],
        details: None,
        first_child: None,
    })
    .await
}

/// Replaces what is neither place, status nor value.
///
/// # Errors
/// `content.not_found`; [`CommandError::Missing`] of a new `route_id`, `datatype_id` or `author_id`;
/// [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "content.change_details", skip_all, fields(content.id = %id))]
pub async fn change_details(
    cx: &CommandContext<'_>,
    id: ContentId,
    details: ContentDetails,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let at = cx.now();
    change(cx, id, expected, |_| Change {
        place: None,
        commands: vec![change_of(details, at)],
        details: Some(details),
        first_child: None,
    })
    .await
}

fn change_of(details: ContentDetails, at: Timestamp) -> ContentCommand {
    ContentCommand::ChangeDetails {
        route_id: details.route_id,
        datatype_id: details.datatype_id,
        author_id: details.author_id,
        date_created: details.date_created,
        date_modified: details.date_modified,
        at,
    }
}

/// Publishes, archives, submits or withdraws a node; nothing happens when it is there already.
///
/// # Errors
/// `content.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "content.set_status", skip_all, fields(content.id = %id))]
pub async fn set_status(
    cx: &CommandContext<'_>,
    id: ContentId,
    status: ContentStatus,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    cx.execute::<Content>(
        id,
        ContentCommand::SetStatus { status, at: cx.now() },
        expected,
        Vec::new(),
    )
    .await
}

/// Makes a node what a whole record says, by the fewest events that do it, in one commit; none when it is so already.
///
/// # Errors
/// What [`move_to`], [`change_details`] and [`set_status`] report; [`CommandError::Missing`] of `first_child_id`.
#[instrument(name = "content.replace", skip_all, fields(content.id = %id))]
pub async fn replace(
    cx: &CommandContext<'_>,
    id: ContentId,
    record: ContentRecord,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentUpdate)?;
    let at = cx.now();
    change(cx, id, expected, |before| {
        let moves = record.place.is_some() || record.parent_id != before.parent_id;
        let place = moves.then(|| (record.parent_id, record.place.unwrap_or_default()));
        let mut commands = vec![change_of(record.details, at)];
        commands.extend(place.map(|(parent_id, place)| ContentCommand::Move { parent_id, place, at }));
        commands.push(ContentCommand::SetStatus {
            status: record.status,
            at,
        });
        Change {
            place,
            commands,
            details: Some(record.details),
            first_child: record.first_child,
        }
    })
    .await
}

/// What is to become of a node, given what it is.
struct Change {
    /// Its new parent and place; absent when it stays where it is.
    place: Option<(Option<ContentId>, Place)>,
    commands: Vec<ContentCommand>,
    /// Its new details, for what they refer to.
    details: Option<ContentDetails>,
    /// What comes to hang under it, before all others.
    first_child: Option<ContentId>,
}

async fn change(
    cx: &CommandContext<'_>,
    id: ContentId,
    expected: Option<Version>,
    plan: impl Fn(&Content) -> Change + Send + Sync,
) -> Result<Committed<Content>, CommandError> {
    let at = cx.now();
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = retry.unit(cx);
            let read: Staged<Content> = unit.load(id).await?;
            read.must_be_at(expected)?;
            if !read.state.lifecycle.is_live() {
                return Err(CommandError::broken(&ContentError::NotFound));
            }
            let before = read.state.clone();
            let change = plan(&before);
            if change.first_child.is_some() {
                unit.rely_on(&read); // somebody may be moving it under that child
            }
            let staged = unit.stage(read, change.commands)?;
            if let Some(child) = change.first_child {
                bring_to_front(&mut unit, id, staged.state.parent_id, child, at).await?;
            }
            if let Some((parent_id, place)) = change.place {
                // Under the same parent a node changes nothing about who is above whom.
                if let Some(parent_id) = parent_id.filter(|_| parent_id != before.parent_id) {
                    must_not_be_above::<Content>(&mut unit, id, parent_id).await?;
                }
                unit.require(Reference::if_changed(
                    ClaimScope::Content,
                    parent_id,
                    before.parent_id,
                    "parent_id",
                ));
                unit.require(neighbour(place));
            }
            if let Some(now) = change.details {
                unit.require(Reference::if_changed(
                    ClaimScope::Route,
                    now.route_id,
                    before.route_id,
                    "route_id",
                ));
                let datatype = (now.datatype_id, before.datatype_id);
                unit.require(Reference::if_changed(
                    ClaimScope::Datatype,
                    datatype.0,
                    datatype.1,
                    "datatype_id",
                ));
                unit.require(cx.author(now.author_id, before.author_id));
            }
            let commit = unit.commit().await?;
            Ok(staged.committed(commit))
        };
        match attempt.await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Deletes a node with its values. Its children stay, without a parent.
///
/// # Errors
/// `content.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "content.delete", skip_all, fields(content.id = %id))]
pub async fn delete(
    cx: &CommandContext<'_>,
    id: ContentId,
    expected: Option<Version>,
) -> Result<Committed<Content>, CommandError> {
    cx.caller.require(Permission::ContentDelete)?;
    cx.execute::<Content>(id, ContentCommand::Delete { at: cx.now() }, expected, Vec::new())
        .await
}
