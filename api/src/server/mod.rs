//! The accept loop. axum's own has no header timeout, no bound on connections and no bound on its graceful stop.

mod activity;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::config::ServerConfig;
use crate::middleware::Peer;

use activity::{Activity, Lifetimes, OpenRequest};
use stream::Watched;

/// Waiting connections that the kernel keeps while all places are taken.
const BACKLOG: i32 = 1024;

/// Between our own limits and hyper's the handlers' surroundings answer 431 and 414, in the shape that the path asks for.
const HEAD_SLACK_BYTES: usize = 64 * 1024;

/// How often a connection looks whether it has outlived its time.
const LONGEST_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A bound listening socket with the limits that its connections will have.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: ServerConfig,
}

impl Server {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says, such as an address in use.
    pub fn bind(address: SocketAddr, limits: ServerConfig) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::from_listener(TcpListener::from_std(socket.into())?, limits)
    }

    /// Takes over a listener that is bound already.
    ///
    /// # Errors
    /// When the system does not know its address.
    pub fn from_listener(listener: TcpListener, limits: ServerConfig) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            limits,
        })
    }

    /// The address that was bound, with the port in use.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then lets open requests finish for at most `shutdown_timeout_s`. Returns when no
    /// connection is left.
    pub async fn run(self, router: Router, stop: CancellationToken) {
        let limits = &self.limits;
        let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
        let connections = TaskTracker::new();
        let abort = CancellationToken::new();
        let builder = Arc::new(builder(limits));
        let lifetimes = Lifetimes {
            header: Duration::from_secs(limits.header_timeout_s),
            idle: Duration::from_secs(limits.idle_timeout_s),
        };
        loop {
            // The place is taken before the connection, so that the kernel's queue holds back the rest.
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_about_one_connection(&error) {
                        // Out of file descriptors, most likely. Trying again at once would only burn the processor.
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let connection = serve_connection(
                stream,
                peer,
                router.clone(),
                Arc::clone(&builder),
                lifetimes,
                stop.clone(),
            );
            let abort = abort.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = abort.cancelled() => {}
                }
                drop(place);
            });
        }
        drop(self.listener);
        connections.close();
        let open = connections.len();
        if open > 0 {
            tracing::info!(connections = open, "waiting for open requests");
        }
        let patience = Duration::from_secs(limits.shutdown_timeout_s);
        if tokio::time::timeout(patience, connections.wait()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "cutting off requests that did not finish in time"
            );
            abort.cancel();
            connections.wait().await;
        }
    }
}

fn builder(limits: &ServerConfig) -> Builder<TokioExecutor> {
    let head_bytes = limits.max_header_bytes + limits.max_uri_bytes + HEAD_SLACK_BYTES;
    let head_u32 = u32::try_from(head_bytes).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper's one timer runs over the pause between two requests too; ours tells the two apart.
        .header_read_timeout(None)
        .max_buf_size(head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head_u32)
        .max_concurrent_streams(128)
        .max_pending_accept_reset_streams(16)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// A connection that ended before it was accepted is no fault of the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    lifetimes: Lifetimes,
    stop: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let watched = Watched::new(stream, Arc::clone(&activity));
    let service = hyper::service::service_fn({
        let activity = Arc::clone(&activity);
        move |request: Request<Incoming>| {
            let open = Activity::open(&activity, request.version());
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let answer = router.clone().call(request);
            async move {
                let Ok(answer) = answer.await;
                open.note_answer();
                Ok::<_, Infallible>(answer.map(|body| Sent { body, _open: open }))
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(watched), service));
    let look_interval = (lifetimes.header.min(lifetimes.idle) / 4).min(LONGEST_LOOK_INTERVAL);
    let mut look = tokio::time::interval(look_interval.max(Duration::from_millis(10)));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => if activity.has_outlived(lifetimes) {
                return;
            },
        }
    }
}

/// The body of an answer, whose request is open until it has been handed over.
struct Sent {
    body: Body,
    _open: OpenRequest,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use std::time::Instant;

    use super::*;
    use crate::config::Config;

    /// More than the kernel holds for a connection.
    const LARGE_BYTES: usize = 64 << 20;

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(change: impl FnOnce(&mut ServerConfig)) -> Running {
        let mut limits = Config::defaults().server;
        limits.header_timeout_s = 1;
        limits.idle_timeout_s = 1;
        limits.shutdown_timeout_s = 1;
        change(&mut limits);
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), limits).expect("loopback");
        let address = server.address();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let never = || std::future::pending::<&str>();
        let router = Router::new()
            .route("/", get(|| async { "ok" }))
            .route("/slow", get(slow))
            .route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }))
            .route("/never", get(never));
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(router, stop.clone()));
        Running { address, stop, task }
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text))
            .await
            .expect("the server closes the connection")
            .unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_drips_its_head_is_cut_off() {
        let server = start(|limits| limits.idle_timeout_s = 60);
        let mut stream = TcpStream::connect(server.address).await.expect("listening");
        let begun = Instant::now();
        let (mut reader, mut writer) = stream.split();
        let drip = async {
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                .iter()
                .cycle()
            {
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut seen = Vec::new();
        tokio::select! {
            () = drip => {}
            _ = reader.read_to_end(&mut seen) => {}
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "cut off after {:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn silent_and_idle_connections_are_closed() {
        let server = start(|_| {});
        let mut silent = TcpStream::connect(server.address).await.expect("listening");
        assert_eq!(rest(&mut silent).await, "");
        let mut idle = TcpStream::connect(server.address).await.expect("listening");
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("open");
        assert!(rest(&mut idle).await.ends_with("ok"));
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answer_is_cut_off() {
        let server = start(|limits| limits.header_timeout_s = 60);
        let mut stream = TcpStream::connect(server.address).await.expect("listening");
        stream
            .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("open");
        tokio::time::sleep(Duration::from_secs(4)).await;
        // What the kernel had taken is still there; the rest never comes.
        assert!(rest(&mut stream).await.len() < LARGE_BYTES);
    }

    #[tokio::test]
    async fn a_slow_handler_is_not_idle() {
        let server = start(|limits| limits.idle_timeout_s = 1);
        let mut stream = TcpStream::connect(server.address).await.expect("listening");
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("open");
        assert!(rest(&mut stream).await.ends_with("slow"));
    }

    #[tokio::test]
    async fn stopping_lets_open_requests_finish_and_cuts_off_the_endless() {
        let server = start(|limits| limits.header_timeout_s = 60);
        let mut slow = TcpStream::connect(server.address).await.expect("listening");
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("open");
        let mut never = TcpStream::connect(server.address).await.expect("listening");
        never
            .write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("open");
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop.cancel();
        assert!(rest(&mut slow).await.ends_with("slow"));
        tokio::time::timeout(Duration::from_secs(5), server.task)
            .await
            .expect("bounded")
            .expect("no panic");
        assert_eq!(rest(&mut never).await, "");
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn further_connections_wait_for_a_place() {
        let server = start(|limits| limits.max_connections = 1);
        let mut first = TcpStream::connect(server.address).await.expect("listening");
        first
            .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("open");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut second = TcpStream::connect(server.address).await.expect("queued by the kernel");
        second
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("open");
        let begun = Instant::now();
        assert!(rest(&mut second).await.ends_with("ok"));
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(rest(&mut first).await.ends_with("slow"));
    }
}
