//! Two servers on one database: the one that leads the read models is stopped past its lease, and then killed.

use std::time::{Duration, Instant};

use annals_eventstore::checkpoint::{self, Checkpoint};
use annals_tests::TestDatabase;
use reqwest::{Client, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::cli::{Annals, Server};

/// Leases run out after ten seconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does nothing until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(server: &Server) -> Self {
        let pid = pid(server);
        kill_process(pid, Signal::STOP).expect("the process is stopped");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Otherwise it could not even be told to end.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn pid(server: &Server) -> Pid {
    Pid::from_raw(i32::try_from(server.child.id()).expect("a process id")).expect("a process id")
}

fn leads(server: &Server, checkpoint: &Checkpoint) -> bool {
    let start = format!("process {} (", server.child.id());
    checkpoint.owner.as_ref().is_some_and(|owner| owner.starts_with(&start))
}

/// Commits through `server`, and returns the position that its answer names.
async fn register(client: &Client, server: &Server, name: &str) -> u64 {
    let answer = client
        .post(format!("{}/api/v1/auth/register", server.address))
        .json(&json!({
            "email": format!("{name}@example.com"),
            "password": "a long enough password",
            "full_name": name,
            "organization_name": "Example & Co",
        }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::CREATED, "{name}");
    let position = answer.headers()["event-position"].to_str().expect("text");
    position.parse().expect("a position")
}

/// The checkpoint of the users once `server` leads them and they show `position`.
async fn until_led_by(test: &TestDatabase, server: &Server, position: u64) -> Checkpoint {
    let deadline = Instant::now() + PATIENCE;
    let database = test.database();
    loop {
        let found = checkpoint::load(database.pool(), "users").await.expect("checkpoints");
        if let Some(found) = &found
            && leads(server, found)
            && found.position.0 >= position
        {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{found:?} at {position}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_change_hands_and_lose_nothing() {
    let test = TestDatabase::new().await;
    let annals = Annals {
        database_url: Some(test.url()),
        ..Annals::new()
    };
    let client = annals_tests::client().build().expect("a client");
    let first = annals.serve();
    let position = register(&client, &first, "one").await;
    let before = until_led_by(&test, &first, position).await;
    let second = annals.serve();
    let position = register(&client, &second, "two").await;
    until_led_by(&test, &first, position).await;

    // Stopped for longer than its lease, with work waiting for it.
    let stopped = Stopped::new(&first);
    let position = register(&client, &second, "three").await;
    let taken = until_led_by(&test, &second, position).await;
    assert!(taken.epoch > before.epoch);
    drop(stopped);
    let position = register(&client, &first, "four").await;
    let kept = until_led_by(&test, &second, position).await;
    assert_eq!(kept.epoch, taken.epoch, "whoever comes back takes nothing away");

    // Killed, it cannot even give its lease back.
    kill_process(pid(&second), Signal::KILL).expect("the process is killed");
    let position = register(&client, &first, "five").await;
    let again = until_led_by(&test, &first, position).await;
    assert!(again.epoch > kept.epoch);
    drop(second);
    drop(first);

    let rebuilt = annals.run(&["rebuild", "--all", "--verify", "--json"]).good();
    for line in rebuilt.stdout.lines() {
        let report: Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(report["equal"], json!(true), "{report}");
    }
    assert_eq!(annals.run(&["verify", "--json"]).good().json()["position"], position);
}
