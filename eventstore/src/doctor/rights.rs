//! Rights on the log: those that the application needs, and those that nobody may have.

use sqlx::PgConnection;

use super::Finding;

/// PostgreSQL 16 split the right to `set role` from membership.
const RIGHTS: &str = "
    with app as (
        select oid, rolsuper
        from pg_catalog.pg_roles
        where rolname = 'annals_app'
    ), available as (
        select exists (
            select
            from app
            where pg_has_role(session_user, app.oid, case when current_setting('server_version_num')::int >= 160000
                                                          then 'SET' else 'MEMBER' end)
        ) as is_available
    ), kept as (
        select c.oid, c.relname, c.relowner, c.relacl
        from pg_catalog.pg_class c
        where c.relnamespace = to_regnamespace('log') and c.relkind in ('r', 'p')
    ), protected as (
        select *
        from kept
        where relname in ('events', 'streams', 'claims', 'commands')
    ), needed as (
        select 'log' as schema, relname::text as name, 'select' as privilege
        from kept
        union all
        select 'log', 'checkpoints', unnest(array['insert', 'update', 'delete'])
        union all
        select 'log', 'watchers', unnest(array['insert', 'update', 'delete'])
        union all
        select 'vault', 'subject_keys', unnest(array['select', 'insert', 'update'])
        union all
        select 'vault', 'master_key', unnest(array['select', 'insert'])
    ), granted as (
        select p.oid, p.relname, a.grantee, lower(a.privilege_type) as privilege
        from protected p
        cross join aclexplode(p.relacl) as a
        where a.grantee <> p.relowner
        union
        select p.oid, p.relname, a.grantee, lower(a.privilege_type)
        from protected p
        join pg_catalog.pg_attribute t on t.attrelid = p.oid
        cross join aclexplode(t.attacl) as a
        where a.grantee <> p.relowner
    )
    select 'right_missing'::text, format('annals_app may not use schema %s', s.name)
    from app
    cross join unnest(array['log', 'vault', 'view']) as s(name)
    where to_regnamespace(s.name) is not null and not has_schema_privilege(app.oid, to_regnamespace(s.name)::oid, 'usage')
    union all
    select 'right_missing'::text, format('annals_app may not %s on %s.%s', n.privilege, n.schema, n.name)
    from app
    cross join needed n
    where to_regclass(format('%I.%I', n.schema, n.name)) is not null
        and not has_table_privilege(app.oid, to_regclass(format('%I.%I', n.schema, n.name))::oid, n.privilege)
    union all
    select 'right_missing'::text, format('annals_app may not execute log.%s', p.proname)
    from app
    cross join pg_catalog.pg_proc p
    where p.pronamespace = to_regnamespace('log')
        and p.proname in ('append', 'append_single', 'position_at', 'register_schemas')
        and not has_function_privilege(app.oid, p.oid, 'execute')
    union all
    select 'right_excessive'::text, format('%s may %s on log.%s',
        case g.grantee when 0 then 'everybody (PUBLIC)' else pg_get_userbyid(g.grantee) end, g.privilege, g.relname)
    from granted g
    where g.privilege in ('insert', 'update', 'delete', 'truncate', 'trigger')
    union all
    select 'right_excessive'::text, format('annals_app may %s on log.%s, as a member of another role', r.privilege, p.relname)
    from app
    cross join protected p
    cross join unnest(array['insert', 'update', 'delete', 'truncate']) as r(privilege)
    where not app.rolsuper
        and has_table_privilege(app.oid, p.oid, r.privilege)
        and not exists (
            select
            from granted g
            where g.oid = p.oid and g.grantee in (0, app.oid) and g.privilege = r.privilege
        )
    union all
    select 'application_role_superuser'::text, 'annals_app is a superuser'
    from app
    where app.rolsuper
    union all
    select 'application_role_superuser'::text, format('%s is a superuser and may not act as annals_app', session_user)
    from available, pg_catalog.pg_roles r
    where r.rolname = session_user and r.rolsuper and not available.is_available
    union all
    select 'application_role_unavailable'::text, format('%s may not act as annals_app', session_user)
    from available
    where not available.is_available
";

pub(super) async fn look(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let rows = sqlx::query_as(RIGHTS).fetch_all(connection).await?;
    Ok(super::explained(rows).collect())
}

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[RIGHTS];
