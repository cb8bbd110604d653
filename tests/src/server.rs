//! The server of a test run: `TEST_DATABASE_URL`, or a private cluster in the target folder.
//!
//! The private cluster is shared by every process of a run (`cargo test` starts one per binary, nextest one per test)
//! and outlives none of them for more than half a second: a shell holds the server and reads a pipe that every
//! process keeps open for writing, so however the last one ends, the kernel closes it and the shell stops the server.
//! If the shell itself was killed, the next run stops what it left.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::str::FromStr;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals_eventstore::database::{Database, DatabaseOptions, DatabaseRole, migration_checksums};
use annals_eventstore::embedded::{
    Account, BinariesSearch, ClusterError, ClusterOptions, Installation, PidFile, Postmaster,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

/// Databases of tests are named with this, the second they were made in, the process and a number.
pub(crate) const TEST_PREFIX: &str = "annals_test_";
const TEMPLATE_PREFIX: &str = "annals_template_";

/// On a server that is not ours, databases that a killed run left are dropped after this.
const LEFTOVER_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// One at a time makes the template; the key is as good as any.
const TEMPLATE_LOCK: i64 = 0x616e_6e61_6c73;

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(5);

/// Runs the server and stops it when nobody has the pipe open any more. Each user sends a name and waits for the file
/// of that name, so it knows that it was counted. The short lingering spares a restart between two tests of nextest.
const KEEP: &str = r#"
pipe=$1 users=$2; shift 2
"$@" &
server=$!
exec 3<"$pipe"
idle=0
while [ $idle -lt 5 ]; do
    while read -r user <&3; do : >"$users/$user"; idle=0; done
    idle=$((idle + 1))
    sleep 0.1
done
: >"$users/closed"
kill -INT $server
wait $server
"#;

/// The server that this process uses.
#[derive(Debug)]
pub(crate) struct Server {
    connect: PgConnectOptions,
    /// What `TEST_DATABASE_URL` says.
    url: Option<String>,
    template: String,
    /// Open for as long as the process lives; see [`KEEP`].
    _user: Option<File>,
}

impl Server {
    /// The server, made ready by whoever asks first.
    pub(crate) async fn get() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        tokio::task::spawn_blocking(|| SERVER.get_or_init(Self::start))
            .await
            .expect("the server of the tests starts")
    }

    /// How to connect to `database` as the owner of everything.
    pub(crate) fn connect_options(&self, database: &str) -> PgConnectOptions {
        self.connect.clone().database(database)
    }

    /// A connection to the database that `TEST_DATABASE_URL` names, or to `postgres`.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.connect
            .connect()
            .await
            .expect("a connection to the server of the tests")
    }

    /// How to connect to that database.
    pub(crate) fn maintenance(&self) -> &PgConnectOptions {
        &self.connect
    }

    /// The address of `database` for other processes.
    pub(crate) fn url(&self, database: &str) -> String {
        let Some(url) = &self.url else {
            let socket = self
                .connect
                .get_socket()
                .expect("the private cluster has nothing but a socket");
            let socket = utf8_percent_encode(&socket.to_string_lossy(), NON_ALPHANUMERIC).to_string();
            return format!(
                "postgres://{}@{socket}:{}/{database}",
                self.connect.get_username(),
                self.connect.get_port()
            );
        };
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        let authority = server.find("://").map_or(0, |colon| colon + "://".len());
        let end = server[authority..]
            .find('/')
            .map_or(server.len(), |slash| authority + slash);
        let query = if query.is_empty() {
            String::new()
        } else {
            format!("?{query}")
        };
        format!("{}/{database}{query}", &server[..end])
    }

    /// The migrated database to clone.
    pub(crate) fn template(&self) -> &str {
        &self.template
    }

    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        match env::var("TEST_DATABASE_URL") {
            Ok(url) if !url.is_empty() => {
                let connect = PgConnectOptions::from_str(&url).expect("TEST_DATABASE_URL is postgres://...");
                let template = runtime.block_on(async {
                    drop_leftovers(&connect, LEFTOVER_AGE).await;
                    make_template(&connect).await
                });
                Self {
                    connect,
                    url: Some(url),
                    template,
                    _user: None,
                }
            }
            _ => {
                let folder = shared_folder();
                let lock = File::create(folder.join("start.lock")).expect("the lock of the test cluster");
                lock.lock().expect("the lock of the test cluster");
                let (connect, user, is_new) = private_server(&folder);
                let template = runtime.block_on(async {
                    if is_new {
                        drop_leftovers(&connect, Duration::ZERO).await;
                    }
                    make_template(&connect).await
                });
                Self {
                    connect,
                    url: None,
                    template,
                    _user: Some(user),
                }
            }
        }
    }
}

