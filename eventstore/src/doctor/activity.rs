//! What goes on in the server now: sessions, locks, and what keeps old rows and old WAL from being cleared away.

use sqlx::PgConnection;

use super::{Finding, Limits};

const ACTIVITY: &str = "
    with sessions as (
        select a.pid, a.state, a.xact_start, a.state_change,
            format('session %s%s of %s in database %s', a.pid, ' (' || nullif(a.application_name, '') || ')',
                a.usename, a.datname) as name
        from pg_catalog.pg_stat_activity a
        where a.pid <> pg_backend_pid() and a.datname is not null
    ), idle as (
        select *
        from sessions
        where state in ('idle in transaction', 'idle in transaction (aborted)')
            and state_change < clock_timestamp() - make_interval(secs => $2)
    )
    select 'idle_in_transaction'::text, format('%s sits idle in a transaction since %s', i.name, i.state_change::timestamptz(0))
    from idle i
    union all
    select 'long_transaction'::text, format('%s is in a transaction since %s', s.name, s.xact_start::timestamptz(0))
    from sessions s
    where s.xact_start < clock_timestamp() - make_interval(secs => $1)
        and not exists (select from idle i where i.pid = s.pid)
    union all
    select 'activity_hidden'::text, format('what %s other sessions do may not be seen by %s', count(*), current_user)
    from sessions s
    where s.state is null
    having count(*) > 0
    union all
    select 'append_lock_held'::text, format('%s holds the lock of log.append since %s', s.name,
        coalesce(s.xact_start, s.state_change)::timestamptz(0))
    from pg_catalog.pg_locks l
    join pg_catalog.pg_database d on d.oid = l.database
    join sessions s on s.pid = l.pid
    where d.datname = current_database()
        and l.locktype = 'advisory' and l.granted
        and l.classid = 1634627169 and l.objid = 1 and l.objsubid = 2
        and coalesce(s.xact_start, s.state_change) < clock_timestamp() - make_interval(secs => $3)
    union all
    select 'prepared_transaction'::text, format('transaction %L in database %s was prepared at %s and not ended',
        p.gid, p.database, p.prepared::timestamptz(0))
    from pg_catalog.pg_prepared_xacts p
    union all
    select 'replication_slot_holds_wal'::text, format('replication slot %s, which is %s, holds back %s of WAL', s.slot_name,
        case when s.active then 'in use' else 'not in use' end, pg_size_pretty(w.bytes))
    from pg_catalog.pg_replication_slots s
    cross join lateral (
        select pg_wal_lsn_diff(
            case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, s.restart_lsn
        ) as bytes
    ) as w
    where w.bytes >= $4
    union all
    select case when d.age >= 1500000000 then 'transaction_ids_exhausted' else 'transaction_ids_old' end::text,
        format('the oldest row of database %s that is not frozen is %s transactions old', d.datname, d.age)
    from (
        select datname, greatest(age(datfrozenxid), mxid_age(datminmxid))::bigint as age
        from pg_catalog.pg_database
    ) as d
    where d.age >= $5
";

pub(super) async fn look(connection: &mut PgConnection, limits: &Limits) -> Result<Vec<Finding>, sqlx::Error> {
    let rows = sqlx::query_as(ACTIVITY)
        .bind(limits.long_transaction.as_secs_f64())
        .bind(limits.idle_in_transaction.as_secs_f64())
        .bind(limits.append_lock.as_secs_f64())
        .bind(limits.slot_bytes)
        .bind(limits.transaction_age)
        .fetch_all(connection)
        .await?;
    Ok(super::explained(rows).collect())
}

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ACTIVITY];
