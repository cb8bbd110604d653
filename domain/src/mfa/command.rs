//! What can be asked of a user's second factor.

use crate::ids::SessionId;
use crate::mfa::event::ChallengeRef;
use crate::personal::Personal;
use crate::values::{PasswordHash, Timestamp, TotpSecret};

/// A request about the second factor. Codes are compared before they come here: whoever asks says which time step or
/// which backup code they match, and the version of the stream says what they were compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MfaCommand {
    /// Offers a secret, in place of one offered before.
    BeginSetup {
        /// The new secret.
        totp_secret: Personal<TotpSecret>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Puts the offered secret in force; a code of it was shown.
    Enable {
        /// The time step of the code.
        step: u64,
        /// The hashes of the backup codes, all with one salt.
        backup_codes: Personal<Vec<PasswordHash>>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Accepts a code of the authenticator, once.
    AcceptCode {
        /// The time step of the code.
        step: u64,
        /// What it answers; absent outside of a sign-in in two parts.
        challenge: Option<ChallengeRef>,
        /// The session that it opens, if it opens one.
        session_id: Option<SessionId>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Accepts a backup code, once.
    UseBackupCode {
        /// Which one of the present set, from 0.
        index: u8,
        /// What it answers; absent outside of a sign-in in two parts.
        challenge: Option<ChallengeRef>,
        /// The session that it opens, if it opens one.
        session_id: Option<SessionId>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that a wrong code was shown.
    RefuseCode {
        /// What it was to answer; absent outside of a sign-in in two parts.
        challenge: Option<ChallengeRef>,
        /// Where the attempt came from.
        address: Option<Personal<String>>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces all backup codes.
    MakeBackupCodes {
        /// The hashes of the new ones, all with one salt.
        backup_codes: Personal<Vec<PasswordHash>>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Takes the second factor away, with its secret and its backup codes.
    Disable {
        /// When this is asked.
        at: Timestamp,
    },
}
