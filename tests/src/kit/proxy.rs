//! A TCP proxy in front of PostgreSQL that understands just enough of its protocol to fail at named points.
//!
//! Every message behind the first of a connection is a type (1 byte), a length (4 bytes, itself included) and a body.
//! A request is what a client sends up to a message that makes the server answer (Sync, or a simple query); its answer
//! ends with ReadyForQuery, which the server sends when the transaction of the request is committed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// By what a connection is known to be the writer's: it prepares the statement that appends.
const APPENDS: &[u8] = b"log.append";

/// The longest message that is believed to be one, in bytes.
const LONGEST_MESSAGE: usize = 256 << 20;

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The server never hears of the request.
    BeforeRequest,
    /// The server has half of the request.
    WithinRequest,
    /// The server has the request, and finds nobody to answer.
    AfterRequest,
    /// The server has carried the request out and answered, which the client never hears of.
    BeforeAnswer,
    /// The client has half of the answer.
    WithinAnswer,
    /// No cut yet: the request stays on its way, even when its client has gone, until [`Proxy::release`].
    Held,
}

impl Cut {
    /// Every point at which a connection ends.
    pub const ALL: [Self; 5] = [
        Self::BeforeRequest,
        Self::WithinRequest,
        Self::AfterRequest,
        Self::BeforeAnswer,
        Self::WithinAnswer,
    ];
}

/// Whose next request an armed cut waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// That of a connection that appends.
    Append,
    /// Anybody's.
    Any,
}

#[derive(Debug, Clone, Default)]
struct Settings {
    stalled: bool,
    delay: Duration,
    deaf: bool,
    refusing: bool,
    /// Counts the orders to cut every connection.
    cuts: u64,
    rewrite: Option<(Vec<u8>, Vec<u8>)>,
    /// Counts the releases of what is held.
    releases: u64,
}

#[derive(Debug)]
struct Control {
    settings: watch::Sender<Settings>,
    armed: Mutex<Option<(Cut, Aim)>>,
    fired: watch::Sender<u64>,
    closed: watch::Sender<u64>,
    dropped_notifications: AtomicU64,
}

impl Control {
    fn take_armed(&self, appends: bool) -> Option<Cut> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let (cut, _) = armed.take_if(|(_, aim)| *aim == Aim::Any || appends)?;
        Some(cut)
    }

    fn fire(&self) {
        self.fired.send_modify(|fired| *fired += 1);
    }
}

/// The proxy. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: PgConnectOptions,
    control: Arc<Control>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

