//! What an operator sees of a read model whose log was set back: readiness, status, doctor, and how to go on.

use std::time::{Duration, Instant};

use annals_tests::TestDatabase;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::Executor;

use super::cli::{Annals, Server};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for an answer to the question whether the server is ready.
async fn until_ready_says(client: &Client, server: &Server, status: StatusCode, body: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client
            .get(format!("{}/health/ready", server.address))
            .send()
            .await
            .expect("an answer");
        let found = (answer.status(), answer.json::<Value>().await.expect("a JSON body"));
        if (found.0, &found.1) == (status, body) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_diverged_is_told_everywhere_until_somebody_rebuilds() {
    let test = TestDatabase::new().await;
    let annals = Annals {
        database_url: Some(test.url()),
        ..Annals::new()
    };
    let client = annals_tests::client().build().expect("a client");
    let server = annals.serve();
    let post = async |path: &str, body: Value| {
        let request = client.post(format!("{}{path}", server.address)).json(&body);
        request.send().await.expect("an answer")
    };
    let ada = json!({
        "email": "ada@example.com",
        "password": "a long enough password",
        "full_name": "Ada",
        "organization_name": "Example & Co",
    });
    assert_eq!(
        post("/api/v1/auth/register", ada.clone()).await.status(),
        StatusCode::CREATED
    );
    let answer = post("/api/v1/auth/login", ada).await;
    let position = answer.headers()["event-position"].to_str().expect("text").to_owned();
    let token = answer.json::<Value>().await.expect("a JSON body")["token"].clone();
    until_ready_says(&client, &server, StatusCode::OK, &json!({ "status": "ok" })).await;

    test.superuser()
        .await
        .execute("update log.checkpoints set entry_hash = sha256('another log') where projection = 'users'")
        .await
        .expect("the checkpoint is changed");
    let diverged = format!("log diverged at position {position}");
    let body = json!({ "status": "unavailable", "faults": [format!("projection users: {diverged}")] });
    until_ready_says(&client, &server, StatusCode::SERVICE_UNAVAILABLE, &body).await;

    // A read that needs to be fresh is told why it is not, and at once.
    let refused = client
        .get(format!("{}/api/v1/auth/me", server.address))
        .bearer_auth(token.as_str().expect("a token"))
        .header("min-position", &position)
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "30");
    let refused: Value = refused.json().await.expect("a JSON body");
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["message"]),
        (
            &json!("READ_MODEL_BEHIND"),
            &json!(format!(
                "The read model users was built from another log, which diverged at position {position}."
            ))
        )
    );

    let status = annals.run(&["status", "--json"]);
    assert_eq!(status.code, 1, "{}", status.stderr);
    let status = status.json();
    let states: Vec<(&Value, &Value, &Value)> = status["projections"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|projection| (&projection["name"], &projection["state"], &projection["error"]))
        .filter(|(_, state, _)| **state != json!("following"))
        .collect();
    assert_eq!(states, [(&json!("users"), &json!("diverged"), &json!(diverged))]);
    assert!(annals.run(&["status"]).stdout.contains(&diverged));
    let doctor = annals.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    let line = format!("FAULT    log_diverged: read model users: {diverged}\n");
    assert!(doctor.stdout.contains(&line), "{}", doctor.stdout);

    annals.run(&["rebuild", "users"]).good();
    until_ready_says(&client, &server, StatusCode::OK, &json!({ "status": "ok" })).await;
    annals.run(&["status"]).good();
    annals.run(&["rebuild", "--all", "--verify"]).good();
}
