//! Random histories of everything at once, cut into batches at random: a rebuild makes the same rows.

use annals_domain::{
    ContentEvent, ContentId, DatatypeEvent, DatatypeId, FieldEvent, FieldId, OrganizationEvent, OrganizationId,
    OrganizationRole, Personal, Place, RevocationReason, RouteEvent, RouteId, SessionEvent, SessionId, UserEvent,
    UserId,
};
use annals_domain::{ContentFieldId, DatatypeFieldId, Device};
use annals_projections::{EngineOptions, read_models};
use proptest::prelude::{any, proptest};
use proptest::sample::Index;
use proptest::test_runner::Config;

use super::{Log, at, content_created, datatype_created, field_created, fresh, registered, route_created, value};

/// What there is to write about, and what is still there.
#[derive(Default)]
struct World {
    users: Vec<UserId>,
    sessions: Vec<SessionId>,
    organizations: Vec<OrganizationId>,
    datatypes: Vec<DatatypeId>,
    attachments: Vec<(DatatypeId, DatatypeFieldId)>,
    fields: Vec<FieldId>,
    routes: Vec<RouteId>,
    contents: Vec<ContentId>,
    values: Vec<(ContentId, ContentFieldId)>,
}

fn pick<T: Copy>(from: &[T], index: Index) -> Option<T> {
    (!from.is_empty()).then(|| *index.get(from))
}

fn take<T: Copy>(from: &mut Vec<T>, index: Index) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(index.index(from.len())))
}

