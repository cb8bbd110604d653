//! What can be asked of an organization.

use crate::ids::UserId;
use crate::organization::OrganizationRole;
use crate::values::Timestamp;

/// A request about one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrganizationCommand {
    /// Creates the organization with its first member.
    Found {
        /// The name for people to read.
        name: String,
        /// The short name: 1 to 64 of a-z, 0-9 and single hyphens; no other organization's.
        slug: String,
        /// Who founds it, and becomes its owner.
        owner: UserId,
        /// When this is asked.
        at: Timestamp,
    },
    /// Adds a member; nothing happens when the user is one in that role already.
    AddMember {
        /// Who joins.
        user_id: UserId,
        /// As what.
        role: OrganizationRole,
        /// When this is asked.
        at: Timestamp,
    },
}
