-- Schema log: what has happened. Schema vault: the keys of the people it happened to.
--
-- Nothing but log.append writes events, streams, claims and commands. The application role may call it and read;
-- the triggers refuse everyone else, the owner of the tables included, so that a stray statement cannot break the
-- order, the chain or a claim.

-- Schema log is there already: it holds the history of these migrations.
create schema vault;

-- One row per fact. The seven columns from aggregate_type to metadata carry the names and types that postgres-es
-- selects; payload and metadata are json, not jsonb, because jsonb would rewrite the bytes that were hashed.
create table log.events (
    position       bigint      not null,
    sequence       bigint      not null check (sequence > 0),
    recorded_at    timestamptz not null,
    event_id       uuid        not null,
    command_id     uuid        not null,
    correlation_id uuid        not null,
    causation_id   uuid        not null,
    aggregate_type text        collate "C" not null,
    aggregate_id   text        collate "C" not null,
    event_type     text        collate "C" not null,
    event_version  text        collate "C" not null,
    actor          text        collate "C" not null,
    payload        json        not null,
    metadata       json        not null,
    leaf_hash      bytea       not null check (octet_length(leaf_hash) = 32),
    entry_hash     bytea       not null check (octet_length(entry_hash) = 32),
    constraint events_pkey primary key (position),
    constraint events_stream_key unique (aggregate_type, aggregate_id, sequence),
    constraint events_position_check check (position > 0)
) with (
    fillfactor = 100,
    -- Insert-only: vacuum by count, and freeze at once, so that no vacuum ever has to read the whole log again.
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_freeze_min_age = 0,
    autovacuum_analyze_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.02
);

