-- Read model `audit_trail`: who did what, when and why, one row per event of the log. Holds no payload.
create table view.audit_trail (
    position bigint primary key,
    recorded_at timestamptz not null,
    event_id uuid not null,
    actor text not null,
    aggregate_type text not null,
    stream_id uuid not null,
    version bigint not null,
    event_type text not null,
    command_id uuid not null,
    correlation_id uuid not null,
    causation_id uuid not null
);

create index audit_trail_by_actor on view.audit_trail (actor, position);
create index audit_trail_by_stream on view.audit_trail (stream_id, position);
create index audit_trail_by_type on view.audit_trail (event_type, position);
create index audit_trail_by_correlation on view.audit_trail (correlation_id, position);
create index audit_trail_by_time on view.audit_trail using brin (recorded_at);
