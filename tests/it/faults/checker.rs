//! The judge is judged: a sound history is found sound, and each way of spoiling it is found out.

use std::fs;
use std::path::Path;

use annals_domain::{Actor, ContentEvent, ContentId, Realm, RouteEvent, Slug, Timestamp};
use annals_eventstore::{Append, EventStore, Hash, MasterKey, Position, StreamAppend, StreamId, Vault, WriterOptions};
use annals_tests::TestDatabase;
use annals_tests::kit::checker::{Checked, Digest, Evidence, Projected, check};
use annals_tests::kit::history::{self, Answer, Call, Line, Recorder, Seen, Told, now_us};
use uuid::Uuid;

/// A log with what its one writer and its one reader wrote down.
struct Run {
    store: EventStore,
    lines: Vec<Line>,
    seen: Vec<Line>,
    projected: Projected,
    folder: tempfile::TempDir,
    _test: TestDatabase,
}

fn at() -> Timestamp {
    Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").unwrap()
}

fn command(stream: StreamId, expected: u64, events: Vec<annals_domain::AnyEvent>) -> Append {
    let command_id = Uuid::now_v7();
    Append {
        command_id,
        actor: Actor::System("tests".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream,
            expected,
            events,
        }],
        conditions: Vec::new(),
    }
}

fn published(node: ContentId, expected: u64) -> Append {
    let events = vec![ContentEvent::Published { at: at() }.into(); 2];
    command(StreamId::new("content", node), expected, events)
}

fn routed(slug: &str) -> Append {
    let event = RouteEvent::Created {
        realm: Realm::Site,
        slug: Slug::parse(slug).unwrap(),
        title: String::new(),
        status: 0,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(),
    };
    command(StreamId::new("route", Uuid::now_v7()), 0, vec![event.into()])
}

impl Run {
    async fn new() -> Self {
        let test = TestDatabase::new().await;
        let vault = Vault::open(&test.database(), &MasterKey::from_bytes([7; 32]))
            .await
            .unwrap();
        let store = EventStore::start(test.database(), vault, WriterOptions::default());
        let mut run = Self {
            store,
            lines: Vec::new(),
            seen: Vec::new(),
            projected: Projected {
                events: 0,
                digest: Digest::START,
            },
            folder: tempfile::tempdir().unwrap(),
            _test: test,
        };
        let node = ContentId::new(Uuid::now_v7());
        let once = published(node, 0);
        run.ask(&once, None).await;
        run.ask(&published(node, 2), None).await;
        run.ask(&once, None).await; // again
        run.ask(&published(node, 1), None).await; // stale
        run.ask(&routed("/home"), Some("/home")).await;
        run.ask(&routed("/home"), Some("/home")).await; // taken
        for record in run.store.read_after(Position::START, 100).await.unwrap() {
            run.projected = Projected {
                events: record.position.get(),
                digest: run.projected.digest.with(&record),
            };
            run.seen.push(Line::Seen(Seen {
                position: record.position.get(),
                digest: run.projected.digest.0,
                at: now_us(),
            }));
        }
        run
    }

    async fn ask(&mut self, append: &Append, slug: Option<&str>) {
        self.lines.push(Line::Call(Call::of(append, slug.map(str::to_owned))));
        let answer = self.store.append(append.clone()).await;
        self.lines.push(Line::Answer(Answer {
            id: append.command_id,
            at: now_us(),
            told: Told::from(&answer),
        }));
    }

    fn write(&self, name: &str, lines: &[Line]) -> std::path::PathBuf {
        let path: &Path = self.folder.path();
        let path = path.join(name);
        let _ = fs::remove_file(&path);
        let recorder = Recorder::open(&path).unwrap();
        lines.iter().for_each(|line| recorder.write(line).unwrap());
        path
    }

    async fn check(&self, lines: &[Line], seen: &[Line], projected: Projected) -> Checked {
        let evidence = Evidence {
            writers: vec![self.write("writer", lines)],
            readers: vec![self.write("reader", seen)],
            projected: Some(projected),
        };
        check(&self.store, &evidence).await.unwrap()
    }

    /// What is found when one line of the writer's history is another one.
    async fn spoilt(&self, number: usize, spoil: impl FnOnce(&mut Line)) -> String {
        let mut lines = self.lines.clone();
        spoil(&mut lines[number]);
        self.check(&lines, &self.seen, self.projected)
            .await
            .violations
            .join("\n")
    }
}

