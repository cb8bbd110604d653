//! What can be asked of an invitation.

use crate::ids::{OrganizationId, UserId};
use crate::organization::OrganizationRole;
use crate::personal::Personal;
use crate::values::{EmailAddress, Timestamp};

/// A request about one invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvitationCommand {
    /// Invites somebody.
    Issue {
        /// Into which organization.
        organization_id: OrganizationId,
        /// Who; nobody with a pending invitation into the same organization.
        email: Personal<EmailAddress>,
        /// As what; nobody is invited as an owner.
        role: OrganizationRole,
        /// By whom.
        invited_by: UserId,
        /// When it lapses.
        expires_at: Timestamp,
        /// When this is asked.
        at: Timestamp,
    },
    /// Accepts it; whoever asks has shown the mailed token.
    Accept {
        /// As which user.
        user_id: UserId,
        /// The address of that user.
        email: EmailAddress,
        /// When this is asked.
        at: Timestamp,
    },
    /// Gives it up when its time is over; nothing happens when it is done already.
    Lapse {
        /// When this is asked.
        at: Timestamp,
    },
}
