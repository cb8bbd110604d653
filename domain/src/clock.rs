//! The question "what time is it", asked outside this crate; commands carry the answer in.

use crate::values::Timestamp;

/// A source of the present time. The real one reads the system clock; tests hold a fixed one.
pub trait Clock: Send + Sync {
    /// The present moment, in UTC.
    fn now(&self) -> Timestamp;
}
