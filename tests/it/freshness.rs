//! A write followed at once by the reads that show it is never stale, and races for one name have one winner.

use annals_tests::TestApp;
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Writes, each read back at once.
const WRITES: usize = 1000;
/// Races for one address.
const RACES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_seen_by_the_reads_that_follow_it() {
    let app = TestApp::new().await;
    let caller = app.administrator().await;
    let get = async |path: String| -> Value {
        let answer = app
            .client()
            .get(app.url(&path))
            .bearer_auth(caller.token())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.expect("a JSON body")
    };
    for number in 0..WRITES {
        let label = format!("Page {number}");
        let answer = app
            .client()
            .post(app.url("/api/v1/datatype"))
            .bearer_auth(caller.token())
            .json(&json!({ "label": label, "type": "page" }))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert!(answer.headers().contains_key("event-position"));
        let created: Value = answer.json().await.expect("a JSON body");
        let id = created["datatype_id"].as_str().expect("an id");
        assert_eq!(
            get(format!("/api/v1/datatype/?q={id}")).await,
            created,
            "write {number}"
        );
        let page = get("/api/v1/datatype?limit=1&offset=0".to_owned()).await;
        assert_eq!(page["total"], number + 1, "write {number}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_registrations_of_one_address_one_wins() {
    let app = TestApp::new().await;
    for race in 0..RACES {
        let register = async |email: String| -> (StatusCode, Value) {
            let answer = app
                .client()
                .post(app.url("/api/v1/auth/register"))
                .json(&json!({
                    "email": email,
                    "password": "a long enough password",
                    "full_name": "Ada Example",
                    "organization_name": "Example & Co",
                }))
                .send()
                .await
                .expect("an answer");
            (answer.status(), answer.json().await.expect("a JSON body"))
        };
        let answers = join_all([
            register(format!("ada{race}@example.com")),
            register(format!("ADA{race}@Example.COM")),
        ])
        .await;
        let won = answers
            .iter()
            .filter(|(status, _)| *status == StatusCode::CREATED)
            .count();
        assert_eq!(won, 1, "race {race}: {answers:?}");
        let (status, lost) = answers
            .iter()
            .find(|(status, _)| *status != StatusCode::CREATED)
            .expect("somebody has lost");
        assert_eq!(
            (*status, &lost["error"]["code"]),
            (StatusCode::CONFLICT, &json!("AUTH_EMAIL_EXISTS"))
        );
    }
    app.finish().await;
}
