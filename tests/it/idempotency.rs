//! `Idempotency-Key`: a repeated write gets the first answer, byte for byte, and happens once.

use std::collections::BTreeSet;
use std::sync::Arc;

use annals_api::App;
use annals_commands::SystemClock;
use annals_domain::{Caller as DomainCaller, Role};
use annals_tests::{Answer, Caller, PASSWORD, Request, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Executor as _, Row as _};
use tokio::net::TcpListener;
use uuid::Uuid;

const KEY: &str = "idempotency-key";
const ROUTES: &str = "/api/v1/routes";

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

/// The same answer again, to the last byte; only what names the request and its moment may differ.
#[track_caller]
fn assert_replays(again: &Answer, first: &Answer) {
    assert!(is_replay(again) && !is_replay(first), "{} {}", again.text, first.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    let part = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        for name in ["x-request-id", "date", "idempotency-replayed"] {
            headers.remove(name);
        }
        headers
    };
    assert_eq!(part(again), part(first));
}

fn route(slug: &str) -> Value {
    json!({ "slug": slug, "title": "Page", "status": 1 })
}

async fn create_route(caller: &Caller, key: &str, body: &Value) -> Answer {
    caller
        .request(Method::POST, ROUTES)
        .header(KEY, key)
        .json(body)
        .send()
        .await
}

/// How many answers are kept.
async fn kept(app: &TestApp) -> i64 {
    let mut superuser = app.database().superuser().await;
    let row = superuser.fetch_one("select count(*) from log.answers").await.unwrap();
    row.get(0)
}

async fn forget_answers(app: &TestApp) {
    let mut superuser = app.database().superuser().await;
    superuser.execute("delete from log.answers").await.unwrap();
}

/// An application that gives up early on answers that are not there.
async fn impatient() -> TestApp {
    TestApp::with(|config| config.read_your_writes.timeout_ms = 1000).await
}

#[tokio::test]
async fn a_repeated_write_gets_the_first_answer_and_appends_nothing() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let first = create_route(&editor, "k1", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let head = app.head().await;
    // The quoted form of the draft is the same key.
    for key in ["k1", "\"k1\""] {
        assert_replays(&create_route(&editor, key, &route("/one")).await, &first);
    }
    let path = format!("{ROUTES}/{}", first.body["route_id"].as_str().unwrap());
    let change = || {
        editor
            .request(Method::PUT, &path)
            .header(KEY, "k2")
            .json(&route("/two"))
    };
    let changed = change().send().await.assert_status(StatusCode::OK);
    assert!(app.head().await > head);
    let delete = || editor.request(Method::DELETE, &path).header(KEY, "k3");
    let deleted = delete().send().await.assert_status(StatusCode::OK);
    let head = app.head().await;
    assert_replays(&delete().send().await, &deleted);
    // What was answered then, whatever has become of it since.
    assert_replays(&change().send().await, &changed);
    assert_replays(&create_route(&editor, "k1", &route("/one")).await, &first);
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn a_key_used_for_another_request_is_refused() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let first = create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let item = format!("{ROUTES}/{}", first.body["route_id"].as_str().unwrap());
    let text = route("/one").to_string();
    let others = [
        editor.request(Method::POST, ROUTES).json(&route("/other")),
        editor.request(Method::POST, "/api/v1/routes?x=1").json(&route("/one")),
        editor.request(Method::PUT, &item).json(&route("/one")),
        editor.request(Method::DELETE, &item),
        editor
            .request(Method::POST, ROUTES)
            .body("application/json; charset=utf-8", text),
    ];
    let head = app.head().await;
    for other in others {
        let answer = other.header(KEY, "k").send().await;
        answer.assert_problem(422, "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(answer.body["error"]["field"], "Idempotency-Key");
    }
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn two_principals_with_one_key_do_not_meet() {
    let app = TestApp::new().await;
    let (one, other) = (app.person(Role::Editor).await, app.person(Role::Editor).await);
    let first = create_route(&one, "same", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let second = create_route(&other, "same", &route("/two"))
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&second) && first.text != second.text);
    // Not even with the very same request: the slug is taken, which is what the other one has to be told.
    create_route(&other, "else", &route("/one"))
        .await
        .assert_problem(409, "route.slug_taken");
    // Another session of the same account is the same principal.
    let again = app.sign_in(one.email(), PASSWORD).await;
    assert_replays(&create_route(&again, "same", &route("/one")).await, &first);
    app.finish().await;
}

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
async fn a_refusal_leaves_the_key_free() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    create_route(&editor, "other", &route("/taken"))
        .await
        .assert_status(StatusCode::CREATED);
    create_route(&editor, "k", &json!({}))
        .await
        .assert_problem(400, "VALIDATION_ERROR");
    create_route(&editor, "k", &route("/taken"))
        .await
        .assert_problem(409, "route.slug_taken");
    let unknown = "/api/v1/routes/01890a5d-ac96-774b-bcce-b302099a8057";
    let missing = editor.request(Method::DELETE, unknown).header(KEY, "k").send().await;
    missing.assert_problem(404, "route.not_found");
    assert_eq!(kept(&app).await, 1);
    let created = create_route(&editor, "k", &route("/free"))
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&created));
    assert_replays(&create_route(&editor, "k", &route("/free")).await, &created);
    // Nor does a failed sign-in take it, though it is recorded behind the answer.
    let sign_in = |password: &str| {
        let body = json!({ "email": editor.email(), "password": password });
        app.request(Method::POST, "/api/v1/auth/login")
            .header(KEY, "k")
            .json(&body)
            .send()
    };
    for _ in 0..2 {
        let refused = sign_in("Wrong!Horse7").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text);
        assert!(!is_replay(&refused));
    }
    app.finish().await;
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_nothing() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let rename = |key: &str| {
        let request = person.request(Method::PUT, "/api/v1/users/me").header(KEY, key);
        request.json(&json!({ "full_name": "Grace Example" })).send()
    };
    rename("first").await.assert_status(StatusCode::OK);
    let before = kept(&app).await;
    let again = rename("second").await.assert_status(StatusCode::OK);
    assert!(!is_replay(&again));
    assert_eq!(kept(&app).await, before);
    app.finish().await;
}

