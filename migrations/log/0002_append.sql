-- Appending with less work a command, and only of events that are registered.
--
-- log.append gets a sibling for the most frequent call, a single small command, and answers in one row. Both ask
-- log.event_schemas whether events of a type and version may be written.

drop function log.append;
drop type log.answer;

-- Which events may be written: those that a program has announced and nobody has retired. A deployment that is rolled
-- back, or a process that was forgotten, cannot write what the others have given up reading.
create table log.event_schemas (
    aggregate_type text        collate "C" not null,
    event_type     text        collate "C" not null,
    event_version  text        collate "C" not null,
    registered_at  timestamptz not null default now(),
    retired_at     timestamptz,
    constraint event_schemas_pkey primary key (aggregate_type, event_type, event_version)
);

-- Announces the events that a program writes. What is there stays as it is, retired ones too.
create function log.register_schemas(aggregate_types text[], event_types text[], event_versions text[]) returns void
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    insert into log.event_schemas (aggregate_type, event_type, event_version)
    select s.aggregate_type, s.event_type, s.event_version
    from unnest(aggregate_types, event_types, event_versions) as s(aggregate_type, event_type, event_version)
    on conflict do nothing
$$;

-- Each of these parsed its stored expression anew with every statement, a tenth of the price of a lone append. The
-- functions below are the only ones that write these tables, and annals verify checks what they have written.
alter table log.events
    drop constraint events_position_check,
    drop constraint events_sequence_check,
    drop constraint events_leaf_hash_check,
    drop constraint events_entry_hash_check;
alter table log.streams drop constraint streams_version_check;
alter table log.commands
    drop constraint commands_key_whole,
    drop constraint commands_request_hash_check;

-- The answer to a batch. When all of it was recorded, outcomes and what follows are null: the commands lie one after
-- the other behind head. Otherwise they have one element a command. An outcome is one of:
--   ok            recorded
--   duplicate     recorded before, by command_id or by idempotency key; the other elements are those of the first time
--   reused        the idempotency key was used before, with another request
--   unregistered  event number `item` of the call is of a type and version that may not be written
--   conflict      stream number `item` of the call is at version `actual`
--   taken         the claims of `scopes` (comma-separated) are owned by other streams
--   missing       required claim number `item` of the call is owned by nobody
create type log.answer as (
    head            bigint,        -- the last position before the batch
    recorded_at     timestamptz,   -- of what was recorded now
    entry_hashes    bytea[],       -- after each command
    outcomes        text[],
    command_ids     uuid[],
    first_positions bigint[],
    last_positions  bigint[],
    times           timestamptz[],
    items           integer[],
    actuals         bigint[],
    scopes          text[]
);

