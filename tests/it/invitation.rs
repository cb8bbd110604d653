//! Organizations and invitations: contract section 4.4, and rows IN-1 to IN-3 of the security reference.

use annals_domain::OrganizationRole;
use annals_tests::{Answer, Caller, PASSWORD, TestApp};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

const INVITE: &str = "/api/v1/auth/invite";
const ACCEPT: &str = "/api/v1/auth/accept-invite";
const PARALLEL: usize = 20;
const ROUNDS: usize = 10;

async fn organization_of(owner: &Caller) -> String {
    let me = owner.get("/api/v1/auth/me").await.body;
    me["organization"]["id"].as_str().unwrap().to_owned()
}

async fn invite(owner: &Caller, organization: &str, email: &str, role: &str) -> Answer {
    owner
        .post(
            INVITE,
            &json!({"email": email, "organization_id": organization, "role": role}),
        )
        .await
}

async fn token_of(app: &TestApp, email: &str) -> Value {
    json!({"token": app.token_for(email, "invitation").await})
}

#[tokio::test]
async fn somebody_invited_joins() {
    let app = TestApp::new().await;
    let (owner, guest) = (app.register().await, app.register().await);
    let organization = organization_of(&owner).await;
    let invited = invite(&owner, &organization, guest.email(), "member")
        .await
        .assert_status(StatusCode::OK);
    let url = invited.body["data"]["invite_url"].as_str().unwrap().to_owned();
    assert_eq!(
        invited.body,
        json!({"success": true, "message": "Invitation sent", "data": {
            "message": "Invitation sent", "email": guest.email(), "invite_url": url, "expires_in": 604800,
        }})
    );
    assert!(url.ends_with("/accept-invite"), "no token in {url}");
    let again = invite(&owner, &organization, guest.email(), "viewer").await;
    again.assert_problem(409, "INVITATION_PENDING");
    assert_eq!(again.body["detail"], "Invitation already pending for this email");
    let token = token_of(&app, guest.email()).await;
    let path = format!("/api/v1/auth/check-invite?token={}", token["token"].as_str().unwrap());
    let checked = app.get(&path).await.assert_status(StatusCode::OK);
    assert_eq!(
        checked.redacted(&["/data/expires_at"]),
        json!({"success": true, "data": {
            "valid": true, "email": guest.email(), "organization_id": organization, "role": "member", "expires_at": "[…]",
        }})
    );
    let accepted = guest.post(ACCEPT, &token).await.assert_status(StatusCode::OK);
    assert_eq!(
        accepted.body,
        json!({"success": true, "message": "Invitation accepted", "data": {
            "message": "Invitation accepted", "organization_id": organization, "role": "member",
        }})
    );
    let organizations = guest.get("/api/v1/auth/me").await.body["organizations"].clone();
    let joined = organizations
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["org_id"] == organization.as_str());
    assert_eq!(joined.unwrap()["role"], "member");
    // IN-1: it is used up.
    let again = guest.post(ACCEPT, &token).await;
    again.assert_problem(400, "INVITATION_USED");
    app.get(&path).await.assert_problem(404, "INVITATION_INVALID");
    app.finish().await;
}

/// IN-1: the token of one address is of no use to another account.
#[tokio::test]
async fn an_invitation_is_bound_to_its_address() {
    let app = TestApp::new().await;
    let (owner, eve) = (app.register().await, app.register().await);
    let organization = organization_of(&owner).await;
    invite(&owner, &organization, "guest@example.com", "admin")
        .await
        .assert_status(StatusCode::OK);
    let token = token_of(&app, "guest@example.com").await;
    let before = app.head().await;
    eve.post(ACCEPT, &token)
        .await
        .assert_problem(403, "INVITATION_OTHER_ADDRESS");
    eve.post(ACCEPT, &json!({"token": "A".repeat(43)}))
        .await
        .assert_problem(404, "INVITATION_INVALID");
    eve.post(ACCEPT, &json!({}))
        .await
        .assert_problem(400, "VALIDATION_ERROR");
    app.post(ACCEPT, &token).await.assert_problem(401, "UNAUTHORIZED");
    let other =
        json!({"email": "eve@example.com", "password": PASSWORD, "name": "Eve", "invite_token": token["token"]});
    let refused = app.post("/api/v1/auth/signup", &other).await;
    assert_eq!(
        (refused.status, &refused.body["detail"]),
        (StatusCode::BAD_REQUEST, &json!("Email does not match invitation"))
    );
    assert_eq!(app.head().await, before);
    app.finish().await;
}

#[tokio::test]
async fn whoever_signs_up_with_an_invitation_belongs_to_the_organization_at_once() {
    let app = TestApp::new().await;
    let owner = app.register().await;
    let organization = organization_of(&owner).await;
    invite(&owner, &organization, "guest@example.com", "viewer")
        .await
        .assert_status(StatusCode::OK);
    let invitation = app.token_for("guest@example.com", "invitation").await;
    let wish = json!({"email": "guest@example.com", "password": PASSWORD, "name": "Guest", "invite_token": invitation});
    app.post("/api/v1/auth/signup", &wish)
        .await
        .assert_status(StatusCode::OK);
    let token = app.token_for("guest@example.com", "sign_up").await;
    let verified = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;
    let verified = verified.assert_status(StatusCode::OK).body;
    assert_eq!(verified["data"]["organization_id"], organization.as_str());
    assert_eq!(verified["data"]["needs_org_setup"], false);
    let guest = app.sign_in("guest@example.com", PASSWORD).await;
    assert_eq!(
        guest.get("/api/v1/auth/me").await.body["organizations"][0]["role"],
        "viewer"
    );
    guest
        .post(ACCEPT, &json!({"token": invitation}))
        .await
        .assert_problem(400, "INVITATION_USED");
    app.finish().await;
}

