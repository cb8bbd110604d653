//! `/api/v1/routes`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{MOMENT, NOBODY, Site, uuid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_created_shown_changed_and_deleted() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let id = "01890A5DAC96774BBCCEB30209";
    let dates = |mut body: Value| {
        body["date_created"] = json!(MOMENT);
        body["date_modified"] = json!(MOMENT);
        body
    };
    let created = site
        .post(
            "/api/v1/routes",
            dates(json!({"route_id": id, "slug": "/home", "title": "Home", "status": {"Int64": 1, "Valid": true}})),
        )
        .await
        .with(201);
    let home = dates(json!({"route_id": id, "slug": "/home", "title": "Home", "status": 1, "author_id": me}));
    assert_eq!(created, home);
    for path in [
        format!("/api/v1/routes/{}", uuid(id)),
        format!("/api/v1/routes/?q={id}"),
    ] {
        assert_eq!(site.get(&path).await.with(200), home, "{path}");
    }

    // By its present path, as the origin does; then by its id, in the body and in the URI.
    let body = dates(json!({"slug": "/start", "slug_2": "/home", "title": "Start"}));
    let start = dates(json!({"route_id": id, "slug": "/start", "title": "Start", "status": 0, "author_id": me}));
    assert_eq!(site.put("/api/v1/routes/", body).await.with(200), start);
    let body = dates(json!({"route_id": id, "slug": "/", "slug_2": {"String": "", "Valid": false}, "title": "Root"}));
    let root = dates(json!({"route_id": id, "slug": "/", "title": "Root", "status": 0, "author_id": me}));
    assert_eq!(site.put("/api/v1/routes/", body.clone()).await.with(200), root);
    assert_eq!(site.put(&format!("/api/v1/routes/?q={id}"), body).await.with(200), root);

    // A path that was given up is free again.
    let early = site.route("/a/home").await;
    site.route("/home").await;
    let slugs: Vec<Value> = site
        .get("/api/v1/routes")
        .await
        .with(200)
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["slug"].clone())
        .collect();
    assert_eq!(slugs, ["/", "/a/home", "/home"], "by slug");
    let page = site.get("/api/v1/routes?limit=1&offset=1").await.with(200);
    assert_eq!(
        (&page["data"][0]["route_id"], &page["total"]),
        (&json!(early), &json!(3))
    );

    assert_eq!(
        site.delete(&format!("/api/v1/routes/?q={id}")).await.with(200),
        Value::Null
    );
    assert_eq!(
        site.get(&format!("/api/v1/routes/{id}")).await.refused(404).0,
        "route.not_found"
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_what_is_wrong_and_leave_no_event() {
    let site = Site::new().await;
    let (id, other) = (site.route("/home").await, site.route("/other").await);
    let by_path = format!("/api/v1/routes/{other}");
    let (post, put, delete) = (Method::POST, Method::PUT, Method::DELETE);
    let (invalid, path) = ("VALIDATION_ERROR", "/api/v1/routes");
    let mut refusals = vec![
        (
            post.clone(),
            path,
            Some(json!({"title": "x"})),
            400,
            invalid,
            Some("slug"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"slug": "/x", "status": "1"})),
            400,
            invalid,
            Some("status"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"slug": "/x", "status": 1.5})),
            400,
            invalid,
            Some("status"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"slug": "/home"})),
            409,
            "route.slug_taken",
            Some("slug"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"slug": "/x", "route_id": id})),
            409,
            "route.already_exists",
            None,
        ),
        (
            put.clone(),
            "/api/v1/routes/",
            Some(json!({"slug": "/x"})),
            400,
            invalid,
            Some("route_id"),
        ),
        (
            put.clone(),
            "/api/v1/routes/",
            Some(json!({"slug": "/x", "slug_2": "/nowhere"})),
            404,
            "route.not_found",
            None,
        ),
        (
            put.clone(),
            "/api/v1/routes/",
            Some(json!({"slug": "/x", "route_id": NOBODY})),
            404,
            "route.not_found",
            None,
        ),
        (
            put.clone(),
            "/api/v1/routes/",
            Some(json!({"slug": "/home", "slug_2": "/other"})),
            409,
            "route.slug_taken",
            Some("slug"),
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"slug": "/x", "route_id": id})),
            400,
            invalid,
            Some("route_id"),
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"slug": "/x", "slug_2": "x"})),
            400,
            invalid,
            Some("slug_2"),
        ),
        (
            delete.clone(),
            "/api/v1/routes/?q=%2Fhome",
            None,
            400,
            invalid,
            Some("q"),
        ),
    ];
    for slug in ["", "home", "/Home", "/a//b", "/a/", "/a-", "/a b", "/é", "/a?b"] {
        refusals.push((
            post.clone(),
            path,
            Some(json!({"slug": slug})),
            400,
            invalid,
            Some("slug"),
        ));
    }
    site.refuses(&refusals).await;
    let long = json!({"slug": format!("/{}", "a".repeat(255))});
    site.refuses(&[(post, path, Some(long), 400, invalid, Some("slug"))])
        .await;
    site.finish().await;
}
