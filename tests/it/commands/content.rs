//! Content: references that exist, trees without cycles, values that belong to one node.

use annals_commands::content::{
    ContentDetails, ContentFieldRecord, ContentRecord, NewContent, add_field, change_details, change_fields, create,
    delete, move_to, put_field, remove_field, replace, set_status,
};
use annals_commands::datatype::{self, DatatypeRecord};
use annals_commands::field::{self, FieldRecord};
use annals_commands::route::{self, RouteRecord};
use annals_commands::user::disable;
use annals_commands::{CommandContext, CommandError};
use annals_domain::{
    Content, ContentFieldId, ContentId, ContentStatus, DatatypeId, FieldId, FieldKind, FieldValue, Place, Realm, Role,
    RouteId, Slug, UserId,
};

use super::{Fixture, assert_code, assert_refused, new_id, nobody, user};

async fn node(cx: &CommandContext<'_>, parent_id: Option<ContentId>) -> ContentId {
    create(
        cx,
        NewContent {
            parent_id,
            ..NewContent::default()
        },
    )
    .await
    .unwrap()
    .id
}

fn value(id: ContentFieldId, text: &str) -> FieldValue {
    FieldValue {
        content_field_id: id,
        field_id: None,
        route_id: None,
        value: text.to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

fn record(content_id: ContentId, text: &str) -> ContentFieldRecord {
    ContentFieldRecord {
        content_id,
        field_id: None,
        route_id: None,
        value: text.to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

async fn a_datatype(cx: &CommandContext<'_>) -> DatatypeId {
    let record = DatatypeRecord {
        parent_id: None,
        label: "Page".to_owned(),
        kind: "ROOT".to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    };
    datatype::create(cx, None, Realm::Site, record).await.unwrap().id
}

async fn a_route(cx: &CommandContext<'_>, slug: &str) -> RouteId {
    let record = RouteRecord {
        slug: Slug::parse(slug).unwrap(),
        title: String::new(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
    };
    route::create(cx, None, Realm::Site, record).await.unwrap().id
}

async fn a_field(cx: &CommandContext<'_>) -> FieldId {
    let record = FieldRecord {
        parent_id: None,
        label: "Title".to_owned(),
        data: String::new(),
        validation: String::new(),
        ui_config: String::new(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: None,
        date_modified: None,
    };
    field::create(cx, None, Realm::Site, record).await.unwrap().id
}

async fn load(fixture: &Fixture, id: ContentId) -> Content {
    fixture.commands.store().load::<Content>(id).await.unwrap().state
}

#[tokio::test]
async fn a_node_is_created_with_its_values_in_one_commit() {
    let fixture = Fixture::new().await;
    let author: UserId = fixture.register("ada@example.org").await.user_id;
    let cx = fixture.context(user(author, Role::Editor));
    let head = fixture.head().await;
    let id: ContentId = new_id();
    let first: ContentFieldId = new_id();
    let new = NewContent {
        content_id: Some(id),
        fields: vec![value(first, "Hello")],
        ..NewContent::default()
    };
    let made = create(&cx, new.clone()).await.unwrap();
    assert_eq!((made.id, made.version), (id, 2));
    assert_eq!(made.state.author_id, Some(author));
    assert_eq!(made.state.fields[&first].value, "Hello");
    assert_eq!(
        fixture.types_since(head).await,
        ["content.created", "content.fields_changed"]
    );
    assert_eq!(made.position, fixture.head().await);

    assert_code(create(&cx, new.clone()).await, "content.already_exists");
    let other = NewContent {
        content_id: None,
        ..new
    };
    assert_refused(
        create(&cx, other).await,
        "content.field_already_exists",
        "content_field_id",
    );
    delete(&cx, id, None).await.unwrap();
    let again = NewContent {
        content_id: Some(id),
        ..NewContent::default()
    };
    assert_code(create(&cx, again).await, "content.not_found");
}

#[tokio::test]
async fn what_is_not_there_or_was_deleted_cannot_be_referred_to() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (datatype_id, route_id, field_id) = (a_datatype(&cx).await, a_route(&cx, "/a").await, a_field(&cx).await);
    let (parent, neighbour, subject) = (node(&cx, None).await, node(&cx, None).await, node(&cx, None).await);
    let author = fixture.register("ada@example.org").await.user_id;
    datatype::delete(&cx, datatype_id, None).await.unwrap();
    route::delete(&cx, route_id, None).await.unwrap();
    field::delete(&cx, field_id, None).await.unwrap();
    delete(&cx, parent, None).await.unwrap();
    delete(&cx, neighbour, None).await.unwrap();
    disable(&cx, author, "left".to_owned(), None).await.unwrap();
    let head = fixture.head().await;

    for (parent, neighbour, datatype_id, route_id, field_id, author) in [
        (parent, neighbour, datatype_id, route_id, field_id, author),
        (new_id(), new_id(), new_id(), new_id(), new_id(), new_id()),
    ] {
        let none = NewContent::default;
        let after = Place::After { content_id: neighbour };
        let before = Place::Before { content_id: neighbour };
        let of = |text| FieldValue {
            field_id: Some(field_id),
            ..value(new_id(), text)
        };
        for (new, code, member) in [
            (
                NewContent {
                    parent_id: Some(parent),
                    ..none()
                },
                "content.not_found",
                "parent_id",
            ),
            (
                NewContent { place: after, ..none() },
                "content.not_found",
                "prev_sibling_id",
            ),
            (
                NewContent {
                    place: before,
                    ..none()
                },
                "content.not_found",
                "next_sibling_id",
            ),
            (
                NewContent {
                    datatype_id: Some(datatype_id),
                    ..none()
                },
                "datatype.not_found",
                "datatype_id",
            ),
            (
                NewContent {
                    route_id: Some(route_id),
                    ..none()
                },
                "route.not_found",
                "route_id",
            ),
            (
                NewContent {
                    author_id: Some(author),
                    ..none()
                },
                "user.not_found",
                "author_id",
            ),
            (
                NewContent {
                    fields: vec![of("x")],
                    ..none()
                },
                "field.not_found",
                "field_id",
            ),
        ] {
            assert_refused(create(&cx, new).await, code, member);
        }
        let details = ContentDetails::default;
        for (details, code, member) in [
            (
                ContentDetails {
                    datatype_id: Some(datatype_id),
                    ..details()
                },
                "datatype.not_found",
                "datatype_id",
            ),
            (
                ContentDetails {
                    route_id: Some(route_id),
                    ..details()
                },
                "route.not_found",
                "route_id",
            ),
            (
                ContentDetails {
                    author_id: Some(author),
                    ..details()
                },
                "user.not_found",
                "author_id",
            ),
        ] {
            assert_refused(change_details(&cx, subject, details, None).await, code, member);
            let record = ContentRecord {
                details,
                ..ContentRecord::default()
            };
            assert_refused(replace(&cx, subject, record, None).await, code, member);
        }
        assert_refused(
            move_to(&cx, subject, Some(parent), Place::Last, None).await,
            "content.not_found",
            "parent_id",
        );
        assert_refused(
            move_to(&cx, subject, None, after, None).await,
            "content.not_found",
            "prev_sibling_id",
        );
        assert_refused(
            change_fields(&cx, subject, vec![of("x")], vec![], None).await,
            "field.not_found",
            "field_id",
        );
        assert_refused(
            add_field(&cx, None, record(parent, "x")).await,
            "content.not_found",
            "content_data_id",
        );
        assert_code(
            set_status(&cx, parent, ContentStatus::Published, None).await,
            "content.not_found",
        );
        assert_code(delete(&cx, parent, None).await, "content.not_found");
    }
    assert_eq!(fixture.head().await, head);
}

#[tokio::test]
async fn what_was_deleted_since_does_not_keep_the_rest_from_being_changed() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (datatype_id, route_id) = (a_datatype(&cx).await, a_route(&cx, "/a").await);
    let parent = node(&cx, None).await;
    let new = NewContent {
        parent_id: Some(parent),
        datatype_id: Some(datatype_id),
        route_id: Some(route_id),
        ..NewContent::default()
    };
    let id = create(&cx, new).await.unwrap().id;
    datatype::delete(&cx, datatype_id, None).await.unwrap();
    route::delete(&cx, route_id, None).await.unwrap();
    delete(&cx, parent, None).await.unwrap();
    let details = ContentDetails {
        datatype_id: Some(datatype_id),
        route_id: Some(route_id),
        date_modified: Some(fixture.commands.now()),
        author_id: None,
        date_created: None,
    };
    let record = ContentRecord {
        parent_id: Some(parent),
        place: None,
        status: ContentStatus::Published,
        details,
        first_child: None,
    };
    let done = replace(&cx, id, record, None).await.unwrap();
    assert_eq!(done.version, 3);
}

#[tokio::test]
async fn a_whole_record_becomes_the_fewest_events() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (id, parent) = (node(&cx, None).await, node(&cx, None).await);
    let head = fixture.head().await;
    let mut record = ContentRecord::default();
    let same = replace(&cx, id, record, Some(1)).await.unwrap();
    assert_eq!((same.version, same.position), (1, head));

    record.status = ContentStatus::Pending;
    replace(&cx, id, record, Some(1)).await.unwrap();
    record.parent_id = Some(parent);
    replace(&cx, id, record, Some(2)).await.unwrap();
    replace(&cx, id, record, Some(3)).await.unwrap();
    record.place = Some(Place::First);
    replace(&cx, id, record, Some(3)).await.unwrap();
    record = ContentRecord {
        parent_id: None,
        place: None,
        status: ContentStatus::Draft,
        details: ContentDetails {
            date_created: Some(fixture.commands.now()),
            ..ContentDetails::default()
        },
        first_child: None,
    };
    let last = replace(&cx, id, record, Some(4)).await.unwrap();
    assert_eq!(last.version, 7);
    let types = fixture.types_since(head).await;
    let expected = [
        "content.submitted",
        "content.moved",
        "content.moved",
        "content.details_changed",
        "content.moved",
        "content.withdrawn",
    ];
    assert_eq!(types, expected);
    let records = fixture.since(head).await;
    assert_eq!(records[3].metadata.command_id, records[5].metadata.command_id);
    assert_code(replace(&cx, id, record, Some(6)).await, "version.stale");
    assert_code(replace(&cx, new_id(), record, None).await, "content.not_found");
}

#[tokio::test]
async fn a_status_is_set_once() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let id = node(&cx, None).await;
    let head = fixture.head().await;
    for status in [
        ContentStatus::Published,
        ContentStatus::Published,
        ContentStatus::Archived,
        ContentStatus::Draft,
    ] {
        assert_eq!(set_status(&cx, id, status, None).await.unwrap().state.status, status);
    }
    assert_eq!(
        fixture.types_since(head).await,
        ["content.published", "content.archived", "content.withdrawn"]
    );
    assert_code(
        set_status(&cx, id, ContentStatus::Published, Some(2)).await,
        "version.stale",
    );
}

#[tokio::test]
async fn a_node_does_not_come_to_hang_under_itself() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let a = node(&cx, None).await;
    let b = node(&cx, Some(a)).await;
    let c = node(&cx, Some(b)).await;
    let head = fixture.head().await;
    assert_refused(
        move_to(&cx, a, Some(a), Place::Last, None).await,
        "content.own_parent",
        "parent_id",
    );
    assert_refused(
        move_to(&cx, a, Some(b), Place::Last, None).await,
        "content.cycle",
        "parent_id",
    );
    assert_refused(
        move_to(&cx, a, Some(c), Place::Last, None).await,
        "content.cycle",
        "parent_id",
    );
    let record = ContentRecord {
        parent_id: Some(c),
        ..ContentRecord::default()
    };
    assert_refused(replace(&cx, a, record, None).await, "content.cycle", "parent_id");
    assert_eq!(fixture.head().await, head);
    let moved = move_to(&cx, c, Some(a), Place::First, Some(1)).await.unwrap();
    assert_eq!((moved.version, moved.state.parent_id), (2, Some(a)));
    assert_code(move_to(&cx, c, None, Place::First, Some(1)).await, "version.stale");
    // What hung under a deleted node hangs under nothing.
    delete(&cx, b, None).await.unwrap();
    let d = node(&cx, Some(a)).await;
    move_to(&cx, a, Some(c), Place::Last, None).await.unwrap_err();
    move_to(&cx, c, None, Place::Last, None).await.unwrap();
    move_to(&cx, a, Some(c), Place::Last, None).await.unwrap();
    move_to(&cx, c, Some(d), Place::Last, None).await.unwrap_err();
}

#[tokio::test]
async fn a_child_is_brought_to_the_front_with_its_parent() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (root, child) = (node(&cx, None).await, node(&cx, None).await);
    let head = fixture.head().await;
    let new = |child| NewContent {
        parent_id: Some(root),
        first_child: Some(child),
        ..NewContent::default()
    };
    let made = create(&cx, new(child)).await.unwrap();
    assert_eq!(load(&fixture, child).await.parent_id, Some(made.id));
    let records = fixture.since(head).await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].metadata.command_id, records[1].metadata.command_id);

    let head = fixture.head().await;
    assert_refused(create(&cx, new(root)).await, "content.cycle", "first_child_id");
    assert_refused(create(&cx, new(new_id())).await, "content.not_found", "first_child_id");
    let again = NewContent {
        content_id: Some(made.id),
        ..new(child)
    };
    assert_code(create(&cx, again).await, "content.already_exists");
    let record = |child| ContentRecord {
        parent_id: Some(root),
        first_child: Some(child),
        ..ContentRecord::default()
    };
    for (child, code) in [
        (made.id, "content.own_parent"),
        (root, "content.cycle"),
        (new_id(), "content.not_found"),
    ] {
        assert_refused(replace(&cx, made.id, record(child), None).await, code, "first_child_id");
    }
    let below = ContentRecord {
        parent_id: Some(child),
        first_child: Some(root),
        ..ContentRecord::default()
    };
    assert_code(replace(&cx, made.id, below, None).await, "content.cycle");
    assert_eq!(fixture.head().await, head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_moves_at_once_close_no_circle() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (a, b) = (node(&cx, None).await, node(&cx, None).await);
    let other: &'static _ = Box::leak(Box::new(fixture.other_process().await));
    let there = CommandContext {
        commands: other,
        caller: cx.caller,
    };
    for round in 0..30 {
        let left = tokio::spawn(async move { move_to(&cx, a, Some(b), Place::Last, None).await });
        let right = tokio::spawn(async move { move_to(&there, b, Some(a), Place::Last, None).await });
        let mut won = 0;
        for answer in [left.await.unwrap(), right.await.unwrap()] {
            match answer {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error.code(), "content.cycle", "round {round}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
        let parents = (load(&fixture, a).await.parent_id, load(&fixture, b).await.parent_id);
        assert!(
            matches!(parents, (Some(_), None) | (None, Some(_))),
            "round {round}: {parents:?}"
        );
        move_to(&cx, a, None, Place::Last, None).await.unwrap();
        move_to(&cx, b, None, Place::Last, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ring_of_moves_at_once_stays_open() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(node(&cx, None).await);
    }
    for round in 0..10 {
        let tasks: Vec<_> = (0..4)
            .map(|index| {
                let (id, parent) = (nodes[index], nodes[(index + 1) % 4]);
                tokio::spawn(async move { move_to(&cx, id, Some(parent), Place::Last, None).await })
            })
            .collect();
        let mut refused = 0;
        for task in tasks {
            if let Err(error) = task.await.unwrap() {
                assert_eq!(error.code(), "content.cycle", "round {round}");
                refused += 1;
            }
        }
        assert_eq!(refused, 1, "round {round}");
        for id in &nodes {
            let (mut steps, mut above) = (0, Some(*id));
            while let Some(next) = above {
                above = load(&fixture, next).await.parent_id;
                steps += 1;
                assert!(steps <= 4, "round {round}: a circle");
            }
        }
        for id in &nodes {
            move_to(&cx, *id, None, Place::Last, None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn values_are_changed_all_or_none() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let id = node(&cx, None).await;
    let (first, second): (ContentFieldId, ContentFieldId) = (new_id(), new_id());
    let set = vec![value(first, "1"), value(second, "2")];
    let done = change_fields(&cx, id, set.clone(), vec![], Some(1)).await.unwrap();
    assert_eq!(done.version, 2);
    let head = fixture.head().await;
    assert_eq!(
        change_fields(&cx, id, set.clone(), vec![], None).await.unwrap().version,
        2
    );
    assert_code(change_fields(&cx, id, set, vec![], Some(1)).await, "version.stale");
    for (set, removed, code, field) in [
        (
            vec![value(first, "3")],
            vec![new_id()],
            "content.field_not_found",
            "content_field_id",
        ),
        (
            vec![value(first, "3"), value(first, "4")],
            vec![],
            "content.field_repeated",
            "content_field_id",
        ),
        (
            vec![value(first, "3"), value(second, "a\0")],
            vec![],
            "content.field_value_invalid",
            "field_value",
        ),
    ] {
        assert_refused(change_fields(&cx, id, set, removed, None).await, code, field);
    }
    assert_eq!(fixture.head().await, head);
    let done = change_fields(&cx, id, vec![value(first, "3")], vec![second], None)
        .await
        .unwrap();
    assert_eq!(done.state.fields.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_one_node_at_once_are_all_made() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let id = node(&cx, None).await;
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let set = vec![value(new_id(), &number.to_string())];
            tokio::spawn(async move { change_fields(&cx, id, set, vec![], None).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(load(&fixture, id).await.fields.len(), 8);
}

#[tokio::test]
async fn a_value_is_found_by_its_own_name_and_moves_in_one_commit() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (here, there) = (node(&cx, None).await, node(&cx, None).await);
    let (id, added) = add_field(&cx, None, record(here, "1")).await.unwrap();
    assert_eq!(added.state.fields[&id].value, "1");
    let own: ContentFieldId = new_id();
    assert_eq!(add_field(&cx, Some(own), record(here, "own")).await.unwrap().0, own);

    let head = fixture.head().await;
    for taken in [here, there] {
        let answer = add_field(&cx, Some(id), record(taken, "2")).await;
        assert_refused(answer, "content.field_already_exists", "content_field_id");
    }
    assert_eq!(fixture.head().await, head);
    assert_eq!(put_field(&cx, id, record(here, "2")).await.unwrap().id, here);
    let moved = put_field(&cx, id, record(there, "3")).await.unwrap();
    assert_eq!((moved.id, moved.state.fields[&id].value.as_str()), (there, "3"));
    assert!(!load(&fixture, here).await.fields.contains_key(&id));
    let records = fixture.since(head).await;
    assert_eq!(records.len(), 3);
    assert_eq!(records[1].metadata.command_id, records[2].metadata.command_id);

    assert_refused(
        put_field(&cx, id, record(new_id(), "4")).await,
        "content.not_found",
        "content_data_id",
    );
    assert_code(
        put_field(&cx, new_id(), record(there, "4")).await,
        "content.field_not_found",
    );
    assert_eq!(remove_field(&cx, id).await.unwrap().id, there);
    assert_code(remove_field(&cx, id).await, "content.field_not_found");
    // Values go with their node.
    delete(&cx, here, None).await.unwrap();
    assert_code(put_field(&cx, own, record(there, "5")).await, "content.field_not_found");
    add_field(&cx, Some(own), record(there, "6")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_value_pulled_two_ways_is_in_one_place() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let nodes = [node(&cx, None).await, node(&cx, None).await, node(&cx, None).await];
    let (id, _) = add_field(&cx, None, record(nodes[0], "0")).await.unwrap();
    for round in 0..10 {
        let tasks = nodes
            .map(|target| tokio::spawn(async move { put_field(&cx, id, record(target, &target.to_string())).await }));
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let mut holders = 0;
        for id in nodes {
            holders += load(&fixture, id).await.fields.len();
        }
        assert_eq!(holders, 1, "round {round}");
    }
}

#[tokio::test]
async fn who_may_not_write_content_writes_nothing() {
    let fixture = Fixture::new().await;
    let system = fixture.system();
    let id = node(&system, None).await;
    let (field, _) = add_field(&system, None, record(id, "x")).await.unwrap();
    let head = fixture.head().await;
    for caller in [nobody(), user(new_id(), Role::Viewer)] {
        let cx = fixture.context(caller);
        let errors = [
            create(&cx, NewContent::default()).await.err(),
            change_fields(&cx, id, vec![value(new_id(), "x")], vec![], None)
                .await
                .err(),
            add_field(&cx, None, record(id, "x")).await.err(),
            put_field(&cx, field, record(id, "y")).await.err(),
            remove_field(&cx, field).await.err(),
            move_to(&cx, id, None, Place::First, None).await.err(),
            change_details(&cx, id, ContentDetails::default(), None).await.err(),
            set_status(&cx, id, ContentStatus::Published, None).await.err(),
            replace(&cx, id, ContentRecord::default(), None).await.err(),
            delete(&cx, id, None).await.err(),
        ];
        for error in errors {
            assert!(matches!(error, Some(CommandError::Denied(_))), "{error:?}");
        }
    }
    assert_eq!(fixture.head().await, head);
}