#[tokio::test]
async fn reads_ignore_the_header() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    for key in ["k", "not a key"] {
        let answer = editor.request(Method::GET, ROUTES).header(KEY, key).send().await;
        assert!(!is_replay(&answer.assert_status(StatusCode::OK)));
    }
    app.get("/no-such-page").await.assert_problem(404, "route.not_found");
    app.finish().await;
}

#[tokio::test]
async fn strangers_get_their_own_answer_again_and_nobody_elses() {
    let app = TestApp::new().await;
    let register = |path: &str, email: &str| {
        let body = json!({ "email": email, "password": PASSWORD, "name": "Ada" });
        app.request(Method::POST, path).header(KEY, "register").json(&body)
    };
    let path = "/api/v1/auth/register";
    let first = register(path, "ada@example.com")
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    assert!(first.text.contains("access_token"));
    assert_replays(&register(path, "ada@example.com").send().await, &first);
    // A token that came along does not make a stranger's request somebody's.
    let editor = app.person(Role::Editor).await;
    let along = register(path, "ada@example.com").bearer(editor.token()).send().await;
    assert_replays(&along, &first);
    // The same key under another request is another stranger's: it learns nothing, and nothing is in its way.
    let second = register(path, "grace@example.com")
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&second));
    let guess = json!({ "email": "ada@example.com", "password": "Correct!Horse8", "name": "Ada" });
    let guessed = app
        .request(Method::POST, path)
        .header(KEY, "register")
        .json(&guess)
        .send()
        .await;
    guessed.assert_problem(409, "AUTH_EMAIL_EXISTS");
    // The unversioned alias is another path, so the same wish is not the same request.
    let alias = register("/api/auth/register", "alan@example.com");
    let alias = alias.send().await.assert_status(StatusCode::CREATED);
    assert_replays(&register("/api/auth/register", "alan@example.com").send().await, &alias);
    app.finish().await;
}

#[tokio::test]
async fn tokens_are_given_again_to_whoever_asks_with_the_same_proof() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let sign_in = || {
        let body = json!({ "email": person.email(), "password": PASSWORD });
        app.request(Method::POST, "/api/v1/auth/login")
            .header(KEY, "in")
            .json(&body)
    };
    let first = sign_in().send().await.assert_status(StatusCode::OK);
    assert!(
        first.headers.contains_key("set-cookie"),
        "browsers get their cookie again too"
    );
    let head = app.head().await;
    assert_replays(&sign_in().send().await, &first);
    let refresh = || {
        let body = json!({ "refresh_token": first.body["refresh_token"] });
        app.request(Method::POST, "/api/v1/auth/refresh")
            .header(KEY, "on")
            .json(&body)
    };
    let refreshed = refresh().send().await.assert_status(StatusCode::OK);
    // The token shown is void by now; the answer to its use is still its bearer's.
    assert_replays(&refresh().send().await, &refreshed);
    assert_eq!(app.head().await.get(), head.get() + 1);
    app.finish().await;
}

