//! Each read model: what facts make of its rows, who may see them, and that a rebuild makes the same.

use annals_domain::{
    Actor, ContentEvent, ContentFieldId, ContentId, ContentStatus, DatatypeEvent, DatatypeId, Denied, Device,
    FieldEvent, FieldId, FieldKind, OrganizationEvent, OrganizationId, OrganizationRole, Personal, Place, Realm,
    RevocationReason, Role, RouteEvent, RouteId, SessionEvent, SessionId, SessionStatus, Timestamp, UserEvent, UserId,
};
use annals_eventstore::{Position, StreamId};
use annals_projections::audit_trail::{self, AuditFilter};
use annals_projections::datatype::DatatypeFieldFilter;
use annals_projections::{
    Page, QueryError, content, content_tree, datatype, field, organization, route, session, user,
};

use super::{
    Log, at, content_created, datatype_created, field_created, fresh, registered, route_created, system,
    user as signed_in, value,
};

fn is_denied<T>(answer: Result<T, QueryError>) -> bool {
    matches!(answer, Err(QueryError::Denied(_)))
}

#[tokio::test]
async fn an_account_is_shown_as_it_is_now() {
    let log = Log::new().await;
    let (ada, bob): (UserId, UserId) = (fresh(), fresh());
    log.write(ada, [registered(ada, "Ada")]).await;
    log.write(bob, [registered(bob, "Bob")]).await;
    log.write(
        ada,
        [UserEvent::ProfileChanged {
            name: Personal::new(ada, "Ada L.".to_owned()),
            at: at(1),
        }],
    )
    .await;
    log.write(
        bob,
        [UserEvent::Disabled {
            reason: "left".to_owned(),
            at: at(2),
        }],
    )
    .await;
    log.project().await;

    let row = user::by_id(&signed_in(ada, Role::Viewer), log.database(), ada)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.email.as_deref(), Some("ada@example.com"));
    assert_eq!(row.username.as_deref(), Some("Ada"));
    assert_eq!(row.name.as_deref(), Some("Ada L."));
    assert_eq!(
        (row.role, row.verified, row.disabled, row.version),
        (Role::Editor, false, false, 2)
    );
    assert_eq!((row.created_at, row.updated_at), (at(0), at(1)));
    let rows = user::by_ids(&system(), log.database(), &[bob, ada, fresh()])
        .await
        .unwrap();
    assert_eq!(rows.iter().map(|row| row.user_id).collect::<Vec<_>>(), [ada, bob]);
    assert_eq!(
        (rows[1].disabled, rows[1].disabled_reason.as_deref()),
        (true, Some("left"))
    );
    assert_eq!(user::by_id(&system(), log.database(), fresh()).await.unwrap(), None);

    assert!(is_denied(
        user::by_id(&signed_in(bob, Role::Editor), log.database(), ada).await
    ));
    assert!(is_denied(
        user::by_ids(&signed_in(bob, Role::Editor), log.database(), &[bob]).await
    ));

    log.write(bob, [UserEvent::Enabled { at: at(3) }]).await;
    log.project().await;
    let row = user::by_id(&system(), log.database(), bob).await.unwrap().unwrap();
    assert_eq!((row.disabled, row.disabled_reason, row.version), (false, None, 3));
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn an_erased_person_is_null_in_rebuilt_rows() {
    let log = Log::new().await;
    let ada: UserId = fresh();
    log.write(ada, [registered(ada, "Ada")]).await;
    log.store.vault().erase(ada.into()).await.unwrap();
    log.project().await;
    let row = user::by_id(&system(), log.database(), ada).await.unwrap().unwrap();
    assert_eq!((row.email, row.username, row.name), (None, None, None));
}

fn started(user_id: UserId, device: Device, second: i64) -> SessionEvent {
    SessionEvent::Started {
        user_id,
        refresh_digest: None,
        device: Personal::new(user_id, device),
        address: Some(Personal::new(user_id, "192.0.2.7".to_owned())),
        expires_at: at(second + 100),
        at: at(second),
    }
}

