-- Read model `organizations`: organizations and who belongs to them.
create table view.organizations (
    organization_id uuid primary key,
    name text not null,
    slug text not null,
    created_at timestamptz not null,
    version bigint not null
);

create table view.organization_members (
    organization_id uuid not null,
    user_id uuid not null,
    role text not null,
    joined_at timestamptz not null,
    primary key (organization_id, user_id)
);

create index organization_members_of_user on view.organization_members (user_id, joined_at, organization_id);