/// A temporary folder that the account of an embedded PostgreSQL can enter, also when the tests run as root.
#[must_use]
pub fn reachable_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("annals-")
        .tempdir()
        .expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("its permissions");
    folder
}

/// In the target folder; where root's account for PostgreSQL cannot go there, in the temp folder.
fn shared_folder() -> PathBuf {
    let target = target_folder();
    let folder = target.join("annals-test-cluster");
    let usable = fs::create_dir_all(&folder).is_ok()
        && Account::for_folder(&folder.join("postgres"))
            .and_then(|account| account.must_reach(&folder))
            .is_ok();
    if usable {
        return folder.canonicalize().expect("a folder just made");
    }
    let digest = Sha256::digest(target.as_os_str().as_encoded_bytes());
    let folder = env::temp_dir().join(format!("annals-test-cluster-{}", hex::encode(&digest[..6])));
    fs::create_dir_all(&folder).expect("a folder for the test cluster");
    folder.canonicalize().expect("a folder just made")
}

/// Cargo marks it with a tag.
fn target_folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let tagged = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    tagged.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        Path::to_owned,
    )
}

/// Joins the private server or starts it; tells whether it was started. Called under the lock of `folder`.
fn private_server(folder: &Path) -> (PgConnectOptions, File, bool) {
    let options = ClusterOptions {
        durable: false,
        max_connections: 400,
        ..ClusterOptions::default()
    };
    let cluster = folder.join("postgres");
    let users = folder.join("users");
    if let Some(user) = join(&users) {
        let installation = install(folder, &options);
        wait_until_ready(&cluster, &installation, None);
        return (installation.connect_options("postgres"), user, false);
    }
    end_old_server(&cluster);
    let installation = install(folder, &options);
    let mut keeper = keep(&installation, &users);
    let deadline = Instant::now() + PATIENCE;
    let user = loop {
        if let Some(user) = join(&users) {
            break user;
        }
        assert!(
            Instant::now() < deadline,
            "the keeper of the test cluster does not answer; see {}",
            log_of(&installation)
        );
        thread::sleep(PAUSE);
    };
    wait_until_ready(&cluster, &installation, Some(&mut keeper));
    (installation.connect_options("postgres"), user, true)
}

/// A cluster that cannot be used, such as one of another version, is made anew: nobody misses what is in it.
fn install(folder: &Path, options: &ClusterOptions) -> Installation {
    let search = BinariesSearch::from_environment();
    let binaries = search.find().unwrap_or_else(|error: ClusterError| panic!("{error}"));
    let cluster = folder.join("postgres");
    let version = fs::read_to_string(cluster.join("PG_VERSION")).ok();
    if version.is_some_and(|version| version.trim() != binaries.major().to_string()) {
        fs::remove_dir_all(&cluster).expect("the old test cluster can be removed");
    }
    Installation::prepare(folder, binaries, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Registers with the keeper of a running server; none when there is none, or it is about to end.
fn join(users: &Path) -> Option<File> {
    static JOINS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a small flag");
    // Fails when nobody reads at the other end.
    let mut pipe = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open(users.join("pipe"))
        .ok()?;
    let name = format!(
        "{}-{}",
        std::process::id(),
        JOINS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    );
    pipe.write_all(format!("{name}\n").as_bytes()).ok()?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !users.join("closed").exists() {
        if fs::remove_file(users.join(&name)).is_ok() {
            return Some(pipe);
        }
        thread::sleep(PAUSE);
    }
    None
}

/// Waits for a server that its keeper is stopping, or stops one whose keeper was killed.
fn end_old_server(cluster: &Path) {
    let running = || {
        PidFile::read(cluster)
            .map(|file| file.pid)
            .filter(|pid| Postmaster::identify(*pid, cluster) == Postmaster::Ours)
    };
    for (patience, then) in [
        (Duration::from_secs(2), Signal::INT),
        (Duration::from_secs(10), Signal::QUIT),
        (PATIENCE, Signal::KILL),
    ] {
        let deadline = Instant::now() + patience;
        let Some(pid) = running() else { return };
        while running() == Some(pid) {
            if Instant::now() >= deadline {
                let _ = Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, then));
                break;
            }
            thread::sleep(PAUSE);
        }
    }
}

