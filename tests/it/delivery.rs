//! `GET /any/slug`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{MOMENT, Site};

/// A page "Hello" with two fields and one child, delivered at `/hello`.
struct Hello {
    author: String,
    route: String,
    page: String,
    post: String,
    title: String,
    count: String,
    root: String,
    child: String,
}

impl Hello {
    async fn on(site: &Site) -> Self {
        let dated = |mut body: Value| {
            body["date_created"] = json!(MOMENT);
            body["date_modified"] = json!(MOMENT);
            body
        };
        let (page, post) = (
            site.made(
                "/api/v1/datatype",
                "datatype_id",
                dated(json!({"label": "Page", "type": "ROOT"})),
            )
            .await,
            site.made(
                "/api/v1/datatype",
                "datatype_id",
                dated(json!({"label": "Blog Post", "type": "post"})),
            )
            .await,
        );
        let field = async |label: &str, kind: &str| {
            site.made(
                "/api/v1/fields",
                "field_id",
                dated(json!({"label": label, "type": kind, "parent_id": page})),
            )
            .await
        };
        let (title, count) = (field("Title", "text").await, field("View Count", "number").await);
        let route = site.route("/hello").await;
        let root = site
            .content(dated(
                json!({"status": "published", "datatype_id": page, "route_id": route}),
            ))
            .await;
        let child = site
            .content(dated(
                json!({"status": "draft", "datatype_id": post, "route_id": route, "parent_id": root}),
            ))
            .await;
        for (node, field, value) in [
            (&root, &title, "Hello"),
            (&root, &count, "42"),
            (&child, &title, "First"),
        ] {
            let body =
                dated(json!({"content_data_id": node, "field_id": field, "field_value": value, "route_id": route}));
            site.made("/api/v1/contentfields", "content_field_id", body).await;
        }
        Self {
            author: site.user_id().await,
            route,
            page,
            post,
            title,
            count,
            root,
            child,
        }
    }

    fn clean(&self) -> Value {
        let meta =
            json!({"authorId": self.author, "routeId": self.route, "dateCreated": MOMENT, "dateModified": MOMENT});
        json!({"_meta": meta, "id": self.root, "type": "Page", "title": "Hello", "viewCount": 42,
            "blog posts": [{"_meta": meta, "id": self.child, "type": "Blog Post", "title": "First"}]})
    }

