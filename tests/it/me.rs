//! One's own account under the paths of the Aragora document, and signing out everywhere.

use annals_tests::{PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::json;

const ME: &str = "/api/v1/auth/me";

#[tokio::test]
async fn one_s_name_can_be_changed_under_every_path() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    for (number, (method, path)) in [
        (Method::PUT, ME),
        (Method::POST, ME),
        (Method::POST, "/api/v1/auth/profile"),
        (Method::PUT, "/api/auth/me"),
        (Method::POST, "/api/auth/profile"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("Ada {number}");
        let body = json!({ "name": name, "role": "administrator", "is_active": false });
        let answer = ada.request(method, path).json(&body).send().await;
        let body = answer.assert_status(StatusCode::OK).body;
        assert_eq!(
            (&body["user"]["name"], &body["user"]["role"]),
            (&json!(name), &json!("editor"))
        );
        assert_eq!(body["user"], body["data"]);
        assert_eq!(ada.get(ME).await.body["user"]["name"], name.as_str());
    }
    let unchanged = ada.put(ME, &json!({})).await.assert_status(StatusCode::OK);
    assert_eq!(unchanged.body["user"]["name"], "Ada 4");
    for name in [
        json!(""),
        json!(" "),
        json!("x".repeat(101)),
        json!(7),
        json!("a\u{7}b"),
    ] {
        let answer = ada.put(ME, &json!({ "name": name })).await;
        answer.assert_problem(400, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], "name");
    }
    app.finish().await;
}

#[tokio::test]
async fn signing_out_everywhere_ends_all_of_one_s_own_sessions() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let other = app.sign_in(ada.email(), PASSWORD).await;
    let eve = app.register().await;
    let answer = ada
        .post("/api/v1/auth/logout-all", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    let message = "All sessions terminated";
    assert_eq!(
        answer.body,
        json!({
            "success": true, "data": { "message": message }, "message": message, "sessions_invalidated": true,
            "sessions_terminated": 2, "token_version": 1,
        })
    );
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    for ended in [&ada, &other] {
        ended.get(ME).await.assert_problem(401, "UNAUTHORIZED");
    }
    eve.get(ME).await.assert_status(StatusCode::OK);
    app.finish().await;
}
