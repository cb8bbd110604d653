//! `/api/v1/datatype` and `/api/v1/datatypefields`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{MOMENT, NOBODY, Site, uuid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datatype_is_created_shown_changed_and_deleted() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let id = "01890A5DAC96774BBCCEB30209";
    let created = site
        .post(
            "/api/v1/datatype",
            json!({"datatype_id": id, "label": "Page", "type": "ROOT", "date_created": "2026-02-15T13:00:00.9+01:00",
                "date_modified": MOMENT, "unknown": {"member": 1}}),
        )
        .await;
    let position = created.position();
    let page = json!({"datatype_id": id, "parent_id": null, "label": "Page", "type": "ROOT", "author_id": me,
        "date_created": MOMENT, "date_modified": MOMENT});
    assert_eq!(created.with(201), page);
    assert_eq!(site.head().await, position);

    for path in [
        format!("/api/v1/datatype/{id}"),
        format!("/api/v1/datatype/?q={id}"),
        format!("/api/v1/datatype/{}", uuid(id)),
        format!("/api/v1/datatype/?q={}", uuid(id)),
        format!("/api/v1/datatype/?q={}", id.to_lowercase()),
    ] {
        assert_eq!(site.get(&path).await.with(200), page, "{path}");
    }

    let child = site
        .made(
            "/api/v1/datatype",
            "datatype_id",
            json!({"label": "Row", "parent_id": uuid(id)}),
        )
        .await;
    let changed = json!({"datatype_id": child, "parent_id": id, "label": "Column", "type": "", "author_id": me,
        "date_created": MOMENT, "date_modified": MOMENT});
    let body = json!({"datatype_id": {"String": child, "Valid": true}, "parent_id": {"String": id, "Valid": true},
        "label": {"String": "Column", "Valid": true}, "type": {"String": "", "Valid": false}, "author_id": uuid(&me),
        "date_created": MOMENT, "date_modified": MOMENT});
    for path in [
        "/api/v1/datatype/".to_owned(),
        format!("/api/v1/datatype/?q={child}"),
        format!("/api/v1/datatype/{child}"),
    ] {
        assert_eq!(site.put(&path, body.clone()).await.with(200), changed, "{path}");
        assert_eq!(
            site.get(&format!("/api/v1/datatype/{child}")).await.with(200),
            changed,
            "{path}"
        );
    }
    assert_eq!(site.get("/api/v1/datatype").await.with(200), json!([page, changed]));

    let deleted = site.delete(&format!("/api/v1/datatype/?q={child}")).await;
    assert_eq!(deleted.headers["content-type"], "application/json");
    assert_eq!(deleted.with(200), Value::Null);
    assert_eq!(
        site.get(&format!("/api/v1/datatype/{child}")).await.refused(404).0,
        "datatype.not_found"
    );
    assert_eq!(
        site.delete(&format!("/api/v1/datatype?id={}", uuid(id)))
            .await
            .with(200),
        format!("Deleted {id}")
    );
    assert_eq!(site.get("/api/v1/datatype").await.with(200), json!([]));
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_left_out_on_creation_are_now() {
    let site = Site::new().await;
    let made = site.post("/api/v1/datatype", json!({"label": "Page"})).await.with(201);
    for member in ["date_created", "date_modified"] {
        let text = made[member].as_str().unwrap();
        assert_eq!(text.len(), MOMENT.len(), "whole seconds: {text}");
        assert!(text > "2025" && text.ends_with('Z'), "{text}");
    }
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_an_array_or_a_page() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for label in ["a", "b", "c"] {
        ids.push(site.datatype(label, "").await);
    }
    let listed = |body: &Value| -> Vec<String> {
        body.as_array()
            .unwrap()
            .iter()
            .map(|row| row["datatype_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(listed(&site.get("/api/v1/datatype").await.with(200)), ids);
    for (query, expected, limit, offset) in [
        ("limit=2", &ids[..2], 2, 0),
        ("limit=2&offset=2", &ids[2..], 2, 2),
        ("offset=1", &ids[1..], 50, 1),
        ("limit=0", &ids[..], 50, 0),
        ("limit=-5&offset=-5", &ids[..], 50, 0),
        ("limit=many&offset=some", &ids[..], 50, 0),
        ("limit=", &ids[..], 50, 0),
        ("limit=100000", &ids[..], 1000, 0),
        ("limit=2&offset=99", &[], 2, 99),
    ] {
        let page = site.get(&format!("/api/v1/datatype?{query}")).await.with(200);
        assert_eq!(listed(&page["data"]), expected, "{query}");
        let bounds = json!({"data": page["data"], "total": 3, "limit": limit, "offset": offset});
        assert_eq!(page, bounds, "{query}");
    }
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_what_is_wrong_and_leave_no_event() {
    let site = Site::new().await;
    let id = site.datatype("Page", "ROOT").await;
    let by_path = format!("/api/v1/datatype/{id}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let invalid = "VALIDATION_ERROR";
    let unknown_by_path = format!("/api/v1/datatype/{NOBODY}");
    let unknown_by_query = format!("/api/v1/datatype/?q={}", uuid(NOBODY));
    site.refuses(&[
        (get.clone(), "/api/v1/datatype/", None, 400, invalid, Some("q")),
        (get.clone(), "/api/v1/datatype/?q=", None, 400, invalid, Some("q")),
        (get.clone(), "/api/v1/datatype/?q=abc", None, 400, invalid, Some("q")),
        (get.clone(), "/api/v1/datatype/abc", None, 400, invalid, Some("id")),
        (get.clone(), "/api/v1/datatype/?q=a%00b", None, 400, "BAD_REQUEST", None),
        (get.clone(), &unknown_by_path, None, 404, "datatype.not_found", None),
        (get.clone(), &unknown_by_query, None, 404, "datatype.not_found", None),
        (delete.clone(), "/api/v1/datatype", None, 400, invalid, Some("id")),
        (
            delete.clone(),
            "/api/v1/datatype?id=abc",
            None,
            400,
            invalid,
            Some("id"),
        ),
        (delete.clone(), &unknown_by_path, None, 404, "datatype.not_found", None),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": 7})),
            400,
            invalid,
            Some("label"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "datatype_id": "abc"})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "datatype_id": ""})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "parent_id": NOBODY})),
            400,
            "datatype.not_found",
            Some("parent_id"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "author_id": NOBODY})),
            400,
            "user.not_found",
            Some("author_id"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "date_created": "yesterday"})),
            400,
            invalid,
            Some("date_created"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "date_created": "2026-02-15T12:00:00"})),
            400,
            invalid,
            Some("date_created"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "a\u{0}b"})),
            400,
            invalid,
            Some("label"),
        ),
        (
            post.clone(),
            "/api/v1/datatype",
            Some(json!({"label": "x", "datatype_id": id})),
            409,
            "datatype.already_exists",
            None,
        ),
        (
            put.clone(),
            "/api/v1/datatype/",
            Some(json!({"label": "x"})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"label": "x", "datatype_id": NOBODY})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            put.clone(),
            &unknown_by_path,
            Some(json!({"label": "x"})),
            404,
            "datatype.not_found",
            None,
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"label": "x", "parent_id": id})),
            400,
            "datatype.own_parent",
            Some("parent_id"),
        ),
        (Method::PATCH, "/api/v1/datatype", None, 405, "METHOD_NOT_ALLOWED", None),
        (post.clone(), &by_path, Some(json!({})), 405, "METHOD_NOT_ALLOWED", None),
    ])
    .await;
    let allowed = site.call(Method::PATCH, "/api/v1/datatype", None).await;
    let mut methods: Vec<&str> = allowed.headers["allow"]
        .to_str()
        .unwrap()
        .split(',')
        .map(str::trim)
        .collect();
    methods.sort_unstable();
    assert_eq!(methods, ["DELETE", "GET", "HEAD", "POST"]);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_to_sign_in() {
    let site = Site::new().await;
    let before = site.head().await;
    let id = NOBODY;
    for resource in [
        "datatype",
        "fields",
        "datatypefields",
        "routes",
        "contentdata",
        "contentfields",
    ] {
        for (method, path) in [
            (Method::GET, format!("/api/v1/{resource}")),
            (Method::POST, format!("/api/v1/{resource}")),
            (Method::PUT, format!("/api/v1/{resource}/")),
            (Method::PUT, format!("/api/v1/{resource}/{id}")),
            (Method::DELETE, format!("/api/v1/{resource}/?q=nonsense")),
        ] {
            let answer = site.say(None, method.clone(), &path, Some(&json!({"label": 7}))).await;
            assert_eq!(answer.headers["www-authenticate"], "Bearer", "{method} {path}");
            assert_eq!(answer.refused(401).0, "UNAUTHORIZED", "{method} {path}");
        }
    }
    assert_eq!(site.head().await, before);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_are_attached_changed_moved_and_detached() {
    let site = Site::new().await;
    let (page, post) = (site.datatype("Page", "ROOT").await, site.datatype("Post", "post").await);
    let (title, body) = (
        site.field(&page, "Title", "text").await,
        site.field(&page, "Body", "richtext").await,
    );
    let id = "01890A5DAC96774BBCCEB30209";
    let attached = json!({"id": id, "datatype_id": page, "field_id": title, "sort_order": 2});
    let answer = site
        .post("/api/v1/datatypefields", json!({"id": uuid(id), "datatype_id": uuid(&page), "field_id": title, "sort_order": {"Int64": 2, "Valid": true}}))
        .await;
    assert_eq!(answer.with(201), attached);
    let other = site
        .post("/api/v1/datatypefields", json!({"datatype_id": post, "field_id": body}))
        .await
        .with(201);
    assert_eq!(other["sort_order"], 0);

    let list = async |query: &str| site.get(&format!("/api/v1/datatypefields{query}")).await.with(200);
    assert_eq!(list("").await, json!([attached, other]));
    assert_eq!(list(&format!("?datatype_id={}", uuid(&page))).await, json!([attached]));
    assert_eq!(list(&format!("?field_id={body}")).await, json!([other]));
    assert_eq!(list(&format!("?field_id={NOBODY}")).await, json!([]));
    // A page is of all attachments, whatever the filter says.
    let page_of_all = json!({"data": [attached, other], "total": 2, "limit": 50, "offset": 0});
    assert_eq!(list(&format!("?field_id={body}&limit=0")).await, page_of_all);

    // Its own parts anew, then another datatype.
    let changed = json!({"id": id, "datatype_id": page, "field_id": body, "sort_order": -3});
    assert_eq!(
        site.put("/api/v1/datatypefields/", changed.clone()).await.with(200),
        changed
    );
    let moved = json!({"id": id, "datatype_id": post, "field_id": body, "sort_order": 1});
    assert_eq!(
        site.put(&format!("/api/v1/datatypefields/{id}"), moved.clone())
            .await
            .with(200),
        moved
    );
    assert_eq!(list(&format!("?datatype_id={page}")).await, json!([]));
    assert_eq!(list(&format!("?datatype_id={post}")).await, json!([moved, other]));

    assert_eq!(
        site.delete(&format!("/api/v1/datatypefields?id={id}")).await.with(200),
        format!("Deleted {id}")
    );
    let other_id = other["id"].as_str().unwrap();
    assert_eq!(
        site.delete(&format!("/api/v1/datatypefields/?q={}", uuid(other_id)))
            .await
            .with(200),
        Value::Null
    );
    assert_eq!(list("").await, json!([]));

    let again = site
        .post("/api/v1/datatypefields", json!({"datatype_id": post, "field_id": body}))
        .await
        .with(201);
    let again = again["id"].as_str().unwrap();
    let invalid = "VALIDATION_ERROR";
    let (post_, put, delete, get) = (Method::POST, Method::PUT, Method::DELETE, Method::GET);
    let (by_path, gone) = (
        format!("/api/v1/datatypefields/{again}"),
        format!("/api/v1/datatypefields?id={id}"),
    );
    site.refuses(&[
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"field_id": body})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"label": "x", "datatype_id": post})),
            400,
            invalid,
            Some("field_id"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"label": "x", "datatype_id": null, "field_id": body})),
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"label": "x", "datatype_id": post, "field_id": body, "sort_order": "1"})),
            400,
            invalid,
            Some("sort_order"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"label": "x", "datatype_id": NOBODY, "field_id": body})),
            400,
            "datatype.not_found",
            Some("datatype_id"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"label": "x", "datatype_id": post, "field_id": NOBODY})),
            400,
            "field.not_found",
            Some("field_id"),
        ),
        (
            post_.clone(),
            "/api/v1/datatypefields",
            Some(json!({"id": again, "datatype_id": page, "field_id": body})),
            409,
            "datatype.attachment_already_exists",
            Some("id"),
        ),
        (
            put.clone(),
            "/api/v1/datatypefields/",
            Some(json!({"label": "x", "datatype_id": post, "field_id": body})),
            400,
            invalid,
            Some("id"),
        ),
        (
            put.clone(),
            "/api/v1/datatypefields/",
            Some(json!({"id": NOBODY, "datatype_id": post, "field_id": body})),
            404,
            "datatype.attachment_not_found",
            None,
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"label": "x", "datatype_id": NOBODY, "field_id": body})),
            400,
            "datatype.not_found",
            Some("datatype_id"),
        ),
        (delete.clone(), "/api/v1/datatypefields", None, 400, invalid, Some("id")),
        (delete.clone(), "/api/v1/datatypefields/", None, 400, invalid, Some("q")),
        (delete.clone(), &gone, None, 404, "datatype.attachment_not_found", None),
        (
            get.clone(),
            "/api/v1/datatypefields?datatype_id=abc",
            None,
            400,
            invalid,
            Some("datatype_id"),
        ),
        (
            get.clone(),
            "/api/v1/datatypefields?field_id=",
            None,
            400,
            invalid,
            Some("field_id"),
        ),
        (get.clone(), &by_path, None, 405, "METHOD_NOT_ALLOWED", None),
    ])
    .await;

    // A deleted datatype takes its attachments with it.
    site.delete(&format!("/api/v1/datatype/{post}")).await.with(200);
    assert_eq!(list("").await, json!([]));
    site.finish().await;
}
