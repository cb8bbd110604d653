//! `/api/v1/contentdata` and `/api/v1/contentfields`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{MOMENT, NOBODY, Site, uuid};

/// A node as the contract shows it, alone at the top.
fn node(id: &str, author: &str) -> Value {
    json!({"content_data_id": id, "parent_id": null, "first_child_id": null, "next_sibling_id": null, "prev_sibling_id": null,
        "route_id": null, "datatype_id": null, "author_id": author, "status": "draft", "date_created": null, "date_modified": null})
}

fn with(mut body: Value, members: Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The children of a node in the order that its pointers say, checked in both directions.
async fn children(site: &Site, parent: &str) -> Vec<String> {
    let get = async |id: &str| site.get(&format!("/api/v1/contentdata/{id}")).await.with(200);
    let mut found = Vec::new();
    let mut next = get(parent).await["first_child_id"].clone();
    let mut previous = Value::Null;
    while let Some(id) = next.as_str() {
        let child = get(id).await;
        assert_eq!(child["parent_id"], parent);
        assert_eq!(child["prev_sibling_id"], previous);
        found.push(id.to_owned());
        assert!(found.len() <= 100, "a circle: {found:?}");
        (previous, next) = (json!(id), child["next_sibling_id"].clone());
    }
    found
}

/// A node and its children `a`, `b`, `c` by their ids.
async fn family(site: &Site) -> (String, [String; 3]) {
    let parent = site.content(json!({"status": "draft"})).await;
    let mut ids = [const { String::new() }; 3];
    for id in &mut ids {
        *id = site.content(json!({"status": "draft", "parent_id": parent})).await;
    }
    (parent, ids)
}

/// Shows a node, changes members of what was shown, writes that back.
async fn edit(site: &Site, id: &str, members: Value) -> Value {
    let shown = site.get(&format!("/api/v1/contentdata/{id}")).await.with(200);
    site.put("/api/v1/contentdata/", with(shown, members)).await.with(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_created_shown_changed_and_deleted() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let (page, route) = (site.datatype("Page", "ROOT").await, site.route("/home").await);
    let id = "01890A5DAC96774BBCCEB30209";
    let created = site
        .post("/api/v1/contentdata", json!({"content_data_id": id, "status": "draft"}))
        .await;
    let position = created.position();
    assert_eq!(created.with(201), node(id, &me));
    assert_eq!(site.head().await, position);
    for path in [
        format!("/api/v1/contentdata/{}", uuid(id)),
        format!("/api/v1/contentdata/?q={id}"),
    ] {
        assert_eq!(site.get(&path).await.with(200), node(id, &me), "{path}");
    }

    let invalid = json!({"String": "", "Valid": false});
    let body = json!({"content_data_id": id, "parent_id": invalid, "first_child_id": invalid, "next_sibling_id": invalid,
        "prev_sibling_id": invalid, "route_id": uuid(&route), "datatype_id": page, "author_id": {"String": me, "Valid": true},
        "status": "published", "date_created": MOMENT, "date_modified": "2026-02-15T13:00:00+01:00"});
    let published = with(
        node(id, &me),
        json!({"route_id": route, "datatype_id": page, "status": "published", "date_created": MOMENT, "date_modified": MOMENT}),
    );
    assert_eq!(
        site.put("/api/v1/contentdata/", body.clone()).await.with(200),
        published
    );
    let head = site.head().await;
    let again = site.put(&format!("/api/v1/contentdata/{id}"), body).await;
    assert_eq!(again.position(), head, "what is so already is no event");
    assert_eq!(again.with(200), published);
    for status in ["archived", "pending", "draft"] {
        assert_eq!(edit(&site, id, json!({"status": status})).await["status"], status);
    }
    // All anew: what is left out is null.
    assert_eq!(
        site.put(&format!("/api/v1/contentdata/?q={id}"), json!({"status": "draft"}))
            .await
            .with(200),
        node(id, &me)
    );

    // The item path creates too.
    let other = site
        .post("/api/v1/contentdata/", json!({"status": "pending"}))
        .await
        .with(201);
    assert_eq!(
        site.get("/api/v1/contentdata").await.with(200),
        json!([node(id, &me), other])
    );
    let page = json!({"data": [other], "total": 2, "limit": 1, "offset": 1});
    assert_eq!(site.get("/api/v1/contentdata?limit=1&offset=1").await.with(200), page);

    assert_eq!(
        site.delete(&format!("/api/v1/contentdata/?q={id}")).await.with(200),
        Value::Null
    );
    assert_eq!(
        site.get(&format!("/api/v1/contentdata/{id}")).await.refused(404).0,
        "content.not_found"
    );
    assert_eq!(
        site.put(&format!("/api/v1/contentdata/{id}"), json!({"status": "draft"}))
            .await
            .refused(404)
            .0,
        "content.not_found"
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_come_last_unless_a_pointer_says_otherwise() {
    let site = Site::new().await;
    let (parent, [a, b, c]) = family(&site).await;
    assert_eq!(children(&site, &parent).await, [&*a, &b, &c]);
    let after_a = site
        .content(json!({"status": "draft", "parent_id": parent, "prev_sibling_id": a, "next_sibling_id": b}))
        .await;
    let before_a = site
        .content(json!({"status": "draft", "parent_id": parent, "next_sibling_id": a}))
        .await;
    assert_eq!(children(&site, &parent).await, [&*before_a, &a, &after_a, &b, &c]);
    // A new node that takes an old one under it.
    let above = site.content(json!({"status": "draft", "first_child_id": b})).await;
    assert_eq!(children(&site, &above).await, [&*b]);
    assert_eq!(children(&site, &parent).await, [&*before_a, &a, &after_a, &c]);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_pointers_move_nodes() {
    let site = Site::new().await;
    let (parent, [a, b, c]) = family(&site).await;
    // What was shown, written back, moves nothing.
    let head = site.head().await;
    for id in [&parent, &a, &b, &c] {
        edit(&site, id, json!({})).await;
    }
    assert_eq!(site.head().await, head);

    let shown = edit(&site, &a, json!({"prev_sibling_id": b, "next_sibling_id": c})).await;
    assert_eq!(
        (&shown["prev_sibling_id"], &shown["next_sibling_id"]),
        (&json!(b), &json!(c))
    );
    assert_eq!(children(&site, &parent).await, [&*b, &a, &c]);
    edit(&site, &c, json!({"prev_sibling_id": null, "next_sibling_id": b})).await;
    assert_eq!(children(&site, &parent).await, [&*c, &b, &a]);
    edit(&site, &c, json!({"next_sibling_id": a})).await;
    assert_eq!(children(&site, &parent).await, [&*b, &c, &a]);
    edit(&site, &b, json!({"prev_sibling_id": null, "next_sibling_id": null})).await;
    assert_eq!(
        children(&site, &parent).await,
        [&*b, &c, &a],
        "only the next one was taken away"
    );
    edit(&site, &c, json!({"prev_sibling_id": null, "next_sibling_id": null})).await;
    assert_eq!(
        children(&site, &parent).await,
        [&*b, &c, &a],
        "no siblings named, no place asked for"
    );
    edit(&site, &c, json!({"prev_sibling_id": a, "next_sibling_id": null})).await;
    assert_eq!(children(&site, &parent).await, [&*b, &a, &c]);
    let shown = edit(&site, &parent, json!({"first_child_id": c})).await;
    assert_eq!(shown["first_child_id"], c);
    assert_eq!(children(&site, &parent).await, [&*c, &b, &a]);

    // Under another parent: last, or after the sibling named, or in front of those there.
    let (elsewhere, [x, y, z]) = family(&site).await;
    edit(&site, &a, json!({"parent_id": elsewhere, "prev_sibling_id": null})).await;
    edit(
        &site,
        &b,
        json!({"parent_id": elsewhere, "prev_sibling_id": x, "next_sibling_id": null}),
    )
    .await;
    edit(&site, &c, json!({"parent_id": elsewhere, "next_sibling_id": x})).await;
    assert_eq!(children(&site, &elsewhere).await, [&*c, &x, &b, &y, &z, &a]);
    assert_eq!(children(&site, &parent).await, [] as [&str; 0]);
    edit(&site, &parent, json!({"first_child_id": y})).await;
    assert_eq!(children(&site, &parent).await, [&*y]);

    // The children of a deleted node stay, at the top.
    site.delete(&format!("/api/v1/contentdata/{parent}")).await.with(200);
    let orphan = site.get(&format!("/api/v1/contentdata/{y}")).await.with(200);
    assert_eq!(
        (
            &orphan["parent_id"],
            &orphan["next_sibling_id"],
            &orphan["prev_sibling_id"]
        ),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_comes_to_hang_under_itself() {
    let site = Site::new().await;
    let (parent, [a, b, _]) = family(&site).await;
    let below = site.content(json!({"status": "draft", "parent_id": a})).await;
    let (put, path) = (Method::PUT, "/api/v1/contentdata/");
    let body = |id: &str, members: Value| Some(with(json!({"content_data_id": id, "status": "draft"}), members));
    site.refuses(&[
        (
            put.clone(),
            path,
            body(&parent, json!({"parent_id": parent})),
            400,
            "content.own_parent",
            Some("parent_id"),
        ),
        (
            put.clone(),
            path,
            body(&parent, json!({"parent_id": a})),
            400,
            "content.cycle",
            Some("parent_id"),
        ),
        (
            put.clone(),
            path,
            body(&parent, json!({"parent_id": below})),
            400,
            "content.cycle",
            Some("parent_id"),
        ),
        (
            put.clone(),
            path,
            body(&below, json!({"parent_id": a, "first_child_id": parent})),
            400,
            "content.cycle",
            Some("first_child_id"),
        ),
        (
            put.clone(),
            path,
            body(&below, json!({"parent_id": a, "first_child_id": below})),
            400,
            "content.own_parent",
            Some("first_child_id"),
        ),
        // Moved under one of its descendants and over one of its ancestors at once.
        (
            put.clone(),
            path,
            body(&b, json!({"parent_id": below, "first_child_id": parent})),
            400,
            "content.cycle",
            Some("first_child_id"),
        ),
    ])
    .await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_no_longer_referred_to() {
    let site = Site::new().await;
    let (page, route) = (site.datatype("Page", "ROOT").await, site.route("/home").await);
    let id = site
        .content(json!({"status": "draft", "datatype_id": page, "route_id": route}))
        .await;
    let value = site
        .made(
            "/api/v1/contentfields",
            "content_field_id",
            json!({"content_data_id": id, "route_id": route}),
        )
        .await;
    site.delete(&format!("/api/v1/datatype/{page}")).await.with(200);
    site.delete(&format!("/api/v1/routes/{route}")).await.with(200);
    let shown = site.get(&format!("/api/v1/contentdata/{id}")).await.with(200);
    assert_eq!(
        (&shown["datatype_id"], &shown["route_id"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        site.get(&format!("/api/v1/contentfields/{value}")).await.with(200)["route_id"],
        Value::Null
    );
    // And the node can still be written.
    edit(&site, &id, json!({"status": "archived"})).await;
    site.delete(&format!("/api/v1/contentdata/{id}")).await.with(200);
    assert_eq!(
        site.get(&format!("/api/v1/contentfields/{value}")).await.refused(404).0,
        "content_field.not_found"
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_what_is_wrong_and_leave_no_event() {
    let site = Site::new().await;
    let (_, [a, b, _]) = family(&site).await;
    let by_path = format!("/api/v1/contentdata/{a}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let (invalid, path) = ("VALIDATION_ERROR", "/api/v1/contentdata");
    let body = |members: Value| Some(with(json!({"status": "draft"}), members));
    site.refuses(&[
        (post.clone(), path, Some(json!({})), 400, invalid, Some("status")),
        (
            post.clone(),
            path,
            Some(json!({"status": "live"})),
            400,
            invalid,
            Some("status"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"status": null})),
            400,
            invalid,
            Some("status"),
        ),
        (
            post.clone(),
            path,
            body(json!({"content_data_id": a})),
            409,
            "content.already_exists",
            None,
        ),
        (
            post.clone(),
            path,
            body(json!({"parent_id": "x"})),
            400,
            invalid,
            Some("parent_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"parent_id": {"String": "x", "Valid": true}})),
            400,
            invalid,
            Some("parent_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"parent_id": NOBODY})),
            400,
            "content.not_found",
            Some("parent_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"prev_sibling_id": NOBODY})),
            400,
            "content.not_found",
            Some("prev_sibling_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"next_sibling_id": NOBODY})),
            400,
            "content.not_found",
            Some("next_sibling_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"first_child_id": NOBODY})),
            400,
            "content.not_found",
            Some("first_child_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"route_id": NOBODY})),
            400,
            "route.not_found",
            Some("route_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"datatype_id": NOBODY})),
            400,
            "datatype.not_found",
            Some("datatype_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"author_id": NOBODY})),
            400,
            "user.not_found",
            Some("author_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"date_created": "2026-02-15"})),
            400,
            invalid,
            Some("date_created"),
        ),
        (
            post.clone(),
            path,
            body(json!({"date_modified": 7})),
            400,
            invalid,
            Some("date_modified"),
        ),
        (
            put.clone(),
            "/api/v1/contentdata/",
            body(json!({})),
            400,
            invalid,
            Some("content_data_id"),
        ),
        (
            put.clone(),
            &by_path,
            body(json!({"content_data_id": b})),
            400,
            invalid,
            Some("content_data_id"),
        ),
        (
            put.clone(),
            "/api/v1/contentdata/",
            body(json!({"content_data_id": NOBODY})),
            404,
            "content.not_found",
            None,
        ),
        (
            put.clone(),
            &by_path,
            body(json!({"first_child_id": NOBODY})),
            400,
            "content.not_found",
            Some("first_child_id"),
        ),
        (
            put.clone(),
            &by_path,
            body(json!({"prev_sibling_id": NOBODY})),
            400,
            "content.not_found",
            Some("prev_sibling_id"),
        ),
        (get.clone(), "/api/v1/contentdata/", None, 400, invalid, Some("q")),
        (delete.clone(), path, None, 405, "METHOD_NOT_ALLOWED", None),
        (
            delete.clone(),
            "/api/v1/contentdata/?q=1",
            None,
            400,
            invalid,
            Some("q"),
        ),
    ])
    .await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_version_is_refused() {
    let site = Site::new().await;
    let caller = site.app().administrator().await;
    let id = site.content(json!({"status": "draft"})).await;
    edit(&site, &id, json!({"status": "published"})).await;
    let head = site.head().await;
    let path = format!("/api/v1/contentdata/{id}");
    let stale = caller
        .request(Method::PUT, &path)
        .header("if-match", "\"1\"")
        .json(&json!({"status": "draft"}))
        .send()
        .await;
    assert_eq!(stale.status.as_u16(), 412);
    assert_eq!(stale.body["error"]["code"], "version.stale");
    assert_eq!(site.head().await, head);
    let fresh = caller
        .request(Method::PUT, &path)
        .header("if-match", "\"2\"")
        .json(&json!({"status": "draft"}))
        .send()
        .await;
    assert_eq!(fresh.status.as_u16(), 200);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_created_shown_changed_moved_and_deleted() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let (page, route) = (site.datatype("Page", "ROOT").await, site.route("/home").await);
    let title = site.field(&page, "Title", "text").await;
    let (one, other) = (
        site.content(json!({"status": "draft"})).await,
        site.content(json!({"status": "draft"})).await,
    );
    let id = "01890A5DAC96774BBCCEB30209";
    let body = json!({"content_field_id": id, "route_id": route, "content_data_id": {"String": one, "Valid": true}, "field_id": title,
        "field_value": "Hello", "date_created": MOMENT, "date_modified": null});
    let hello = json!({"content_field_id": id, "route_id": route, "content_data_id": one, "field_id": title, "field_value": "Hello",
        "author_id": me, "date_created": MOMENT, "date_modified": null});
    let created = site.post("/api/v1/contentfields", body).await;
    assert_eq!(created.position(), site.head().await);
    assert_eq!(created.with(201), hello);
    for path in [
        format!("/api/v1/contentfields/{}", uuid(id)),
        format!("/api/v1/contentfields/?q={id}"),
    ] {
        assert_eq!(site.get(&path).await.with(200), hello, "{path}");
    }
    let bare = json!({"content_field_id": id, "route_id": null, "content_data_id": one, "field_id": null, "field_value": "",
        "author_id": me, "date_created": null, "date_modified": null});
    assert_eq!(
        site.put(
            "/api/v1/contentfields/",
            json!({"content_field_id": id, "content_data_id": one})
        )
        .await
        .with(200),
        bare
    );
    let moved = with(
        bare,
        json!({"content_data_id": other, "field_value": "é \"q\" \u{1F600}"}),
    );
    assert_eq!(
        site.put(&format!("/api/v1/contentfields/{id}"), moved.clone())
            .await
            .with(200),
        moved
    );
    assert_eq!(site.get("/api/v1/contentfields").await.with(200), json!([moved]));
    let page = json!({"data": [], "total": 1, "limit": 50, "offset": 1});
    assert_eq!(site.get("/api/v1/contentfields?offset=1").await.with(200), page);
    assert_eq!(
        site.delete(&format!("/api/v1/contentfields/?q={id}")).await.with(200),
        Value::Null
    );
    assert_eq!(
        site.get(&format!("/api/v1/contentfields/{id}")).await.refused(404).0,
        "content_field.not_found"
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_values_name_what_is_wrong_and_leave_no_event() {
    let site = Site::new().await;
    let node = site.content(json!({"status": "draft"})).await;
    let other = site.content(json!({"status": "draft"})).await;
    let id = site
        .made(
            "/api/v1/contentfields",
            "content_field_id",
            json!({"content_data_id": node}),
        )
        .await;
    let by_path = format!("/api/v1/contentfields/{id}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let (invalid, path) = ("VALIDATION_ERROR", "/api/v1/contentfields");
    let body = |members: Value| Some(with(json!({"content_data_id": node}), members));
    site.refuses(&[
        (
            post.clone(),
            path,
            Some(json!({"field_value": "x"})),
            400,
            invalid,
            Some("content_data_id"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"content_data_id": null})),
            400,
            invalid,
            Some("content_data_id"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"content_data_id": NOBODY})),
            400,
            "content.not_found",
            Some("content_data_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"field_id": NOBODY})),
            400,
            "field.not_found",
            Some("field_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"route_id": NOBODY})),
            400,
            "route.not_found",
            Some("route_id"),
        ),
        (
            post.clone(),
            path,
            body(json!({"field_value": 7})),
            400,
            invalid,
            Some("field_value"),
        ),
        (
            post.clone(),
            path,
            body(json!({"field_value": "a\u{0}"})),
            400,
            invalid,
            Some("field_value"),
        ),
        (
            post.clone(),
            path,
            body(json!({"content_field_id": id})),
            409,
            "content.field_already_exists",
            Some("content_field_id"),
        ),
        (
            post.clone(),
            path,
            Some(json!({"content_data_id": other, "content_field_id": id})),
            409,
            "content.field_already_exists",
            Some("content_field_id"),
        ),
        (
            put.clone(),
            "/api/v1/contentfields/",
            body(json!({})),
            400,
            invalid,
            Some("content_field_id"),
        ),
        (
            put.clone(),
            "/api/v1/contentfields/",
            body(json!({"content_field_id": NOBODY})),
            404,
            "content.field_not_found",
            None,
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({"content_data_id": NOBODY})),
            400,
            "content.not_found",
            Some("content_data_id"),
        ),
        (
            put.clone(),
            &by_path,
            Some(json!({})),
            400,
            invalid,
            Some("content_data_id"),
        ),
        (get.clone(), "/api/v1/contentfields/?q=1", None, 400, invalid, Some("q")),
        (
            delete.clone(),
            "/api/v1/contentfields/01890000000000000000000000",
            None,
            404,
            "content.field_not_found",
            None,
        ),
        (delete.clone(), path, None, 405, "METHOD_NOT_ALLOWED", None),
    ])
    .await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_not_to_wait_has_the_same_body() {
    let site = Site::new().await;
    let caller = site.app().administrator().await;
    let answer = caller
        .request(Method::POST, "/api/v1/datatype")
        .header("prefer", "respond-async")
        .json(&json!({"label": "Page", "type": "ROOT"}))
        .send()
        .await;
    assert_eq!(answer.status.as_u16(), 201);
    let position = answer.headers["event-position"].to_str().unwrap().to_owned();
    let id = answer.body["datatype_id"].as_str().unwrap();
    let path = format!("/api/v1/datatype/{id}");
    let shown = caller
        .request(Method::GET, &path)
        .header("min-position", &position)
        .send()
        .await;
    assert_eq!(shown.body, answer.body);
    let bad = caller
        .request(Method::GET, &path)
        .header("min-position", "soon")
        .send()
        .await;
    assert_eq!(
        (bad.status.as_u16(), &bad.body["error"]["field"]),
        (400, &json!("Min-Position"))
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_and_does_not_write() {
    let site = Site::new().await;
    let viewer = site.app().person(annals_domain::Role::Viewer).await;
    let page = site.datatype("Page", "ROOT").await;
    let node = site.content(json!({"status": "draft", "datatype_id": page})).await;
    let head = site.head().await;
    for (resource, body) in [
        ("datatype", json!({"label": "x"})),
        ("fields", json!({"label": "x", "type": "text"})),
        ("datatypefields", json!({"datatype_id": page, "field_id": page})),
        ("routes", json!({"slug": "/x"})),
        ("contentdata", json!({"status": "draft"})),
        ("contentfields", json!({"content_data_id": node})),
    ] {
        assert_eq!(
            viewer.get(&format!("/api/v1/{resource}")).await.status.as_u16(),
            200,
            "{resource}"
        );
        let refused = viewer.post(&format!("/api/v1/{resource}"), &body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.body["error"]["code"]),
            (403, &json!("PERMISSION_DENIED")),
            "{resource}"
        );
        let refused = viewer.put(&format!("/api/v1/{resource}/{node}"), &body).await;
        assert_eq!(refused.status.as_u16(), 403, "{resource}");
        let refused = viewer.delete(&format!("/api/v1/{resource}/{node}")).await;
        assert_eq!(refused.status.as_u16(), 403, "{resource}");
    }
    assert_eq!(site.head().await, head);
    site.finish().await;
}