#[tokio::test]
async fn an_answer_after_a_commit_is_kept_even_when_it_is_a_refusal() {
    let app = TestApp::with(|config| config.token.refresh_lifetime_s = 1).await;
    let person = app.register().await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // the session has to be past its time
    let refresh = |key: &str| {
        let body = json!({ "refresh_token": person.refresh_token() });
        let request = app.request(Method::POST, "/api/v1/auth/refresh").header(KEY, key);
        request.header("accept", "application/problem+json").json(&body)
    };
    let head = app.head().await;
    let first = refresh("late").send().await.assert_status(StatusCode::UNAUTHORIZED);
    assert_eq!(
        app.head().await.get(),
        head.get() + 1,
        "the end of the session is recorded"
    );
    assert_eq!(first.header("content-type"), "application/problem+json");
    assert_eq!(first.body["request_id"], first.header("x-request-id"));
    assert_replays(&refresh("late").send().await, &first);
    app.finish().await;
}

#[tokio::test]
async fn signing_out_is_answered_again_although_it_has_ended_the_session() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let sign_out = |caller: &Caller, key: &str| {
        let request = caller.request(Method::POST, "/api/v1/auth/logout").header(KEY, key);
        request.json(&json!({ "all_sessions": false }))
    };
    let renamed = person
        .request(Method::PUT, "/api/v1/users/me")
        .header(KEY, "rename")
        .json(&json!({ "full_name": "Grace Example" }))
        .send()
        .await
        .assert_status(StatusCode::OK);
    let first = sign_out(&person, "out").send().await.assert_status(StatusCode::OK);
    let head = app.head().await;
    assert_replays(&sign_out(&person, "out").send().await, &first);
    // The token is good for that one answer alone.
    let other = sign_out(&person, "another").send().await;
    assert_eq!(other.status, StatusCode::UNAUTHORIZED, "{}", other.text);
    let rename = person.request(Method::PUT, "/api/v1/users/me").header(KEY, "rename");
    let refused = rename.json(&json!({ "full_name": "Grace Example" })).send().await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text);
    // Nor does a session of the same person that goes on by itself open it to one that has ended otherwise.
    let second = app.sign_in(person.email(), PASSWORD).await;
    let rename = second.request(Method::PUT, "/api/v1/users/me").header(KEY, "rename");
    assert_replays(
        &rename.json(&json!({ "full_name": "Grace Example" })).send().await,
        &renamed,
    );
    assert!(app.head().await.get() <= head.get() + 1, "nothing but a sign-in");
    app.finish().await;
}