impl World {
    async fn write(&mut self, log: &Log, kind: u8, number: i64, one: Index, other: Index) -> Option<()> {
        let at = at(number);
        match kind % 22 {
            0 => {
                let id: UserId = fresh();
                self.users.push(id);
                log.write(id, [registered(id, &format!("user{number}"))]).await;
            }
            1 => {
                let id = pick(&self.users, one)?;
                let name = Personal::new(id, format!("Name \"{number}\" \\ \u{1f980}"));
                log.write(id, [UserEvent::ProfileChanged { name, at }]).await;
            }
            2 => {
                let id = pick(&self.users, one)?;
                let reason = "a while".to_owned();
                log.write(id, [UserEvent::Disabled { reason, at }, UserEvent::Enabled { at }])
                    .await;
            }
            3 => {
                let (id, user_id): (SessionId, _) = (fresh(), pick(&self.users, one)?);
                let device = Personal::new(user_id, Device::default());
                let expires_at = at.plus_seconds(60);
                let started = SessionEvent::Started {
                    user_id,
                    refresh_digest: None,
                    device,
                    address: None,
                    expires_at,
                    at,
                };
                self.sessions.push(id);
                log.write(id, [started]).await;
            }
            4 => {
                let (id, user) = (pick(&self.sessions, one)?, pick(&self.users, other)?);
                let address = Some(Personal::new(user, "2001:db8::1".to_owned()));
                let expires_at = at.plus_seconds(60);
                log.write(
                    id,
                    [SessionEvent::Refreshed {
                        refresh_digest: None,
                        expires_at,
                        address,
                        at,
                    }],
                )
                .await;
            }
            5 => {
                let id = take(&mut self.sessions, one)?;
                log.write(
                    id,
                    [SessionEvent::Revoked {
                        reason: RevocationReason::UserRevoke,
                        at,
                    }],
                )
                .await;
            }
            6 => {
                let (id, user_id): (OrganizationId, _) = (fresh(), pick(&self.users, one)?);
                self.organizations.push(id);
                let name = format!("Organization {number}");
                let founded = OrganizationEvent::Founded {
                    name,
                    slug: format!("o{number}"),
                    at,
                };
                let owner = OrganizationEvent::MemberAdded {
                    user_id,
                    role: OrganizationRole::Owner,
                    at,
                };
                log.write(id, [founded, owner]).await;
            }
            7 => {
                let (id, user_id) = (pick(&self.organizations, one)?, pick(&self.users, other)?);
                log.write(
                    id,
                    [OrganizationEvent::MemberAdded {
                        user_id,
                        role: OrganizationRole::Viewer,
                        at,
                    }],
                )
                .await;
            }
            8 => {
                let id: DatatypeId = fresh();
                self.datatypes.push(id);
                log.write(id, [datatype_created(&format!("Datatype {number}"), "post")])
                    .await;
            }
            9 => {
                let (id, parent_id) = (pick(&self.datatypes, one)?, pick(&self.datatypes, other));
                let (label, kind) = (format!("Changed {number}"), "ROOT".to_owned());
                let (author_id, date_created, date_modified) = (None, None, Some(at));
                let changed = DatatypeEvent::Changed {
                    parent_id,
                    label,
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                };
                log.write(id, [changed]).await;
            }
            10 => {
                let (id, field_id) = (pick(&self.datatypes, one)?, pick(&self.fields, other)?);
                let datatype_field_id: DatatypeFieldId = fresh();
                self.attachments.push((id, datatype_field_id));
                log.write(
                    id,
                    [DatatypeEvent::FieldAttached {
                        datatype_field_id,
                        field_id,
                        sort_order: number,
                        at,
                    }],
                )
                .await;
            }
            11 => {
                let (id, datatype_field_id) = take(&mut self.attachments, one)?;
                log.write(id, [DatatypeEvent::FieldDetached { datatype_field_id, at }])
                    .await;
            }
            12 => {
                let id = take(&mut self.datatypes, one)?;
                self.attachments.retain(|attachment| attachment.0 != id);
                log.write(id, [DatatypeEvent::Deleted { at }]).await;
            }
            13 => {
                let id: FieldId = fresh();
                self.fields.push(id);
                log.write(
                    id,
                    [field_created(pick(&self.datatypes, one), &format!("Field {number}"))],
                )
                .await;
            }
            14 => {
                let id = take(&mut self.fields, one)?;
                log.write(id, [FieldEvent::Deleted { at }]).await;
            }
            15 => {
                let id: RouteId = fresh();
                self.routes.push(id);
                log.write(id, [route_created(&format!("/r{number}"))]).await;
            }
            16 => {
                let id = take(&mut self.routes, one)?;
                log.write(id, [RouteEvent::Deleted { at }]).await;
            }
            17 => {
                let (id, parent): (ContentId, _) = (fresh(), pick(&self.contents, one));
                let place = pick(&self.contents, other).map_or(Place::First, |content_id| Place::Before { content_id });
                self.contents.push(id);
                log.write(id, [content_created(id, parent, place)]).await;
            }
            18 => {
                let id = pick(&self.contents, one)?;
                let (route_id, datatype_id) = (pick(&self.routes, other), pick(&self.datatypes, other));
                let (author_id, date_created, date_modified) = (None, Some(at), None);
                let changed = ContentEvent::DetailsChanged {
                    route_id,
                    datatype_id,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                };
                log.write(id, [changed, ContentEvent::Published { at }]).await;
            }
            19 => {
                let id = pick(&self.contents, one)?;
                let content_field_id: ContentFieldId = fresh();
                let mut set = vec![value(
                    content_field_id,
                    pick(&self.fields, other),
                    &format!("Value {number}"),
                )];
                set[0].route_id = pick(&self.routes, other);
                self.values.push((id, content_field_id));
                log.write(
                    id,
                    [ContentEvent::FieldsChanged {
                        set,
                        removed: vec![],
                        at,
                    }],
                )
                .await;
            }
            20 => {
                let (id, old) = take(&mut self.values, one)?;
                let again: ContentFieldId = fresh();
                self.values.push((id, again));
                let set = vec![value(again, None, "another")];
                log.write(
                    id,
                    [ContentEvent::FieldsChanged {
                        set,
                        removed: vec![old],
                        at,
                    }],
                )
                .await;
            }
            _ => {
                let id = take(&mut self.contents, one)?;
                self.values.retain(|value| value.0 != id);
                log.write(id, [ContentEvent::Deleted { at }]).await;
            }
        }
        Some(())
    }
}

proptest! {
    #![proptest_config(Config { cases: 8, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_rebuild_makes_the_same_rows(
        steps in proptest::collection::vec((any::<u8>(), any::<Index>(), any::<Index>()), 50..250),
        batch_events in 1_usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = Log::new().await;
            let mut world = World::default();
            let engine = log.engine_of(read_models(), EngineOptions { batch_events, ..EngineOptions::default() });
            for (number, (kind, one, other)) in (0..).zip(steps) {
                world.write(&log, kind, number, one, other).await;
            }
            log.wait_for(&engine).await;
            engine.stop().await;
            log.assert_rebuild_equal().await;
        });
    }
}
