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

#[tokio::test] // SE-6
async fn one_sign_in_too_many_ends_the_session_in_least_use() {
    let app = TestApp::with(|config| config.session.limit = 3).await;
    let ada = app.register().await;
    let second = app.sign_in(ada.email(), PASSWORD).await;
    let third = app.sign_in(ada.email(), PASSWORD).await;
    let me = "/api/v1/auth/me";
    let body = json!({ "refresh_token": ada.refresh_token() });
    app.post("/api/v1/auth/refresh", &body)
        .await
        .assert_status(StatusCode::OK);
    let fourth = app.sign_in(ada.email(), PASSWORD).await;
    second.get(me).await.assert_problem(401, "UNAUTHORIZED");
    for live in [&ada, &third, &fourth] {
        live.get(me).await.assert_status(StatusCode::OK);
    }
    let head = app.head().await;
    let reasons: Vec<String> = sqlx::query_scalar(
        "select payload->>'reason' from log.events where event_type = 'session.revoked' and position <= $1",
    )
    .bind(i64::try_from(head.get()).unwrap())
    .fetch_all(app.state().database().pool())
    .await
    .unwrap();
    assert_eq!(reasons, ["session_limit_exceeded"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_ins_at_once_leave_no_more_sessions_than_allowed() {
    let app = TestApp::with(|config| config.session.limit = 2).await;
    let ada = app.register().await;
    let callers = futures::future::join_all((0..8).map(|_| app.sign_in(ada.email(), PASSWORD))).await;
    let mut live = 0;
    for caller in callers.iter().chain([&ada]) {
        live += usize::from(caller.get("/api/v1/auth/me").await.status == StatusCode::OK);
    }
    assert_eq!(live, 2);
    app.finish().await;
}

#[tokio::test]
async fn administrators_see_and_sweep_everybody_s_sessions() {
    let app = TestApp::with(|config| config.token.refresh_lifetime_s = 2).await;
    let admin = app.administrator().await;
    let ada = app.register().await;
    for path in ["/active", "/health"] {
        ada.get(&format!("{SESSIONS}{path}"))
            .await
            .assert_problem(403, "PERMISSION_DENIED");
    }
    ada.post(&format!("{SESSIONS}/sweep"), &json!({}))
        .await
        .assert_problem(403, "PERMISSION_DENIED");
    let active = admin
        .get(&format!("{SESSIONS}/active?limit=1&offset=x"))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(active.body["total"], 2);
    assert_eq!(active.body["sessions"].as_array().unwrap().len(), 1);
    let health = admin.get(&format!("{SESSIONS}/health")).await;
    assert_eq!(
        health.redacted(&[]),
        json!({
            "success": true, "status": "ok", "active": 2, "unswept": 0, "expired": 0, "revoked": 0, "limit_per_user": 10,
        })
    );
    // The lifetime is what the test waits for, not an order of things.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let admin = app.sign_in(admin.email(), PASSWORD).await;
    let swept = admin
        .post(&format!("{SESSIONS}/sweep"), &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(swept.body, json!({ "success": true, "expired": 2 }));
    let health = admin.get(&format!("{SESSIONS}/health")).await;
    assert_eq!(
        (&health.body["active"], &health.body["unswept"], &health.body["expired"]),
        (&json!(1), &json!(0), &json!(2))
    );
    let claims: i64 = sqlx::query_scalar("select count(*) from log.claims where scope = 'session'")
        .fetch_one(app.state().database().pool())
        .await
        .unwrap();
    assert_eq!(claims, 1, "claims of sessions that are over are given up");
    app.finish().await;
}

#[tokio::test]
async fn sessions_past_their_time_are_swept_without_being_asked() {
    let app = TestApp::with(|config| {
        config.token.refresh_lifetime_s = 1;
        config.session.sweep_every_s = 1;
    })
    .await;
    app.register().await;
    let begin = std::time::Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar("select count(*) from log.claims where scope = 'session'")
            .fetch_one(app.state().database().pool())
            .await
            .unwrap();
        if left == 0 {
            break;
        }
        assert!(begin.elapsed().as_secs() < 60, "nobody sweeps");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    app.finish().await;
}
