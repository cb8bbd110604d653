//! The same request sent at once, to one process and to two, and by a client that goes away.

use annals_domain::Role;
use annals_tests::TestApp;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::Executor as _;

use super::{KEY, Other, ROUTES, assert_replays, create_route, is_replay, route};

#[tokio::test]
async fn twenty_at_once_have_one_effect_and_one_answer() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let before = app.head().await;
    let body = json!({ "label": "Page", "type": "ROOT" });
    let send = || {
        let request = editor.request(Method::POST, "/api/v1/datatype");
        request.header(KEY, "once").json(&body).send()
    };
    let answers = futures::future::join_all((0..20).map(|_| send())).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (StatusCode::CREATED, &answers[0].text));
    }
    assert_eq!(answers.iter().filter(|answer| !is_replay(answer)).count(), 1);
    assert_eq!(app.head().await.get(), before.get() + 1);
    app.finish().await;
}

#[tokio::test]
async fn a_second_process_replays_what_the_first_has_answered() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let other = Other::beside(&app).await;
    let first = create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let head = app.head().await;
    let there = other.create_route(&app, &editor, "k", &route("/one")).await;
    assert_eq!(there.0, first.text);
    assert!(there.1);
    // Sent to both at once, over and over: one effect each, and the same answer from both.
    for number in 0..10 {
        let (key, body) = (format!("both-{number}"), route(&format!("/both-{number}")));
        let (here, there) = tokio::join!(
            create_route(&editor, &key, &body),
            other.create_route(&app, &editor, &key, &body)
        );
        assert_eq!(here.text, there.0);
        assert!(is_replay(&here) != there.1, "one of them was the first");
    }
    assert_eq!(app.head().await.get(), head.get() + 10);
    other.stop().await;
    app.finish().await;
}

/// Keeps the read model of routes where it is, until dropped by the test.
async fn hold_routes(app: &TestApp) -> sqlx::PgConnection {
    let mut superuser = app.database().superuser().await;
    superuser
        .execute("begin; lock table view.routes in share mode")
        .await
        .unwrap();
    superuser
}

/// Waits until the log has grown beyond `position`.
async fn until_grown(app: &TestApp, position: annals_eventstore::Position) {
    for _ in 0..1000 {
        if app.head().await > position {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nothing was appended");
}

#[tokio::test]
async fn whoever_asks_while_the_first_is_at_it_waits_for_its_answer() {
    let app = TestApp::with(|config| config.read_your_writes.timeout_ms = 60_000).await;
    let editor = app.person(Role::Editor).await;
    let other = Other::beside(&app).await;
    let body = route("/one");
    let head = app.head().await;
    let mut held = hold_routes(&app).await;
    let first = tokio::spawn({
        let (editor, body) = (editor.clone(), body.clone());
        async move { create_route(&editor, "k", &body).await }
    });
    until_grown(&app, head).await; // committed, and now waiting for the read model
    let busy = create_route(&editor, "k", &body).await;
    busy.assert_problem(409, "IDEMPOTENCY_IN_PROGRESS");
    assert_eq!(busy.header("retry-after"), "1");
    let (there, _) = tokio::join!(other.create_route(&app, &editor, "k", &body), async {
        held.execute("rollback").await.unwrap();
    });
    let first = first.await.unwrap().assert_status(StatusCode::CREATED);
    assert_eq!(there, (first.text.clone(), true));
    assert_replays(&create_route(&editor, "k", &body).await, &first);
    assert_eq!(app.head().await.get(), head.get() + 1);
    other.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_finds_its_answer_when_it_comes_back() {
    use tokio::io::AsyncWriteExt as _;

    let app = TestApp::with(|config| config.read_your_writes.timeout_ms = 60_000).await;
    let editor = app.person(Role::Editor).await;
    let body = route("/one");
    let head = app.head().await;
    let mut held = hold_routes(&app).await;
    let text = body.to_string();
    let request = format!(
        "POST {ROUTES} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
        editor.token(),
        text.len()
    );
    let mut stream = tokio::net::TcpStream::connect(app.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    until_grown(&app, head).await;
    drop(stream);
    held.execute("rollback").await.unwrap();
    let found = create_route(&editor, "k", &body)
        .await
        .assert_status(StatusCode::CREATED);
    assert!(is_replay(&found), "{}", found.text);
    assert_eq!(app.head().await.get(), head.get() + 1);
    app.finish().await;
}

#[tokio::test]
async fn a_loser_that_finds_its_thing_gone_still_gets_the_first_answer() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let other = Other::beside(&app).await;
    for number in 0..10 {
        let created = editor.post(ROUTES, &route(&format!("/{number}"))).await;
        let path = format!("{ROUTES}/{}", created.body["route_id"].as_str().unwrap());
        let delete = |base: String| {
            let request = app.client().delete(format!("{base}{path}")).bearer_auth(editor.token());
            let request = request.header(KEY, format!("delete-{number}"));
            async move {
                let response = request.send().await.unwrap();
                (response.status(), response.text().await.unwrap())
            }
        };
        let (here, there) = tokio::join!(delete(app.url("")), delete(format!("http://{}", other.address)));
        assert_eq!(here, there);
        assert_eq!(here.0, StatusCode::OK, "{}", here.1);
    }
    other.stop().await;
    app.finish().await;
}
