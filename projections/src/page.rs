//! Parts of long lists.

use crate::error::QueryError;

/// The most rows that any list returns. A list asked for without a page is cut here, and [`Listed::total`] tells.
pub const MOST_ROWS: u32 = 10_000;

/// Which part of a list. Lists have a fixed order with a tie-breaker, so pages neither overlap nor leave gaps
/// as long as nothing is written in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The most rows wanted; more than [`MOST_ROWS`] means [`MOST_ROWS`].
    pub limit: u32,
    /// How many rows to pass over.
    pub offset: u64,
}

impl Page {
    /// As much of the list as one answer may hold.
    pub const WHOLE: Self = Self {
        limit: MOST_ROWS,
        offset: 0,
    };

    pub(crate) fn limit(self) -> i64 {
        i64::from(self.limit.min(MOST_ROWS))
    }

    pub(crate) fn offset(self) -> i64 {
        i64::try_from(self.offset).unwrap_or(i64::MAX)
    }
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The rows of the page, in the order of the list.
    pub rows: Vec<T>,
    /// How many rows the whole list has.
    pub total: u64,
}

impl<T> Listed<T> {
    /// What the database returned: stored rows to be read, and the whole count.
    pub(crate) fn read<S: TryInto<T, Error = QueryError>>(stored: Vec<S>, total: i64) -> Result<Self, QueryError> {
        let rows = stored.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self {
            rows,
            total: u64::try_from(total).unwrap_or(0),
        })
    }
}
