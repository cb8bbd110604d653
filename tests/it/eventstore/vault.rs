//! Personal data: nowhere in clear, and gone with its key.

use annals_domain::{ClaimKey, ClaimScope, User, UserEvent};
use annals_eventstore::{AppendError, MasterKey, Position, StoreError, Vault, VaultError};

use super::*;

async fn erase(log: &TestLog, id: UserId) {
    log.store.vault().erase(id.as_uuid()).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_person_is_stored_in_clear() {
    let log = TestLog::new().await;
    let ada = new_user();
    log.store
        .append(registered(ada, "ada@example.org", "countess"))
        .await
        .unwrap();
    let mut superuser = log.test.superuser().await;
    let everything: Vec<String> = sqlx::query_scalar(
        "select e::text from log.events e union all select c::text from log.claims c union all
         select c::text from log.commands c union all select k::text from vault.subject_keys k",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    let everything = everything.join("\n");
    assert!(everything.contains("$sealed"));
    for clear in ["ada@example.org", "countess", "Lovelace"] {
        assert!(
            !everything.contains(clear) && !everything.contains(&hex::encode(clear)),
            "{clear}: {everything}"
        );
    }
    let loaded = log.store.load::<User>(ada).await.unwrap();
    assert_eq!(loaded.version, 1);
    assert_eq!(loaded.state.email.unwrap().get().unwrap().as_str(), "ada@example.org");
    let owner = log
        .store
        .owner_of(ClaimScope::Email, &ClaimKey::Personal("ada@example.org".to_owned()))
        .await
        .unwrap();
    assert_eq!(owner, Some(ada.as_uuid()));
}

#[tokio::test]
async fn erased_data_reads_as_absent_everywhere_and_the_chain_holds() {
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
    let before = log.verify().await.unwrap();
    erase(&log, ada).await;

    for store in [&log.store, &log.another().await] {
        let loaded = store.load::<User>(ada).await.unwrap();
        assert_eq!(loaded.version, 1);
        assert_eq!(loaded.state.email.unwrap().get(), None);
        assert!(
            store
                .load::<User>(grace)
                .await
                .unwrap()
                .state
                .email
                .unwrap()
                .get()
                .is_some()
        );
        let records = store.read_after(Position::START, 10).await.unwrap();
        let AnyEvent::User(UserEvent::Registered { email, name, .. }) = &records[0].event else {
            panic!()
        };
        assert_eq!((email.get(), name.get(), email.subject()), (None, None, ada.as_uuid()));
    }
    let after = log.verify().await.unwrap();
    assert_eq!(after.head, before.head);
    // E-mail and username can no longer be computed; the user's own claim and those of the other one can.
    assert_eq!((after.claims, after.claims_not_computable), (4, 2));
}

#[tokio::test]
async fn a_key_row_that_is_simply_gone_erases_too() {
    let log = TestLog::new().await;
    let ada = new_user();
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    assert_eq!(log.tamper("delete from vault.subject_keys").await, 1);
    let loaded = log.another().await.load::<User>(ada).await.unwrap();
    assert_eq!(loaded.state.email.unwrap().get(), None);
}

#[tokio::test]
async fn an_erased_subject_gets_no_other_key() {
    let log = TestLog::new().await;
    let ada = new_user();
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    erase(&log, ada).await;
    let renamed = UserEvent::ProfileChanged {
        name: Personal::new(ada, "Ada".to_owned()),
        at: at(),
    };
    let again = command(vec![events(user(ada), 1, vec![renamed.into()])]);
    let Err(AppendError::Refused(text)) = log.store.append(again).await else {
        panic!("data was written")
    };
    assert!(text.contains("erased"), "{text}");
    // What holds no personal data is still recorded.
    let disabled = UserEvent::Disabled {
        reason: "erased".to_owned(),
        at: at(),
    };
    log.store
        .append(command(vec![events(user(ada), 1, vec![disabled.into()])]))
        .await
        .unwrap();
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_sealed_value_moved_to_another_event_does_not_open() {
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
    log.tamper(
        "update log.events set payload = (select payload from log.events where position = 1) where position = 2",
    )
    .await;
    let error = log.store.read_after(Position(1), 1).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { place, .. } if place == "position 2"),
        "{error}"
    );
    assert!(log.store.load::<User>(grace).await.is_err());
}

#[tokio::test]
async fn another_master_key_is_noticed_before_it_writes() {
    let log = TestLog::new().await;
    let other = MasterKey::from_bytes([8; 32]);
    let refused = Vault::open(&log.test.database(), &other).await.unwrap_err();
    assert!(matches!(refused, VaultError::WrongMasterKey));
    Vault::open(&log.test.database(), &master_key()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_seal_for_one_subject_use_one_key() {
    let log = TestLog::new().await;
    let other = log.another().await;
    let subject = new_user();
    let racing: Vec<_> = (0..20)
        .map(|number| {
            // Twenty accounts with data about one and the same person.
            let id = new_user();
            let event = UserEvent::ProfileChanged {
                name: Personal::new(subject, format!("name {number}")),
                at: at(),
            };
            let store = if number % 2 == 0 { &log.store } else { &other };
            tokio::spawn(append(store, command(vec![events(user(id), 0, vec![event.into()])])))
        })
        .collect();
    for racer in racing {
        racer.await.unwrap().unwrap();
    }
    let fresh = log.another().await;
    let records = fresh.read_after(Position::START, 100).await.unwrap();
    assert_eq!(records.len(), 20);
    for record in records {
        let AnyEvent::User(UserEvent::ProfileChanged { name, .. }) = record.event else {
            panic!()
        };
        assert!(name.get().unwrap().starts_with("name "));
    }
    assert_eq!(log.count("vault.subject_keys").await, 1);
}
