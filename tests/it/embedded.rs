//! The embedded cluster: its start and stop, who shares it, and what it survives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use annals_eventstore::database::{Database, DatabaseKind, DatabaseOptions, DatabaseSource};
use annals_eventstore::embedded::{
    Account, BinariesSearch, Cluster, ClusterError, ClusterOptions, Installation, PidFile, Postmaster,
};
use annals_tests::reachable_folder;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{ConnectOptions, Connection, Executor};

const PATIENCE: Duration = Duration::from_secs(20);

/// What is tested here does not depend on the disk, only its speed does.
fn quick() -> ClusterOptions {
    ClusterOptions {
        durable: false,
        ..ClusterOptions::default()
    }
}

async fn execute(cluster: &Cluster, statement: &str) {
    let mut connection = cluster.connect_options().connect().await.expect("a connection");
    connection.execute(statement).await.expect("the statement");
    connection.close().await.expect("the end");
}

async fn count(cluster: &Cluster) -> i64 {
    let mut connection = cluster.connect_options().connect().await.expect("a connection");
    let count = sqlx::query_scalar("select count(*) from kept")
        .fetch_one(&mut connection)
        .await
        .expect("a count");
    connection.close().await.expect("the end");
    count
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("the process is killed");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn data_outlives_a_stop_and_a_start() {
    let folder = reachable_folder();
    let cluster = Cluster::open(folder.path(), ClusterOptions::default()).await.unwrap();
    assert!(cluster.is_owner());
    execute(&cluster, "create table kept (id int); insert into kept values (1)").await;
    let settings: (String, String) =
        sqlx::query_as("select current_setting('fsync'), current_setting('listen_addresses')")
            .fetch_one(&mut cluster.connect_options().connect().await.unwrap())
            .await
            .unwrap();
    assert_eq!(settings, ("on".to_owned(), String::new()));
    let mode = fs::metadata(cluster.folder()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    cluster.close().await.unwrap();
    cluster.close().await.unwrap();
    assert_eq!(cluster.server_pid(), None);
    assert!(!cluster.folder().join("postmaster.pid").exists());

    let again = Cluster::open(folder.path(), ClusterOptions::default()).await.unwrap();
    assert_eq!(count(&again).await, 1);
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_second_opener_joins_and_takes_over_when_the_owner_leaves() {
    let folder = reachable_folder();
    let owner = Cluster::open(folder.path(), quick()).await.unwrap();
    let joined = Cluster::open(folder.path(), quick()).await.unwrap();
    assert!(owner.is_owner() && !joined.is_owner());
    assert_eq!(owner.server_pid(), joined.server_pid());
    execute(&joined, "create table kept (id int)").await;
    execute(&owner, "insert into kept values (1)").await;
    assert_eq!(count(&joined).await, 1);

    let guest = Cluster::open(folder.path(), quick()).await.unwrap();
    guest.close().await.unwrap();
    assert!(owner.server_pid().is_some(), "a guest that leaves stops nothing");

    let mut starts = joined.starts();
    owner.close().await.unwrap();
    tokio::time::timeout(PATIENCE, starts.changed())
        .await
        .expect("the joined process starts the server")
        .unwrap();
    assert!(joined.is_owner());
    assert_eq!(count(&joined).await, 1);
    joined.close().await.unwrap();
}

#[tokio::test]
async fn openers_at_the_same_moment_share_one_server() {
    let folder = reachable_folder();
    let all = tokio::join!(
        Cluster::open(folder.path(), quick()),
        Cluster::open(folder.path(), quick()),
        Cluster::open(folder.path(), quick())
    );
    let all = [all.0.unwrap(), all.1.unwrap(), all.2.unwrap()];
    assert_eq!(all.iter().filter(|cluster| cluster.is_owner()).count(), 1);
    assert!(all[0].server_pid().is_some());
    // The guests first, so that none of them takes over.
    for cluster in all.iter().filter(|cluster| !cluster.is_owner()) {
        cluster.close().await.unwrap();
    }
    for cluster in &all {
        cluster.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_server_is_started_again_and_has_lost_nothing() {
    let folder = reachable_folder();
    let source = DatabaseSource::Embedded {
        data_dir: folder.path().to_owned(),
        options: quick(),
    };
    let database = Database::open(source, DatabaseOptions::default()).await.unwrap();
    assert!(matches!(database.kind(), DatabaseKind::Embedded { joined: false, .. }));
    assert!(database.kind().to_string().contains("DATABASE_URL"));
    let cluster = database.cluster().unwrap().clone();
    database
        .pool()
        .execute("create table kept (id int); insert into kept values (1)")
        .await
        .unwrap();
    // A statement that does not notice the death of the server by itself, and would keep a new one from starting.
    let busy = tokio::spawn({
        let database = database.clone();
        async move {
            database
                .pool()
                .execute("select count(*) from generate_series(1, 100000000000)")
                .await
        }
    });
    let mut observer = cluster.connect_options().connect().await.unwrap();
    loop {
        let running =
            "select count(*) from pg_stat_activity where query like '%100000000000%' and pid <> pg_backend_pid()";
        if sqlx::query_scalar::<_, i64>(running)
            .fetch_one(&mut observer)
            .await
            .unwrap()
            == 1
        {
            break;
        }
    }

    let first = cluster.server_pid().unwrap();
    let mut starts = cluster.starts();
    kill(first);
    tokio::time::timeout(PATIENCE, starts.changed())
        .await
        .expect("the server is started again")
        .unwrap();
    assert!(busy.await.unwrap().is_err());
    let kept: i64 = sqlx::query_scalar("select count(*) from kept")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(kept, 1);
    assert_ne!(cluster.server_pid().unwrap(), first);
    database.close().await.unwrap();
    assert_eq!(cluster.server_pid(), None);
}

#[tokio::test]
async fn a_server_without_an_owner_is_replaced_and_keeps_its_data() {
    let folder = reachable_folder();
    let cluster = Cluster::open(folder.path(), quick()).await.unwrap();
    execute(&cluster, "create table kept (id int); insert into kept values (1)").await;
    cluster.close().await.unwrap();

    let data_dir = folder.path().canonicalize().unwrap();
    let binaries = BinariesSearch::from_environment().find().unwrap();
    let installation = Installation::prepare(&data_dir, binaries, &quick()).unwrap();
    let mut orphan = installation.server(&[]).unwrap().spawn().unwrap();
    let pid = i32::try_from(orphan.id()).unwrap();
    until("the orphan is ready", || {
        PidFile::read(installation.folder()).is_some_and(|file| file.ready)
    })
    .await;
    assert_eq!(Postmaster::identify(pid, installation.folder()), Postmaster::Ours);

    let cluster = Cluster::open(folder.path(), quick()).await.unwrap();
    assert!(orphan.wait().unwrap().success(), "the orphan was stopped cleanly");
    assert!(cluster.is_owner());
    assert_ne!(cluster.server_pid().unwrap(), pid);
    assert_eq!(count(&cluster).await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_pid_file_whose_number_belongs_to_another_process_now_is_no_obstacle() {
    let folder = reachable_folder();
    let cluster = Cluster::open(folder.path(), quick()).await.unwrap();
    let path = cluster.folder().join("postmaster.pid");
    let written = fs::read_to_string(&path).unwrap();
    let first = cluster.server_pid().unwrap().to_string();
    cluster.close().await.unwrap();

    // PostgreSQL respects any process of its own user.
    let account = Account::for_folder(cluster.folder()).unwrap();
    let mut stranger = account.command(Path::new("sleep")).arg("60").spawn().unwrap();
    fs::write(&path, written.replacen(&first, &stranger.id().to_string(), 1)).unwrap();
    account.give(&path).unwrap();
    let again = Cluster::open(folder.path(), quick()).await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was left alone");
    again.close().await.unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Not a test: the process that [`a_killed_process_leaves_a_folder_that_the_next_one_opens`] kills.
#[tokio::test]
#[ignore = "run by another test in a process of its own"]
async fn opens_a_cluster_until_it_is_killed() {
    let Some(folder) = std::env::var_os("ANNALS_TEST_FOLDER") else {
        return;
    };
    let cluster = Cluster::open(Path::new(&folder), quick()).await.unwrap();
    execute(&cluster, "create table kept (id int); insert into kept values (1)").await;
    fs::write(Path::new(&folder).join("written"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_leaves_a_folder_that_the_next_one_opens() {
    let folder = reachable_folder();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "embedded::opens_a_cluster_until_it_is_killed"])
        .env("ANNALS_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the process has written", || folder.path().join("written").exists()).await;
    let server = PidFile::read(&folder.path().join("postgres")).unwrap().pid;
    process.kill().unwrap();
    process.wait().unwrap();

    let cluster = Cluster::open(folder.path(), quick()).await.unwrap();
    assert!(cluster.is_owner());
    assert_ne!(cluster.server_pid().unwrap(), server);
    assert_eq!(count(&cluster).await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_long_path_gets_its_socket_in_the_temp_folder() {
    let folder = reachable_folder();
    let deep = folder
        .path()
        .join("a-folder-with-a-long-name/and-another-one/and-yet-another-one/until-it-is-too-long");
    let cluster = Cluster::open(&deep, quick()).await.unwrap();
    let options = cluster.connect_options();
    let socket = options.get_socket().unwrap();
    assert!(socket.starts_with(std::env::temp_dir()), "{}", socket.display());
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o700);
    execute(&cluster, "create table kept (id int)").await;
    let joined = Cluster::open(&deep, quick()).await.unwrap();
    assert_eq!(count(&joined).await, 0);
    joined.close().await.unwrap();
    cluster.close().await.unwrap();
    assert!(!socket.exists(), "the folder in the temp folder goes with the server");
}

#[tokio::test]
async fn a_folder_that_the_account_of_postgres_cannot_reach_is_refused_with_three_ways_out() {
    if !rustix::process::geteuid().is_root() {
        return; // only root has to change to another account
    }
    let folder = reachable_folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::open(&folder.path().join("data"), quick()).await.unwrap_err();
    assert!(
        matches!(&error, ClusterError::Unreachable { blocked, .. } if *blocked == folder.path().canonicalize().unwrap())
    );
    let text = error.to_string();
    for part in ["as root", "ANNALS_DATA_DIR", "ordinary user", "DATABASE_URL"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[tokio::test]
async fn a_folder_that_holds_something_else_is_left_alone() {
    let folder = reachable_folder();
    fs::create_dir(folder.path().join("postgres")).unwrap();
    fs::write(folder.path().join("postgres/notes.txt"), "mine").unwrap();
    let error = Cluster::open(folder.path(), quick()).await.unwrap_err();
    assert!(matches!(error, ClusterError::NotACluster(_)), "{error}");
    assert_eq!(
        fs::read_to_string(folder.path().join("postgres/notes.txt")).unwrap(),
        "mine"
    );
}

#[tokio::test]
async fn a_server_that_cannot_start_tells_why() {
    let folder = reachable_folder();
    Cluster::open(folder.path(), quick())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let settings = folder.path().join("postgres/postgresql.conf");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text + "no_such_setting = 1\n").unwrap();
    let error = Cluster::open(folder.path(), quick()).await.unwrap_err().to_string();
    assert!(
        error.contains("no_such_setting") && error.contains("postgres.log"),
        "{error}"
    );
}

#[tokio::test]
async fn dropping_the_last_handle_stops_the_server_too() {
    let folder = reachable_folder();
    let cluster = Cluster::open(folder.path(), quick()).await.unwrap();
    let (pid, place) = (cluster.server_pid().unwrap(), cluster.folder().to_owned());
    drop(cluster);
    until("the server stops", || {
        Postmaster::identify(pid, &place) != Postmaster::Ours
    })
    .await;
}
