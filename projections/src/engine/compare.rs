//! Two builds of the same tables, compared row for row by the database.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

/// One table of a read model, as it was served and as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// The table, without its schema.
    pub table: String,
    /// Rows built from the log.
    pub rebuilt_rows: u64,
    /// Stands for those rows whatever their order: 32 hexadecimal digits.
    pub rebuilt_digest: String,
    /// The served table; absent when it was not compared.
    pub live: Option<LiveTable>,
}

/// What the comparison found in a served table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveTable {
    /// Rows served.
    pub rows: u64,
    /// Stands for those rows whatever their order: 32 hexadecimal digits.
    pub digest: String,
    /// Rows served that the log does not have so.
    pub only_live: u64,
    /// Rows of the log that are not served so.
    pub only_rebuilt: u64,
}

impl TableReport {
    /// Whether the served rows are those of the log; a table that was not compared differs in nothing.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.live
            .as_ref()
            .is_none_or(|live| live.only_live == 0 && live.only_rebuilt == 0 && live.rows == self.rebuilt_rows)
    }
}

/// Rows are digested as text, which depends on these settings.
pub(super) const TEXT_SETTINGS: &str = "
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local bytea_output = 'hex';
set local extra_float_digits = 1";

#[derive(FromRow)]
struct Summary {
    rows: i64,
    high: String,
    low: String,
}

impl Summary {
    fn digest(&self) -> String {
        format!("{:0>16}{:0>16}", self.high, self.low)
    }

    fn rows(&self) -> u64 {
        self.rows.cast_unsigned()
    }
}

/// Count and digest of one table: the sums of the halves of every row's MD5, so that order plays no part and memory
/// stays flat. It finds accidents; against malice there is the hash chain of the log.
async fn summary(connection: &mut PgConnection, schema: &str, table: &str) -> Result<Summary, sqlx::Error> {
    let statement = format!(
        "
select count(*) as rows,
       to_hex(mod(coalesce(sum(('x' || left(digest, 8))::bit(32)::bigint), 0), 9223372036854775807)::bigint) as high,
       to_hex(mod(coalesce(sum(('x' || substr(digest, 9, 8))::bit(32)::bigint), 0), 9223372036854775807)::bigint) as low
  from (select md5(t::text) as digest
          from {schema}.{table} t) d"
    );
    sqlx::query_as(&statement).persistent(false).fetch_one(connection).await
}

/// Summarises the tables of `rebuilt`, and compares them with those of the same names in `live` if that is wanted.
pub(super) async fn compare(
    connection: &mut PgConnection,
    tables: &[&str],
    rebuilt: &str,
    live: Option<&str>,
) -> Result<Vec<TableReport>, sqlx::Error> {
    let mut reports = Vec::with_capacity(tables.len());
    for table in tables {
        let summary_of_rebuilt = summary(connection, rebuilt, table).await?;
        let live = match live {
            None => None,
            Some(live) => {
                let summary_of_live = summary(connection, live, table).await?;
                let statement = format!(
                    "
select (select count(*) from (select * from {live}.{table} except select * from {rebuilt}.{table}) d),
       (select count(*) from (select * from {rebuilt}.{table} except select * from {live}.{table}) d)"
                );
                let (only_live, only_rebuilt): (i64, i64) = sqlx::query_as(&statement)
                    .persistent(false)
                    .fetch_one(&mut *connection)
                    .await?;
                Some(LiveTable {
                    rows: summary_of_live.rows(),
                    digest: summary_of_live.digest(),
                    only_live: only_live.cast_unsigned(),
                    only_rebuilt: only_rebuilt.cast_unsigned(),
                })
            }
        };
        reports.push(TableReport {
            table: (*table).to_owned(),
            rebuilt_rows: summary_of_rebuilt.rows(),
            rebuilt_digest: summary_of_rebuilt.digest(),
            live,
        });
    }
    Ok(reports)
}
