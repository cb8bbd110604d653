//! Settings of the server, of the database and of the roles that undo what the log relies on.

use sqlx::PgConnection;

use super::Finding;

/// One setting: its name, what is wrong, and the kind of finding.
struct Setting {
    name: &'static str,
    is_bad: fn(&str) -> bool,
    code: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "synchronous_commit",
        is_bad: is_off,
        code: "synchronous_commit_off",
    },
    Setting {
        name: "fsync",
        is_bad: is_off,
        code: "fsync_off",
    },
    Setting {
        name: "full_page_writes",
        is_bad: is_off,
        code: "full_page_writes_off",
    },
    Setting {
        name: "default_transaction_isolation",
        is_bad: |value| !value.eq_ignore_ascii_case("read committed"),
        code: "isolation_not_read_committed",
    },
    Setting {
        name: "default_transaction_read_only",
        is_bad: is_on,
        code: "read_only_by_default",
    },
    Setting {
        name: "session_replication_role",
        is_bad: |value| value.eq_ignore_ascii_case("replica"),
        code: "session_replication_role_replica",
    },
    Setting {
        name: "autovacuum",
        is_bad: is_off,
        code: "autovacuum_off",
    },
    Setting {
        name: "track_counts",
        is_bad: is_off,
        code: "autovacuum_off",
    },
    Setting {
        name: "wal_level",
        is_bad: |value| value.eq_ignore_ascii_case("minimal"),
        code: "wal_level_minimal",
    },
    Setting {
        name: "data_checksums",
        is_bad: is_off,
        code: "data_checksums_off",
    },
];

/// What a session starts with, whatever it has set for itself since.
const EFFECTIVE: &str = "
    select name, reset_val
    from pg_catalog.pg_settings
    where name = any($1) and reset_val is not null
";

/// Settings of this database and of the roles in use, each with the place that it is made at.
const OVERRIDES: &str = "
    select concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname), c.entry
    from pg_catalog.pg_db_role_setting s
    cross join unnest(s.setconfig) as c(entry)
    left join pg_catalog.pg_roles r on r.oid = s.setrole
    left join pg_catalog.pg_database d on d.oid = s.setdatabase
    where (s.setdatabase = 0 or d.datname = current_database())
        and (s.setrole = 0 or r.rolname in (session_user, 'annals_app'))
    order by 1, 2
";

/// A superuser is bound by neither of the two limits beside the server's.
const CONNECTIONS: &str = "
    select 'max_connections_low'::text, format('%s connections may be made %s; the pool and what is beside it take %s',
        l.most, l.place, $1)
    from (
        select 'to the server' as place,
            current_setting('max_connections')::bigint
                - current_setting('superuser_reserved_connections')::bigint
                - coalesce(current_setting('reserved_connections', true), '0')::bigint as most
        union all
        select 'to database ' || datname, datconnlimit
        from pg_catalog.pg_database
        where datname = current_database() and datconnlimit >= 0
        union all
        select 'by role ' || rolname, rolconnlimit
        from pg_catalog.pg_roles
        where rolname = session_user and rolconnlimit >= 0 and not rolsuper
    ) as l
    where l.most < $1
";

fn is_off(value: &str) -> bool {
    ["off", "false", "no", "0"]
        .iter()
        .any(|off| value.eq_ignore_ascii_case(off))
}

fn is_on(value: &str) -> bool {
    ["on", "true", "yes", "1"]
        .iter()
        .any(|on| value.eq_ignore_ascii_case(on))
}

pub(super) async fn look(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let effective: Vec<(String, String)> = sqlx::query_as(EFFECTIVE)
        .bind(names)
        .fetch_all(&mut *connection)
        .await?;
    let overrides: Vec<(String, String)> = sqlx::query_as(OVERRIDES).fetch_all(&mut *connection).await?;
    Ok(SETTINGS
        .iter()
        .flat_map(|setting| judge(setting, &effective, &overrides))
        .collect())
}

/// A bad value that no role and no database brings in is the server's own.
fn judge(setting: &Setting, effective: &[(String, String)], overrides: &[(String, String)]) -> Vec<Finding> {
    let mut found: Vec<Finding> = overrides
        .iter()
        .filter_map(|(place, entry)| {
            let (name, value) = entry.split_once('=')?;
            let is_bad = name.eq_ignore_ascii_case(setting.name) && (setting.is_bad)(value);
            is_bad.then(|| Finding::of(setting.code, format!("{} is {value} for {place}", setting.name)))?
        })
        .collect();
    if found.is_empty()
        && let Some((name, value)) = effective.iter().find(|(name, _)| name == setting.name)
        && (setting.is_bad)(value)
    {
        found.extend(Finding::of(setting.code, format!("{name} is {value} for the server")));
    }
    found
}

/// Whether the server lets as many connections be made as one process of ours makes.
pub(super) async fn connections(connection: &mut PgConnection, demand: i64) -> Result<Vec<Finding>, sqlx::Error> {
    let rows = sqlx::query_as(CONNECTIONS).bind(demand).fetch_all(connection).await?;
    Ok(super::explained(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_told_with_the_place_that_brings_it_in() {
        let commit = &SETTINGS[0];
        let row = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let what = |effective: &str, overrides: &[(String, String)]| -> Vec<String> {
            judge(commit, &[row("synchronous_commit", effective)], overrides)
                .into_iter()
                .map(|finding| finding.what)
                .collect()
        };
        assert!(what("on", &[]).is_empty());
        assert!(what("local", &[row("role ada", "synchronous_commit=remote_write")]).is_empty());
        assert_eq!(what("off", &[]), ["synchronous_commit is off for the server"]);
        let places = [
            row("role ada", "synchronous_commit=off"),
            row("database annals", "synchronous_commit=false"),
            row("database annals", "fsync_of_mine=off"),
        ];
        assert_eq!(
            what("off", &places),
            [
                "synchronous_commit is off for role ada",
                "synchronous_commit is false for database annals"
            ]
        );
    }
}