#[tokio::test]
async fn the_contract_of_django_replays_in_its_own_words() {
    let app = TestApp::new().await;
    let register = || {
        let body = json!({
            "username": "ada", "email": "ada@example.com", "password": PASSWORD, "password_confirm": PASSWORD,
        });
        app.request(Method::POST, "/api/auth/register/")
            .header(KEY, "d")
            .json(&body)
    };
    let first = register().send().await.assert_status(StatusCode::CREATED);
    let head = app.head().await;
    assert_replays(&register().send().await, &first);
    let form = || {
        let body = format!("first_credential=ada&password={PASSWORD}");
        let request = app.request(Method::POST, "/api/auth/login/").header(KEY, "f");
        request.body("application/x-www-form-urlencoded", body)
    };
    let signed_in = form().send().await.assert_status(StatusCode::OK);
    assert_replays(&form().send().await, &signed_in);
    assert_eq!(app.head().await.get(), head.get() + 1);
    let malformed = app
        .request(Method::POST, "/api/auth/login/")
        .header(KEY, "a b")
        .send()
        .await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    assert!(
        malformed.body["detail"]
            .as_str()
            .unwrap()
            .starts_with("Idempotency-Key"),
        "{}",
        malformed.text
    );
    app.finish().await;
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

/// Another application on the same database, as a second process would be.
struct Other {
    app: App,
    address: std::net::SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Other {
    async fn beside(app: &TestApp) -> Self {
        let database = app.database().database().with_options(Default::default());
        let other = App::start_on(database, app.state().config().clone(), Arc::new(SystemClock))
            .await
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(other.clone().serve(listener, async move {
            let _ = stopped.await;
        }));
        Self {
            app: other,
            address,
            stop,
            server,
        }
    }

    /// The body of the answer, and whether it was given before.
    async fn create_route(&self, app: &TestApp, caller: &Caller, key: &str, body: &Value) -> (String, bool) {
        let response = app
            .client()
            .post(format!("http://{}{ROUTES}", self.address))
            .bearer_auth(caller.token())
            .header(KEY, key)
            .json(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let replayed = response.headers().contains_key("idempotency-replayed");
        (response.text().await.unwrap(), replayed)
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.server.await.unwrap().unwrap();
        self.app.stop().await.unwrap();
    }
}

/// Every write of the OpenAPI document, with an id that nothing has.
fn writes() -> Vec<(Method, String, Value)> {
    let document = serde_json::to_value(annals_api::openapi::document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            if [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(&method) {
                all.push((method, path.clone(), operation.clone()));
            }
        }
    }
    assert!(all.len() > 40, "the document has the writes: {}", all.len());
    all
}

#[tokio::test]
async fn every_write_takes_a_key_and_refuses_one_that_is_none() {
    let app = TestApp::new().await;
    let administrator = app.administrator().await;
    let head = app.head().await;
    for (method, path, operation) in writes() {
        let name = format!("{method} {path}");
        let parameters = operation["parameters"].as_array().unwrap();
        let declared = parameters
            .iter()
            .filter(|parameter| parameter["name"] == "Idempotency-Key");
        let declared: Vec<_> = declared.collect();
        assert_eq!(declared.len(), 1, "{name}");
        assert_eq!(
            (&declared[0]["in"], &declared[0]["required"]),
            (&json!("header"), &json!(false)),
            "{name}"
        );
        for (status, code) in [("409", "IDEMPOTENCY_ANSWER_GONE"), ("422", "IDEMPOTENCY_KEY_REUSED")] {
            let description = operation["responses"][status]["description"]
                .as_str()
                .unwrap_or_default();
            assert!(description.contains(code), "{name} {status}: {description}");
        }
        let concrete = path.replace('{', "").replace('}', "");
        let long = "k".repeat(256);
        for key in ["", "two words", "\"open", &long] {
            let answer = administrator.request(method.clone(), &concrete).header(KEY, key);
            let answer = answer.json(&json!({})).send().await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_REQUEST,
                "{name} {key:?}: {}",
                answer.text
            );
            if !path.ends_with('/') || path.starts_with("/api/v1/") {
                assert_eq!(
                    answer.body["error"]["field"], "Idempotency-Key",
                    "{name} {key:?}: {}",
                    answer.text
                );
            }
        }
        let twice = administrator
            .request(method.clone(), &concrete)
            .header(KEY, "a")
            .header(KEY, "b");
        assert_eq!(twice.send().await.status, StatusCode::BAD_REQUEST, "{name}");
    }
    assert_eq!(app.head().await, head);
    app.finish().await;
}

/// Requests that write, on things made for each of them.
async fn valid_writes(app: &TestApp, editor: &Caller) -> Vec<(&'static str, Request)> {
    let post = async |path: &str, body: Value, id: &str| -> String {
        let answer = editor.post(path, &body).await.assert_status(StatusCode::CREATED);
        answer.body[id].as_str().unwrap().to_owned()
    };
    let datatype = |label: &str| json!({ "label": label, "type": "ROOT" });
    let field = |label: &str| json!({ "label": label, "type": "text" });
    let page = post("/api/v1/datatype", datatype("Page"), "datatype_id").await;
    let title = post("/api/v1/fields", field("Title"), "field_id").await;
    let attachment = json!({ "datatype_id": page, "field_id": title, "sort_order": 1 });
    let attached = post("/api/v1/datatypefields", attachment.clone(), "id").await;
    let node = post(
        "/api/v1/contentdata",
        json!({ "datatype_id": page, "status": "draft" }),
        "content_data_id",
    )
    .await;
    let value = json!({ "content_data_id": node, "field_id": title, "field_value": "Hello" });
    let held = post("/api/v1/contentfields", value.clone(), "content_field_id").await;
    let site = post(ROUTES, route("/site"), "route_id").await;
    let content = editor.get(&format!("/api/v1/contentdata/{node}")).await.body;
    let request = |method: Method, path: &str| editor.request(method, path);
    let person = app.register().await;
    let leaving = app.register().await;
    vec![
        (
            "create datatype",
            request(Method::POST, "/api/v1/datatype").json(&datatype("New")),
        ),
        (
            "create field",
            request(Method::POST, "/api/v1/fields").json(&field("New")),
        ),
        (
            "attach field",
            request(Method::POST, "/api/v1/datatypefields").json(&attachment),
        ),
        (
            "create content",
            request(Method::POST, "/api/v1/contentdata").json(&json!({ "datatype_id": page, "status": "draft" })),
        ),
        (
            "create value",
            request(Method::POST, "/api/v1/contentfields").json(&value),
        ),
        ("create route", request(Method::POST, ROUTES).json(&route("/new"))),
        (
            "change datatype",
            request(Method::PUT, &format!("/api/v1/datatype/{page}")).json(&datatype("Sheet")),
        ),
        (
            "change field",
            request(Method::PUT, &format!("/api/v1/fields/{title}")).json(&field("Heading")),
        ),
        (
            "change attachment",
            request(Method::PUT, &format!("/api/v1/datatypefields/{attached}"))
                .json(&json!({ "datatype_id": page, "field_id": title, "sort_order": 9 })),
        ),
        (
            "change content",
            request(Method::PUT, &format!("/api/v1/contentdata/{node}")).json(&{
                let mut content = content;
                content["status"] = json!("published");
                content
            }),
        ),
        (
            "change value",
            request(Method::PUT, &format!("/api/v1/contentfields/{held}"))
                .json(&json!({ "content_data_id": node, "field_id": title, "field_value": "Bye" })),
        ),
        (
            "change route",
            request(Method::PUT, &format!("{ROUTES}/{site}")).json(&route("/moved")),
        ),
        (
            "delete value",
            request(Method::DELETE, &format!("/api/v1/contentfields/{held}")),
        ),
        (
            "delete content",
            request(Method::DELETE, &format!("/api/v1/contentdata/{node}")),
        ),
        (
            "detach field",
            request(Method::DELETE, &format!("/api/v1/datatypefields/{attached}")),
        ),
        ("delete route", request(Method::DELETE, &format!("{ROUTES}/{site}"))),
        (
            "change profile",
            person
                .request(Method::PUT, "/api/v1/users/me")
                .json(&json!({ "full_name": "Grace Example" })),
        ),
        (
            "change password and go on",
            person
                .request(Method::PUT, "/api/v1/users/me/password")
                .json(&json!({ "current_password": PASSWORD, "new_password": "Another!Horse8" })),
        ),
        (
            "change password and sign out",
            leaving
                .request(Method::POST, "/api/v1/auth/password")
                .json(&json!({ "current_password": PASSWORD, "new_password": "Another!Horse8" })),
        ),
    ]
}

#[tokio::test]
async fn every_kind_of_write_replays() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let mut names = BTreeSet::new();
    for (name, request) in valid_writes(&app, &editor).await {
        assert!(names.insert(name), "{name} twice");
        let request = request.header(KEY, &name.replace(' ', "-"));
        let again = request.again();
        let before = app.head().await;
        let first = request.send().await;
        assert!(first.status.is_success(), "{name}: {}", first.text);
        let after = app.head().await;
        assert!(after > before, "{name} writes");
        let again = again.send().await;
        assert!(is_replay(&again), "{name}: {}", again.text);
        assert_replays(&again, &first);
        assert_eq!(app.head().await, after, "{name}");
    }
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

#[tokio::test]
async fn browsers_may_send_the_key_and_read_that_an_answer_is_old() {
    let app = TestApp::with(|config| config.cors.origins = vec!["https://app.example.com".to_owned()]).await;
    let editor = app.person(Role::Editor).await;
    let origin = "https://app.example.com";
    let preflight = app
        .request(Method::OPTIONS, ROUTES)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", KEY)
        .send()
        .await;
    assert!(preflight.header("access-control-allow-headers").contains(KEY));
    let send = |origin: Option<&str>| {
        let request = editor.request(Method::POST, ROUTES).header(KEY, "k");
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        request.json(&route("/one")).send()
    };
    let first = send(None).await.assert_status(StatusCode::CREATED);
    let again = send(Some(origin)).await.assert_status(StatusCode::CREATED);
    assert!(is_replay(&again) && again.text == first.text);
    // Headers of CORS are of the request at hand, not of the first one.
    assert_eq!(again.header("access-control-allow-origin"), origin);
    assert!(
        again
            .header("access-control-expose-headers")
            .contains("idempotency-replayed")
    );
    app.finish().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_its_key_is_looked_at() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let chunks = (0..300).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 4096]));
    let large = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let answer = editor
        .request(Method::POST, ROUTES)
        .header(KEY, "k")
        .body("application/json", large);
    answer.send().await.assert_problem(413, "PAYLOAD_TOO_LARGE");
    app.finish().await;
}
