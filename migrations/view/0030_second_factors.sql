-- Read model `second_factors`: one row per user who has ever set up a second factor.
create table view.second_factors (
    user_id uuid primary key,
    enabled_at timestamptz,
    backup_codes_left bigint not null,
    version bigint not null
);
