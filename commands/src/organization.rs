//! Commands about organizations: founding one, adding members.

use annals_domain::{
    ClaimScope, Denied, Organization, OrganizationCommand, OrganizationId, OrganizationRole, Permission, UserId,
};
use annals_eventstore::Version;
use sha2::{Digest, Sha256};
use tracing::instrument;
use unicode_normalization::UnicodeNormalization;
use uuid::{Builder, Uuid};

use crate::executor::Reference;
use crate::user::random_ending;
use crate::{CommandContext, CommandError, Committed};

/// Longest short name that is derived from a name, without its ending.
const DERIVED_SLUG_BYTES: usize = 24;
/// Shortest short name that looks like one.
const LEAST_SLUG_BYTES: usize = 4;
const SLUG_ATTEMPTS: u32 = 8;

/// The identifier of the organization that a user founds by registering. It follows from the user's, so that signing
/// in finds the organization without a read model: the same moment, and bits that nobody chooses.
#[must_use]
pub fn founded_by(user_id: UserId) -> OrganizationId {
    let user = user_id.as_uuid();
    let mut hash = Sha256::new();
    hash.update(b"annals organization founded by\0");
    hash.update(user.as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&user.as_bytes()[..6]);
    bytes[6..].copy_from_slice(&digest[..10]);
    let id = Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122);
    OrganizationId::new(id.into_uuid())
}

/// A short name from a name for people: its letters and digits without accents, joined by hyphens, and the ending
/// when there is one.
pub(crate) fn slug_from(name: &str, ending: Option<&str>) -> String {
    let mut slug = String::new();
    for character in name.nfkd() {
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') && !is_mark(character) {
            slug.push('-');
        }
        if slug.len() >= DERIVED_SLUG_BYTES {
            break;
        }
    }
    let mut slug = slug.trim_end_matches('-').to_owned();
    if slug.len() < LEAST_SLUG_BYTES {
        let hyphen = if slug.is_empty() { "" } else { "-" };
        slug = format!("org{hyphen}{slug}");
    }
    match ending {
        Some(ending) => format!("{slug}-{ending}"),
        None => slug,
    }
}

/// Whether a character only decorates the one before it: what taking letters apart leaves over.
fn is_mark(character: char) -> bool {
    unicode_normalization::char::is_combining_mark(character)
}

/// Founds an organization with the caller as its owner.
///
/// # Errors
/// `organization.name_invalid`, `organization.slug_invalid`; [`CommandError::Taken`] with `OrganizationSlug` when the
/// caller chose the short name; [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "organization.found", skip_all)]
pub async fn found(
    cx: &CommandContext<'_>,
    name: String,
    slug: Option<String>,
) -> Result<Committed<Organization>, CommandError> {
    let owner = cx.caller.require_user()?;
    let id = OrganizationId::new(Uuid::now_v7());
    let at = cx.now();
    let mut ending = None;
    let mut attempt = 1;
    loop {
        let command = OrganizationCommand::Found {
            name: name.clone(),
            slug: slug.clone().unwrap_or_else(|| slug_from(&name, ending.as_deref())),
            owner,
            at,
        };
        match cx.create::<Organization>(id, vec![command], Vec::new()).await {
            Err(CommandError::Taken { .. }) if slug.is_none() && attempt < SLUG_ATTEMPTS => {
                attempt += 1;
                ending = Some(random_ending()?);
            }
            other => return other,
        }
    }
}

/// Adds a user to an organization; nothing happens when they are in it in that role already. For its owners and
/// admins, and for those who may manage users; only owners make owners.
///
/// # Errors
/// `organization.not_found`, also for those who do not belong to it; `organization.already_member` of member
/// `user_id`; `user.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "organization.add_member", skip_all, fields(organization.id = %id))]
pub async fn add_member(
    cx: &CommandContext<'_>,
    id: OrganizationId,
    user_id: UserId,
    role: OrganizationRole,
    expected: Option<Version>,
) -> Result<Committed<Organization>, CommandError> {
    let manages = cx.caller.can(Permission::UserManage);
    if !manages {
        cx.caller.require_user()?;
    }
    let at = cx.now();
    cx.execute_on::<Organization>(id, expected, |organization| {
        if !manages {
            must_admit(organization, cx.caller.require_user()?, role)?;
        }
        let reference = Reference::to(ClaimScope::User, user_id, "user_id");
        Ok((
            vec![OrganizationCommand::AddMember { user_id, role, at }],
            vec![reference],
        ))
    })
    .await
}

fn must_admit(organization: &Organization, caller: UserId, role: OrganizationRole) -> Result<(), CommandError> {
    match organization.members.get(&caller) {
        Some(OrganizationRole::Owner) => Ok(()),
        Some(OrganizationRole::Admin) if role != OrganizationRole::Owner => Ok(()),
        Some(_) => Err(Denied::Forbidden(Permission::UserManage).into()),
        // Who does not belong to it does not learn that it exists.
        None => Err(CommandError::not_found(ClaimScope::Organization)),
    }
}

#[cfg(test)]
mod tests {
    use annals_domain::UserId;
    use uuid::Uuid;

    use super::{founded_by, slug_from};

    #[test]
    fn a_slug_is_derived_from_any_name() {
        for (name, slug) in [
            ("Acme Corp", "acme-corp"),
            ("  Ünïcode & Söhne ", "unicode-sohne"),
            ("A", "org-a"),
            ("東京", "org"),
            ("--", "org"),
            ("a--b__c", "a-b-c"),
            ("0123456789012345678901234567890", "012345678901234567890123"),
        ] {
            assert_eq!(slug_from(name, None), slug, "{name}");
        }
        assert_eq!(slug_from("Acme", Some("k3x7qp")), "acme-k3x7qp");
    }

    #[test]
    fn a_users_organization_follows_from_the_user_and_is_another_id() {
        let user = UserId::new(Uuid::now_v7());
        let organization = founded_by(user);
        assert_eq!(founded_by(user), organization);
        assert_ne!(organization.as_uuid(), user.as_uuid());
        assert_ne!(founded_by(UserId::new(Uuid::now_v7())), organization);
        assert_eq!(organization.as_uuid().get_version_num(), 7);
        assert_eq!(organization.as_uuid().get_timestamp(), user.as_uuid().get_timestamp());
    }
}
