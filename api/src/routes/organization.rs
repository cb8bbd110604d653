//! Organizations as the identity answers show them.

use annals_domain::{Organization, OrganizationId, OrganizationRole, Timestamp, UserId};
use annals_projections::organization::{MembershipRow, OrganizationRow};
use serde::Serialize;
use utoipa::ToSchema;

/// An organization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OrganizationBody {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: OrganizationId,
    /// The name for people to read.
    pub name: String,
    /// The short name for addresses.
    pub slug: String,
    /// When it was founded.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
}

impl OrganizationBody {
    /// From what a command has left behind.
    pub(crate) fn of_state(id: OrganizationId, state: Organization) -> Self {
        Self {
            id,
            name: state.name,
            slug: state.slug,
            created_at: state.founded_at.expect("a founded organization has a time of founding"),
        }
    }
}

impl From<OrganizationRow> for OrganizationBody {
    fn from(row: OrganizationRow) -> Self {
        Self {
            id: row.organization_id,
            name: row.name,
            slug: row.slug,
            created_at: row.created_at,
        }
    }
}

/// What somebody is to an organization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MembershipBody {
    /// The member.
    #[schema(value_type = String, format = "uuid")]
    pub user_id: UserId,
    /// The organization's id.
    #[schema(value_type = String, format = "uuid")]
    pub org_id: OrganizationId,
    /// The organization.
    pub organization: OrganizationBody,
    /// The member's part in it.
    #[schema(value_type = String, example = "owner")]
    pub role: OrganizationRole,
    /// Whether it is the one that tokens name: the one joined first.
    pub is_default: bool,
    /// Since when.
    #[schema(value_type = String, format = "date-time")]
    pub joined_at: Timestamp,
}

impl MembershipBody {
    /// The founder's own, right after the founding.
    pub(crate) fn of_founder(user_id: UserId, id: OrganizationId, state: Organization) -> Self {
        let founded_at = state.founded_at.expect("a founded organization has a time of founding");
        Self {
            user_id,
            org_id: id,
            organization: OrganizationBody {
                id,
                name: state.name,
                slug: state.slug,
                created_at: founded_at,
            },
            role: OrganizationRole::Owner,
            is_default: true,
            joined_at: founded_at,
        }
    }
}

/// The memberships of one user, longest first.
pub(crate) fn memberships(user_id: UserId, rows: Vec<MembershipRow>) -> Vec<MembershipBody> {
    let bodies = rows.into_iter().enumerate().map(|(index, row)| MembershipBody {
        user_id,
        org_id: row.organization.organization_id,
        organization: row.organization.into(),
        role: row.role,
        is_default: index == 0,
        joined_at: row.joined_at,
    });
    bodies.collect()
}
