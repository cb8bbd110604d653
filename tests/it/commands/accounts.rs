//! Profiles and organizations.

use annals_commands::user::{change_profile, disable};
use annals_commands::{CommandError, organization};
use annals_domain::{OrganizationId, OrganizationRole, Role, UserId};

use super::{Fixture, assert_code, assert_refused, new_id, nobody, user};

#[tokio::test]
async fn people_change_their_own_name_and_nobody_elses() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let eve = fixture.register("eve@example.org").await.user_id;
    let own = fixture.context(user(id, Role::Viewer));
    let done = change_profile(&own, id, "Countess".to_owned(), None).await.unwrap();
    assert_eq!(
        (done.version, done.state.name.unwrap().get().unwrap().as_str()),
        (2, "Countess")
    );
    let head = fixture.head().await;
    // The same again is no event, and the answer still has version and position.
    let same = change_profile(&own, id, "Countess".to_owned(), None).await.unwrap();
    assert_eq!((same.version, same.position), (2, head));
    for caller in [nobody(), user(eve, Role::Editor)] {
        let answer = change_profile(&fixture.context(caller), id, "Eve".to_owned(), None).await;
        assert!(matches!(answer, Err(CommandError::Denied(_))));
    }
    assert_refused(
        change_profile(&own, id, "a\0".to_owned(), None).await,
        "user.text_invalid",
        "name",
    );
    assert_code(
        change_profile(&own, id, "Late".to_owned(), Some(1)).await,
        "version.stale",
    );
    assert_eq!(fixture.head().await, head);
    let system = fixture.system();
    change_profile(&system, id, "Ada".to_owned(), Some(2)).await.unwrap();
    assert_code(
        change_profile(&system, new_id::<UserId>(), "X".to_owned(), None).await,
        "user.not_found",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_at_once_are_all_made() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let own = fixture.context(user(id, Role::Viewer));
    let tasks: Vec<_> = (0..8)
        .map(|number| tokio::spawn(async move { change_profile(&own, id, format!("Name {number}"), None).await }))
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.push(task.await.unwrap().unwrap().version);
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_changes_of_one_version_one_wins() {
    let fixture = Fixture::new().await;
    let id = fixture.register("ada@example.org").await.user_id;
    let own = fixture.context(user(id, Role::Viewer));
    let tasks: Vec<_> = (0..8)
        .map(|number| tokio::spawn(async move { change_profile(&own, id, format!("Name {number}"), Some(1)).await }))
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(done) => {
                assert_eq!(done.version, 2);
                won += 1;
            }
            Err(CommandError::Stale { expected: 1, actual: 2 }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn an_organization_admits_members_by_its_own_roles() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for name in ["owner", "admin", "member", "stranger"] {
        ids.push(fixture.register(&format!("{name}@example.org")).await.user_id);
    }
    let [owner, admin, member, stranger] = ids[..] else {
        panic!()
    };
    let cx = |id| fixture.context(user(id, Role::Viewer));
    let founded = organization::found(&cx(owner), "Acme".to_owned(), Some("acme".to_owned()))
        .await
        .unwrap();
    let id: OrganizationId = founded.id;
    assert_eq!(founded.version, 2);
    let again = organization::found(&cx(admin), "Acme".to_owned(), Some("acme".to_owned())).await;
    assert_refused(again, "organization.slug_taken", "slug");
    let derived = organization::found(&cx(admin), "Acme".to_owned(), None).await.unwrap();
    assert!(derived.state.slug.starts_with("acme-"));
    assert_refused(
        organization::found(&cx(admin), "Acme".to_owned(), Some("No".to_owned())).await,
        "organization.slug_invalid",
        "slug",
    );

    let add = async |by, whom, role| organization::add_member(&cx(by), id, whom, role, None).await;
    add(owner, admin, OrganizationRole::Admin).await.unwrap();
    add(admin, member, OrganizationRole::Member).await.unwrap();
    let head = fixture.head().await;
    add(admin, member, OrganizationRole::Member).await.unwrap();
    assert_refused(
        add(owner, member, OrganizationRole::Viewer).await,
        "organization.already_member",
        "user_id",
    );
    for (by, role) in [(admin, OrganizationRole::Owner), (member, OrganizationRole::Viewer)] {
        assert!(matches!(add(by, stranger, role).await, Err(CommandError::Denied(_))));
    }
    assert_code(
        add(stranger, stranger, OrganizationRole::Owner).await,
        "organization.not_found",
    );
    assert_refused(
        add(owner, new_id(), OrganizationRole::Member).await,
        "user.not_found",
        "user_id",
    );
    disable(&fixture.system(), stranger, "left".to_owned(), None)
        .await
        .unwrap();
    assert_refused(
        add(owner, stranger, OrganizationRole::Member).await,
        "user.not_found",
        "user_id",
    );
    assert_eq!(fixture.types_since(head).await, ["user.disabled"]);
    assert!(matches!(
        organization::found(&fixture.context(nobody()), "X".to_owned(), None).await,
        Err(CommandError::Denied(_))
    ));
}