-- Appends a batch of commands, in their order, in one transaction. Every command is judged against the log as it was
-- before the batch; the caller sees to it that no command of a batch depends on what another one of it writes.
--
-- Commands are numbered from 1 in the order of command_ids; event_commands says which one each event belongs to, in the
-- order of commands. A stream without first_event is only read: a version condition.
-- claim_changes are 'take', 'check' (a take that the same command undoes), 'release' and 'release_all'. schema_...
-- name each kind of event of the call once, with the number of the first event that is of it.
--
-- Lists are taken apart by unnest in the select list: in the from list each would be copied to a store of its own.
create function log.append(
    command_ids      uuid[],
    principals       text[],
    idempotency_keys text[],
    request_hashes   bytea[],

    schema_aggregates text[],
    schema_types      text[],
    schema_versions   text[],

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
    event_commands   integer[],
    actors           text[],
    correlation_ids  uuid[],
    causation_ids    uuid[],
    leaf_hashes      bytea[]
) returns log.answer
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
    v_positions bigint[]  := array_fill(null::bigint, array[cardinality(event_ids)]);
    v_hashes    bytea[]   := array_fill(null::bytea, array[cardinality(event_ids)]);
    v_accepted  integer   := v_commands;
    v_number    integer   := 0;
    v_command   integer;
    v_last      integer   := 0;
    v_leaf      bytea;
    v_head      bigint;
    v_position  bigint;
    v_written   bigint;
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
    into v_head, v_hash, v_time
    from log.events e
    order by e.position desc
    limit 1;

    if not found then
        v_head := 0;
        v_hash := decode(repeat('00', 32), 'hex');
        v_time := '-infinity';
    end if;

    -- A clock that was set back does not set the log back.
    v_time := greatest(clock_timestamp(), v_time);

    for r in
        select c.command, k.command_id, k.first_position, k.last_position, e.entry_hash, e.recorded_at
        from (select unnest(command_ids) as command_id, generate_subscripts(command_ids, 1) as command) c
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
            select c.command, k.command_id, k.first_position, k.last_position, e.entry_hash, e.recorded_at,
                k.request_hash = c.request_hash as same
            from (
                select unnest(principals) as principal, unnest(idempotency_keys) as idempotency_key,
                    unnest(request_hashes) as request_hash, generate_subscripts(principals, 1) as command
            ) c
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

    if exists (
        select
        from (
            select unnest(schema_aggregates) as aggregate_type, unnest(schema_types) as event_type,
                unnest(schema_versions) as event_version
        ) k
        where not exists (
            select
            from log.event_schemas s
            where s.aggregate_type = k.aggregate_type and s.event_type = k.event_type
                and s.event_version = k.event_version and s.retired_at is null
        )
    ) then
        for r in
            select distinct on (e.command) e.command, e.item
            from (
                select unnest(event_commands) as command, unnest(aggregate_types) as aggregate_type,
                    unnest(event_types) as event_type, unnest(event_versions) as event_version,
                    generate_subscripts(event_commands, 1) as item
            ) e
            where not exists (
                select
                from log.event_schemas s
                where s.aggregate_type = e.aggregate_type and s.event_type = e.event_type
                    and s.event_version = e.event_version and s.retired_at is null
            )
            order by e.command, e.item
        loop
            continue when not v_ok[r.command];
            v_ok[r.command] := false;
            v_accepted := v_accepted - 1;
            v_outcomes[r.command] := 'unregistered';
            v_items[r.command] := r.item;
        end loop;
    end if;

    for r in
        select distinct on (s.command) s.command, s.item, coalesce(t.version, 0) as actual
        from (
            select unnest(stream_commands) as command, unnest(stream_types) as type, unnest(stream_ids) as id,
                unnest(stream_expected) as expected, generate_subscripts(stream_ids, 1) as item
        ) s
        left join log.streams t on t.aggregate_type = s.type and t.aggregate_id = s.id
        where coalesce(t.version, 0) <> s.expected
        order by s.command, s.item
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
            select t.command, t.number, t.scope, t.change,
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
            from (
                select unnest(claim_commands) as command, unnest(claim_changes) as change, unnest(claim_scopes) as scope,
                    unnest(claim_keys) as key, unnest(claim_types) as owner_type, unnest(claim_owners) as owner_id,
                    generate_subscripts(claim_keys, 1) as number
            ) t
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
            select distinct on (h.command) h.command, h.item
            from (
                select unnest(held_commands) as command, unnest(held_scopes) as scope, unnest(held_keys) as key,
                    generate_subscripts(held_keys, 1) as item
            ) h
            left join log.claims c on c.scope = h.scope and c.key = h.key
            where c.scope is null
            order by h.command, h.item
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

        v_position := v_head;

        foreach v_leaf in array leaf_hashes loop
            v_number := v_number + 1;
            v_command := event_commands[v_number];
            continue when not v_ok[v_command];
            v_position := v_position + 1;
            v_hash := sha256(v_hash || v_leaf || int8send(v_position) || v_micros);
            v_positions[v_number] := v_position;
            v_hashes[v_number] := v_hash;
            if v_command <> v_last then
                v_last := v_command;
                v_firsts[v_command] := v_position;
                v_times[v_command] := v_time;
            end if;
            v_lasts[v_command] := v_position;
            v_entries[v_command] := v_hash;
        end loop;

        -- Lets the triggers pass, until it is taken back below; an error takes it back with everything else.
        perform set_config('annals.appending', 'on', true);

        insert into log.events (
            position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
            aggregate_id, event_type, event_version, actor, payload, metadata, leaf_hash, entry_hash
        )
        select e.position, e.sequence, v_time, e.event_id, command_ids[e.command], e.correlation_id, e.causation_id,
            e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.actor, e.payload::json,
            e.metadata::json, e.leaf_hash, e.entry_hash
        from (
            select unnest(v_positions) as position, unnest(sequences) as sequence, unnest(event_ids) as event_id,
                unnest(event_commands) as command, unnest(correlation_ids) as correlation_id,
                unnest(causation_ids) as causation_id, unnest(aggregate_types) as aggregate_type,
                unnest(aggregate_ids) as aggregate_id, unnest(event_types) as event_type,
                unnest(event_versions) as event_version, unnest(actors) as actor, unnest(payloads) as payload,
                unnest(metadatas) as metadata, unnest(leaf_hashes) as leaf_hash, unnest(v_hashes) as entry_hash
        ) e
        where e.position is not null;
        get diagnostics v_written = row_count;

        if v_written <> v_position - v_head then
            raise exception 'of % events % were written: something on log.events is in the way',
                v_position - v_head, v_written;
        end if;

        if 0 = any(stream_expected) then
            insert into log.streams (aggregate_type, aggregate_id, version, first_position, last_position)
            select s.type, s.id, s.last_event - s.first_event + 1, v_positions[s.first_event], v_positions[s.last_event]
            from (
                select unnest(stream_commands) as command, unnest(stream_types) as type, unnest(stream_ids) as id,
                    unnest(stream_expected) as expected, unnest(stream_first) as first_event,
                    unnest(stream_last) as last_event
            ) s
            where s.first_event is not null and s.expected = 0 and v_ok[s.command];
        end if;

        if 0 < any(stream_expected) then
            update log.streams t
            set version = s.expected + s.last_event - s.first_event + 1, last_position = v_positions[s.last_event]
            from (
                select unnest(stream_commands) as command, unnest(stream_types) as type, unnest(stream_ids) as id,
                    unnest(stream_expected) as expected, unnest(stream_first) as first_event,
                    unnest(stream_last) as last_event
            ) s
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
            from (
                select unnest(claim_commands) as command, unnest(claim_changes) as change, unnest(claim_scopes) as scope,
                    unnest(claim_keys) as key, unnest(claim_types) as owner_type, unnest(claim_owners) as owner_id,
                    unnest(claim_events) as event, unnest(v_owned) as owned
            ) t
            where t.change = 'take' and not t.owned and v_ok[t.command];
        end if;

        insert into log.commands (
            command_id, first_position, last_position, principal, idempotency_key, request_hash
        )
        select c.command_id, c.first_position, c.last_position, c.principal, c.idempotency_key, c.request_hash
        from (
            select unnest(v_ok) as ok, unnest(command_ids) as command_id, unnest(v_firsts) as first_position,
                unnest(v_lasts) as last_position, unnest(principals) as principal,
                unnest(idempotency_keys) as idempotency_key, unnest(request_hashes) as request_hash
        ) c
        where c.ok;

        perform set_config('annals.appending', 'off', true);
        perform pg_notify('annals_log', v_position::text);
    end if;

    if v_accepted = v_commands then
        return (v_head, v_time, v_entries, null, null, null, null, null, null, null, null)::log.answer;
    end if;
    return (
        v_head, v_time, v_entries, v_outcomes, v_answered, v_firsts, v_lasts, v_times, v_items, v_actuals, v_scopes
    )::log.answer;