impl Proxy {
    /// Listens on a free local port for connections to the server of `upstream`.
    ///
    /// # Errors
    /// What binding gives.
    pub async fn start(upstream: PgConnectOptions) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            settings: watch::Sender::new(Settings::default()),
            armed: Mutex::new(None),
            fired: watch::Sender::new(0),
            closed: watch::Sender::new(0),
            dropped_notifications: AtomicU64::new(0),
        });
        let server = Server::of(&upstream);
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&control)));
        Ok(Self {
            address,
            upstream,
            control,
            accepting,
        })
    }

    /// How to connect through the proxy.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        let upstream = &self.upstream;
        let options = if upstream.get_socket().is_some() {
            // A path to a socket would go before any host.
            PgConnectOptions::new_without_pgpass()
                .username(upstream.get_username())
                .database(upstream.get_database().unwrap_or_default())
        } else {
            upstream.clone()
        };
        options
            .host("127.0.0.1")
            .port(self.address.port())
            .ssl_mode(PgSslMode::Disable)
    }

    /// A `DATABASE_URL` through the proxy, for a server that asks for no password.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgres://{}@{}/{}?sslmode=disable",
            self.upstream.get_username(),
            self.address,
            self.upstream.get_database().unwrap_or_default()
        )
    }

    /// Cuts the connection of the next request, once.
    pub fn arm(&self, cut: Cut, aim: Aim) {
        *self.control.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((cut, aim));
    }

    /// Lets requests that are held arrive, late as they are.
    pub fn release(&self) {
        self.control.settings.send_modify(|settings| settings.releases += 1);
    }

    /// Takes an armed cut back; false when it has happened.
    #[must_use]
    pub fn disarm(&self) -> bool {
        let mut armed = self.control.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.take().is_some()
    }

    /// How many connections have ended, for whatever reason; changes with each.
    #[must_use]
    pub fn closed(&self) -> watch::Receiver<u64> {
        self.control.closed.subscribe()
    }

    /// How many armed cuts have happened; changes with each. A request that is held counts when it is held, and again
    /// when the server has answered it.
    #[must_use]
    pub fn fired(&self) -> watch::Receiver<u64> {
        self.control.fired.subscribe()
    }

    /// Cuts every connection there is.
    pub fn cut_all(&self) {
        self.control.settings.send_modify(|settings| settings.cuts += 1);
    }

    /// Whether nothing is passed on, in either direction, while connections stay.
    pub fn stall(&self, stalled: bool) {
        self.control.settings.send_modify(|settings| settings.stalled = stalled);
    }

    /// How long every request and every answer is held up.
    pub fn delay(&self, delay: Duration) {
        self.control.settings.send_modify(|settings| settings.delay = delay);
    }

    /// Whether notifications are lost.
    pub fn lose_notifications(&self, lost: bool) {
        self.control.settings.send_modify(|settings| settings.deaf = lost);
    }

    /// How many notifications were lost.
    #[must_use]
    pub fn lost_notifications(&self) -> u64 {
        self.control.dropped_notifications.load(Ordering::Relaxed)
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.control
            .settings
            .send_modify(|settings| settings.refusing = refusing);
    }

    /// Replaces `this` by `that`, of the same length, in every row the server returns: to clients, the log holds
    /// something else.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rewrite(&self, this: &str, that: &str) {
        assert_eq!(this.len(), that.len(), "lengths are part of the protocol");
        let rewrite = Some((this.as_bytes().to_vec(), that.as_bytes().to_vec()));
        self.control.settings.send_modify(|settings| settings.rewrite = rewrite);
    }
}

