//! What can be asked of a registration.

use crate::ids::{InvitationId, UserId};
use crate::personal::Personal;
use crate::values::{EmailAddress, PasswordHash, Timestamp};

/// A request about one registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationCommand {
    /// Asks for an account.
    Request {
        /// The user it will become.
        user_id: UserId,
        /// Where mail reaches the person; of no other pending registration.
        email: Personal<EmailAddress>,
        /// The hash of the chosen password.
        password: Personal<PasswordHash>,
        /// The name for people to read.
        name: Personal<String>,
        /// The organization to found with the account.
        organization_name: Option<String>,
        /// The invitation to accept with it.
        invitation_id: Option<InvitationId>,
        /// When it lapses.
        expires_at: Timestamp,
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that the account was made.
    Verify {
        /// When this is asked.
        at: Timestamp,
    },
    /// Gives the address free when the registration's time is over; nothing happens when it is done already.
    Lapse {
        /// When this is asked.
        at: Timestamp,
    },
}
