//! Signing in: the same cost whoever is asked for, and nothing for those who are disabled.

use annals_commands::auth::{
    AuthFailure, ChangePassword, Credential, INVALID_CREDENTIALS, MOST_FAILURES_RECORDED, USER_DISABLED, authenticate,
    change_password, sign_in, verify,
};
use annals_commands::user::{Register, disable, enable, register};
use annals_commands::{CommandError, CommandSettings, PasswordPolicy, RefreshKind, SignInOptions, UnitOfWork};
use annals_domain::{AnyEvent, Auth, AuthCommand, AuthEvent, RevocationReason, Session, SessionEvent};
use annals_eventstore::Position;

use super::{
    Fixture, PASSWORD, PasswordSettings, assert_code, assert_refused, new_id, nobody, secret, signed_in_as, user,
    username, wish,
};

#[tokio::test]
async fn a_user_signs_in_by_address_or_name_in_any_spelling() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let wish = Register {
        username: username("Ada Lovelace"),
        ..wish("Ada@Example.org")
    };
    let id = register(&cx, wish).await.unwrap().user_id;
    let options = fixture.commands.settings().opaque_sign_in();
    let password = secret(PASSWORD);
    for text in ["ada@example.org", " ADA@EXAMPLE.ORG ", "ada lovelace", "ADA LOVELACE"] {
        let signed_in = sign_in(&cx, Credential::EmailOrUsername(text), &password, options)
            .await
            .unwrap();
        assert_eq!(signed_in.user_id, id, "{text}");
    }
    assert_code(
        sign_in(&cx, Credential::Email("ada lovelace"), &password, options).await,
        INVALID_CREDENTIALS,
    );
}

#[tokio::test]
async fn a_session_knows_where_it_came_from() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let signed_in = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let record = fixture.since(Position(3)).await.remove(0);
    assert_eq!(record.position, signed_in.position);
    let AnyEvent::Session(SessionEvent::Started {
        user_id,
        refresh_digest,
        device,
        address,
        expires_at,
        at,
    }) = record.event
    else {
        panic!("{:?}", record.event)
    };
    assert_eq!(user_id, signed_in.user_id);
    assert!(refresh_digest.is_some());
    assert_eq!(device.get().unwrap().kind, "mobile");
    assert_eq!(address.unwrap().get().unwrap(), "192.0.2.7");
    assert_eq!(expires_at, at.plus_seconds(30 * 24 * 3600));
    assert_eq!(signed_in.tokens.access_expires_at, at.plus_seconds(24 * 3600));
    assert_eq!(signed_in.tokens.refresh_token.unwrap().len(), 86);
}

#[tokio::test]
async fn every_failure_costs_one_hash_and_says_the_same() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let disabled = fixture.register("gone@example.org").await.user_id;
    disable(&fixture.system(), disabled, "test".to_owned(), None)
        .await
        .unwrap();
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let empty = Register {
        password: secret(""),
        policy: PasswordPolicy::NONE,
        ..wish("empty@example.org")
    };
    register(&cx, empty).await.unwrap();

    let options = fixture.commands.settings().opaque_sign_in();
    let mut texts = Vec::new();
    for (credential, password) in [
        (Credential::Email("ada@example.org"), "wrong"),
        (Credential::Email("ada@example.org"), ""),
        (Credential::Email("nobody@example.org"), "wrong"),
        (Credential::Email("nobody@example.org"), ""),
        (Credential::Email("gone@example.org"), "wrong"),
        (Credential::Email("empty@example.org"), ""),
        (Credential::Email("not an address"), "wrong"),
        (Credential::Email("\0"), "wrong"),
        (Credential::EmailOrUsername("nobody"), "wrong"),
        (Credential::EmailOrUsername(""), "wrong"),
    ] {
        let before = fixture.commands.passwords().hashes();
        let error = sign_in(&cx, credential, &secret(password), options).await.unwrap_err();
        assert_eq!(
            fixture.commands.passwords().hashes(),
            before + 1,
            "{credential:?} {password:?}"
        );
        texts.push((error.code(), error.field(), error.to_string()));
    }
    texts.dedup();
    assert_eq!(texts, [(INVALID_CREDENTIALS, None, "Invalid credentials".to_owned())]);

    // The right password costs one hash as well; only who knows it learns that the user is disabled.
    let before = fixture.commands.passwords().hashes();
    fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    assert_code(fixture.sign_in("gone@example.org", PASSWORD).await, USER_DISABLED);
    assert_eq!(fixture.commands.passwords().hashes(), before + 2);
    // One that nobody can have costs none, whoever is asked for.
    for email in ["ada@example.org", "nobody@example.org"] {
        assert_code(fixture.sign_in(email, &"a".repeat(2000)).await, INVALID_CREDENTIALS);
    }
    assert_eq!(fixture.commands.passwords().hashes(), before + 2);
}