    fn raw(&self) -> Value {
        let datatype = |id: &str, label: &str, kind: &str| {
            json!({"datatype_id": id, "parent_id": "null", "label": label, "type": kind, "author_id": self.author,
                "date_created": MOMENT, "date_modified": MOMENT})
        };
        let content = |id: &str, parent: &str, first: &str, datatype: &str, status: &str| {
            json!({"content_data_id": id, "parent_id": parent, "first_child_id": first, "next_sibling_id": "", "prev_sibling_id": "",
                "route_id": self.route, "datatype_id": datatype, "author_id": self.author, "status": status,
                "date_created": MOMENT, "date_modified": MOMENT})
        };
        let field = |id: &str, node: &str, label: &str, kind: &str, value: &str| {
            json!({"info": {"field_id": id, "parent_id": node, "label": label, "data": "", "validation": "{}", "ui_config": "{}",
                    "type": kind, "author_id": self.author, "date_created": MOMENT, "date_modified": MOMENT},
                "content": {"content_field_id": 0, "route_id": 0, "content_data_id": 0, "field_id": 0, "field_value": value,
                    "author_id": 0, "date_created": MOMENT, "date_modified": MOMENT}})
        };
        json!({"root": {
            "datatype": {"info": datatype(&self.page, "Page", "ROOT"),
                "content": content(&self.root, "null", &self.child, &self.page, "published")},
            "fields": [field(&self.title, &self.root, "Title", "text", "Hello"),
                field(&self.count, &self.root, "View Count", "number", "42")],
            "nodes": [{
                "datatype": {"info": datatype(&self.post, "Blog Post", "post"),
                    "content": content(&self.child, &self.root, "", &self.post, "draft")},
                "fields": [field(&self.title, &self.child, "Title", "text", "First")],
            }],
        }})
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_delivered_to_everybody_in_both_formats() {
    let site = Site::new().await;
    let hello = Hello::on(&site).await;
    for (path, expected) in [
        ("/hello", hello.raw()),
        ("/hello?format=", hello.raw()),
        ("/hello?format=raw", hello.raw()),
        ("/hello?format=clean", hello.clean()),
        ("/%68ello?format=clean&unknown=1", hello.clean()),
    ] {
        let answer = site.say(None, Method::GET, path, None).await;
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        assert_eq!(answer.with(200), expected, "{path}");
    }
    // Whatever stands in the request besides is nothing to delivery.
    assert_eq!(
        site.say(Some("nonsense"), Method::GET, "/hello", None).await.with(200),
        hello.raw()
    );
    let head = site.say(None, Method::HEAD, "/hello", None).await;
    assert_eq!(head.with(200), Value::Null);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_delivered_at_once() {
    let site = Site::new().await;
    let hello = Hello::on(&site).await;
    let page = async || site.say(None, Method::GET, "/hello?format=clean", None).await.with(200);
    // A field of the datatype that has no value yet is there, empty.
    site.field(&hello.page, "SEO Meta", "text").await;
    assert_eq!(page().await["seoMeta"], "");
    // A second child of another type, first in order.
    let other = site.datatype("Image", "image").await;
    let body = json!({"status": "draft", "datatype_id": other, "route_id": hello.route, "parent_id": hello.root, "next_sibling_id": hello.child});
    let image = site.content(body).await;
    let shown = page().await;
    assert_eq!(shown["children"][0]["id"], image);
    assert_eq!(shown["children"][1]["id"], hello.child);
    // A deleted datatype, and its nodes are in no document.
    site.delete(&format!("/api/v1/datatype/{other}")).await.with(200);
    assert_eq!(page().await["blog posts"][0]["id"], hello.child);
    // A renamed path.
    site.put("/api/v1/routes/", json!({"slug": "/bye", "slug_2": "/hello"}))
        .await
        .with(200);
    assert_eq!(
        site.say(None, Method::GET, "/hello", None).await.refused(404).0,
        "route.not_found"
    );
    assert_eq!(
        site.say(None, Method::GET, "/bye?format=clean", None).await.with(200)["id"],
        hello.root
    );
    // No root, no document.
    site.delete(&format!("/api/v1/contentdata/{}", hello.root))
        .await
        .with(200);
    assert_eq!(
        site.say(None, Method::GET, "/bye", None).await.with(200),
        json!({"root": null})
    );
    assert_eq!(
        site.say(None, Method::GET, "/bye?format=clean", None).await.with(200),
        json!({})
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_page_is_a_slug_too() {
    let site = Site::new().await;
    assert_eq!(
        site.say(None, Method::GET, "/", None).await.refused(404).0,
        "route.not_found"
    );
    let (page, route) = (site.datatype("Page", "ROOT").await, site.route("/").await);
    let id = site
        .content(json!({"status": "draft", "datatype_id": page, "route_id": route}))
        .await;
    assert_eq!(
        site.say(None, Method::GET, "/?format=clean", None).await.with(200)["id"],
        id
    );
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_delivered_is_refused() {
    let site = Site::new().await;
    site.route("/hello").await;
    let head = site.head().await;
    for format in ["contentful", "sanity", "strapi", "wordpress", "RAW", "nonsense"] {
        let answer = site
            .say(None, Method::GET, &format!("/hello?format={format}"), None)
            .await;
        assert_eq!(
            answer.body["error"]["message"],
            "Invalid format parameter. Valid options: clean, raw"
        );
        assert_eq!(answer.refused(400).1.as_deref(), Some("format"));
    }
    for path in [
        "/nowhere",
        "/hello/",
        "/Hello",
        "/hello%20",
        "/h%C3%A9llo",
        "/hello/../hello2",
        "/%FF",
        "/index.html",
    ] {
        assert_eq!(
            site.say(None, Method::GET, path, None).await.refused(404).0,
            "route.not_found",
            "{path}"
        );
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = site.say(None, method.clone(), "/hello", Some(&json!({}))).await;
        assert_eq!(answer.headers["allow"], "GET, HEAD", "{method}");
        assert_eq!(answer.refused(405).0, "METHOD_NOT_ALLOWED", "{method}");
    }
    assert_eq!(
        site.say(None, Method::GET, "/api/v1/nowhere", None)
            .await
            .refused(404)
            .0,
        "NOT_FOUND"
    );
    assert_eq!(
        site.say(None, Method::GET, "/favicon.ico", None).await.with(202),
        Value::Null
    );
    assert_eq!(site.head().await, head);
    site.finish().await;
}