fn keep(installation: &Installation, users: &Path) -> Child {
    let _ = fs::remove_dir_all(users);
    fs::create_dir(users).expect("a folder for the users of the test cluster");
    let pipe = users.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo can be run");
    assert!(made.success(), "mkfifo failed");
    installation
        .account()
        .give(users)
        .expect("the folder is given to the account of PostgreSQL");
    let wrapper: Vec<OsString> = vec![
        "/bin/sh".into(),
        "-c".into(),
        KEEP.into(),
        "sh".into(),
        pipe.into(),
        users.into(),
    ];
    installation
        .server(&wrapper)
        .and_then(|mut command| {
            command.spawn().map_err(|source| ClusterError::Spawn {
                program: "/bin/sh".into(),
                source,
            })
        })
        .unwrap_or_else(|error| panic!("{error}"))
}

fn wait_until_ready(cluster: &Path, installation: &Installation, mut keeper: Option<&mut Child>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let file = PidFile::read(cluster).filter(|file| file.ready);
        if file.is_some_and(|file| Postmaster::identify(file.pid, cluster) == Postmaster::Ours) {
            return;
        }
        let ended = keeper.as_mut().and_then(|keeper| keeper.try_wait().ok().flatten());
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "the test cluster did not start; see {}",
            log_of(installation)
        );
        thread::sleep(PAUSE);
    }
}

fn log_of(installation: &Installation) -> String {
    installation.log().display().to_string()
}

/// A migrated database of which no process has a connection, named after its migrations. It is marked as a template
/// last, so one that was cut off is known by lacking the mark.
async fn make_template(server: &PgConnectOptions) -> String {
    let mut digest = Sha256::new();
    migration_checksums().for_each(|checksum| digest.update(checksum));
    let name = format!("{TEMPLATE_PREFIX}{}", hex::encode(&digest.finalize()[..6]));
    let mut connection = server.connect().await.expect("a connection to the server of the tests");
    let lock = sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK);
    lock.execute(&mut connection).await.expect("the lock of the template");
    let complete: Option<bool> = sqlx::query_scalar("select datistemplate from pg_database where datname = $1")
        .bind(&name)
        .fetch_optional(&mut connection)
        .await
        .expect("the list of databases");
    if complete != Some(true) {
        let remove = format!("drop database if exists {name} with (force)");
        connection
            .execute(&*remove)
            .await
            .expect("an unfinished template is dropped");
        let create = format!("create database {name} encoding 'UTF8' template template0");
        connection.execute(&*create).await.expect("a database for the template");
        let options = DatabaseOptions {
            role: DatabaseRole::Owner,
            ..DatabaseOptions::default()
        };
        let database = Database::connect_with(server.clone().database(&name), options)
            .await
            .expect("a connection to the template");
        if let Err(error) = database.migrate().await {
            panic!("the template cannot be migrated: {}", chain(&error));
        }
        database.close().await.expect("the template is closed");
        let mark = format!("alter database {name} with is_template true allow_connections false");
        connection.execute(&*mark).await.expect("the template is marked");
    }
    connection.close().await.expect("the connection is closed");
    name
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Drops test databases older than `age`, which only killed runs leave.
async fn drop_leftovers(server: &PgConnectOptions, age: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut connection = server.connect().await.expect("a connection to the server of the tests");
    let names: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where starts_with(datname::text, $1)")
            .bind(TEST_PREFIX)
            .fetch_all(&mut connection)
            .await
            .expect("the list of databases");
    for name in names {
        let made = name[TEST_PREFIX.len()..]
            .split('_')
            .next()
            .and_then(|second| second.parse().ok());
        if made.is_some_and(|second| now.saturating_sub(Duration::from_secs(second)) >= age) {
            // Somebody else may be doing the same.
            let _ = connection
                .execute(&*format!("drop database if exists {name} with (force)"))
                .await;
        }
    }
    connection.close().await.expect("the connection is closed");
}
