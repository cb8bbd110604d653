-- The first answer to each request that came under an idempotency key, for those who ask again.
--
-- That a request was carried out is known for good from log.commands; what was answered is kept for a while only, and
-- may be deleted at any time: a repeat then learns that it was carried out, and nothing more. Answers hold tokens and
-- personal data, so headers and body are sealed with a key that never enters the database.

create table log.answers (
    command_id      uuid        not null,
    created_at      timestamptz not null default clock_timestamp(),
    -- The session that the request was made in, when the request itself ended it.
    session_id      uuid,
    status          smallint    not null check (status between 100 and 999),
    principal       text        collate "C" not null,
    idempotency_key text        collate "C" not null,
    -- The users whom the request was about; none of their answers outlives their key.
    subjects        uuid[]      not null,
    headers         bytea       not null,
    body            bytea       not null,
    constraint answers_pkey primary key (principal, idempotency_key)
) with (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

create index answers_age on log.answers (created_at);

-- Sealed bytes do not compress.
alter table log.answers alter column body set storage external;

-- What was granted so far stays one procedure, whatever migrations before this one have made of it.
alter procedure log.grant_application() rename to grant_application_before_answers;

create procedure log.grant_application()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    call log.grant_application_before_answers();
    if exists (select from pg_roles where rolname = 'annals_app') then
        grant select, insert, delete on log.answers to annals_app;
    end if;
end
$$;

revoke all on procedure log.grant_application() from public;

call log.grant_application();