/// IN-1: used at once by many requests, it admits once.
#[tokio::test]
async fn of_parallel_acceptances_one_wins() {
    let app = TestApp::new().await;
    let owner = app.register().await;
    let organization = organization_of(&owner).await;
    for _ in 0..ROUNDS {
        let guest = app.register().await;
        invite(&owner, &organization, guest.email(), "member")
            .await
            .assert_status(StatusCode::OK);
        let token = token_of(&app, guest.email()).await;
        let answers = join_all((0..PARALLEL).map(|_| guest.post(ACCEPT, &token))).await;
        assert_eq!(
            answers.iter().filter(|answer| answer.status == StatusCode::OK).count(),
            1
        );
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.assert_problem(400, "INVITATION_USED");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn only_owners_and_admins_invite_and_outsiders_learn_nothing() {
    let app = TestApp::new().await;
    let (owner, guest) = (app.register().await, app.register().await);
    let organization = organization_of(&owner).await;
    let outside = invite(&guest, &organization, "x@example.com", "member").await;
    outside.assert_problem(404, "organization.not_found");
    let nothing = invite(
        &guest,
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "x@example.com",
        "member",
    )
    .await;
    assert_eq!(outside.body["error"], nothing.body["error"]);
    let system = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let cx = app.state().on_behalf_of(&system);
    let (id, user) = (organization.parse().unwrap(), guest.user_id().parse().unwrap());
    annals_commands::organization::add_member(&cx, id, user, OrganizationRole::Member, None)
        .await
        .unwrap();
    let inside = invite(&guest, &organization, "x@example.com", "member").await;
    inside.assert_problem(403, "PERMISSION_DENIED");
    assert_eq!(inside.body["error"]["details"]["permission"], "organization.invite");
    invite(&owner, &organization, "x@example.com", "owner")
        .await
        .assert_problem(400, "VALIDATION_ERROR");
    app.finish().await;
}

/// IN-2: whoever may not invite any more has invited nobody.
#[tokio::test]
async fn the_right_of_the_inviter_is_asked_again() {
    let app = TestApp::new().await;
    let (owner, guest) = (app.register().await, app.register().await);
    let organization = organization_of(&owner).await;
    invite(&owner, &organization, guest.email(), "member")
        .await
        .assert_status(StatusCode::OK);
    let token = token_of(&app, guest.email()).await;
    let system = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let cx = app.state().on_behalf_of(&system);
    let id = owner.user_id().parse().unwrap();
    annals_commands::user::disable(&cx, id, "left".to_owned(), None)
        .await
        .unwrap();
    guest
        .post(ACCEPT, &token)
        .await
        .assert_problem(403, "INVITATION_NOT_ALLOWED");
    annals_commands::user::enable(&cx, id, None).await.unwrap();
    guest.post(ACCEPT, &token).await.assert_status(StatusCode::OK);
    app.finish().await;
}

/// IN-3: nobody but the operator says where a mailed link leads.
#[tokio::test]
async fn there_is_no_redirect() {
    let app = TestApp::new().await;
    let owner = app.register().await;
    let organization = organization_of(&owner).await;
    let body = json!({
        "email": "x@example.com", "organization_id": organization, "role": "member", "redirect_url": "https://evil.example",
    });
    owner.post(INVITE, &body).await.assert_problem(422, "VALIDATION_ERROR");
    app.finish().await;
}

#[tokio::test]
async fn an_organization_is_set_up_and_the_first_steps_are_told() {
    let app = TestApp::new().await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    app.post("/api/v1/auth/register", &body)
        .await
        .assert_status(StatusCode::CREATED);
    let ada = app.sign_in("ada@example.com", PASSWORD).await;
    let status = ada.get("/api/v1/onboarding/status").await.assert_status(StatusCode::OK);
    assert_eq!(
        status.body,
        json!({"success": true, "data": {
            "completed": false, "completed_at": null, "steps": {"email_verified": false, "organization": false},
        }})
    );
    let founded = ada
        .post(
            "/api/v1/auth/setup-organization",
            &json!({"name": "Engines", "slug": "engines"}),
        )
        .await;
    let organization = json!({"id": "[…]", "name": "Engines", "slug": "engines", "created_at": "[…]"});
    assert_eq!(
        founded.assert_status(StatusCode::OK).redacted(&[
            "/organization/id",
            "/organization/created_at",
            "/data/organization/id",
            "/data/organization/created_at",
        ]),
        json!({
            "success": true, "message": "Organization created successfully", "organization": organization,
            "data": {"organization": organization},
        })
    );
    let taken = ada
        .post(
            "/api/v1/auth/setup-organization",
            &json!({"name": "Other", "slug": "engines"}),
        )
        .await;
    taken.assert_problem(409, "organization.slug_taken");
    let done = ada
        .post("/api/v1/onboarding/complete", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(done.body["data"]["completed"], true);
    assert_eq!(
        done.body["data"]["steps"],
        json!({"email_verified": false, "organization": true})
    );
    let head = app.head().await;
    ada.post("/api/v1/onboarding/complete", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(app.head().await, head);
    app.finish().await;
}
