//! How mails leave: into the outbox or to a server, behind the requests, at least once.

use annals_api::config::MailTransportKind;
use annals_tests::TestApp;
use annals_tests::mail::MailServer;
use reqwest::{Method, StatusCode};
use serde_json::json;

const FORGOT: &str = "/api/v1/auth/password/forgot";

/// PH-5: what a request says about the host changes no link.
#[tokio::test]
async fn links_are_built_from_the_configuration_alone() {
    let app = TestApp::with(|config| config.mail.public_url = Some("https://app.example.org".to_owned())).await;
    let person = app.register().await;
    for (name, value) in [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "host=evil.example;proto=https"),
    ] {
        let request = app.request(Method::POST, FORGOT).header(name, value);
        request
            .json(&json!({"email": person.email()}))
            .send()
            .await
            .assert_status(StatusCode::OK);
        app.mailed().await;
    }
    let mails = app.mails_to(person.email()).await;
    assert_eq!(mails.len(), 4, "one for the registration, three for the wishes");
    for mail in &mails {
        assert!(mail.link().starts_with("https://app.example.org/"), "{}", mail.link());
        assert!(!mail.text.contains("evil"), "{}", mail.text);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_mail_has_both_parts_and_names_itself_after_its_event() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let mails = app.mails_to(person.email()).await;
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!(mail.header("Subject"), "Confirm your e-mail address");
    assert_eq!(mail.header("From"), "Annals <annals@localhost>");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("Message-ID"), format!("<{}@127.0.0.1>", mail.name));
    assert!(
        mail.text.contains("text/plain") && mail.text.contains("text/html"),
        "{}",
        mail.text
    );
    app.finish().await;
}

/// EN-5: the server of mails is no part of any answer, and what it refuses is sent when it takes it.
#[tokio::test]
async fn a_mail_that_the_server_refuses_is_sent_later() {
    let server = MailServer::start().await;
    server.refuse(true);
    let url = server.url();
    let app = TestApp::with(|config| {
        config.mail.transport = MailTransportKind::Smtp;
        config.mail.smtp_url = Some(url.into());
    })
    .await;
    let person = app.register().await;
    app.mailed().await;
    assert_eq!(server.mails(), []);
    let head = app.head().await;
    let waiting = annals_eventstore::mails::status(app.store().database().pool(), head_of_link(&app).await).await;
    let waiting = waiting.unwrap().expect("the mail was noted");
    assert_eq!((waiting.status.as_str(), app.head().await), ("waiting", head));
    assert!(waiting.attempts >= 1);
    assert!(
        !waiting.last_error.unwrap().contains("person"),
        "no address in what is kept"
    );
    server.refuse(false);
    let arrived = async {
        while server.mails().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), arrived)
        .await
        .expect("the mail arrives");
    assert_eq!(server.mails()[0].header("To"), person.email());
    app.finish().await;
}

async fn head_of_link(app: &TestApp) -> annals_eventstore::Position {
    let records = app
        .store()
        .read_after(annals_eventstore::Position::START, 1000)
        .await
        .unwrap();
    let asking = records
        .iter()
        .rev()
        .find(|record| record.event.event_type() == "link.issued");
    asking.unwrap().position
}

#[tokio::test]
async fn mails_to_one_address_are_spread_over_time() {
    let app = TestApp::with(|config| {
        config.mail.most_per_hour = 2;
        config.link.most_per_hour = 10;
    })
    .await;
    let person = app.register().await;
    for _ in 0..4 {
        app.post(FORGOT, &json!({"email": person.email()}))
            .await
            .assert_status(StatusCode::OK);
        app.mailed().await;
    }
    assert_eq!(app.mails_to(person.email()).await.len(), 2, "the others wait");
    app.finish().await;
}
