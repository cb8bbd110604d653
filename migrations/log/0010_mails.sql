-- The mails that events of the log ask for, and what became of them.
--
-- A row is written in the transaction that moves the checkpoint `mail` past the event, so that no mail is forgotten
-- whatever is killed in between; it is marked as sent after the transport has taken the mail, so that a mail may
-- leave twice, but never not at all. No address and no text is kept here: both come from the event, each time. Rows
-- may be deleted once they are finished.

create table log.mails (
    -- Of the event that asks for the mail.
    position        bigint      not null,
    attempts        integer     not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    finished_at     timestamptz,
    status          text        collate "C" not null default 'waiting'
        check (status in ('waiting', 'sent', 'dropped')),
    -- A keyed hash of the address, by which mails to one address are counted.
    recipient       bytea,
    last_error      text,
    constraint mails_pkey primary key (position),
    constraint mails_finished check ((status = 'waiting') = (finished_at is null))
) with (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

create index mails_waiting on log.mails (next_attempt_at) where status = 'waiting';
create index mails_finished_at on log.mails (finished_at) where status <> 'waiting';
create index mails_recipient on log.mails (recipient, finished_at) where status = 'sent';

alter procedure log.grant_application() rename to grant_application_before_mails;

create procedure log.grant_application()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    call log.grant_application_before_mails();
    if exists (select from pg_roles where rolname = 'annals_app') then
        grant select, insert, update, delete on log.mails to annals_app;
    end if;
end
$$;

revoke all on procedure log.grant_application() from public;

call log.grant_application();
