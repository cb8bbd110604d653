//! Reading over HTTP: one node by id and one page by slug, against a bare axum handler that returns the same bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use annals_api::App;
use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::load::{Answer, Measured, Pace, Ratio, Round, closed_loop, take_turns};
use crate::report::say;

/// Connections at once.
const CALLERS: usize = 16;

/// One kind of read.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was read.
    pub(crate) what: &'static str,
    /// Connections at once, one request each.
    pub(crate) callers: usize,
    /// Size of the body.
    pub(crate) bytes: usize,
    /// Served by Annals.
    pub(crate) annals: Measured,
    /// Served by a handler that holds the bytes.
    pub(crate) bare: Measured,
    /// Throughput of ours over that of the bare handler.
    pub(crate) to_bare: Ratio,
}

/// Measures both reads.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(app: &App, pace: Pace) -> Result<Vec<Row>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(app.clone().serve(listener, async move {
        let _ = stopped.await;
    }));
    let rows = measure(address, pace).await;
    let _ = stop.send(());
    server.await.context("the server panicked")??;
    rows
}

async fn measure(address: SocketAddr, pace: Pace) -> Result<Vec<Row>> {
    let site = Site::publish(address).await?;
    let mut rows = Vec::new();
    for (what, path, token) in [
        ("content by id", site.content.as_str(), Some(site.token.as_str())),
        ("page by slug", "/bench?format=clean", None),
    ] {
        say(&format!("read: {what}"));
        rows.push(
            compare(what, address, path, token, pace)
                .await
                .with_context(|| format!("reading {path}"))?,
        );
    }
    Ok(rows)
}

/// A page with two fields and a child, and somebody who may read it.
struct Site {
    token: String,
    content: String,
}

impl Site {
    async fn publish(address: SocketAddr) -> Result<Self> {
        // reqwest asks for a TLS provider even where nothing but plain HTTP is spoken.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::new();
        let base = format!("http://{address}/api/v1");
        let post = async |path: &str, token: Option<&str>, body: Value| -> Result<Value> {
            let mut request = client.post(format!("{base}/{path}")).json(&body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await?;
            let status = answer.status();
            let body: Value = answer.json().await?;
            ensure!(status.is_success(), "{path}: {status} {body}");
            Ok(body)
        };
        let text = |body: &Value, member: &str| -> Result<String> {
            body[member]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {member} in {body}"))
        };
        let account = json!({ "email": "bench@example.com", "password": "a long enough password", "full_name": "Ada Example", "organization_name": "Example & Co" });
        post("auth/register", None, account.clone()).await?;
        let token = text(&post("auth/login", None, account).await?, "access_token")?;
        let with = Some(token.as_str());
        let page = text(
            &post("datatype", with, json!({ "label": "Page", "type": "ROOT" })).await?,
            "datatype_id",
        )?;
        let section = text(
            &post("datatype", with, json!({ "label": "Section", "type": "section" })).await?,
            "datatype_id",
        )?;
        let field = json!({ "label": "Title", "type": "text", "parent_id": page });
        let field = text(&post("fields", with, field).await?, "field_id")?;
        let route = text(
            &post(
                "routes",
                with,
                json!({ "slug": "/bench", "title": "Bench", "status": 1 }),
            )
            .await?,
            "route_id",
        )?;
        let root = json!({ "datatype_id": page, "route_id": route, "status": "published" });
        let root = text(&post("contentdata", with, root).await?, "content_data_id")?;
        let child = json!({ "datatype_id": section, "route_id": route, "parent_id": root, "status": "published" });
        let child = text(&post("contentdata", with, child).await?, "content_data_id")?;
        for (node, value) in [(&root, "Hello"), (&child, "First")] {
            let value = json!({ "content_data_id": node, "field_id": field, "route_id": route, "field_value": value });
            post("contentfields", with, value).await?;
        }
        Ok(Self {
            content: format!("/api/v1/contentdata/?q={root}"),
            token,
        })
    }
}

async fn compare(what: &'static str, address: SocketAddr, path: &str, token: Option<&str>, pace: Pace) -> Result<Row> {
    let bytes = fetch(&mut connect(address).await?, &request(path, token)?).await?;
    let content = bytes.clone();
    let bare = Router::new().fallback(get(move || {
        let content = content.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], content) }
    }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let bare_address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, bare).await });
    let rounds = take_turns(&[address, bare_address], pace.rounds, |address, _| {
        round(address, path, token, pace)
    })
    .await?;
    server.abort();
    Ok(Row {
        what,
        callers: CALLERS,
        bytes: bytes.len(),
        to_bare: Ratio::of_speeds(&rounds[0], &rounds[1]),
        annals: Measured::of(&rounds[0])?,
        bare: Measured::of(&rounds[1])?,
    })
}

async fn round(address: SocketAddr, path: &str, token: Option<&str>, pace: Pace) -> Result<Round> {
    let mut connections = Vec::with_capacity(CALLERS);
    for _ in 0..CALLERS {
        connections.push(Mutex::new(connect(address).await?));
    }
    let connections = Arc::new(connections);
    let request = request(path, token)?;
    closed_loop(CALLERS, pace.round, move |number| {
        let (connections, request) = (Arc::clone(&connections), request.clone());
        async move {
            fetch(&mut *connections[number].lock().await, &request).await?;
            Ok(Answer::Done)
        }
    })
    .await
}

fn request(path: &str, token: Option<&str>) -> Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(path).header(header::HOST, "annals.example.com");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    Ok(request.body(Empty::new())?)
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn fetch(connection: &mut SendRequest<Empty<Bytes>>, request: &Request<Empty<Bytes>>) -> Result<Bytes> {
    connection.ready().await?;
    let answer = connection.send_request(request.clone()).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}
