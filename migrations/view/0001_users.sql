-- Read model `users`: one row per account. Personal columns are null once their subject is erased.
create table view.users (
    user_id uuid primary key,
    email text,
    username text,
    name text,
    role text not null,
    verified boolean not null,
    disabled boolean not null,
    disabled_reason text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version bigint not null
);
