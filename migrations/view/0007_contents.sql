-- Read model `contents`: content nodes, their place among their siblings, and their field values. Neighbours are
-- never stored: they follow from (parent_id, order_key), so the tree and the pointers cannot disagree.
create table view.contents (
    content_id uuid primary key,
    realm text not null,
    datatype_id uuid,
    route_id uuid,
    parent_id uuid,
    order_key text collate "C" not null,
    status text not null,
    author_id uuid,
    date_created timestamptz,
    date_modified timestamptz,
    version bigint not null
);

create index contents_by_realm on view.contents (realm, content_id);
create index contents_by_parent on view.contents (parent_id, order_key, content_id) where parent_id is not null;
create index contents_by_route on view.contents (route_id) where route_id is not null;
create index contents_by_datatype on view.contents (datatype_id) where datatype_id is not null;

create table view.content_fields (
    content_field_id uuid primary key,
    realm text not null,
    content_id uuid not null,
    field_id uuid,
    route_id uuid,
    value text not null,
    author_id uuid,
    date_created timestamptz,
    date_modified timestamptz
);

create index content_fields_by_realm on view.content_fields (realm, content_field_id);
create index content_fields_by_content on view.content_fields (content_id, content_field_id);
create index content_fields_by_field on view.content_fields (field_id) where field_id is not null;
create index content_fields_by_route on view.content_fields (route_id) where route_id is not null;
