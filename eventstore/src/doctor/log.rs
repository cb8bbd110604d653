//! The log itself: what protects it, its migrations, and who reads it.

use sqlx::PgConnection;

use crate::database::known_migrations;

use super::{Finding, Limits};

/// The triggers that protect the log from its owner: table of schema `log`, and name.
pub const TRIGGERS: &[(&str, &str)] = &[
    ("events", "events_only_grow"),
    ("events", "events_through_append"),
    ("streams", "streams_through_append"),
    ("streams", "streams_stay"),
    ("claims", "claims_through_append"),
    ("claims", "claims_stay"),
    ("commands", "commands_through_append"),
    ("commands", "commands_stay"),
];

const PROTECTION: &str = "
    select 'trigger_missing'::text, format('trigger %s on log.%s is not there', e.name, e.relname)
    from unnest($1::text[], $2::text[]) as e(relname, name)
    where not exists (
        select
        from pg_catalog.pg_trigger t
        where t.tgrelid = to_regclass('log.' || e.relname) and t.tgname = e.name
    )
    union all
    select 'trigger_disabled'::text, format('trigger %s on log.%s does not fire', t.tgname, c.relname)
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_class c on c.oid = t.tgrelid
    where c.relnamespace = to_regnamespace('log') and not t.tgisinternal and t.tgenabled not in ('O', 'A')
";

/// The functions that write the log, with rights of their own, and those that keep others from it.
const PROTECTING: &[&str] = &[
    "append",
    "append_single",
    "register_schemas",
    "refuse_write",
    "refuse_change",
];

const FUNCTIONS: &str = "
    select p.proname::text,
        p.prosrc,
        pg_get_userbyid(p.proowner)::text,
        p.proowner = (select c.relowner from pg_catalog.pg_class c where c.oid = to_regclass('log.events')),
        p.proname like 'refuse%' or p.prosecdef,
        coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)
    from pg_catalog.pg_proc p
    where p.pronamespace = to_regnamespace('log') and p.proname = any($1)
    order by p.proname
";

type Function = (String, String, String, bool, bool, bool);

const READERS: &str = "
    select case when c.position > head.position then 'checkpoint_beyond_head' else 'log_diverged' end::text,
        format('read model %s: log diverged at position %s', c.projection, c.position)
    from log.checkpoints c
    cross join (select coalesce(max(e.position), 0) as position from log.events e) as head
    where c.position > 0
        and not exists (
            select
            from log.events e
            where e.position = c.position and e.entry_hash = c.entry_hash
        )
    union all
    select 'lease_holder_gone'::text, format('read model %s was led by %s, which has given no sign of life since %s',
        c.projection, c.owner, to_char(c.heartbeat_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))
    from log.checkpoints c
    where c.owner is not null and c.lease_until < clock_timestamp() - make_interval(secs => $1)
    union all
    select 'autovacuum_off_for_table'::text, format('autovacuum is switched off for %s', c.oid::regclass)
    from pg_catalog.pg_class c
    cross join unnest(c.reloptions) as o(entry)
    where c.relnamespace in (to_regnamespace('log'), to_regnamespace('vault'), to_regnamespace('view'))
        and o.entry ~* '^autovacuum_enabled=(off|false|no|0)$'
";

const HISTORIES: &str = "
    select to_regclass('log._sqlx_migrations') is not null, to_regclass('view._sqlx_migrations') is not null
";

const LOG_HISTORY: &str = "select version, success, checksum from log._sqlx_migrations";

const VIEW_HISTORY: &str = "select version, success, checksum from view._sqlx_migrations";

pub(super) async fn look(connection: &mut PgConnection, limits: &Limits) -> Result<Vec<Finding>, sqlx::Error> {
    let mut findings = protection(connection).await?;
    let rows = sqlx::query_as(READERS)
        .bind(limits.lease.as_secs_f64())
        .fetch_all(connection)
        .await?;
    findings.extend(super::explained(rows));
    Ok(findings)
}

/// Triggers and functions.
pub(super) async fn protection(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let (tables, names): (Vec<&str>, Vec<&str>) = TRIGGERS.iter().copied().unzip();
    let rows = sqlx::query_as(PROTECTION)
        .bind(tables)
        .bind(names)
        .fetch_all(&mut *connection)
        .await?;
    let functions: Vec<Function> = sqlx::query_as(FUNCTIONS).bind(PROTECTING).fetch_all(connection).await?;
    let mut findings: Vec<Finding> = super::explained(rows).collect();
    for name in PROTECTING {
        if !functions.iter().any(|function| function.0 == *name) {
            findings.extend(Finding::of("function_changed", format!("log.{name} is not there")));
        }
    }
    findings.extend(functions.iter().flat_map(changes));
    Ok(findings)
}

/// What about a function is not as its migration made it.
fn changes((name, source, owner, is_owned, is_definer, has_path): &Function) -> Vec<Finding> {
    let is_ours = known_migrations().any(|migration| migration.schema == "log" && migration.sql.contains(source));
    let faults = [
        (
            !is_owned,
            format!("log.{name} belongs to {owner}, who does not own log.events"),
        ),
        (
            !is_definer,
            format!("log.{name} does not run as its owner (security definer)"),
        ),
        (
            !has_path,
            format!("log.{name} runs with the search_path of whoever calls it"),
        ),
        (!is_ours, format!("the text of log.{name} is not that of a migration")),
    ];
    let faults = faults.into_iter().filter(|(is_fault, _)| *is_fault);
    faults
        .filter_map(|(_, what)| Finding::of("function_changed", what))
        .collect()
}

/// Migrations of this program and those that the database has had.
pub(super) async fn migrations(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let (log, view): (bool, bool) = sqlx::query_as(HISTORIES).fetch_one(&mut *connection).await?;
    let mut findings = Vec::new();
    for (schema, exists, history) in [("log", log, LOG_HISTORY), ("view", view, VIEW_HISTORY)] {
        let applied: Vec<(i64, bool, Vec<u8>)> = if exists {
            sqlx::query_as(history).fetch_all(&mut *connection).await?
        } else {
            Vec::new()
        };
        let known: Vec<_> = known_migrations().filter(|known| known.schema == schema).collect();
        for migration in &known {
            let version = migration.version;
            let (code, what) = match applied.iter().find(|(applied, ..)| *applied == version) {
                None => ("migration_missing", "has not been applied"),
                Some((_, false, _)) => ("migration_missing", "was begun and not finished"),
                Some((.., checksum)) if checksum != migration.checksum => ("migration_changed", "is another one"),
                Some(_) => continue,
            };
            findings.extend(Finding::of(
                code,
                format!("migration {version} of schema {schema} {what}"),
            ));
        }
        for (version, ..) in applied {
            if !known.iter().any(|migration| migration.version == version) {
                let what = format!("this program does not know migration {version} of schema {schema}");
                findings.extend(Finding::of("migration_unknown", what));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[PROTECTION, READERS];