/// Where the server is.
#[derive(Debug, Clone)]
enum Server {
    Socket(PathBuf),
    Host(String, u16),
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

type Stream = Box<dyn Wire>;

impl Server {
    fn of(upstream: &PgConnectOptions) -> Self {
        let port = upstream.get_port();
        match upstream.get_socket() {
            Some(folder) => Self::Socket(folder.join(format!(".s.PGSQL.{port}"))),
            None => Self::Host(upstream.get_host().to_owned(), port),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Host(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}

async fn accept(listener: TcpListener, server: Server, control: Arc<Control>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let mut settings = control.settings.subscribe();
        if settings.borrow_and_update().refusing {
            continue;
        }
        let (server, control) = (server.clone(), Arc::clone(&control));
        tokio::spawn(async move {
            let cuts = settings.borrow().cuts;
            tokio::select! {
                // However it ends, both sides are closed.
                _ = connection(client, &server, &control) => {}
                _ = settings.wait_for(|settings| settings.cuts != cuts) => {}
            }
            control.closed.send_modify(|closed| *closed += 1);
        });
    }
}

async fn connection(client: TcpStream, server: &Server, control: &Control) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (server_reader, server_writer) = tokio::io::split(server.connect().await?);
    let client: Stream = Box::new(client);
    let (client_reader, client_writer) = tokio::io::split(client);
    // The cut that the answer under way is to end with.
    let of_answer = Mutex::new(None);
    tokio::select! {
        ended = pass_requests(BufReader::new(client_reader), server_writer, control, &of_answer) => ended,
        ended = pass_answers(BufReader::new(server_reader), client_writer, control, &of_answer) => ended,
    }
}

/// Appends one message to `buffer`; false at the end of the stream. The first one has no type.
async fn read_message(reader: &mut BufReader<ReadHalf<Stream>>, buffer: &mut Vec<u8>, typed: bool) -> io::Result<bool> {
    if reader.fill_buf().await?.is_empty() {
        return Ok(false);
    }
    let start = buffer.len();
    let header = if typed { 5 } else { 4 };
    buffer.resize(start + header, 0);
    reader.read_exact(&mut buffer[start..]).await?;
    let length = &buffer[start + header - 4..];
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if !(4..=LONGEST_MESSAGE).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no message of PostgreSQL"));
    }
    let body = buffer.len();
    buffer.resize(body + length - 4, 0);
    reader.read_exact(&mut buffer[body..]).await?;
    Ok(true)
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

async fn hold_up(control: &Control) {
    let mut settings = control.settings.subscribe();
    let delay = settings.borrow().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    // The sender lives as long as the proxy, whose end ends this too.
    let _ = settings.wait_for(|settings| !settings.stalled).await;
}

async fn pass_requests(
    mut reader: BufReader<ReadHalf<Stream>>,
    mut writer: WriteHalf<Stream>,
    control: &Control,
    of_answer: &Mutex<Option<Cut>>,
) -> io::Result<()> {
    let mut request = Vec::new();
    let (mut typed, mut appends, mut executes) = (false, false, false);
    loop {
        let start = request.len();
        if !read_message(&mut reader, &mut request, typed).await? {
            return Ok(());
        }
        if typed {
            let message = &request[start..];
            match message[0] {
                b'P' => {
                    appends |= holds(message, APPENDS);
                    continue;
                }
                b'B' | b'Q' => executes = true,
                _ => {}
            }
            if matches!(message[0], b'B' | b'C' | b'D' | b'E') {
                continue;
            }
        }
        typed = true;
        hold_up(control).await;
        let cut = if executes { control.take_armed(appends) } else { None };
        executes = false;
        match cut {
            Some(Cut::BeforeRequest) => {
                control.fire();
                return Ok(());
            }
            Some(Cut::WithinRequest) => {
                writer.write_all(&request[..request.len() / 2]).await?;
                writer.flush().await?;
                control.fire();
                return Ok(());
            }
            Some(Cut::AfterRequest) => {
                writer.write_all(&request).await?;
                writer.flush().await?;
                control.fire();
                return Ok(());
            }
            Some(Cut::Held) => {
                let mut settings = control.settings.subscribe();
                let releases = settings.borrow().releases;
                control.fire();
                let _ = settings.wait_for(|settings| settings.releases != releases).await;
                *of_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cut::BeforeAnswer);
            }
            Some(cut @ (Cut::BeforeAnswer | Cut::WithinAnswer)) => {
                *of_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
            }
            None => {}
        }
        writer.write_all(&request).await?;
        writer.flush().await?;
        request.clear();
    }
}

async fn pass_answers(
    mut reader: BufReader<ReadHalf<Stream>>,
    mut writer: WriteHalf<Stream>,
    control: &Control,
    of_answer: &Mutex<Option<Cut>>,
) -> io::Result<()> {
    let mut answer = Vec::new();
    loop {
        let start = answer.len();
        if !read_message(&mut reader, &mut answer, true).await? {
            return Ok(());
        }
        let kind = answer[start];
        let settings = control.settings.borrow().clone();
        if kind == b'A' && settings.deaf {
            control.dropped_notifications.fetch_add(1, Ordering::Relaxed);
            answer.truncate(start);
        }
        if kind == b'D'
            && let Some((this, that)) = &settings.rewrite
        {
            replace(&mut answer[start..], this, that);
        }
        let cut = *of_answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cut) = cut {
            if kind != b'Z' {
                continue; // all of it first: with the last message the transaction is over
            }
            if cut == Cut::WithinAnswer {
                writer.write_all(&answer[..answer.len() / 2]).await?;
                writer.flush().await?;
            }
            control.fire();
            return Ok(());
        }
        if !reader.buffer().is_empty() && answer.len() < 1 << 16 {
            continue; // there is more at hand
        }
        hold_up(control).await;
        writer.write_all(&answer).await?;
        writer.flush().await?;
        answer.clear();
    }
}

fn replace(bytes: &mut [u8], this: &[u8], that: &[u8]) {
    let mut place = 0;
    while place + this.len() <= bytes.len() {
        if &bytes[place..place + this.len()] == this {
            bytes[place..place + this.len()].copy_from_slice(that);
            place += this.len();
        } else {
            place += 1;
        }
    }
}
