-- Read model `datatypes`: datatypes, and the fields attached to them.
create table view.datatypes (
    datatype_id uuid primary key,
    realm text not null,
    parent_id uuid,
    label text not null,
    kind text not null,
    author_id uuid,
    date_created timestamptz,
    date_modified timestamptz,
    version bigint not null
);

create index datatypes_by_realm on view.datatypes (realm, datatype_id);
create index datatypes_by_parent on view.datatypes (parent_id) where parent_id is not null;

create table view.datatype_fields (
    datatype_field_id uuid primary key,
    realm text not null,
    datatype_id uuid not null,
    field_id uuid not null,
    sort_order bigint not null
);

create index datatype_fields_by_realm on view.datatype_fields (realm, datatype_field_id);
create index datatype_fields_by_datatype on view.datatype_fields (datatype_id, datatype_field_id);
create index datatype_fields_by_field on view.datatype_fields (field_id, datatype_field_id);