#[tokio::test]
async fn sessions_are_listed_latest_use_first_and_ended_ones_on_demand() {
    let log = Log::new().await;
    let ada: UserId = fresh();
    let ids: Vec<SessionId> = (0..4).map(|_| fresh()).collect();
    let device = Device {
        id: Some("d1".to_owned()),
        name: Some("Laptop".to_owned()),
        kind: "desktop".to_owned(),
        user_agent: Some("test/1".to_owned()),
    };
    for (second, id) in (0..).zip(&ids) {
        log.write(*id, [started(ada, device.clone(), second)]).await;
    }
    let refreshed = SessionEvent::Refreshed {
        refresh_digest: None,
        expires_at: at(1000),
        address: Some(Personal::new(ada, "198.51.100.1".to_owned())),
        at: at(50),
    };
    log.write(ids[0], [refreshed]).await;
    log.write(
        ids[1],
        [SessionEvent::Revoked {
            reason: RevocationReason::UserLogout,
            at: at(60),
        }],
    )
    .await;
    log.write(ids[2], [SessionEvent::Expired { at: at(200) }]).await;
    log.project().await;

    let ada_herself = signed_in(ada, Role::Viewer);
    let live = session::live_of(&ada_herself, log.database(), ada, false, at(70))
        .await
        .unwrap();
    assert_eq!(
        live.iter().map(|row| row.session_id).collect::<Vec<_>>(),
        [ids[0], ids[3]]
    );
    assert_eq!(live[0].address.as_deref(), Some("198.51.100.1"));
    assert_eq!(
        (live[0].refresh_count, live[0].expires_at, live[0].last_used_at),
        (1, at(1000), at(50))
    );
    assert_eq!(
        (&live[1].device, live[1].address.as_deref()),
        (&device, Some("192.0.2.7"))
    );

    // Nobody has noticed yet that the fourth has run out; the answer has.
    let all = session::live_of(&ada_herself, log.database(), ada, true, at(500))
        .await
        .unwrap();
    let status: Vec<_> = all.iter().map(|row| (row.session_id, row.status)).collect();
    assert_eq!(
        status,
        [
            (ids[0], SessionStatus::Live),
            (ids[3], SessionStatus::Expired),
            (ids[2], SessionStatus::Expired),
            (ids[1], SessionStatus::Revoked),
        ]
    );
    assert_eq!(
        (all[3].end_reason.as_deref(), all[3].ended_at),
        (Some("user_logout"), Some(at(60)))
    );

    let bob = signed_in(fresh(), Role::Editor);
    assert!(is_denied(
        session::live_of(&bob, log.database(), ada, true, at(0)).await
    ));
    assert_eq!(session::by_id(&bob, log.database(), ids[0], at(0)).await.unwrap(), None);
    assert!(
        session::by_id(&ada_herself, log.database(), ids[0], at(0))
            .await
            .unwrap()
            .is_some()
    );
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn an_organization_is_seen_by_its_members() {
    let log = Log::new().await;
    let (ada, bob): (UserId, UserId) = (fresh(), fresh());
    let id: OrganizationId = fresh();
    let founded = OrganizationEvent::Founded {
        name: "Engines".to_owned(),
        slug: "engines".to_owned(),
        at: at(0),
    };
    let joins = |user_id, role, second| OrganizationEvent::MemberAdded {
        user_id,
        role,
        at: at(second),
    };
    log.write(id, [founded, joins(ada, OrganizationRole::Owner, 0)]).await;
    log.project().await;
    log.write(
        id,
        [
            joins(bob, OrganizationRole::Viewer, 1),
            joins(bob, OrganizationRole::Admin, 2),
        ],
    )
    .await;
    log.project().await;

    let row = organization::by_id(&signed_in(bob, Role::Viewer), log.database(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.name.as_str(), row.slug.as_str(), row.version),
        ("Engines", "engines", 4)
    );
    let of_bob = organization::of_user(&signed_in(bob, Role::Viewer), log.database(), bob)
        .await
        .unwrap();
    assert_eq!((of_bob[0].role, of_bob[0].joined_at), (OrganizationRole::Admin, at(1)));
    assert_eq!(of_bob[0].organization, row);
    let stranger = signed_in(fresh(), Role::Viewer);
    assert_eq!(organization::by_id(&stranger, log.database(), id).await.unwrap(), None);
    assert!(is_denied(organization::of_user(&stranger, log.database(), bob).await));
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn attachments_go_with_their_datatype_and_with_their_field() {
    let log = Log::new().await;
    let (page, post): (DatatypeId, DatatypeId) = (fresh(), fresh());
    let (title, body): (FieldId, FieldId) = (fresh(), fresh());
    log.write(page, [datatype_created("Page", "ROOT")]).await;
    log.write(post, [datatype_created("Post", "post")]).await;
    log.write(title, [field_created(Some(page), "Title")]).await;
    log.write(body, [field_created(Some(page), "Body")]).await;
    let attached = |field_id, sort_order| DatatypeEvent::FieldAttached {
        datatype_field_id: fresh(),
        field_id,
        sort_order,
        at: at(1),
    };
    log.write(page, [attached(title, 1), attached(body, 2)]).await;
    log.write(post, [attached(title, 1), attached(body, 2)]).await;
    let below_page = DatatypeEvent::Changed {
        parent_id: Some(page),
        label: "Blog post".to_owned(),
        kind: "post".to_owned(),
        author_id: None,
        date_created: Some(Timestamp::MIN),
        date_modified: Some(Timestamp::MAX),
        at: at(2),
    };
    log.write(post, [below_page]).await;
    log.project().await;
    let editor = signed_in(fresh(), Role::Editor);
    let row = datatype::by_id(&editor, log.database(), post).await.unwrap().unwrap();
    assert_eq!(
        (row.label.as_str(), row.parent_id, row.version),
        ("Blog post", Some(page), 4)
    );
    assert_eq!(
        (row.date_created, row.date_modified),
        (Some(Timestamp::MIN), Some(Timestamp::MAX))
    );
    let all = async |filter| {
        datatype::fields(&editor, log.database(), Realm::Site, filter, None)
            .await
            .unwrap()
            .total
    };
    assert_eq!(all(DatatypeFieldFilter::default()).await, 4);
    assert_eq!(
        all(DatatypeFieldFilter {
            datatype_id: Some(page),
            field_id: None
        })
        .await,
        2
    );
    assert_eq!(
        all(DatatypeFieldFilter {
            datatype_id: Some(page),
            field_id: Some(body)
        })
        .await,
        1
    );

    log.write(body, [FieldEvent::Deleted { at: at(3) }]).await;
    log.write(page, [DatatypeEvent::Deleted { at: at(3) }]).await;
    log.project().await;
    let left = datatype::fields(
        &editor,
        log.database(),
        Realm::Site,
        DatatypeFieldFilter::default(),
        None,
    )
    .await;
    let left = left.unwrap().rows;
    assert_eq!(
        left.iter()
            .map(|row| (row.datatype_id, row.field_id))
            .collect::<Vec<_>>(),
        [(post, title)]
    );
    let kept = datatype::field_by_id(&editor, log.database(), left[0].datatype_field_id)
        .await
        .unwrap();
    assert_eq!(kept, Some(left[0].clone()));
    assert_eq!(datatype::by_id(&editor, log.database(), page).await.unwrap(), None);
    assert_eq!(
        datatype::by_id(&editor, log.database(), post)
            .await
            .unwrap()
            .unwrap()
            .parent_id,
        None
    );
    let title = field::by_id(&editor, log.database(), title).await.unwrap().unwrap();
    assert_eq!((title.kind, title.parent_id), (FieldKind::Text, None));
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn lists_come_in_pages_of_a_fixed_order() {
    let log = Log::new().await;
    let mut ids: Vec<RouteId> = (0..5).map(|_| fresh()).collect();
    for (id, slug) in ids.iter().zip(["/e", "/d", "/c", "/b", "/a"]) {
        log.write(*id, [route_created(slug)]).await;
    }
    log.project().await;
    ids.reverse();
    let editor = signed_in(fresh(), Role::Editor);
    let page = async |limit, offset| {
        let listed = route::list(&editor, log.database(), Realm::Site, Some(Page { limit, offset }))
            .await
            .unwrap();
        (
            listed.rows.iter().map(|row| row.route_id).collect::<Vec<_>>(),
            listed.total,
        )
    };
    assert_eq!(page(2, 0).await, (ids[..2].to_vec(), 5));
    assert_eq!(page(2, 4).await, (ids[4..].to_vec(), 5));
    assert_eq!(page(2, u64::MAX).await, (vec![], 5));
    let (datatype, title): (DatatypeId, FieldId) = (fresh(), fresh());
    log.write(datatype, [datatype_created("Page", "ROOT")]).await;
    log.write(title, [field_created(None, "Title")]).await;
    log.project().await;
    let datatypes = datatype::list(&editor, log.database(), Realm::Site, None)
        .await
        .unwrap();
    assert_eq!(
        (datatypes.rows[0].datatype_id, datatypes.rows.len(), datatypes.total),
        (datatype, 1, 1)
    );
    let fields = field::list(&editor, log.database(), Realm::Site, None).await.unwrap();
    assert_eq!(
        (fields.rows[0].field_id, fields.rows.len(), fields.total),
        (title, 1, 1)
    );
    let other = route::list(&editor, log.database(), Realm::Admin, None).await.unwrap();
    assert_eq!((other.rows.len(), other.total), (0, 0));
    let anonymous = annals_domain::Caller::anonymous(fresh());
    let refused = route::list(&anonymous, log.database(), Realm::Site, None).await;
    assert!(matches!(refused, Err(QueryError::Denied(Denied::Unauthenticated))));
    // Visitors may follow a path.
    let found = route::by_slug(&anonymous, log.database(), Realm::Site, &"/c".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(found.unwrap().route_id, ids[2]);
    assert!(is_denied(
        route::by_slug(&anonymous, log.database(), Realm::Admin, &"/c".parse().unwrap()).await
    ));
}

#[tokio::test]
async fn two_routes_may_exchange_their_slugs() {
    let log = Log::new().await;
    let (one, two): (RouteId, RouteId) = (fresh(), fresh());
    let changed = |slug: &str| RouteEvent::Changed {
        realm: Realm::Site,
        slug: slug.parse().unwrap(),
        title: "Changed".to_owned(),
        status: i64::MIN,
        author_id: None,
        date_created: None,
        date_modified: Some(at(1)),
        at: at(1),
    };
    log.write(one, [route_created("/one")]).await;
    log.write(two, [route_created("/two")]).await;
    log.project().await;
    log.write(one, [changed("/three")]).await;
    log.write(two, [changed("/one")]).await;
    log.write(one, [changed("/two")]).await;
    log.project().await;
    let by_slug = async |slug: &str| {
        route::by_slug(&system(), log.database(), Realm::Site, &slug.parse().unwrap())
            .await
            .unwrap()
    };
    assert_eq!(by_slug("/two").await.unwrap().route_id, one);
    let row = by_slug("/one").await.unwrap();
    assert_eq!(
        (row.route_id, row.title.as_str(), row.status, row.date_created),
        (two, "Changed", i64::MIN, None)
    );
    assert_eq!(by_slug("/three").await, None);
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn content_keeps_its_values_until_it_is_deleted() {
    let log = Log::new().await;
    let route: RouteId = fresh();
    let datatype: DatatypeId = fresh();
    let title: FieldId = fresh();
    let (page, child): (ContentId, ContentId) = (fresh(), fresh());
    let (first, second): (ContentFieldId, ContentFieldId) = (fresh(), fresh());
    log.write(route, [route_created("/")]).await;
    log.write(datatype, [datatype_created("Page", "ROOT")]).await;
    log.write(title, [field_created(Some(datatype), "Title")]).await;
    log.write(page, [content_created(page, None, Place::Last)]).await;
    log.write(child, [content_created(child, Some(page), Place::Last)])
        .await;
    let set = |set, removed| ContentEvent::FieldsChanged {
        set,
        removed,
        at: at(1),
    };
    log.write(
        page,
        [set(
            vec![value(first, Some(title), "Hello"), value(second, None, "x")],
            vec![],
        )],
    )
    .await;
    log.write(child, [set(vec![value(fresh(), Some(title), "Child")], vec![])])
        .await;
    let placed = |date_modified| ContentEvent::DetailsChanged {
        route_id: Some(route),
        datatype_id: Some(datatype),
        author_id: None,
        date_created: None,
        date_modified,
        at: at(2),
    };
    log.write(page, [placed(Some(at(2))), ContentEvent::Submitted { at: at(2) }])
        .await;
    log.write(child, [placed(None)]).await;
    log.project().await;
    log.write(page, [set(vec![value(first, Some(title), "Hello!")], vec![second])])
        .await;
    log.write(page, [ContentEvent::Published { at: at(3) }]).await;
    log.project().await;

    let editor = signed_in(fresh(), Role::Editor);
    let row = content::by_id(&editor, log.database(), page).await.unwrap().unwrap();
    assert_eq!((row.status, row.version), (ContentStatus::Published, 6));
    assert_eq!(
        (row.date_created, row.date_modified, row.first_child_id),
        (None, Some(at(2)), Some(child))
    );
    let values = content::fields(&editor, log.database(), page).await.unwrap();
    assert_eq!(
        values.iter().map(|value| value.value.as_str()).collect::<Vec<_>>(),
        ["Hello!"]
    );
    assert_eq!(
        content::field_by_id(&editor, log.database(), first).await.unwrap(),
        Some(values[0].clone())
    );
    assert_eq!(
        content::field_by_id(&editor, log.database(), second).await.unwrap(),
        None
    );
    assert_eq!(
        content::list_fields(&editor, log.database(), Realm::Site, None)
            .await
            .unwrap()
            .total,
        2
    );
    assert!(is_denied(
        content::by_id(&annals_domain::Caller::anonymous(fresh()), log.database(), page).await
    ));

    log.write(title, [FieldEvent::Deleted { at: at(4) }]).await;
    log.write(route, [RouteEvent::Deleted { at: at(4) }]).await;
    log.write(datatype, [DatatypeEvent::Deleted { at: at(4) }]).await;
    log.write(page, [ContentEvent::Deleted { at: at(4) }]).await;
    log.project().await;
    assert_eq!(content::by_id(&editor, log.database(), page).await.unwrap(), None);
    assert_eq!(content::fields(&editor, log.database(), page).await.unwrap(), []);
    let row = content::by_id(&editor, log.database(), child).await.unwrap().unwrap();
    assert_eq!((row.parent_id, row.route_id, row.datatype_id), (None, None, None));
    let values = content::fields(&editor, log.database(), child).await.unwrap();
    assert_eq!((values[0].value.as_str(), values[0].field_id), ("Child", None));
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn a_route_is_delivered_as_a_tree() {
    let log = Log::new().await;
    let route: RouteId = fresh();
    let (root, post): (DatatypeId, DatatypeId) = (fresh(), fresh());
    let (title, missing): (FieldId, FieldId) = (fresh(), fresh());
    log.write(route, [route_created("/blog")]).await;
    log.write(root, [datatype_created("Page", "ROOT")]).await;
    log.write(post, [datatype_created("Blog Post", "post")]).await;
    log.write(title, [field_created(Some(root), "Title")]).await;
    log.write(missing, [field_created(Some(root), "Subtitle")]).await;
    let nodes: Vec<ContentId> = (0..4).map(|_| fresh()).collect();
    for (index, node) in nodes.iter().enumerate() {
        let parent = (index > 0).then(|| nodes[0]);
        let ContentEvent::Created {
            content_id,
            realm,
            status,
            author_id,
            date_created,
            date_modified,
            at,
            ..
        } = content_created(*node, parent, Place::First)
        else {
            unreachable!()
        };
        let datatype_id = Some(if index == 0 { root } else { post });
        let (route_id, parent_id, place) = (Some(route), parent, Place::First);
        let created = ContentEvent::Created {
            content_id,
            realm,
            datatype_id,
            route_id,
            parent_id,
            place,
            status,
            author_id,
            date_created,
            date_modified,
            at,
        };
        let text = format!("Node {index}");
        let set = vec![value(fresh(), Some(title), &text)];
        log.write(
            *node,
            [
                created,
                ContentEvent::FieldsChanged {
                    set,
                    removed: vec![],
                    at,
                },
            ],
        )
        .await;
    }
    log.project().await;
    let anonymous = annals_domain::Caller::anonymous(fresh());
    let rows = content_tree::tree(&anonymous, log.database(), Realm::Site, route)
        .await
        .unwrap();
    assert_eq!(rows.len(), 4);
    let tree = annals_domain::format::build(rows);
    let top = tree.root.unwrap();
    assert_eq!(
        (top.content.content_data_id, top.datatype.kind.as_str(), tree.left_out),
        (nodes[0], "ROOT", 0)
    );
    let fields: Vec<(&str, &str)> = top
        .fields
        .iter()
        .map(|field| (field.label.as_str(), field.text()))
        .collect();
    assert_eq!(fields, [("Title", "Node 0"), ("Subtitle", "")]);
    assert!(top.fields[1].value.is_none());
    let children: Vec<ContentId> = top.children.iter().map(|child| child.content.content_data_id).collect();
    assert_eq!(children, [nodes[3], nodes[2], nodes[1]]);
    assert_eq!(top.content.first_child_id, Some(nodes[3]));
    for child in &top.children {
        let row = content::by_id(&system(), log.database(), child.content.content_data_id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(row.next_sibling_id, child.content.next_sibling_id);
        assert_eq!(row.prev_sibling_id, child.content.prev_sibling_id);
        assert_eq!(child.fields.len(), 1);
    }
    let other = content_tree::tree(&anonymous, log.database(), Realm::Site, fresh())
        .await
        .unwrap();
    assert_eq!(other, []);
    assert!(is_denied(
        content_tree::tree(&anonymous, log.database(), Realm::Admin, route).await
    ));
}

#[tokio::test]
async fn the_audit_trail_has_every_event_and_answers_every_filter() {
    let log = Log::new().await;
    let (ada, bob): (UserId, UserId) = (fresh(), fresh());
    let route: RouteId = fresh();
    log.write(ada, [registered(ada, "Ada")]).await;
    log.write_as(
        Actor::User(ada),
        route,
        [route_created("/a"), RouteEvent::Deleted { at: at(1) }],
    )
    .await;
    log.write_as(Actor::Anonymous, bob, [registered(bob, "Bob")]).await;
    log.project().await;

    let query = async |filter: AuditFilter| {
        let entries = audit_trail::query(&system(), log.database(), &filter).await.unwrap();
        entries.iter().map(|entry| entry.position.get()).collect::<Vec<_>>()
    };
    let all = audit_trail::query(&system(), log.database(), &AuditFilter::default())
        .await
        .unwrap();
    let records = log.store.read_after(Position::START, 100).await.unwrap();
    assert_eq!(all.len(), 4);
    for (entry, record) in all.iter().zip(&records) {
        assert_eq!(
            (entry.position, entry.stream_id, entry.version),
            (record.position, record.stream.id, record.version)
        );
        assert_eq!(
            (entry.event_type.as_str(), entry.recorded_at),
            (record.event.event_type(), record.recorded_at)
        );
        assert_eq!(
            (entry.event_id, &entry.actor),
            (record.metadata.event_id, &record.metadata.actor)
        );
        assert_eq!(entry.command_id, record.metadata.command_id);
        assert_eq!(entry.correlation_id, record.metadata.correlation_id);
        assert_eq!(entry.causation_id, record.metadata.causation_id);
        assert_eq!(entry.aggregate_type, record.stream.aggregate_type);
    }
    let by = AuditFilter::default;
    let stream = Some(StreamId::new("route", route));
    assert_eq!(
        query(AuditFilter {
            actor: Some(Actor::User(ada)),
            ..by()
        })
        .await,
        [2, 3]
    );
    assert_eq!(
        query(AuditFilter {
            actor: Some(Actor::Anonymous),
            ..by()
        })
        .await,
        [4]
    );
    assert_eq!(
        query(AuditFilter {
            aggregate_type: Some("user".to_owned()),
            ..by()
        })
        .await,
        [1, 4]
    );
    assert_eq!(query(AuditFilter { stream, ..by() }).await, [2, 3]);
    let elsewhere = AuditFilter {
        stream,
        aggregate_type: Some("user".to_owned()),
        ..by()
    };
    assert!(query(elsewhere).await.is_empty());
    assert_eq!(
        query(AuditFilter {
            types: vec!["route.deleted".to_owned()],
            ..by()
        })
        .await,
        [3]
    );
    assert_eq!(
        query(AuditFilter {
            correlation_id: Some(all[1].correlation_id),
            ..by()
        })
        .await,
        [2, 3]
    );
    assert_eq!(
        query(AuditFilter {
            from: Some(all[1].recorded_at),
            ..by()
        })
        .await
        .first(),
        Some(&2)
    );
    assert_eq!(
        query(AuditFilter {
            to: Some(all[0].recorded_at),
            ..by()
        })
        .await,
        [] as [u64; 0]
    );
    assert_eq!(
        query(AuditFilter {
            after: Some(Position(1)),
            limit: Some(2),
            ..by()
        })
        .await,
        [2, 3]
    );
    assert_eq!(
        query(AuditFilter {
            after: Some(Position(u64::MAX)),
            ..by()
        })
        .await,
        [] as [u64; 0]
    );

    let herself = signed_in(ada, Role::Viewer);
    let own = AuditFilter {
        actor: Some(Actor::User(ada)),
        ..by()
    };
    assert_eq!(
        audit_trail::query(&herself, log.database(), &own).await.unwrap().len(),
        2
    );
    assert!(is_denied(audit_trail::query(&herself, log.database(), &by()).await));
    let of_other = AuditFilter {
        actor: Some(Actor::User(bob)),
        ..by()
    };
    assert!(is_denied(audit_trail::query(&herself, log.database(), &of_other).await));
    log.assert_rebuild_equal().await;
}
