//! Asking who holds what.

use annals_domain::{ClaimKey, ClaimScope, Device, Personal, SessionEvent, SessionId, UserEvent};

use super::*;

fn session_started(user: UserId) -> AnyEvent {
    SessionEvent::Started {
        user_id: user,
        refresh_digest: None,
        device: Personal::new(user, Device::default()),
        address: None,
        expires_at: at(),
        at: at(),
    }
    .into()
}

#[tokio::test]
async fn a_session_is_live_while_it_and_its_user_are() {
    let log = TestLog::new().await;
    let (ada, session) = (new_user(), SessionId::new(Uuid::now_v7()));
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    assert!(!log.store.session_is_live(ada, session).await.unwrap());
    let stream = StreamId::new("session", session);
    log.store
        .append(command(vec![events(stream, 0, vec![session_started(ada)])]))
        .await
        .unwrap();
    assert!(log.store.session_is_live(ada, session).await.unwrap());
    assert!(!log.store.session_is_live(new_user(), session).await.unwrap());

    let found = log
        .store
        .claims_with_prefix(ClaimScope::Session, ada.as_uuid().as_bytes())
        .await
        .unwrap();
    assert_eq!(
        found.iter().map(|(_, owner)| *owner).collect::<Vec<_>>(),
        [session.as_uuid()]
    );
    let none = log
        .store
        .claims_with_prefix(ClaimScope::Session, new_user().as_uuid().as_bytes())
        .await
        .unwrap();
    assert!(none.is_empty());

    let disabled = UserEvent::Disabled {
        reason: "asked for".to_owned(),
        at: at(),
    };
    log.store
        .append(command(vec![events(user(ada), 1, vec![disabled.into()])]))
        .await
        .unwrap();
    assert!(!log.store.session_is_live(ada, session).await.unwrap());
    let enabled = UserEvent::Enabled { at: at() };
    log.store
        .append(command(vec![events(user(ada), 2, vec![enabled.into()])]))
        .await
        .unwrap();
    assert!(log.store.session_is_live(ada, session).await.unwrap());
    log.store
        .append(command(vec![events(
            stream,
            1,
            vec![SessionEvent::Expired { at: at() }.into()],
        )]))
        .await
        .unwrap();
    assert!(!log.store.session_is_live(ada, session).await.unwrap());
    log.verify().await.unwrap();
}

#[tokio::test]
async fn owners_come_in_the_order_asked() {
    let log = TestLog::new().await;
    let (ada, grace) = (new_user(), new_user());
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    log.store
        .append(registered(grace, "grace@example.org", "grace"))
        .await
        .unwrap();
    let email = |text: &str| (ClaimScope::Email, ClaimKey::Personal(text.to_owned()));
    let asked = [
        email("grace@example.org"),
        email("nobody@example.org"),
        email("ada@example.org"),
    ];
    let found = log.store.owners_of(&asked).await.unwrap();
    assert_eq!(found, [Some(grace.as_uuid()), None, Some(ada.as_uuid())]);
    assert_eq!(
        log.store
            .owner_of(ClaimScope::Username, &ClaimKey::Personal("ada".to_owned()))
            .await
            .unwrap(),
        Some(ada.as_uuid())
    );
    // The same text under another scope is another key.
    assert_eq!(
        log.store
            .owner_of(ClaimScope::Email, &ClaimKey::Personal("ada".to_owned()))
            .await
            .unwrap(),
        None
    );
    assert!(log.store.owners_of(&[]).await.unwrap().is_empty());
}
