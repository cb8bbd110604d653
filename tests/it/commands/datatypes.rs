//! Datatypes, fields, and the attachments between them.

use annals_commands::datatype::{self, AttachmentRecord, DatatypeRecord};
use annals_commands::field::{self, FieldRecord};
use annals_commands::{CommandContext, CommandError};
use annals_domain::{DatatypeFieldId, DatatypeId, FieldId, FieldKind, Realm, Role};

use super::{Fixture, assert_code, assert_refused, new_id, nobody, user};

fn record(label: &str) -> DatatypeRecord {
    DatatypeRecord {
        parent_id: None,
        label: label.to_owned(),
        kind: "ROOT".to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

fn field_record(label: &str) -> FieldRecord {
    FieldRecord {
        parent_id: None,
        label: label.to_owned(),
        data: String::new(),
        validation: String::new(),
        ui_config: String::new(),
        kind: FieldKind::Text,
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

async fn make(cx: &CommandContext<'_>, label: &str) -> DatatypeId {
    datatype::create(cx, None, Realm::Site, record(label)).await.unwrap().id
}

async fn make_field(cx: &CommandContext<'_>, label: &str) -> FieldId {
    field::create(cx, None, Realm::Site, field_record(label))
        .await
        .unwrap()
        .id
}

#[tokio::test]
async fn a_datatype_is_created_replaced_and_deleted() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let id: DatatypeId = new_id();
    let page = datatype::create(&cx, Some(id), Realm::Site, record("Page"))
        .await
        .unwrap();
    assert_eq!((page.id, page.version), (id, 1));
    assert_eq!(page.state.date_modified, Some(fixture.commands.now()));
    assert_code(
        datatype::create(&cx, Some(id), Realm::Site, record("Page")).await,
        "datatype.already_exists",
    );
    let created = page.state.date_created;
    fixture.clock.advance_seconds(60);
    let renamed = datatype::replace(&cx, id, record("Article"), Some(1)).await.unwrap();
    assert_eq!(renamed.state.label, "Article");
    assert_eq!(renamed.state.date_created, created);
    assert_eq!(renamed.state.date_modified, Some(fixture.commands.now()));
    assert_code(
        datatype::replace(&cx, id, record("Late"), Some(1)).await,
        "version.stale",
    );
    assert_code(
        datatype::replace(&cx, new_id(), record("None"), None).await,
        "datatype.not_found",
    );
    datatype::delete(&cx, id, None).await.unwrap();
    assert_code(
        datatype::replace(&cx, id, record("Gone"), None).await,
        "datatype.not_found",
    );
    assert_code(
        datatype::create(&cx, Some(id), Realm::Site, record("Again")).await,
        "datatype.not_found",
    );
}

#[tokio::test]
async fn datatypes_never_belong_under_themselves() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (a, b) = (make(&cx, "A").await, make(&cx, "B").await);
    let under = |parent_id| DatatypeRecord {
        parent_id: Some(parent_id),
        ..record("Child")
    };
    assert_refused(
        datatype::replace(&cx, a, under(a), None).await,
        "datatype.own_parent",
        "parent_id",
    );
    let own: DatatypeId = new_id();
    assert_refused(
        datatype::create(&cx, Some(own), Realm::Site, under(own)).await,
        "datatype.own_parent",
        "parent_id",
    );
    datatype::replace(&cx, a, under(b), None).await.unwrap();
    assert_refused(
        datatype::replace(&cx, b, under(a), None).await,
        "datatype.cycle",
        "parent_id",
    );
    assert_refused(
        datatype::replace(&cx, b, under(new_id()), None).await,
        "datatype.not_found",
        "parent_id",
    );
    assert_refused(
        datatype::create(&cx, None, Realm::Site, under(new_id())).await,
        "datatype.not_found",
        "parent_id",
    );
    // A parent that was deleted since does not keep the rest from being changed.
    datatype::delete(&cx, b, None).await.unwrap();
    datatype::replace(
        &cx,
        a,
        DatatypeRecord {
            label: "Other".to_owned(),
            ..under(b)
        },
        None,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_field_is_created_replaced_and_deleted() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let page = make(&cx, "Page").await;
    let made = field::create(
        &cx,
        None,
        Realm::Site,
        FieldRecord {
            parent_id: Some(page),
            ..field_record("Title")
        },
    )
    .await;
    let made = made.unwrap();
    assert_eq!(made.state.validation, "{}");
    datatype::delete(&cx, page, None).await.unwrap();
    let renamed = FieldRecord {
        parent_id: Some(page),
        ..field_record("Headline")
    };
    field::replace(&cx, made.id, renamed.clone(), Some(1)).await.unwrap();
    assert_refused(
        field::create(&cx, None, Realm::Site, renamed).await,
        "datatype.not_found",
        "parent_id",
    );
    assert_code(
        field::create(&cx, Some(made.id), Realm::Site, field_record("X")).await,
        "field.already_exists",
    );
    field::delete(&cx, made.id, None).await.unwrap();
    assert_code(field::delete(&cx, made.id, None).await, "field.not_found");
}

#[tokio::test]
async fn an_attachment_moves_between_datatypes_in_one_commit() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (page, post) = (make(&cx, "Page").await, make(&cx, "Post").await);
    let (title, body) = (make_field(&cx, "Title").await, make_field(&cx, "Body").await);
    let at = |datatype_id, field_id, sort_order| AttachmentRecord {
        datatype_id,
        field_id,
        sort_order,
    };
    let (id, attached) = datatype::attach_field(&cx, None, at(page, title, 1)).await.unwrap();
    assert_eq!(attached.state.attachments[&id].field_id, title);

    let head = fixture.head().await;
    datatype::replace_attachment(&cx, id, at(page, title, 1)).await.unwrap();
    assert_eq!(fixture.head().await, head);
    datatype::replace_attachment(&cx, id, at(page, body, 2)).await.unwrap();
    let moved = datatype::replace_attachment(&cx, id, at(post, body, 3)).await.unwrap();
    assert_eq!(moved.id, post);
    assert_eq!(moved.state.attachments[&id].sort_order, 3);
    let records = fixture.since(head).await;
    let types: Vec<_> = records.iter().map(|record| record.event.event_type()).collect();
    let expected = [
        "datatype.field_attachment_changed",
        "datatype.field_detached",
        "datatype.field_attached",
    ];
    assert_eq!(types, expected);
    assert_eq!(records[1].metadata.command_id, records[2].metadata.command_id);

    // Its name stays one thing's.
    let head = fixture.head().await;
    assert_code(
        datatype::attach_field(&cx, Some(id), at(page, title, 1)).await,
        "datatype.attachment_already_exists",
    );
    assert_code(
        datatype::attach_field(&cx, Some(id), at(post, title, 1)).await,
        "datatype.attachment_already_exists",
    );
    let gone: DatatypeFieldId = new_id();
    assert_code(
        datatype::replace_attachment(&cx, gone, at(post, title, 1)).await,
        "datatype.attachment_not_found",
    );
    assert_code(datatype::detach_field(&cx, gone).await, "datatype.attachment_not_found");
    for (record, code, field) in [
        (at(new_id(), title, 1), "datatype.not_found", "datatype_id"),
        (at(post, new_id(), 1), "field.not_found", "field_id"),
    ] {
        assert_refused(datatype::replace_attachment(&cx, id, record).await, code, field);
        assert_refused(datatype::attach_field(&cx, None, record).await, code, field);
    }
    assert_eq!(fixture.head().await, head);

    // A field deleted since stays where it is attached, and is attached nowhere else.
    field::delete(&cx, body, None).await.unwrap();
    datatype::replace_attachment(&cx, id, at(page, body, 4)).await.unwrap();
    assert_refused(
        datatype::attach_field(&cx, None, at(page, body, 5)).await,
        "field.not_found",
        "field_id",
    );
    datatype::detach_field(&cx, id).await.unwrap();
    assert_code(datatype::detach_field(&cx, id).await, "datatype.attachment_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attachment_pulled_two_ways_is_in_one_place() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let (page, post, news) = (
        make(&cx, "Page").await,
        make(&cx, "Post").await,
        make(&cx, "News").await,
    );
    let title = make_field(&cx, "Title").await;
    let at = move |datatype_id| AttachmentRecord {
        datatype_id,
        field_id: title,
        sort_order: 1,
    };
    let (id, _) = datatype::attach_field(&cx, None, at(page)).await.unwrap();
    for _ in 0..10 {
        let tasks = [post, news, page]
            .map(|target| tokio::spawn(async move { datatype::replace_attachment(&cx, id, at(target)).await }));
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let mut holders = 0;
        for datatype in [page, post, news] {
            let loaded = fixture
                .commands
                .store()
                .load::<annals_domain::Datatype>(datatype)
                .await
                .unwrap();
            holders += loaded.state.attachments.len();
        }
        assert_eq!(holders, 1);
    }
}

#[tokio::test]
async fn who_may_not_write_datatypes_writes_nothing() {
    let fixture = Fixture::new().await;
    let system = fixture.system();
    let (page, title) = (make(&system, "Page").await, make_field(&system, "Title").await);
    let at = AttachmentRecord {
        datatype_id: page,
        field_id: title,
        sort_order: 1,
    };
    let (id, _) = datatype::attach_field(&system, None, at).await.unwrap();
    let head = fixture.head().await;
    for caller in [nobody(), user(new_id(), Role::Viewer)] {
        let cx = fixture.context(caller);
        let errors = [
            datatype::create(&cx, None, Realm::Site, record("X")).await.err(),
            datatype::replace(&cx, page, record("X"), None).await.err(),
            datatype::delete(&cx, page, None).await.err(),
            datatype::attach_field(&cx, None, at).await.err(),
            datatype::replace_attachment(&cx, id, at).await.err(),
            datatype::detach_field(&cx, id).await.err(),
            field::create(&cx, None, Realm::Site, field_record("X")).await.err(),
            field::replace(&cx, title, field_record("X"), None).await.err(),
            field::delete(&cx, title, None).await.err(),
        ];
        for error in errors {
            assert!(matches!(error, Some(CommandError::Denied(_))), "{error:?}");
        }
    }
    assert_eq!(fixture.head().await, head);
}
