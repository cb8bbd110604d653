//! `/api/v1/fields`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{MOMENT, NOBODY, Site, uuid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_is_created_shown_changed_and_deleted() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let page = site.datatype("Page", "ROOT").await;
    let id = "01890A5DAC96774BBCCEB30209";
    let created = site
        .post(
            "/api/v1/fields",
            json!({"field_id": id, "parent_id": page, "label": "Title", "data": "d", "validation": "", "ui_config": "{\"a\":1}",
                "type": "text", "date_created": MOMENT, "date_modified": MOMENT}),
        )
        .await
        .with(201);
    let title = json!({"field_id": id, "parent_id": page, "label": "Title", "data": "d", "validation": "{}",
        "ui_config": "{\"a\":1}", "type": "text", "author_id": me, "date_created": MOMENT, "date_modified": MOMENT});
    assert_eq!(created, title);
    for path in [
        format!("/api/v1/fields/{id}"),
        format!("/api/v1/fields/?q={}", uuid(id)),
    ] {
        assert_eq!(site.get(&path).await.with(200), title, "{path}");
    }
    let body = json!({"field_id": id, "parent_id": {"String": "", "Valid": false}, "label": "Count", "type": "number",
        "date_created": MOMENT, "date_modified": MOMENT});
    let count = json!({"field_id": id, "parent_id": null, "label": "Count", "data": "", "validation": "{}", "ui_config": "{}",
        "type": "number", "author_id": me, "date_created": MOMENT, "date_modified": MOMENT});
    assert_eq!(site.put("/api/v1/fields/", body.clone()).await.with(200), count);
    assert_eq!(
        site.put(&format!("/api/v1/fields/{}", uuid(id)), body).await.with(200),
        count
    );
    assert_eq!(site.get("/api/v1/fields").await.with(200), json!([count]));
    let page_of = json!({"data": [count], "total": 1, "limit": 1, "offset": 0});
    assert_eq!(site.get("/api/v1/fields?limit=1").await.with(200), page_of);
    assert_eq!(
        site.delete(&format!("/api/v1/fields/?q={id}")).await.with(200),
        Value::Null
    );
    assert_eq!(
        site.get(&format!("/api/v1/fields/{id}")).await.refused(404).0,
        "field.not_found"
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_the_contract_is_taken() {
    let site = Site::new().await;
    for kind in [
        "text", "textarea", "number", "date", "datetime", "boolean", "select", "media", "relation", "json", "richtext",
        "slug", "email", "url",
    ] {
        let made = site
            .post("/api/v1/fields", json!({"label": kind, "type": kind}))
            .await
            .with(201);
        assert_eq!(made["type"], kind);
    }
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_what_is_wrong_and_leave_no_event() {
    let site = Site::new().await;
    let id = site
        .made("/api/v1/fields", "field_id", json!({"label": "Title", "type": "text"}))
        .await;
    let by_path = format!("/api/v1/fields/{id}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let invalid = "VALIDATION_ERROR";
    site.refuses(&[
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x"})),
            400,
            invalid,
            Some("type"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x", "type": "image"})),
            400,
            invalid,
            Some("type"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x", "type": null})),
            400,
            invalid,
            Some("type"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x", "type": "text", "parent_id": NOBODY})),
            400,
            "datatype.not_found",
            Some("parent_id"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x", "type": "text", "validation": {}})),
            400,
            invalid,
            Some("validation"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x", "type": "text", "field_id": id})),
            409,
            "field.already_exists",
            None,
        ),
        (
            put.clone(),
            "/api/v1/fields/",
            Some(json!({"label": "x", "type": "text"})),
            400,
            invalid,
            Some("field_id"),
        ),
        (
            put.clone(),
            "/api/v1/fields/",
            Some(json!({"label": "x", "type": "text", "field_id": NOBODY})),
            404,
            "field.not_found",
            None,
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"type": "text"})),
            400,
            invalid,
            Some("label"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": " ", "type": "text"})),
            400,
            invalid,
            Some("label"),
        ),
        (
            post.clone(),
            "/api/v1/fields",
            Some(json!({"label": "x".repeat(256), "type": "text"})),
            400,
            invalid,
            Some("label"),
        ),
        (put.clone(), &by_path, Some(json!([])), 400, invalid, None),
        (get.clone(), "/api/v1/fields/?q=short", None, 400, invalid, Some("q")),
        (delete.clone(), "/api/v1/fields", None, 405, "METHOD_NOT_ALLOWED", None),
        (delete.clone(), "/api/v1/fields/", None, 400, invalid, Some("q")),
    ])
    .await;
    site.finish().await;
}