#[tokio::test]
async fn a_wrong_password_is_recorded_for_a_known_user_only() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let head = fixture.head().await;
    assert_code(
        fixture.sign_in("nobody@example.org", "wrong").await,
        INVALID_CREDENTIALS,
    );
    fixture.commands.quiesce().await;
    assert_eq!(fixture.head().await, head);
    assert_code(fixture.sign_in("ada@example.org", "wrong").await, INVALID_CREDENTIALS);
    fixture.commands.quiesce().await;
    let records = fixture.since(head).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].stream.id, id.as_uuid());
    let AnyEvent::Auth(AuthEvent::PasswordFailed { address, device, .. }) = &records[0].event else {
        panic!("{:?}", records[0].event)
    };
    assert_eq!(address.as_ref().unwrap().get().unwrap(), "192.0.2.7");
    assert_eq!(
        device.as_ref().unwrap().get().unwrap().name.as_deref(),
        Some("Test phone")
    );
    fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn strangers_cannot_make_a_stream_long() {
    let settings = CommandSettings {
        failures_per_minute: 3,
        ..CommandSettings::default()
    };
    let fixture = Fixture::with(settings, PasswordSettings::insecure_and_fast()).await;
    fixture.register("ada@example.org").await;
    let head = fixture.head().await;
    for _ in 0..10 {
        assert_code(fixture.sign_in("ada@example.org", "wrong").await, INVALID_CREDENTIALS);
    }
    fixture.commands.quiesce().await;
    assert_eq!(fixture.types_since(head).await, ["auth.password_failed"; 3]);
}

#[tokio::test]
async fn a_stream_of_failures_has_an_end_and_a_new_password_begins_another() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let cx = fixture.system();
    let record = |count: u32| async move {
        let mut unit = UnitOfWork::new(&cx);
        let read = unit.load::<Auth>(id).await.unwrap();
        let command = AuthCommand::RecordFailure {
            address: None,
            device: None,
            at: cx.commands.now(),
        };
        unit.stage(read, (0..count).map(|_| command.clone())).unwrap();
        unit.commit().await.unwrap();
    };
    record(MOST_FAILURES_RECORDED - 1).await;
    let head = fixture.head().await;
    for _ in 0..3 {
        assert_code(fixture.sign_in("ada@example.org", "wrong").await, INVALID_CREDENTIALS);
    }
    fixture.commands.quiesce().await;
    assert_eq!(fixture.types_since(head).await, ["auth.password_failed"]);

    let signed_in = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let caller = signed_in_as(&signed_in);
    let change = ChangePassword {
        current: secret(PASSWORD),
        new: secret("An0ther-horse!"),
        policy: PasswordPolicy::NONE,
        keep_current_session: true,
    };
    change_password(&fixture.commands.on_behalf_of(&caller), change)
        .await
        .unwrap();
    let head = fixture.head().await;
    assert_code(fixture.sign_in("ada@example.org", "wrong").await, INVALID_CREDENTIALS);
    fixture.commands.quiesce().await;
    assert_eq!(fixture.types_since(head).await, ["auth.password_failed"]);
}

#[tokio::test]
async fn a_token_is_judged_by_its_session() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let signed_in = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let access = signed_in.tokens.access_token.as_str();
    let elsewhere = fixture.other_process().await;
    assert!(authenticate(&elsewhere, Some(access)).await.is_ok());
    assert!(verify(&elsewhere, access).await.is_ok());

    let caller = signed_in_as(&signed_in);
    let cx = fixture.commands.on_behalf_of(&caller);
    let id = signed_in.session_id;
    annals_commands::session::revoke(&cx, id, RevocationReason::UserLogout)
        .await
        .unwrap();
    for commands in [&fixture.commands, &elsewhere] {
        assert!(matches!(
            authenticate(commands, Some(access)).await,
            Err(AuthFailure::Invalid)
        ));
        assert!(matches!(verify(commands, access).await, Err(AuthFailure::Invalid)));
    }
    assert!(matches!(
        authenticate(&elsewhere, None).await,
        Err(AuthFailure::Missing)
    ));
    assert!(matches!(
        authenticate(&elsewhere, Some("x")).await,
        Err(AuthFailure::Malformed)
    ));
}

