//! Whether an entity exists yet, exists, or existed.

use serde::{Deserialize, Serialize};

/// The stage of an entity that is created once and deleted at most once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Nothing has been written to its stream.
    #[default]
    Absent,
    /// Created and not deleted.
    Live,
    /// Deleted; it stays so for good.
    Deleted,
}

impl Lifecycle {
    /// Whether commands other than creation can succeed.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live)
    }
}
