-- The processes that keep in memory which sessions live. Whoever ends one waits until each of them has seen it, or until
-- what it remembers must have run out (docs/decisions/0011-sessions-in-memory.md).
--
-- A row stands before its process believes its memory for the first time, and is deleted only when it no longer does. So
-- this table is logged: one that a crash emptied would let a session go on for as long as a memory is believed.
create table log.watchers (
    watcher_id    uuid        not null,
    seen          bigint      not null default 0,
    lapsed        boolean     not null default false,
    registered_at timestamptz not null default clock_timestamp(),
    constraint watchers_pkey primary key (watcher_id)
) with (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_scale_factor = 0
);

alter procedure log.grant_application() rename to grant_application_before_watchers;

create procedure log.grant_application()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    call log.grant_application_before_watchers();
    if exists (select from pg_roles where rolname = 'annals_app') then
        grant select, insert, update, delete on log.watchers to annals_app;
    end if;
end
$$;

revoke all on procedure log.grant_application() from public;

call log.grant_application();
