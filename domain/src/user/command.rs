//! What can be asked of an account.

use crate::permission::Role;
use crate::personal::Personal;
use crate::values::{EmailAddress, Timestamp, Username};

/// A request about one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserCommand {
    /// Creates the account.
    Register {
        /// Where mail reaches the person; no other user's.
        email: Personal<EmailAddress>,
        /// The name they sign in with; no other user's.
        username: Personal<Username>,
        /// The name for people to read, possibly empty.
        name: Personal<String>,
        /// What they may do.
        role: Role,
        /// When this is asked.
        at: Timestamp,
    },
    /// Changes what people see; nothing happens when it is so already.
    ChangeProfile {
        /// The new name, possibly empty.
        name: Personal<String>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that the person has proven the address; nothing happens when it is so already.
    VerifyEmail {
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that the person has finished the first steps; nothing happens when it is so already.
    CompleteOnboarding {
        /// When this is asked.
        at: Timestamp,
    },
    /// Keeps the person from signing in; nothing happens when it is so already.
    Disable {
        /// Why; not shown to the person.
        reason: String,
        /// When this is asked.
        at: Timestamp,
    },
    /// Lets the person sign in again; nothing happens when it is so already.
    Enable {
        /// When this is asked.
        at: Timestamp,
    },
}