#[tokio::test]
async fn an_access_token_ends_by_itself_and_with_its_session() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let signed_in = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let access = signed_in.tokens.access_token.as_str();
    fixture.clock.advance_seconds(24 * 3600 - 1);
    assert!(authenticate(&fixture.commands, Some(access)).await.is_ok());
    fixture.clock.advance_seconds(1);
    assert!(matches!(
        authenticate(&fixture.commands, Some(access)).await,
        Err(AuthFailure::Expired)
    ));

    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let mut options = fixture.commands.settings().opaque_sign_in();
    options.refresh = RefreshKind::None;
    options.lifetimes.refresh_seconds = 60;
    let short = sign_in(&cx, Credential::Email("ada@example.org"), &secret(PASSWORD), options)
        .await
        .unwrap();
    assert_eq!(short.tokens.access_expires_at, short.tokens.session_expires_at);
    assert_eq!(short.tokens.refresh_token, None);
}

#[tokio::test]
async fn each_kind_of_token_serves_its_own_purpose() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let options = fixture.commands.settings().signed_sign_in();
    let signed = sign_in(&cx, Credential::Email("ada@example.org"), &secret(PASSWORD), options)
        .await
        .unwrap();
    let refresh = signed.tokens.refresh_token.unwrap();
    assert!(verify(&fixture.commands, &refresh).await.is_ok());
    assert!(matches!(
        authenticate(&fixture.commands, Some(&refresh)).await,
        Err(AuthFailure::WrongType)
    ));
    fixture.clock.advance_seconds(7 * 24 * 3600);
    assert!(matches!(
        verify(&fixture.commands, &refresh).await,
        Err(AuthFailure::Expired)
    ));
}

#[tokio::test]
async fn disabling_ends_every_session_and_enabling_revives_none() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(fixture.sign_in("ada@example.org", PASSWORD).await.unwrap());
    }
    let system = fixture.system();
    let head = fixture.head().await;
    let done = disable(&system, id, "left".to_owned(), None).await.unwrap();
    assert!(done.state.disabled);
    let records = fixture.since(head).await;
    assert_eq!(records.len(), 4);
    assert!(
        records
            .iter()
            .all(|record| record.metadata.command_id == records[0].metadata.command_id)
    );
    for session in &sessions {
        let answer = authenticate(&fixture.commands, Some(&session.tokens.access_token)).await;
        assert!(matches!(answer, Err(AuthFailure::UserGone)), "{answer:?}");
    }
    assert_code(fixture.sign_in("ada@example.org", PASSWORD).await, USER_DISABLED);
    // Repeating changes nothing.
    assert_eq!(
        disable(&system, id, "left".to_owned(), None).await.unwrap().version,
        done.version
    );
    assert_eq!(fixture.since(head).await.len(), 4);

    enable(&system, id, None).await.unwrap();
    for session in &sessions {
        let answer = authenticate(&fixture.commands, Some(&session.tokens.access_token)).await;
        assert!(matches!(answer, Err(AuthFailure::Invalid)), "{answer:?}");
    }
    fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_signs_in_while_being_disabled_has_no_session_afterwards() {
    let fixture = Fixture::new().await;
    let system = fixture.system();
    let cx = fixture.context(nobody());
    let options = fixture.commands.settings().opaque_sign_in();
    for round in 0..15 {
        let email: &'static str = format!("user{round}@example.org").leak();
        let id = fixture.register(email).await.user_id;
        let signing: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move { sign_in(&cx, Credential::Email(email), &secret(PASSWORD), options).await })
            })
            .collect();
        let disabling = tokio::spawn(async move { disable(&system, id, "race".to_owned(), None).await });
        let disabled = disabling.await.unwrap().unwrap().position;
        let mut opened = Vec::new();
        for task in signing {
            match task.await.unwrap() {
                Ok(signed_in) => opened.push(signed_in),
                Err(error) => assert_eq!(error.code(), USER_DISABLED),
            }
        }
        for session in &opened {
            assert!(session.position < disabled, "round {round}: opened after the disabling");
            let answer = authenticate(&fixture.commands, Some(&session.tokens.access_token)).await;
            assert!(
                matches!(answer, Err(AuthFailure::UserGone)),
                "round {round}: {answer:?}"
            );
        }
        enable(&system, id, None).await.unwrap();
        for session in &opened {
            let answer = authenticate(&fixture.commands, Some(&session.tokens.access_token)).await;
            assert!(matches!(answer, Err(AuthFailure::Invalid)), "round {round}: {answer:?}");
        }
    }
}

