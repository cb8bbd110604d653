-- Read model `sessions`: one row per sign-in, kept after its end. A session past `expires_at` has ended too,
-- whether or not the row says so yet; queries compare with the present time.
create table view.sessions (
    session_id uuid primary key,
    user_id uuid not null,
    status text not null,
    device_id text,
    device_name text,
    device_kind text,
    user_agent text,
    address text,
    created_at timestamptz not null,
    last_used_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    end_reason text,
    refresh_count bigint not null,
    version bigint not null
);

create index sessions_of_user on view.sessions (user_id, last_used_at desc, session_id);