-- The version of every stream; what an expected version is compared with.
create table log.streams (
    aggregate_id   uuid   not null,
    aggregate_type text   collate "C" not null,
    version        bigint not null check (version > 0),
    first_position bigint not null,
    last_position  bigint not null,
    constraint streams_pkey primary key (aggregate_type, aggregate_id)
) with (
    fillfactor = 80, -- room on the page, so that raising a version touches no index
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- Who owns what only one stream may own: an e-mail address, a slug, an id that others may refer to.
create table log.claims (
    owner_id          uuid   not null,
    taken_at_position bigint not null,
    scope             text   collate "C" not null,
    owner_type        text   collate "C" not null,
    key               bytea  not null check (octet_length(key) <= 1024),
    constraint claims_pkey primary key (scope, key)
) with (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

create index claims_owner on log.claims (owner_id, owner_type, scope);

-- One row per command that was carried out, which is what makes repeating one harmless.
create table log.commands (
    command_id      uuid   not null,
    first_position  bigint not null,
    last_position   bigint not null,
    principal       text   collate "C",
    idempotency_key text   collate "C",
    request_hash    bytea  check (octet_length(request_hash) = 32),
    constraint commands_pkey primary key (command_id),
    constraint commands_key_whole check (num_nonnulls(principal, idempotency_key, request_hash) in (0, 3))
) with (
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_analyze_scale_factor = 0.05
);

create unique index commands_key on log.commands (principal, idempotency_key) where idempotency_key is not null;

-- At most one row per stream, with the columns that postgres-es selects. Dropped at will: the log has it all.
create table log.snapshots (
    aggregate_type   text   collate "C" not null,
    aggregate_id     text   collate "C" not null,
    last_sequence    bigint not null check (last_sequence > 0),
    current_snapshot bigint not null,
    payload          json   not null,
    constraint snapshots_pkey primary key (aggregate_type, aggregate_id)
);

-- How far each reader has come, who holds its lease, and the entry hash by which it recognises its log.
create table log.checkpoints (
    projection   text        collate "C" not null,
    version      integer     not null,
    position     bigint      not null default 0 check (position >= 0),
    entry_hash   bytea       not null check (octet_length(entry_hash) = 32),
    epoch        bigint      not null default 0,
    owner        text,
    lease_until  timestamptz,
    status       text        not null default 'live' check (status in ('live', 'failing')),
    failures     integer     not null default 0,
    last_error   text,
    failed_at    timestamptz,
    heartbeat_at timestamptz not null default now(),
    moved_at     timestamptz not null default now(),
    constraint checkpoints_pkey primary key (projection)
) with (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_scale_factor = 0
);

-- One key per data subject, wrapped by the master key that never enters the database. Erasing a subject clears its
-- key and leaves the row, which forbids making the same subject another key in silence.
create table vault.subject_keys (
    subject     uuid        not null,
    wrapped_key bytea,
    created_at  timestamptz not null default now(),
    erased_at   timestamptz,
    constraint subject_keys_pkey primary key (subject),
    constraint subject_keys_erased check ((wrapped_key is null) = (erased_at is not null))
);

-- Which master key this database belongs to, so that a wrong one is noticed before it writes anything.
create table vault.master_key (
    only_row    boolean     not null default true check (only_row),
    fingerprint bytea       not null,
    since       timestamptz not null default now(),
    constraint master_key_pkey primary key (only_row)
);

do $$
begin
    alter table log.events alter column payload set compression lz4;
    alter table log.events alter column metadata set compression lz4;
exception when feature_not_supported then
    null; -- this server was built without lz4 and compresses with pglz
end
$$;

-- What protects the log from everyone, its owner included.

create function log.refuse_write() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% on log.% refused: only log.append writes the log', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

create function log.refuse_change() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% on log.% refused: what has happened is not changed', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

create trigger events_only_grow before update or delete or truncate on log.events
    for each statement execute function log.refuse_change();

create trigger events_through_append before insert on log.events
    for each statement when (current_setting('annals.appending', true) is distinct from 'on')
    execute function log.refuse_write();

create trigger streams_through_append before insert or update or delete on log.streams
    for each statement when (current_setting('annals.appending', true) is distinct from 'on')
    execute function log.refuse_write();

create trigger streams_stay before truncate on log.streams
    for each statement execute function log.refuse_change();

create trigger claims_through_append before insert or update or delete on log.claims
    for each statement when (current_setting('annals.appending', true) is distinct from 'on')
    execute function log.refuse_write();

create trigger claims_stay before truncate on log.claims
    for each statement execute function log.refuse_change();

create trigger commands_through_append before insert or update or delete on log.commands
    for each statement when (current_setting('annals.appending', true) is distinct from 'on')
    execute function log.refuse_write();

create trigger commands_stay before truncate on log.commands
    for each statement execute function log.refuse_change();

-- The answer to one command of a batch. outcome is one of:
--   ok         recorded; positions, hash and time are filled
--   duplicate  recorded before, by command_id or by idempotency key; the fields are those of the first time
--   reused     the idempotency key was used before, with another request
--   conflict   stream number `item` of the call is at version `actual`
--   taken      the claims of `scopes` (comma-separated) are owned by other streams
--   missing    required claim number `item` of the call is owned by nobody
create type log.answer as (
    command        integer,
    outcome        text,
    command_id     uuid,
    first_position bigint,
    last_position  bigint,
    entry_hash     bytea,
    recorded_at    timestamptz,
    item           integer,
    actual         bigint,
    scopes         text
);

-- Appends a batch of commands, in their order, in one transaction. Every command is judged against the log as it was
-- before the batch; the caller sees to it that no command of a batch depends on what another one of it writes.
--
-- Commands are numbered from 1 in the order of command_ids; event_counts says how many of the events, which come in
-- the order of their commands, belong to each. A stream without first_event is only read: a version condition.
-- claim_changes are 'take', 'check' (a take that the same command undoes), 'release' and 'release_all'.
create function log.append(
    command_ids      uuid[],
    event_counts     integer[],
    principals       text[],
    idempotency_keys text[],
    request_hashes   bytea[],

    stream_commands  integer[],
    stream_types     text[],
    stream_ids       uuid[],
    stream_expected  bigint[],
    stream_first     integer[],
    stream_last      integer[],

    held_commands    integer[],
    held_scopes      text[],
    held_keys        bytea[],

    claim_commands   integer[],
    claim_changes    text[],
    claim_scopes     text[],
    claim_keys       bytea[],
    claim_types      text[],
    claim_owners     uuid[],
    claim_events     integer[],

    aggregate_types  text[],
    aggregate_ids    text[],
    sequences        bigint[],
    event_types      text[],
    event_versions   text[],
    payloads         text[],
    metadatas        text[],
    event_ids        uuid[],
    event_commands   uuid[],
    actors           text[],
    correlation_ids  uuid[],
    causation_ids    uuid[],
    leaf_hashes      bytea[]
) returns setof log.answer
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- One plan for all batches, and always the index: a plan made while a table was small must not live on as a
    -- sequential scan when it no longer is.
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    set jit = off
as $$
declare
    v_commands  constant integer := cardinality(command_ids);
    v_events    constant integer := cardinality(event_ids);
    v_ok        boolean[] := array_fill(true, array[v_commands]);
    v_outcomes  text[]    := array_fill('ok'::text, array[v_commands]);
    v_answered  uuid[]    := command_ids;
    v_firsts    bigint[]  := array_fill(null::bigint, array[v_commands]);
    v_lasts     bigint[]  := array_fill(null::bigint, array[v_commands]);
    v_entries   bytea[]   := array_fill(null::bytea, array[v_commands]);
    v_times     timestamptz[] := array_fill(null::timestamptz, array[v_commands]);
    v_items     integer[] := array_fill(null::integer, array[v_commands]);
    v_actuals   bigint[]  := array_fill(null::bigint, array[v_commands]);
    v_scopes    text[]    := array_fill(null::text, array[v_commands]);
    -- Claims taken by the streams that hold them already: nothing to do.
    v_owned     boolean[] := array_fill(false, array[cardinality(claim_commands)]);
    v_positions bigint[]  := array_fill(null::bigint, array[v_events]);
    v_hashes    bytea[]   := array_fill(null::bytea, array[v_events]);
    v_accepted  integer   := v_commands;
    v_event     integer   := 0;
    v_position  bigint;
    v_hash      bytea;
    v_time      timestamptz;
    v_micros    bytea;
    r           record;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'log.append needs read committed: a fixed snapshot would judge commands by an old log';
    end if;

    -- A statement of its own: what follows must take its snapshots after the wait, not before it.
    perform pg_advisory_xact_lock(1634627169, 1);

    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;

    select e.position, e.entry_hash, e.recorded_at
    into v_position, v_hash, v_time
    from log.events e
    order by e.position desc
    limit 1;

    if not found then
        v_position := 0;
        v_hash := decode(repeat('00', 32), 'hex');
        v_time := '-infinity';
    end if;

    -- A clock that was set back does not set the log back.
    v_time := greatest(clock_timestamp(), v_time);

    for r in
        select c.number::integer as command, k.command_id, k.first_position, k.last_position, e.entry_hash, e.recorded_at
        from unnest(command_ids) with ordinality as c(command_id, number)
        join log.commands k on k.command_id = c.command_id
        join log.events e on e.position = k.last_position
    loop
        v_ok[r.command] := false;
        v_accepted := v_accepted - 1;
        v_outcomes[r.command] := 'duplicate';
        v_firsts[r.command] := r.first_position;
        v_lasts[r.command] := r.last_position;
        v_entries[r.command] := r.entry_hash;
        v_times[r.command] := r.recorded_at;
    end loop;

    if cardinality(array_remove(idempotency_keys, null)) > 0 then
        for r in
            select c.number::integer as command, k.command_id, k.first_position, k.last_position, e.entry_hash,
                e.recorded_at, k.request_hash = c.request_hash as same
            from unnest(principals, idempotency_keys, request_hashes) with ordinality
                as c(principal, idempotency_key, request_hash, number)
            join log.commands k on k.principal = c.principal and k.idempotency_key = c.idempotency_key
            join log.events e on e.position = k.last_position
            where c.idempotency_key is not null
        loop
            continue when not v_ok[r.command];
            v_ok[r.command] := false;
            v_accepted := v_accepted - 1;
            if r.same then
                v_outcomes[r.command] := 'duplicate';
                v_answered[r.command] := r.command_id;
                v_firsts[r.command] := r.first_position;
                v_lasts[r.command] := r.last_position;
                v_entries[r.command] := r.entry_hash;
                v_times[r.command] := r.recorded_at;
            else
                v_outcomes[r.command] := 'reused';
            end if;
        end loop;
    end if;

    for r in
        select distinct on (s.command) s.command, s.number::integer as item, coalesce(t.version, 0) as actual
        from unnest(stream_commands, stream_types, stream_ids, stream_expected) with ordinality
            as s(command, type, id, expected, number)
        left join log.streams t on t.aggregate_type = s.type and t.aggregate_id = s.id
        where coalesce(t.version, 0) <> s.expected
        order by s.command, s.number
    loop
        continue when not v_ok[r.command];
        v_ok[r.command] := false;
        v_accepted := v_accepted - 1;
        v_outcomes[r.command] := 'conflict';
        v_items[r.command] := r.item;
        v_actuals[r.command] := r.actual;
    end loop;

    if cardinality(claim_commands) > 0 then
        for r in
            select t.command, t.number::integer as number, t.scope, t.change,
                (c.owner_type, c.owner_id) = (t.owner_type, t.owner_id) as own,
                -- whether the same command makes its owner give it up first
                exists (
                    select
                    from unnest(claim_commands, claim_changes, claim_scopes, claim_keys, claim_types, claim_owners)
                        with ordinality as f(command, change, scope, key, owner_type, owner_id, number)
                    where f.command = t.command
                        and f.number < t.number
                        and f.scope = t.scope
                        and f.owner_type = c.owner_type
                        and f.owner_id = c.owner_id
                        and (f.change = 'release_all' or f.change = 'release' and f.key = t.key)
                ) as given_up
            from unnest(claim_commands, claim_changes, claim_scopes, claim_keys, claim_types, claim_owners)
                with ordinality as t(command, change, scope, key, owner_type, owner_id, number)
            join log.claims c on c.scope = t.scope and c.key = t.key
            where t.change in ('take', 'check')
        loop
            continue when r.given_up;
            if r.own then
                v_owned[r.number] := true;
            elsif v_outcomes[r.command] = 'taken' then
                if not r.scope = any(string_to_array(v_scopes[r.command], ',')) then
                    v_scopes[r.command] := v_scopes[r.command] || ',' || r.scope;
                end if;
            elsif v_ok[r.command] then
                v_ok[r.command] := false;
                v_accepted := v_accepted - 1;
                v_outcomes[r.command] := 'taken';
                v_scopes[r.command] := r.scope;
            end if;
        end loop;
    end if;

    if cardinality(held_commands) > 0 then
        for r in
            select distinct on (h.command) h.command, h.number::integer as item
            from unnest(held_commands, held_scopes, held_keys) with ordinality as h(command, scope, key, number)
            left join log.claims c on c.scope = h.scope and c.key = h.key
            where c.scope is null
            order by h.command, h.number
        loop
            continue when not v_ok[r.command];
            v_ok[r.command] := false;
            v_accepted := v_accepted - 1;
            v_outcomes[r.command] := 'missing';
            v_items[r.command] := r.item;
        end loop;
    end if;

    if v_accepted > 0 then
        v_micros := int8send((extract(epoch from v_time) * 1000000)::bigint);

        for v_command in 1 .. v_commands loop
            if v_ok[v_command] then
                v_firsts[v_command] := v_position + 1;
                for v_number in v_event + 1 .. v_event + event_counts[v_command] loop
                    v_position := v_position + 1;
                    v_hash := sha256(v_hash || leaf_hashes[v_number] || int8send(v_position) || v_micros);
                    v_positions[v_number] := v_position;
                    v_hashes[v_number] := v_hash;
                end loop;
                v_lasts[v_command] := v_position;
                v_entries[v_command] := v_hash;
                v_times[v_command] := v_time;
            end if;
            v_event := v_event + event_counts[v_command];
        end loop;

        -- Lets the triggers pass, until it is taken back below; an error takes it back with everything else.
        perform set_config('annals.appending', 'on', true);

        insert into log.events (
            position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
            aggregate_id, event_type, event_version, actor, payload, metadata, leaf_hash, entry_hash
        )
        select e.position, e.sequence, v_time, e.event_id, e.command_id, e.correlation_id, e.causation_id,
            e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.actor, e.payload::json,
            e.metadata::json, e.leaf_hash, e.entry_hash
        from unnest(
            v_positions, sequences, event_ids, event_commands, correlation_ids, causation_ids, aggregate_types,
            aggregate_ids, event_types, event_versions, actors, payloads, metadatas, leaf_hashes, v_hashes
        ) as e(
            position, sequence, event_id, command_id, correlation_id, causation_id, aggregate_type,
            aggregate_id, event_type, event_version, actor, payload, metadata, leaf_hash, entry_hash
        )
        where e.position is not null;

        if 0 = any(stream_expected) then
            insert into log.streams (aggregate_type, aggregate_id, version, first_position, last_position)
            select s.type, s.id, s.last_event - s.first_event + 1, v_positions[s.first_event], v_positions[s.last_event]
            from unnest(stream_commands, stream_types, stream_ids, stream_expected, stream_first, stream_last)
                as s(command, type, id, expected, first_event, last_event)
            where s.first_event is not null and s.expected = 0 and v_ok[s.command];
        end if;

        if 0 < any(stream_expected) then
            update log.streams t
            set version = s.expected + s.last_event - s.first_event + 1, last_position = v_positions[s.last_event]
            from unnest(stream_commands, stream_types, stream_ids, stream_expected, stream_first, stream_last)
                as s(command, type, id, expected, first_event, last_event)
            where t.aggregate_type = s.type and t.aggregate_id = s.id
                and s.first_event is not null and s.expected > 0 and v_ok[s.command];
        end if;

        if 'release' = any(claim_changes) then
            delete from log.claims c
            using unnest(claim_commands, claim_changes, claim_scopes, claim_keys, claim_types, claim_owners)
                as f(command, change, scope, key, owner_type, owner_id)
            where f.change = 'release' and v_ok[f.command]
                and c.scope = f.scope and c.key = f.key
                and c.owner_type = f.owner_type and c.owner_id = f.owner_id;
        end if;

        if 'release_all' = any(claim_changes) then
            delete from log.claims c
            using unnest(claim_commands, claim_changes, claim_scopes, claim_types, claim_owners)
                as f(command, change, scope, owner_type, owner_id)
            where f.change = 'release_all' and v_ok[f.command]
                and c.owner_id = f.owner_id and c.owner_type = f.owner_type and c.scope = f.scope;
        end if;

        if 'take' = any(claim_changes) then
            -- Without "on conflict": a claim that is in the way now was not there a moment ago, under the lock.
            insert into log.claims (scope, key, owner_type, owner_id, taken_at_position)
            select t.scope, t.key, t.owner_type, t.owner_id, v_positions[t.event]
            from unnest(
                claim_commands, claim_changes, claim_scopes, claim_keys, claim_types, claim_owners, claim_events, v_owned
            ) as t(command, change, scope, key, owner_type, owner_id, event, owned)
            where t.change = 'take' and not t.owned and v_ok[t.command];
        end if;

        insert into log.commands (
            command_id, first_position, last_position, principal, idempotency_key, request_hash
        )
        select c.command_id, c.first_position, c.last_position, c.principal, c.idempotency_key, c.request_hash
        from unnest(v_ok, command_ids, v_firsts, v_lasts, principals, idempotency_keys, request_hashes)
            as c(ok, command_id, first_position, last_position, principal, idempotency_key, request_hash)
        where c.ok;

        perform set_config('annals.appending', 'off', true);
        perform pg_notify('annals_log', v_position::text);
    end if;

    return query
    select a.number::integer, a.outcome, a.command_id, a.first_position, a.last_position, a.entry_hash, a.recorded_at,
        a.item, a.actual, a.scopes
    from unnest(v_outcomes, v_answered, v_firsts, v_lasts, v_entries, v_times, v_items, v_actuals, v_scopes)
        with ordinality as a(
            outcome, command_id, first_position, last_position, entry_hash, recorded_at, item, actual, scopes, number
        );
end
$$;

-- The last position recorded at or before a moment; 0 when there is none. Positions are dense and recorded_at never
-- decreases along them, so halving finds it without an index on the time.
create function log.position_at(moment timestamptz) returns bigint
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_low  bigint := 0;
    v_high bigint;
    v_mid  bigint;
    v_time timestamptz;
begin
    select coalesce(max(e.position), 0) into v_high from log.events e;
    while v_low < v_high loop
        v_mid := (v_low + v_high + 1) / 2;
        select e.recorded_at into v_time from log.events e where e.position = v_mid;
        if v_time <= moment then
            v_low := v_mid;
        else
            v_high := v_mid - 1;
        end if;
    end loop;
    return v_low;
end
$$;

-- Rights. The application role belongs to the whole cluster and may appear after this migration, so what it is given
-- is a procedure, which every migration run calls again.

do $$
begin
    execute format(
        'revoke all on function %s from public',
        (select p.oid::regprocedure from pg_proc p where p.proname = 'append' and p.pronamespace = 'log'::regnamespace)
    );
end
$$;

revoke all on function log.position_at(timestamptz), log.refuse_write(), log.refuse_change() from public;

create procedure log.grant_application()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from pg_roles where rolname = 'annals_app') then
        raise notice 'there is no role annals_app; the triggers alone protect the log';
        return;
    end if;

    grant usage on schema log, vault to annals_app;
    grant select on all tables in schema log to annals_app;
    execute format(
        'grant execute on function %s to annals_app',
        (select p.oid::regprocedure from pg_proc p where p.proname = 'append' and p.pronamespace = 'log'::regnamespace)
    );
    grant execute on function log.position_at(timestamptz) to annals_app;
    -- A projection moves its checkpoint in the transaction that moves its rows.
    grant insert, update, delete on log.checkpoints to annals_app;
    grant select, insert, update on vault.subject_keys to annals_app;
    grant select, insert on vault.master_key to annals_app;
end
$$;

revoke all on procedure log.grant_application() from public;

call log.grant_application();