end
$$;

-- Appends one small command that nothing stands against, with statements that touch single rows: half the price of a
-- batch of one. Answers with no row, and has written nothing, when something is to be judged: log.append does that.
--
-- Parameters mean what those of log.append of a batch with this one command mean.
create function log.append_single(
    p_command_id      uuid,
    p_principal       text,
    p_idempotency_key text,
    p_request_hash    bytea,

    p_stream_types    text[],
    p_stream_ids      uuid[],
    p_stream_expected bigint[],
    p_stream_first    integer[],
    p_stream_last     integer[],

    p_held_scopes     text[],
    p_held_keys       bytea[],

    p_claim_changes   text[],
    p_claim_scopes    text[],
    p_claim_keys      bytea[],
    p_claim_types     text[],
    p_claim_owners    uuid[],
    p_claim_events    integer[],

    p_aggregate_types text[],
    p_aggregate_ids   text[],
    p_sequences       bigint[],
    p_event_types     text[],
    p_event_versions  text[],
    p_payloads        text[],
    p_metadatas       text[],
    p_event_ids       uuid[],
    p_actor           text,
    p_correlation_id  uuid,
    p_causation_id    uuid,
    p_leaf_hashes     bytea[]
) returns table (head bigint, recorded_at timestamptz, entry_hash bytea)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    v_events   constant integer := cardinality(p_event_ids);
    v_streams  constant integer := cardinality(p_stream_ids);
    v_claims   constant integer := cardinality(p_claim_keys);
    v_none     text;
    v_head     bigint;
    v_position bigint;
    v_hash     bytea;
    v_time     timestamptz;
    v_micros   bytea;
    v_version  bigint;
    v_found    boolean;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'log.append_single needs read committed: a fixed snapshot would judge commands by an old log';
    end if;

    -- As expressions, here and below: "perform" would run a query for each.
    v_none := pg_advisory_xact_lock(1634627169, 1);

    if current_setting('synchronous_commit') = 'off' then
        v_none := set_config('synchronous_commit', 'on', true);
    end if;

    select e.position, e.entry_hash, e.recorded_at
    into v_head, v_hash, v_time
    from log.events e
    order by e.position desc
    limit 1;

    if not found then
        v_head := 0;
        v_hash := decode(repeat('00', 32), 'hex');
        v_time := '-infinity';
    end if;

    for i in 1 .. v_events loop
        if i = 1 or p_event_types[i] <> p_event_types[i - 1] or p_aggregate_types[i] <> p_aggregate_types[i - 1] then
            select true into v_found
            from log.event_schemas s
            where s.aggregate_type = p_aggregate_types[i] and s.event_type = p_event_types[i]
                and s.event_version = p_event_versions[i] and s.retired_at is null;
            if not found then
                return;
            end if;
        end if;
    end loop;

    for i in 1 .. v_streams loop
        select s.version into v_version
        from log.streams s
        where s.aggregate_type = p_stream_types[i] and s.aggregate_id = p_stream_ids[i];
        if coalesce(v_version, 0) <> p_stream_expected[i] then
            return;
        end if;
    end loop;

    for i in 1 .. cardinality(p_held_keys) loop
        select true into v_found from log.claims c where c.scope = p_held_scopes[i] and c.key = p_held_keys[i];
        if not found then
            return;
        end if;
    end loop;

    for i in 1 .. v_claims loop
        if p_claim_changes[i] = 'take' or p_claim_changes[i] = 'check' then
            select true into v_found from log.claims c where c.scope = p_claim_scopes[i] and c.key = p_claim_keys[i];
            if found then
                return;
            end if;
        end if;
    end loop;

    v_none := set_config('annals.appending', 'on', true);

    -- The first write is the last check: whoever repeats a command or a key finds a row in the way.
    insert into log.commands (command_id, first_position, last_position, principal, idempotency_key, request_hash)
    values (p_command_id, v_head + 1, v_head + v_events, p_principal, p_idempotency_key, p_request_hash)
    on conflict do nothing;
    if not found then
        v_none := set_config('annals.appending', 'off', true);
        return;
    end if;

    v_time := greatest(clock_timestamp(), v_time);
    v_micros := int8send((extract(epoch from v_time) * 1000000)::bigint);
    v_position := v_head;

    for i in 1 .. v_events loop
        v_position := v_position + 1;
        v_hash := sha256(v_hash || p_leaf_hashes[i] || int8send(v_position) || v_micros);
        insert into log.events (
            position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
            aggregate_id, event_type, event_version, actor, payload, metadata, leaf_hash, entry_hash
        )
        values (
            v_position, p_sequences[i], v_time, p_event_ids[i], p_command_id, p_correlation_id, p_causation_id,
            p_aggregate_types[i], p_aggregate_ids[i], p_event_types[i], p_event_versions[i], p_actor,
            p_payloads[i]::json, p_metadatas[i]::json, p_leaf_hashes[i], v_hash
        );
        if not found then
            raise exception 'an event was not written: something on log.events is in the way';
        end if;
    end loop;

    for i in 1 .. v_streams loop
        if p_stream_first[i] is null then
            null; -- only read
        elsif p_stream_expected[i] = 0 then
            insert into log.streams (aggregate_type, aggregate_id, version, first_position, last_position)
            values (
                p_stream_types[i], p_stream_ids[i], p_stream_last[i] - p_stream_first[i] + 1,
                v_head + p_stream_first[i], v_head + p_stream_last[i]
            );
        else
            update log.streams s
            set version = p_stream_expected[i] + p_stream_last[i] - p_stream_first[i] + 1,
                last_position = v_head + p_stream_last[i]
            where s.aggregate_type = p_stream_types[i] and s.aggregate_id = p_stream_ids[i];
        end if;
    end loop;

    -- As in a batch: everything is given up before anything is taken.
    for i in 1 .. v_claims loop
        if p_claim_changes[i] = 'release' then
            delete from log.claims c
            where c.scope = p_claim_scopes[i] and c.key = p_claim_keys[i]
                and c.owner_type = p_claim_types[i] and c.owner_id = p_claim_owners[i];
        elsif p_claim_changes[i] = 'release_all' then
            delete from log.claims c
            where c.owner_id = p_claim_owners[i] and c.owner_type = p_claim_types[i] and c.scope = p_claim_scopes[i];
        end if;
    end loop;

    for i in 1 .. v_claims loop
        if p_claim_changes[i] = 'take' then
            insert into log.claims (scope, key, owner_type, owner_id, taken_at_position)
            values (
                p_claim_scopes[i], p_claim_keys[i], p_claim_types[i], p_claim_owners[i], v_head + p_claim_events[i]
            );
        end if;
    end loop;

    v_none := set_config('annals.appending', 'off', true);
    v_none := pg_notify('annals_log', v_position::text);

    head := v_head;
    recorded_at := v_time;
    entry_hash := v_hash;
    return next;
end
$$;

-- Rights, as before: what the application role is given is a procedure, which every migration run calls again.

do $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid
        from pg_proc p
        where p.pronamespace = 'log'::regnamespace and p.proname in ('append', 'append_single', 'register_schemas')
    loop
        execute format('revoke all on function %s from public', v_function);
    end loop;
end
$$;

create or replace procedure log.grant_application()
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_function regprocedure;
begin
    if not exists (select from pg_roles where rolname = 'annals_app') then
        raise notice 'there is no role annals_app; the triggers alone protect the log';
        return;
    end if;

    grant usage on schema log, vault to annals_app;
    grant select on all tables in schema log to annals_app;
    for v_function in
        select p.oid
        from pg_proc p
        where p.pronamespace = 'log'::regnamespace and p.proname in ('append', 'append_single', 'register_schemas')
    loop
        execute format('grant execute on function %s to annals_app', v_function);
    end loop;
    grant execute on function log.position_at(timestamptz) to annals_app;
    -- A projection moves its checkpoint in the transaction that moves its rows.
    grant insert, update, delete on log.checkpoints to annals_app;
    grant select, insert, update on vault.subject_keys to annals_app;
    grant select, insert on vault.master_key to annals_app;
end
$$;

call log.grant_application();