fn told(line: &mut Line) -> &mut Told {
    match line {
        Line::Answer(answer) => &mut answer.told,
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_sound_history_is_found_sound() {
    let run = Run::new().await;
    let checked = run.check(&run.lines, &run.seen, run.projected).await;
    assert!(checked.is_clean(), "{:#?}", checked.violations);
    assert_eq!((checked.events, checked.commands, checked.calls), (5, 3, 6));
    assert_eq!((checked.refusals_checked, checked.digests), (2, 5));
    // A process that died before its answer leaves a doubt, and no fault.
    let checked = run.check(&run.lines[..9], &run.seen, run.projected).await;
    assert!(checked.is_clean(), "{:#?}", checked.violations);
    assert_eq!(checked.doubtful_done, 1);
}

#[tokio::test]
async fn every_spoilt_history_is_found_out() {
    let run = Run::new().await;
    let found = |found: String, words: &str| assert!(found.contains(words), "{found:?} without {words:?}");

    found(
        run.spoilt(1, |line| {
            *told(line) = Told::Unavailable;
        })
        .await,
        "nobody was told",
    );
    found(
        run.spoilt(3, |line| *told(line) = Told::Unavailable).await,
        "refused every time",
    );
    found(
        run.spoilt(3, |line| {
            if let Told::Done { first, last, .. } = told(line) {
                (*first, *last) = (4, 5);
            }
        })
        .await,
        "was told to be at 4 to 5",
    );
    found(
        run.spoilt(2, |line| {
            if let Line::Call(call) = line {
                call.streams[0].2 = 3; // of three events only two are there
            }
        })
        .await,
        "half of it",
    );
    found(
        run.spoilt(7, |line| {
            if let Told::Conflict { actual, .. } = told(line) {
                *actual = 2;
            }
        })
        .await,
        "after version 3 had been acknowledged",
    );
    found(
        run.spoilt(7, |line| {
            if let Told::Conflict { actual, .. } = told(line) {
                *actual = 9;
            }
        })
        .await,
        "which it never came to",
    );
    found(
        run.spoilt(10, |line| {
            if let Line::Call(call) = line {
                call.slug = Some("/else".to_owned());
            }
        })
        .await,
        "when nobody else held it",
    );
    // The second commit is said to have been over before the first was asked for.
    found(
        run.spoilt(0, |line| {
            if let Line::Call(call) = line {
                call.at = now_us();
            }
        })
        .await,
        "but comes after it in the log",
    );
    let mut unsent = run.lines.clone();
    unsent.drain(2..4);
    let checked = run.check(&unsent, &run.seen, run.projected).await;
    found(checked.violations.join("\n"), "sent by nobody");

    let mut lost = run.lines.clone();
    let never = published(ContentId::new(Uuid::now_v7()), 0);
    lost.push(Line::Call(Call::of(&never, None)));
    lost.push(Line::Answer(Answer {
        id: never.command_id,
        at: now_us(),
        told: Told::Done {
            by: never.command_id,
            first: 6,
            last: 7,
            duplicate: false,
        },
    }));
    let checked = run.check(&lost, &run.seen, run.projected).await;
    found(checked.violations.join("\n"), "acknowledged at 6 and is not in the log");
}

#[tokio::test]
async fn a_reader_and_a_projection_that_saw_something_else_are_found_out() {
    let run = Run::new().await;
    let mut seen = run.seen.clone();
    if let Line::Seen(third) = &mut seen[2] {
        third.digest = Hash([1; 32]);
    }
    let checked = run.check(&run.lines, &seen, run.projected).await;
    assert!(
        checked.violations[0].contains("another sequence up to position 3"),
        "{checked:?}"
    );

    let doubled = Projected {
        events: 6,
        ..run.projected
    };
    let checked = run.check(&run.lines, &run.seen, doubled).await;
    assert!(checked.violations[0].contains("has taken in 6 events"), "{checked:?}");

    let mut beyond = run.seen.clone();
    beyond.push(Line::Seen(Seen {
        position: 6,
        digest: Hash::ZERO,
        at: now_us(),
    }));
    let checked = run.check(&run.lines, &beyond, run.projected).await;
    assert!(checked.violations[0].contains("beyond the end"), "{checked:?}");
    history::read(&run.folder.path().join("reader"), |_| Ok(())).unwrap();
}
