//! How answers are kept, and what a repeat is told when its answer is not there.

use annals_domain::{Caller as DomainCaller, Role};
use annals_tests::{PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Executor as _, Row as _};
use uuid::Uuid;

use super::{KEY, assert_replays, create_route, impatient, kept, route};

async fn forget_answers(app: &TestApp) {
    let mut superuser = app.database().superuser().await;
    superuser.execute("delete from log.answers").await.unwrap();
}

#[tokio::test]
async fn without_its_answer_a_request_is_told_to_have_been_carried_out() {
    let app = impatient().await;
    let editor = app.person(Role::Editor).await;
    let first = create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let head = app.head().await;
    forget_answers(&app).await;
    let again = create_route(&editor, "k", &route("/one")).await;
    again.assert_problem(409, "IDEMPOTENCY_ANSWER_GONE");
    let position: u64 = first.header("event-position").parse().unwrap();
    assert_eq!(again.body["error"]["details"], json!({ "position": position }));
    create_route(&editor, "k", &route("/two"))
        .await
        .assert_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn a_process_that_ends_between_commit_and_answer_leaves_a_request_that_is_not_repeated() {
    let app = impatient().await;
    let editor = app.person(Role::Editor).await;
    // Whatever keeps the answer from being stored: the commit stands, and its client is answered.
    let mut superuser = app.database().superuser().await;
    superuser
        .execute("alter table log.answers add constraint crash check (status = 0) not valid")
        .await
        .unwrap();
    create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    superuser
        .execute("alter table log.answers drop constraint crash")
        .await
        .unwrap();
    let head = app.head().await;
    let again = create_route(&editor, "k", &route("/one")).await;
    again.assert_problem(409, "IDEMPOTENCY_ANSWER_GONE");
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn answers_past_their_time_are_gone_and_swept() {
    let app = impatient().await;
    let editor = app.person(Role::Editor).await;
    create_route(&editor, "old", &route("/old"))
        .await
        .assert_status(StatusCode::CREATED);
    let young = create_route(&editor, "young", &route("/young"))
        .await
        .assert_status(StatusCode::CREATED);
    let mut superuser = app.database().superuser().await;
    let age = "update log.answers set created_at = created_at - interval '24 hours' where created_at = (select min(created_at) from log.answers)";
    superuser.execute(age).await.unwrap();
    // Gone at once, not only when the sweep comes by.
    create_route(&editor, "old", &route("/old"))
        .await
        .assert_problem(409, "IDEMPOTENCY_ANSWER_GONE");
    assert_eq!(kept(&app).await, 2);
    let retention = std::time::Duration::from_secs(24 * 3600);
    assert_eq!(app.store().sweep_answers(retention).await.unwrap(), (1, false));
    assert_eq!(kept(&app).await, 1);
    assert_replays(&create_route(&editor, "young", &route("/young")).await, &young);
    app.finish().await;
}

#[tokio::test]
async fn answers_are_sealed_and_open_nowhere_else() {
    let app = impatient().await;
    let editor = app.person(Role::Editor).await;
    create_route(&editor, "my-key-one", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    create_route(&editor, "my-key-two", &route("/two"))
        .await
        .assert_status(StatusCode::CREATED);
    let mut superuser = app.database().superuser().await;
    let everything = "select (select string_agg(a::text, ' ') from log.answers a) || (select string_agg(c::text, ' ') from log.commands c)";
    let text: String = superuser.fetch_one(everything).await.unwrap().get(0);
    for clear in [
        "/one",
        "my-key",
        "slug",
        "application/json",
        &hex::encode("slug"),
        &hex::encode("application/json"),
    ] {
        assert!(!text.contains(clear), "{clear}");
    }
    let swap = "update log.answers a set headers = b.headers, body = b.body from log.answers b where a.command_id <> b.command_id";
    superuser.execute(swap).await.unwrap();
    for (key, slug) in [("my-key-one", "/one"), ("my-key-two", "/two")] {
        create_route(&editor, key, &route(slug))
            .await
            .assert_problem(409, "IDEMPOTENCY_ANSWER_GONE");
    }
    app.finish().await;
}

#[tokio::test]
async fn the_answers_of_an_erased_person_go_with_their_key() {
    let app = impatient().await;
    let editor = app.person(Role::Editor).await;
    let register = || {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD, "name": "Ada" });
        app.request(Method::POST, "/api/v1/auth/register")
            .header(KEY, "k")
            .json(&body)
    };
    let first = register().send().await.assert_status(StatusCode::CREATED);
    create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    assert_eq!(kept(&app).await, 2);
    let erased: Uuid = first.body["user"]["id"].as_str().unwrap().parse().unwrap();
    app.store().vault().erase(erased).await.unwrap();
    assert_eq!(kept(&app).await, 1);
    register().send().await.assert_problem(409, "IDEMPOTENCY_ANSWER_GONE");
    // What the read models show is the business of a rebuild, which this test leaves out.
    let models = annals_projections::read_models();
    let system = DomainCaller::system("test", Uuid::now_v7());
    for model in &models {
        let rebuilt = annals_projections::rebuild(
            &system,
            app.store(),
            model.as_ref(),
            annals_projections::RebuildOptions::default(),
            |_| {},
        );
        rebuilt.await.unwrap();
    }
    app.finish().await;
}