fn change(current: &str, new: &str) -> ChangePassword {
    ChangePassword {
        current: secret(current),
        new: secret(new),
        policy: PasswordPolicy::CHANGE,
        keep_current_session: true,
    }
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_at_once() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let mine = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let other = fixture.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let caller = signed_in_as(&mine);
    let cx = fixture.commands.on_behalf_of(&caller);
    let head = fixture.head().await;
    let done = change_password(&cx, change(PASSWORD, "An0ther-one!")).await.unwrap();
    assert_eq!(done.sessions_revoked, 1);
    assert_eq!(
        fixture.types_since(head).await,
        ["auth.password_changed", "session.revoked"]
    );
    assert!(
        authenticate(&fixture.commands, Some(&mine.tokens.access_token))
            .await
            .is_ok()
    );
    assert!(
        authenticate(&fixture.commands, Some(&other.tokens.access_token))
            .await
            .is_err()
    );
    assert_code(fixture.sign_in("ada@example.org", PASSWORD).await, INVALID_CREDENTIALS);
    fixture.sign_in("ada@example.org", "An0ther-one!").await.unwrap();

    let all = ChangePassword {
        keep_current_session: false,
        ..change("An0ther-one!", "Thi4d-one!")
    };
    assert_eq!(change_password(&cx, all).await.unwrap().sessions_revoked, 2);
    assert!(
        authenticate(&fixture.commands, Some(&mine.tokens.access_token))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_password_change_names_the_member_at_fault() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let caller = user(id, annals_domain::Role::Viewer);
    let cx = fixture.commands.on_behalf_of(&caller);
    let head = fixture.head().await;
    let before = fixture.commands.passwords().hashes();
    for (new, code) in [
        ("Sh0rt!", "password.too_short"),
        ("n0-upper-case!", "password.needs_upper"),
        ("N0-LOWER-CASE!", "password.needs_lower"),
        ("No-digit-here!", "password.needs_digit"),
        ("N0specialHere", "password.needs_special"),
        (&"Aa1!".repeat(300), "password.too_long"),
    ] {
        assert_refused(change_password(&cx, change(PASSWORD, new)).await, code, "new_password");
    }
    assert_eq!(fixture.commands.passwords().hashes(), before);
    assert_refused(
        change_password(&cx, change(PASSWORD, PASSWORD)).await,
        "password.unchanged",
        "new_password",
    );
    assert_eq!(fixture.head().await, head);
    assert_refused(
        change_password(&cx, change("wrong", "An0ther-one!")).await,
        "auth.current_password_incorrect",
        "current_password",
    );
    fixture.commands.quiesce().await;
    assert_eq!(fixture.types_since(head).await, ["auth.password_failed"]);
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let answer = change_password(&cx, change(PASSWORD, "An0ther-one!")).await;
    assert!(matches!(answer, Err(CommandError::Denied(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_of_the_old_password_outlives_the_change() {
    let fixture = Fixture::new().await;
    let cx = fixture.context(nobody());
    let options = fixture.commands.settings().opaque_sign_in();
    for round in 0..15 {
        let email: &'static str = format!("user{round}@example.org").leak();
        let id = fixture.register(email).await.user_id;
        let signing: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn(async move { sign_in(&cx, Credential::Email(email), &secret(PASSWORD), options).await })
            })
            .collect();
        let own = fixture.context(user(id, annals_domain::Role::Viewer));
        let changing = tokio::spawn(async move { change_password(&own, change(PASSWORD, "An0ther-one!")).await });
        changing.await.unwrap().unwrap();
        for task in signing {
            if let Ok(signed_in) = task.await.unwrap() {
                let answer = authenticate(&fixture.commands, Some(&signed_in.tokens.access_token)).await;
                assert!(answer.is_err(), "round {round}: {:?}", signed_in.session_id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_password_changes_at_once_one_wins() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let cx = fixture.context(user(id, annals_domain::Role::Viewer));
    let tasks = [
        tokio::spawn(async move { change_password(&cx, change(PASSWORD, "Fi4st-wish!")).await }),
        tokio::spawn(async move { change_password(&cx, change(PASSWORD, "Sec0nd-wish!")).await }),
    ];
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            // The loser's proof is checked against the winner's password.
            Err(error) => assert_eq!(error.code(), "auth.current_password_incorrect"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_session_is_loaded_as_it_was_written() {
    let fixture = Fixture::new().await;
    fixture.register("ada@example.org").await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let options = SignInOptions {
        refresh: RefreshKind::None,
        ..fixture.commands.settings().opaque_sign_in()
    };
    let done = sign_in(&cx, Credential::Email("ada@example.org"), &secret(PASSWORD), options)
        .await
        .unwrap();
    let session = fixture.commands.store().load::<Session>(done.session_id).await.unwrap();
    assert_eq!((session.version, session.state.user_id), (1, Some(done.user_id)));
    assert!(session.state.is_live(fixture.commands.now()));
    let none = fixture
        .commands
        .store()
        .load::<Session>(new_id::<annals_domain::SessionId>())
        .await
        .unwrap();
    assert_eq!(none.version, 0);
}
