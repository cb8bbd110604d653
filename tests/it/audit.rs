//! `/api/v1/events`, `/api/v1/streams/…`, `/api/v1/audit`.

use annals_domain::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{NOBODY, Site, uuid};

/// Ids, hashes and times of an event that no test can know.
fn known(mut event: Value) -> Value {
    for member in ["recorded_at", "leaf_hash", "entry_hash"] {
        assert!(event[member].is_string(), "{event}");
        event[member] = json!("…");
    }
    for member in ["event_id", "command_id", "correlation_id", "causation_id"] {
        assert_eq!(event["metadata"][member].as_str().map(str::len), Some(36), "{event}");
        event["metadata"][member] = json!("…");
    }
    event["payload"]["at"] = json!("…");
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_in_order_with_every_member_of_the_chain() {
    let site = Site::new().await;
    let before = site.head().await;
    let actor = format!("user:{}", uuid(&site.user_id().await));
    let id = site.datatype("Page", "ROOT").await;
    site.delete(&format!("/api/v1/datatype/{id}")).await.with(200);
    let body = site.get(&format!("/api/v1/events?after={before}")).await.with(200);
    let data = body["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    let metadata =
        json!({"event_id": "…", "command_id": "…", "actor": actor, "correlation_id": "…", "causation_id": "…"});
    assert_eq!(
        known(data[1].clone()),
        json!({"position": before + 2, "recorded_at": "…", "stream": format!("datatype/{}", uuid(&id)), "version": 2,
            "event_type": "datatype.deleted", "event_version": "1", "payload": {"type": "datatype.deleted", "at": "…"},
            "metadata": metadata, "leaf_hash": "…", "entry_hash": "…"})
    );
    assert_eq!(data[0]["payload"]["label"], "Page");
    assert_eq!(body["next_after"], before + 2);
    assert_eq!(
        body["head"],
        json!({"position": before + 2, "entry_hash": data[1]["entry_hash"], "recorded_at": data[1]["recorded_at"]})
    );

    // From the first event on, three at a time, dense.
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = site
            .get(&format!("/api/v1/events?after={after}&limit=3"))
            .await
            .with(200);
        let rows = page["data"].as_array().unwrap();
        assert!(rows.len() <= 3);
        seen.extend(rows.iter().map(|event| event["position"].as_u64().unwrap()));
        after = page["next_after"].as_u64().unwrap();
        if rows.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (1..=before + 2).collect::<Vec<_>>());
    assert_eq!(after, before + 2);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_filtered() {
    let site = Site::new().await;
    let actor = format!("user:{}", uuid(&site.user_id().await));
    let (one, other) = (site.datatype("One", "").await, site.datatype("Other", "").await);
    let route = site.route("/home").await;
    let types = async |query: &str| -> Vec<String> {
        let body = site.get(&format!("/api/v1/events?{query}")).await.with(200);
        assert_eq!(body["next_after"], body["head"]["position"]);
        body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["event_type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(types("type=datatype.created").await.len(), 2);
    assert_eq!(types("type=datatype.created,route.created").await.len(), 3);
    assert_eq!(
        types("type=datatype.created&type=route.created&limit=1000").await.len(),
        3
    );
    assert_eq!(types(&format!("stream=datatype/{one}")).await, ["datatype.created"]);
    assert_eq!(
        types(&format!("stream=datatype/{}&type=route.created", uuid(&other))).await,
        [] as [&str; 0]
    );
    assert_eq!(
        types(&format!("stream=route/{route}&actor={actor}")).await,
        ["route.created"]
    );
    assert_eq!(types("actor=system:nobody").await, [] as [&str; 0]);
    let first = site
        .get(&format!("/api/v1/events?stream=route/{route}"))
        .await
        .with(200);
    let correlation = first["data"][0]["metadata"]["correlation_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(types(&format!("correlation_id={correlation}")).await, ["route.created"]);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_stream_is_shown_as_it_was() {
    let site = Site::new().await;
    let me = site.user_id().await;
    let id = site
        .made(
            "/api/v1/routes",
            "route_id",
            json!({"slug": "/one", "title": "One", "status": 1}),
        )
        .await;
    site.put(&format!("/api/v1/routes/{id}"), json!({"slug": "/two", "title": "Two"}))
        .await
        .with(200);
    let path = format!("/api/v1/streams/route/{id}");
    let events = site.get(&format!("{path}/events")).await.with(200);
    let data = events["data"].as_array().unwrap();
    assert_eq!(data.iter().map(|event| &event["version"]).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(events["next_after"], 2);
    let rest = site
        .get(&format!("/api/v1/streams/route/{}/events?after=1&limit=1", uuid(&id)))
        .await
        .with(200);
    assert_eq!(rest["data"], json!([data[1]]));
    assert_eq!(
        site.get(&format!("{path}/events?after=2")).await.with(200),
        json!({"data": [], "next_after": 2})
    );

    let state = async |query: &str| site.get(&format!("{path}/state{query}")).await.with(200);
    let now = state("").await;
    assert_eq!(
        now,
        json!({"stream": format!("route/{}", uuid(&id)), "aggregate_type": "route", "stream_id": uuid(&id), "version": 2,
            "position": data[1]["position"], "recorded_at": data[1]["recorded_at"], "state": now["state"]})
    );
    assert_eq!(
        (&now["state"]["slug"], &now["state"]["author_id"]),
        (&json!("/two"), &json!(uuid(&me)))
    );
    assert_eq!(state("?version=2").await, now);
    assert_eq!(state("?at=2999-01-01T00:00:00Z").await, now);
    let then = state("?version=1").await;
    assert_eq!((&then["state"]["slug"], &then["version"]), (&json!("/one"), &json!(1)));
    assert_eq!(
        state(&format!("?at={}", data[0]["recorded_at"].as_str().unwrap())).await,
        then
    );
    // The sign of a zone as browsers send it.
    assert_eq!(state("?at=2999-01-01T00:00:00+01:00").await, now);

    for (query, field) in [("?version=3", "version"), ("?at=2020-01-01T00:00:00Z", "at")] {
        let refused = site.get(&format!("{path}/state{query}")).await.refused(404);
        assert_eq!(refused, ("stream.not_found".to_owned(), Some(field.to_owned())));
    }
    for part in ["events", "state"] {
        let answer = site.get(&format!("/api/v1/streams/route/{NOBODY}/{part}")).await;
        assert_eq!(answer.refused(404).0, "stream.not_found");
    }
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_says_who_did_what() {
    let site = Site::new().await;
    let actor = format!("user:{}", uuid(&site.user_id().await));
    let before = site.head().await;
    let id = site.datatype("Page", "ROOT").await;
    let node = site.content(json!({"status": "draft", "datatype_id": id})).await;
    let body = site.get(&format!("/api/v1/audit?after={before}")).await.with(200);
    let data = body["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(body["next_after"], before + 2);
    let first = &data[0];
    assert_eq!(
        *first,
        json!({"position": before + 1, "recorded_at": first["recorded_at"], "event_id": first["event_id"], "actor": actor,
            "stream": format!("datatype/{}", uuid(&id)), "aggregate_type": "datatype", "stream_id": uuid(&id), "version": 1,
            "event_type": "datatype.created", "command_id": first["command_id"], "correlation_id": first["correlation_id"],
            "causation_id": first["causation_id"]})
    );
    let count = async |query: &str| {
        site.get(&format!("/api/v1/audit?{query}")).await.with(200)["data"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("aggregate_type=content").await, 1);
    assert_eq!(
        count(&format!(
            "stream=content/{node}&aggregate_type=content&type=content.created&actor={actor}"
        ))
        .await,
        1
    );
    assert_eq!(count(&format!("stream=content/{node}&aggregate_type=route")).await, 0);
    let moment = data[1]["recorded_at"].as_str().unwrap();
    assert_eq!(count(&format!("after={before}&from={moment}")).await, 1);
    assert_eq!(count(&format!("after={before}&to={moment}")).await, 1);
    assert_eq!(count("limit=1").await, 1);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_parameter_is_checked() {
    let site = Site::new().await;
    let id = site.datatype("Page", "").await;
    let mut refusals = Vec::new();
    let invalid = "VALIDATION_ERROR";
    let both = ["/api/v1/events", "/api/v1/audit"];
    for path in both {
        for (query, field) in [
            ("after=-1", "after"),
            ("after=x", "after"),
            ("after=1&after=2", "after"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=", "limit"),
            ("type=nothing.happened", "type"),
            ("type=", "type"),
            ("stream=x", "stream"),
            ("stream=nobody/01890000000000000000000000", "stream"),
            ("stream=user/7", "stream"),
            ("actor=me", "actor"),
            ("actor=user:7", "actor"),
            ("correlation_id=7", "correlation_id"),
        ] {
            refusals.push((format!("{path}?{query}"), field));
        }
    }
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2026-02-15", "to"),
        ("aggregate_type=nobody", "aggregate_type"),
    ] {
        refusals.push((format!("/api/v1/audit?{query}"), field));
    }
    for (path, field) in [
        ("nobody/01890000000000000000000000/events", "type"),
        ("user/7/events", "id"),
        ("user/7/state", "id"),
    ] {
        refusals.push((format!("/api/v1/streams/{path}"), field));
    }
    for (query, field) in [
        ("events?after=x", "after"),
        ("events?limit=0", "limit"),
        ("state?version=0", "version"),
        ("state?version=x", "version"),
        ("state?at=now", "at"),
        ("state?version=1&at=2026-02-15T12:00:00Z", "at"),
    ] {
        refusals.push((format!("/api/v1/streams/datatype/{id}/{query}"), field));
    }
    let refusals: Vec<_> = refusals
        .iter()
        .map(|(path, field)| (Method::GET, path.as_str(), None, 400, invalid, Some(*field)))
        .collect();
    site.refuses(&refusals).await;
    for path in ["/api/v1/events?after=a%00b", "/api/v1/streams/user/a%00/events"] {
        site.refuses(&[(Method::GET, path, None, 400, "BAD_REQUEST", None)])
            .await;
    }
    site.refuses(&[(
        Method::POST,
        "/api/v1/events",
        Some(json!({})),
        405,
        "METHOD_NOT_ALLOWED",
        None,
    )])
    .await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_auditors_read_what_is_not_their_own() {
    let site = Site::new().await;
    let (viewer, other) = (
        site.app().person(Role::Viewer).await,
        site.app().person(Role::Editor).await,
    );
    let page = site.datatype("Page", "").await;
    let status = async |path: String| viewer.get(&path).await.status.as_u16();
    let (me, them) = (viewer.user_id(), other.user_id());
    for path in [
        "/api/v1/events".to_owned(),
        "/api/v1/audit".to_owned(),
        format!("/api/v1/events?actor=user:{me}"),
        format!("/api/v1/audit?actor=user:{them}"),
        format!("/api/v1/events?stream=user/{them}"),
        format!("/api/v1/streams/user/{them}/events"),
        format!("/api/v1/streams/user/{them}/state"),
        format!("/api/v1/streams/auth/{them}/events"),
        format!("/api/v1/streams/user/{NOBODY}/events"),
        format!("/api/v1/streams/session/{NOBODY}/events"),
        format!("/api/v1/streams/organization/{NOBODY}/events"),
    ] {
        assert_eq!(status(path.clone()).await, 403, "{path}");
        assert_eq!(
            site.say(None, Method::GET, &path, None).await.refused(401).0,
            "UNAUTHORIZED",
            "{path}"
        );
    }
    let sessions = viewer.get("/api/v1/auth/sessions").await.body;
    let session = sessions["sessions"][0]["session_id"]
        .as_str()
        .expect("a session")
        .to_owned();
    for path in [
        format!("/api/v1/audit?actor=user:{me}"),
        format!("/api/v1/events?stream=user/{me}"),
        format!("/api/v1/streams/user/{me}/events"),
        format!("/api/v1/streams/user/{me}/state"),
        format!("/api/v1/streams/auth/{me}/events"),
        format!("/api/v1/streams/session/{session}/events"),
        format!("/api/v1/streams/datatype/{page}/events"),
        format!("/api/v1/streams/datatype/{page}/state"),
    ] {
        assert_eq!(status(path.clone()).await, 200, "{path}");
    }
    let theirs = format!("/api/v1/streams/session/{session}/events");
    assert_eq!(other.get(&theirs).await.status.as_u16(), 403);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn personal_data_is_shown_to_those_who_may_see_it_and_secrets_to_nobody() {
    let site = Site::new().await;
    let viewer = site.app().person(Role::Viewer).await;
    let me = viewer.user_id();
    for (answer, who) in [
        (
            viewer.get(&format!("/api/v1/streams/user/{me}/events")).await.body,
            "oneself",
        ),
        (
            site.get(&format!("/api/v1/streams/user/{me}/events")).await.with(200),
            "an administrator",
        ),
    ] {
        assert_eq!(answer["data"][0]["payload"]["email"], viewer.email(), "{who}");
    }
    for part in ["events", "state"] {
        for body in [
            viewer.get(&format!("/api/v1/streams/auth/{me}/{part}")).await.body,
            site.get(&format!("/api/v1/streams/auth/{me}/{part}")).await.with(200),
        ] {
            let text = body.to_string();
            assert!(text.contains("[secret]"), "{text}");
            assert!(!text.contains("argon2"), "{text}");
        }
    }
    let all = site.get("/api/v1/events?limit=1000").await.with(200).to_string();
    assert!(!all.contains("argon2") && !all.contains("$personal"), "{all}");
    site.finish().await;
}
