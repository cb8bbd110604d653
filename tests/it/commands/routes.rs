//! Routes: one path, one route.

use annals_commands::CommandError;
use annals_commands::route::{self, RouteRecord};
use annals_commands::user::disable;
use annals_domain::{ClaimScope, Realm, Role, RouteId, Slug, UserId};

use super::{Fixture, assert_code, assert_refused, new_id, nobody, user};

fn record(slug: &str) -> RouteRecord {
    RouteRecord {
        slug: Slug::parse(slug).unwrap(),
        title: "Home".to_owned(),
        status: 1,
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

#[tokio::test]
async fn a_path_belongs_to_one_route_of_its_realm() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let home = route::create(&cx, None, Realm::Site, record("/home")).await.unwrap();
    assert_eq!(home.state.date_created, Some(fixture.commands.now()));
    let head = fixture.head().await;
    let taken = route::create(&cx, None, Realm::Site, record("/home")).await;
    assert!(matches!(&taken, Err(CommandError::Taken { scopes }) if *scopes == [ClaimScope::Slug]));
    assert_refused(taken, "route.slug_taken", "slug");
    assert_code(
        route::create(&cx, Some(home.id), Realm::Site, record("/other")).await,
        "route.already_exists",
    );
    assert_eq!(fixture.head().await, head);
    route::create(&cx, None, Realm::Admin, record("/home")).await.unwrap();

    let moved = route::replace_at(&cx, Realm::Site, &Slug::parse("/home").unwrap(), record("/start"), None).await;
    assert_eq!(moved.unwrap().id, home.id);
    let other = route::create(&cx, None, Realm::Site, record("/home")).await.unwrap();
    assert_code(
        route::replace(&cx, other.id, record("/start"), None).await,
        "route.slug_taken",
    );
    assert_code(
        route::replace_at(&cx, Realm::Site, &Slug::parse("/nowhere").unwrap(), record("/x"), None).await,
        "route.not_found",
    );
    // A route may keep its own path.
    route::replace(
        &cx,
        other.id,
        RouteRecord {
            title: "New".to_owned(),
            ..record("/home")
        },
        Some(1),
    )
    .await
    .unwrap();
    assert_code(
        route::replace(&cx, other.id, record("/home"), Some(1)).await,
        "version.stale",
    );
    route::delete(&cx, other.id, None).await.unwrap();
    assert_code(route::delete(&cx, other.id, None).await, "route.not_found");
    assert_code(
        route::create(&cx, Some(other.id), Realm::Site, record("/again")).await,
        "route.not_found",
    );
    route::create(&cx, None, Realm::Site, record("/home")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_routes_for_one_path_one_is_made() {
    let fixture = Fixture::new().await;
    let cx = fixture.system();
    let tasks: Vec<_> = (0..12)
        .map(|_| tokio::spawn(async move { route::create(&cx, None, Realm::Site, record("/home")).await }))
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.code(), "route.slug_taken"),
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn an_author_exists_when_named_and_may_leave_later() {
    let fixture = Fixture::new().await;
    let author = fixture.register("ada@example.org").await.user_id;
    let cx = fixture.context(user(author, Role::Editor));
    let by = |id| RouteRecord {
        author_id: id,
        ..record("/home")
    };
    assert_refused(
        route::create(&cx, None, Realm::Site, by(Some(new_id::<UserId>()))).await,
        "user.not_found",
        "author_id",
    );
    let home = route::create(&cx, None, Realm::Site, by(None)).await.unwrap();
    assert_eq!(home.state.author_id, Some(author));
    disable(&fixture.system(), author, "left".to_owned(), None)
        .await
        .unwrap();
    let system = fixture.system();
    let kept = RouteRecord {
        title: "New".to_owned(),
        ..by(Some(author))
    };
    route::replace(&system, home.id, kept, None).await.unwrap();
    assert_code(
        route::create(
            &system,
            None,
            Realm::Site,
            RouteRecord {
                slug: Slug::parse("/b").unwrap(),
                ..by(Some(author))
            },
        )
        .await,
        "user.not_found",
    );
}

#[tokio::test]
async fn who_may_not_write_routes_writes_nothing() {
    let fixture = Fixture::new().await;
    let home = route::create(&fixture.system(), None, Realm::Site, record("/home"))
        .await
        .unwrap();
    let head = fixture.head().await;
    for caller in [nobody(), user(new_id(), Role::Viewer)] {
        let cx = fixture.context(caller);
        let id: RouteId = home.id;
        for answer in [
            route::create(&cx, None, Realm::Site, record("/x")).await,
            route::replace(&cx, id, record("/x"), None).await,
            route::replace_at(&cx, Realm::Site, &Slug::parse("/home").unwrap(), record("/x"), None).await,
            route::delete(&cx, id, None).await,
        ] {
            assert!(matches!(answer, Err(CommandError::Denied(_))), "{answer:?}");
        }
    }
    assert_eq!(fixture.head().await, head);
}
