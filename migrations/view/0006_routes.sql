-- Read model `routes`: slugs under which content is delivered. That a slug is taken once is decided by the log's
-- claims; the index is not unique, so that two routes may exchange slugs within one batch.
create table view.routes (
    route_id uuid primary key,
    realm text not null,
    slug text collate "C" not null,
    title text not null,
    status bigint not null,
    author_id uuid,
    date_created timestamptz,
    date_modified timestamptz,
    version bigint not null
);

create index routes_by_slug on view.routes (realm, slug, route_id);
