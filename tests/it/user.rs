//! One's own profile and password, under both of their paths.

use annals_tests::{PASSWORD, TestApp};
use reqwest::StatusCode;
use serde_json::json;

const PATHS: [&str; 2] = ["/api/v1/auth/users/me", "/api/v1/users/me"];
const NEW_PASSWORD: &str = "Another!Horse8";

#[tokio::test]
async fn the_profile_is_served_under_both_paths() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let redacted = ["/data/id", "/data/org_id", "/data/created_at", "/data/updated_at"];
    for path in PATHS {
        let answer = ada.get(path).await.assert_status(StatusCode::OK);
        assert_eq!(
            answer.redacted(&redacted),
            json!({
                "success": true,
                "data": {
                    "id": "[…]", "email": ada.email(), "username": "person0", "name": "Ada Example",
                    "full_name": "Ada Example", "role": "editor", "org_id": "[…]", "is_active": true,
                    "is_verified": false, "email_verified": false, "created_at": "[…]", "updated_at": "[…]",
                },
                "message": "User profile retrieved successfully",
            })
        );
        assert_eq!(answer.body["data"]["id"], ada.user_id());
        let nobody = app.get(path).await;
        nobody.assert_problem(401, "UNAUTHORIZED");
        assert_eq!(nobody.body["detail"], "Not authenticated");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_new_name_is_seen_at_once() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    for (path, name) in PATHS.into_iter().zip(["Ada Byron", "Ada King"]) {
        let body = json!({ "full_name": format!("  {name} "), "role": "administrator", "email": "x@example.com" });
        let answer = ada.put(path, &body).await.assert_status(StatusCode::OK);
        assert_eq!(answer.body["message"], "User profile updated successfully");
        assert_eq!(answer.body["data"]["full_name"], name);
        let shown = ada.get(path).await;
        assert_eq!(shown.body["data"], answer.body["data"]);
        assert_eq!(
            (&shown.body["data"]["role"], &shown.body["data"]["email"]),
            (&json!("editor"), &json!(ada.email()))
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn a_profile_without_a_name_changes_nothing_and_a_bad_one_is_422() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let before = app.head().await;
    for body in [
        json!({}),
        json!({ "anything": [1, 2] }),
        json!({ "full_name": null }),
        json!({ "full_name": "Ada Example" }),
    ] {
        let answer = ada.put(PATHS[0], &body).await.assert_status(StatusCode::OK);
        assert_eq!(answer.body["data"]["full_name"], "Ada Example", "{body}");
    }
    for body in [
        json!({ "full_name": "A" }),
        json!({ "full_name": "" }),
        json!({ "full_name": "x".repeat(101) }),
        json!({ "full_name": "a\nb" }),
        json!({ "full_name": 7 }),
    ] {
        let answer = ada.put(PATHS[0], &body).await;
        answer.assert_problem(422, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], "full_name", "{body}");
    }
    ada.put(PATHS[0], &json!([]))
        .await
        .assert_problem(422, "VALIDATION_ERROR");
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let other = app.sign_in(ada.email(), PASSWORD).await;
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    let answer = ada
        .put("/api/v1/auth/users/me/password", &body)
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(
        answer.body,
        json!({
            "success": true, "data": { "message": "Password changed successfully" },
            "message": "Password updated successfully",
        })
    );
    ada.get(PATHS[0]).await.assert_status(StatusCode::OK);
    other.get(PATHS[0]).await.assert_status(StatusCode::UNAUTHORIZED);
    let refresh = app
        .post(
            "/api/v1/auth/refresh",
            &json!({ "refresh_token": other.refresh_token() }),
        )
        .await;
    assert_eq!(refresh.status, StatusCode::UNAUTHORIZED);
    let old = app
        .post(
            "/api/v1/auth/login",
            &json!({ "email": ada.email(), "password": PASSWORD }),
        )
        .await;
    old.assert_problem(401, "AUTH_INVALID_CREDENTIALS");
    app.sign_in(ada.email(), NEW_PASSWORD).await;
    app.finish().await;
}

#[tokio::test]
async fn the_other_documents_paths_end_this_session_too() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    for (path, member, old, new) in [
        ("/api/v1/auth/password", "new_password", PASSWORD, NEW_PASSWORD),
        ("/api/v1/auth/reset", "password", NEW_PASSWORD, PASSWORD),
    ] {
        let caller = app.sign_in(ada.email(), old).await;
        let answer = caller
            .post(path, &json!({ "current_password": old, member: new }))
            .await;
        assert_eq!(
            (answer.status, &answer.body),
            (
                StatusCode::OK,
                &json!({
                    "success": true, "data": { "message": "Password changed successfully" },
                    "message": "Password changed successfully", "sessions_invalidated": true,
                })
            )
        );
        caller.get(PATHS[0]).await.assert_status(StatusCode::UNAUTHORIZED);
        let weak = app
            .sign_in(ada.email(), new)
            .await
            .post(path, &json!({ "current_password": new, member: "weak" }))
            .await;
        weak.assert_problem(400, "VALIDATION_ERROR");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_bad_change_of_password_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let path = "/api/v1/users/me/password";
    let wrong = ada
        .put(
            path,
            &json!({ "current_password": "Wrong!Horse1", "new_password": NEW_PASSWORD }),
        )
        .await;
    wrong.assert_problem(400, "auth.current_password_incorrect");
    assert_eq!(wrong.body["detail"], "The current password you entered is incorrect.");
    let same = ada
        .put(path, &json!({ "current_password": PASSWORD, "new_password": PASSWORD }))
        .await;
    assert_eq!(same.status, StatusCode::BAD_REQUEST);
    assert!(
        same.body["detail"]
            .as_str()
            .unwrap()
            .ends_with("cannot be the same as your current password.")
    );
    for new in ["Aa1!", "aaaaaa1!", "AAAAAA1!", "AAAaaaa!", "AAAaaa12"] {
        let answer = ada
            .put(path, &json!({ "current_password": PASSWORD, "new_password": new }))
            .await;
        answer.assert_problem(422, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], "new_password");
    }
    for body in [
        json!({}),
        json!({ "current_password": PASSWORD }),
        json!({ "new_password": NEW_PASSWORD }),
    ] {
        ada.put(path, &body).await.assert_problem(422, "VALIDATION_ERROR");
    }
    app.sign_in(ada.email(), PASSWORD).await;
    app.finish().await;
}
