//! The list of one's own sign-ins, and ending one of them.

use annals_tests::{PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const SESSIONS: &str = "/api/v1/auth/sessions";
const LOGIN: &str = "/api/v1/auth/login";

#[tokio::test]
async fn the_list_shows_device_address_and_which_one_is_current() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let body = json!({ "email": ada.email(), "password": PASSWORD });
    let request = app
        .request(Method::POST, LOGIN)
        .header("x-device-id", "d-1")
        .header("x-device-name", "Ada's phone");
    let request = request
        .header("x-device-type", "mobile")
        .header("x-forwarded-for", "10.9.9.9, 198.51.100.7");
    let login = request.json(&body).send().await.assert_status(StatusCode::OK);
    let phone = login.body["token"].as_str().unwrap();
    let answer = app
        .request(Method::GET, SESSIONS)
        .bearer(phone)
        .send()
        .await
        .assert_status(StatusCode::OK);
    let first = answer.redacted(&[
        "/data/0/session_id",
        "/data/0/user_id",
        "/data/0/created_at",
        "/data/0/last_used_at",
        "/data/0/last_activity",
        "/data/0/expires_at",
    ]);
    assert_eq!(
        first["data"][0],
        json!({
            "session_id": "[…]", "user_id": "[…]", "device_name": "Ada's phone", "device_type": "mobile",
            "ip_address": "198.51.100.7", "country": null, "city": null, "created_at": "[…]", "last_used_at": "[…]",
            "last_activity": "[…]", "expires_at": "[…]", "status": "ACTIVE", "is_current": true,
            "mfa_verified_at": null, "mfa_methods_used": [],
        })
    );
    let body = &answer.body;
    assert_eq!(body["data"], body["sessions"]);
    assert_eq!(
        (&body["success"], &body["total"], &body["message"]),
        (&json!(true), &json!(2), &Value::Null)
    );
    let other = &body["data"][1];
    assert_eq!(
        (&other["is_current"], &other["device_type"], &other["ip_address"]),
        (&json!(false), &json!("unknown"), &json!("127.0.0.1"))
    );
    assert_eq!(other["device_name"], Value::Null);
    app.finish().await;
}

#[tokio::test]
async fn ended_sessions_are_listed_only_when_asked_for() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let second = app.sign_in(ada.email(), PASSWORD).await;
    second
        .post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    for path in [
        SESSIONS.to_owned(),
        format!("{SESSIONS}?include_expired=false"),
        format!("{SESSIONS}?include_expired=0"),
    ] {
        assert_eq!(ada.get(&path).await.body["total"], 1, "{path}");
    }
    for value in ["true", "1", "YES", "on"] {
        let answer = ada.get(&format!("{SESSIONS}?include_expired={value}")).await;
        let mut statuses: Vec<&str> = answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["status"].as_str().unwrap())
            .collect();
        statuses.sort_unstable();
        assert_eq!(statuses, ["ACTIVE", "REVOKED"]);
    }
    for value in ["maybe", "2", ""] {
        let answer = ada.get(&format!("{SESSIONS}?include_expired={value}")).await;
        answer.assert_problem(422, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], "include_expired");
    }
    app.get(SESSIONS).await.assert_problem(401, "UNAUTHORIZED");
    app.finish().await;
}

#[tokio::test]
async fn one_s_own_sessions_can_be_ended_and_nobody_else_s() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let eve = app.register().await;
    let id = |answer: annals_tests::Answer| answer.body["data"][0]["session_id"].as_str().unwrap().to_owned();
    let (adas, eves) = (id(ada.get(SESSIONS).await), id(eve.get(SESSIONS).await));
    let before = app.head().await;
    for unknown in [
        eves.as_str(),
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01H45NVB4PEX5VSKNK084SN02Q",
        "x",
    ] {
        let answer = ada.delete(&format!("{SESSIONS}/{unknown}")).await;
        answer.assert_problem(404, "session.not_found");
        assert_eq!(answer.body["detail"], "Session not found", "{unknown}");
    }
    assert_eq!(app.head().await, before, "nothing was appended");
    let answer = ada
        .delete(&format!("{SESSIONS}/{adas}"))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(
        answer.body,
        json!({
            "success": true, "data": { "message": "Session revoked successfully" },
            "message": "Session revoked successfully", "session_id": adas,
        })
    );
    ada.get(SESSIONS).await.assert_problem(401, "UNAUTHORIZED");
    // Once more from another session: it has ended, so it is unknown.
    let again = app.sign_in(ada.email(), PASSWORD).await;
    again
        .delete(&format!("{SESSIONS}/{adas}"))
        .await
        .assert_problem(404, "session.not_found");
    eve.get(SESSIONS).await.assert_status(StatusCode::OK);
    app.finish().await;
}

#[tokio::test]
async fn the_log_says_why_a_session_ended() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let id = ada.get(SESSIONS).await.body["data"][0]["session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    ada.delete(&format!("{SESSIONS}/{id}"))
        .await
        .assert_status(StatusCode::OK);
    let again = app.sign_in(ada.email(), PASSWORD).await;
    again
        .post("/api/v1/auth/logout", &json!({ "revoke_all_sessions": true }))
        .await
        .assert_status(StatusCode::OK);
    let records = app
        .store()
        .read_after(annals_eventstore::Position::START, 100)
        .await
        .unwrap();
    let reasons: Vec<Value> = records
        .iter()
        .filter(|record| record.event.event_type() == "session.revoked")
        .map(|record| {
            assert_eq!(record.metadata.actor.to_string(), format!("user:{}", ada.user_id()));
            record.event.payload().unwrap()["reason"].clone()
        })
        .collect();
    assert_eq!(reasons, ["user_revoke", "user_logout_all"]);
    app.finish().await;
}
