-- Kept states of long streams, and finding the longest streams.

-- Snapshots are no truth: whoever may write them can mislead a load, but `annals verify` folds every one of them
-- again, and all can be deleted at any time. Like log.grant_application, called again at every migration run.
create procedure log.grant_snapshots()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from pg_roles where rolname = 'annals_app') then
        grant insert, update, delete on log.snapshots to annals_app;
    end if;
end
$$;

revoke all on procedure log.grant_snapshots() from public;

call log.grant_snapshots();

-- One row in a thousand of the long streams only. On log.events, because an index on log.streams that knows the
-- version would have to be changed by every append.
create index events_milestones on log.events (sequence) where sequence % 1000 = 0;
