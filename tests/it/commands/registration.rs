//! Registering: one commit or nothing, and one winner.

use annals_commands::auth::{Credential, authenticate};
use annals_commands::user::{Register, register};
use annals_commands::{CommandError, CommandSettings, PasswordPolicy, PasswordSettings, auth, organization};
use annals_domain::{Actor, AnyEvent, ClaimScope, OrganizationRole, Role, UserEvent};
use annals_eventstore::Position;
use futures::future::join_all;

use super::{Fixture, PASSWORD, assert_code, assert_refused, nobody, secret, username, wish};

#[tokio::test]
async fn a_registration_is_one_commit() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let done = register(
        &cx,
        Register {
            organization_name: Some("Analytical Engines".to_owned()),
            sign_in: Some(fixture.commands.settings().opaque_sign_in()),
            ..wish("Ada@Example.org")
        },
    )
    .await
    .unwrap();
    let records = fixture.since(Position::START).await;
    let types: Vec<_> = records.iter().map(|record| record.event.event_type()).collect();
    let expected = [
        "user.registered",
        "auth.password_set",
        "organization.founded",
        "organization.member_added",
        "session.started",
        "link.issued",
    ];
    assert_eq!(types, expected);
    assert_eq!(done.position, Position(6));
    let command = records[0].metadata.command_id;
    for record in &records {
        assert_eq!(record.metadata.command_id, command);
        assert_eq!(record.metadata.actor, Actor::User(done.user_id));
        assert_eq!(record.metadata.correlation_id, caller.correlation_id);
    }
    let AnyEvent::User(UserEvent::Registered {
        email, username, role, ..
    }) = &records[0].event
    else {
        panic!("{:?}", records[0].event)
    };
    assert_eq!(email.get().unwrap().as_str(), "ada@example.org");
    assert_eq!(username.get().unwrap().as_str(), "ada");
    assert_eq!(*role, Role::Viewer);

    let (organization_id, organization) = done.organization.unwrap();
    assert_eq!(organization_id, organization::founded_by(done.user_id));
    assert_eq!(organization.slug, "analytical-engines");
    assert_eq!(organization.members.get(&done.user_id), Some(&OrganizationRole::Owner));

    let session = done.signed_in.unwrap();
    let who = authenticate(&fixture.commands, Some(&session.tokens.access_token))
        .await
        .unwrap();
    assert_eq!((who.user_id, who.session_id), (done.user_id, session.session_id));
    assert_eq!(who.organization_id, Some(organization_id));
    assert_eq!(who.email.as_deref(), Some("ada@example.org"));
}

#[tokio::test]
async fn without_a_wish_for_it_there_is_no_session_and_no_organization() {
    let fixture = Fixture::new().await;
    let done = fixture.register("ada@example.org").await;
    assert!(done.signed_in.is_none() && done.organization.is_none());
    assert_eq!(
        fixture.types_since(Position::START).await,
        ["user.registered", "auth.password_set", "link.issued"]
    );
}

