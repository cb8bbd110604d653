-- Read model `fields`: field definitions.
create table view.fields (
    field_id uuid primary key,
    realm text not null,
    parent_id uuid,
    label text not null,
    data text not null,
    validation text not null,
    ui_config text not null,
    kind text not null,
    author_id uuid,
    date_created timestamptz,
    date_modified timestamptz,
    version bigint not null
);

create index fields_by_realm on view.fields (realm, field_id);
create index fields_by_parent on view.fields (parent_id, field_id) where parent_id is not null;
