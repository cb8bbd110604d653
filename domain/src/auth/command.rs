//! What can be asked of a user's credentials.

use crate::caller::Device;
use crate::personal::Personal;
use crate::values::{PasswordHash, Timestamp};

/// A request about credentials. Passwords are hashed before they come here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// Sets the first password.
    SetPassword {
        /// The hash of the password.
        hash: Personal<PasswordHash>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces the password; whoever asks has proven to know the old one or to have a reset token.
    ChangePassword {
        /// The hash of the new password.
        hash: Personal<PasswordHash>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that a wrong password was given.
    RecordFailure {
        /// Where the attempt came from.
        address: Option<Personal<String>>,
        /// What the client said about itself.
        device: Option<Personal<Device>>,
        /// When this is asked.
        at: Timestamp,
    },
}