#[tokio::test]
async fn what_is_taken_is_told_apart_and_told_together() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    register(
        &cx,
        Register {
            username: username("Ada"),
            ..wish("ada@example.org")
        },
    )
    .await
    .unwrap();
    let head = fixture.head().await;
    let taken = async |email: &str, name: Option<&str>| {
        let wish = Register {
            username: name.and_then(username),
            ..wish(email)
        };
        match register(&cx, wish).await {
            Err(CommandError::Taken { scopes }) => scopes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(taken("ADA@EXAMPLE.ORG", None).await, [ClaimScope::Email]);
    assert_eq!(taken("ada@example.org", Some("other")).await, [ClaimScope::Email]);
    assert_eq!(taken("other@example.org", Some("ADA")).await, [ClaimScope::Username]);
    assert_eq!(taken("other@example.org", Some("ａｄａ")).await, [ClaimScope::Username]);
    assert_eq!(
        taken("ada@example.org", Some("aDa")).await,
        [ClaimScope::Email, ClaimScope::Username]
    );
    let both = CommandError::Taken {
        scopes: vec![ClaimScope::Email, ClaimScope::Username],
    };
    assert_eq!((both.code(), both.field()), ("user.email_taken", Some("email")));
    assert_eq!(fixture.head().await, head);
}

#[tokio::test]
async fn names_that_we_derive_are_never_taken() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let mut names = Vec::new();
    for host in ["a.example", "b.example", "c.example"] {
        let wish = Register {
            organization_name: Some("Acme".to_owned()),
            ..wish(&format!("ada@{host}"))
        };
        let done = register(&cx, wish).await.unwrap();
        names.push((
            done.user.username.unwrap().get().unwrap().to_string(),
            done.organization.unwrap().1.slug,
        ));
    }
    assert_eq!(names[0], ("ada".to_owned(), "acme".to_owned()));
    for (name, slug) in &names[1..] {
        assert!(name.starts_with("ada-") && name.len() == 10, "{name}");
        assert!(slug.starts_with("acme-") && slug.len() == 11, "{slug}");
    }
    assert_ne!(names[1], names[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_registrations_of_one_address_one_wins() {
    let fixture = Fixture::new().await;
    let cx = fixture.context(nobody());
    let other = fixture.other_process().await;
    let other: &'static _ = Box::leak(Box::new(other));
    let elsewhere = annals_commands::CommandContext {
        commands: other,
        caller: cx.caller,
    };
    for round in 0..30 {
        let lower = tokio::spawn(async move { register(&cx, wish(&format!("user{round}@example.org"))).await });
        let upper = tokio::spawn(async move { register(&elsewhere, wish(&format!("USER{round}@Example.ORG"))).await });
        let answers = [lower.await.unwrap(), upper.await.unwrap()];
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {answers:?}");
        for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let CommandError::Taken { scopes } = answer else {
                panic!("round {round}: {answer:?}")
            };
            assert_eq!(scopes, &[ClaimScope::Email]);
        }
    }
    assert_eq!(fixture.head().await, Position(90));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_registrations_of_one_username_one_wins() {
    let fixture = Fixture::new().await;
    let cx = fixture.context(nobody());
    let asked = (0..30).map(|number| {
        let wish = Register {
            username: username("ada"),
            ..wish(&format!("ada{number}@example.org"))
        };
        tokio::spawn(async move { register(&cx, wish).await })
    });
    let answers = join_all(asked).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count(),
        1
    );
    assert_eq!(fixture.head().await, Position(3));
}

#[tokio::test]
async fn nobody_gives_themselves_a_role() {
    let fixture = Fixture::new().await;
    for role in [Role::Administrator, Role::Editor] {
        let caller = nobody();
        let cx = fixture.commands.on_behalf_of(&caller);
        let answer = register(
            &cx,
            Register {
                role,
                ..wish("ada@example.org")
            },
        )
        .await;
        assert!(matches!(answer, Err(CommandError::Denied(_))), "{answer:?}");
    }
    assert_eq!(fixture.head().await, Position::START);
    assert_eq!(fixture.commands.passwords().hashes(), 0);
    let made = fixture
        .as_system(async |cx| {
            register(
                &cx,
                Register {
                    role: Role::Administrator,
                    ..wish("root@example.org")
                },
            )
            .await
        })
        .await
        .unwrap();
    assert_eq!(made.user.role, Some(Role::Administrator));
    assert_eq!(
        fixture.since(Position::START).await[0].metadata.actor,
        Actor::System("test".to_owned())
    );
}

#[tokio::test]
async fn what_breaks_a_rule_costs_no_hash_and_writes_nothing() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let ada = || wish("ada@example.org");
    assert_refused(
        register(
            &cx,
            Register {
                password: secret("short"),
                ..ada()
            },
        )
        .await,
        "password.too_short",
        "password",
    );
    assert_refused(
        register(
            &cx,
            Register {
                password: secret(&"a".repeat(1025)),
                ..ada()
            },
        )
        .await,
        "password.too_long",
        "password",
    );
    assert_refused(
        register(
            &cx,
            Register {
                organization_name: Some(" ".to_owned()),
                ..ada()
            },
        )
        .await,
        "organization.name_invalid",
        "organization_name",
    );
    assert_refused(
        register(
            &cx,
            Register {
                name: "a\0b".to_owned(),
                ..ada()
            },
        )
        .await,
        "user.text_invalid",
        "name",
    );
    assert_eq!(fixture.commands.passwords().hashes(), 0);
    assert_eq!(fixture.head().await, Position::START);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_overloaded_pool_refuses_and_writes_nothing_for_the_refused() {
    let passwords = PasswordSettings {
        memory_kib: 8192,
        iterations: 4,
        lanes: 1,
        threads: 1,
        queue: 1,
    };
    let fixture = Fixture::with(CommandSettings::default(), passwords).await;
    let cx = fixture.context(nobody());
    let asked = (0..20)
        .map(|number| tokio::spawn(async move { register(&cx, wish(&format!("ada{number}@example.org"))).await }));
    let answers: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    assert!((1..20).contains(&accepted), "{accepted}");
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        let CommandError::Overloaded { retry_after } = error else {
            panic!("{error:?}")
        };
        assert!(retry_after.as_millis() >= 1000);
    }
    assert_eq!(fixture.head().await, Position(3 * accepted));
    assert_eq!(fixture.commands.passwords().hashes(), accepted);
}

#[tokio::test]
async fn an_empty_password_may_register_but_never_signs_in() {
    let fixture = Fixture::new().await;
    let caller = nobody();
    let cx = fixture.commands.on_behalf_of(&caller);
    let wish = Register {
        password: secret(""),
        policy: PasswordPolicy::NONE,
        ..wish("ada@example.org")
    };
    register(&cx, wish).await.unwrap();
    let options = fixture.commands.settings().signed_sign_in();
    for password in ["", PASSWORD] {
        let answer = auth::sign_in(&cx, Credential::Email("ada@example.org"), &secret(password), options).await;
        assert_code(answer, auth::INVALID_CREDENTIALS);
    }
}
