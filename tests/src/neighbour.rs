//! A second process on a test's database, as far as one can be had within the test's own: another application with its own
//! pool, memory and server.

use std::net::SocketAddr;
use std::sync::Arc;

use annals_api::{App, AppState};
use annals_commands::SystemClock;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::TestApp;

/// An application beside a [`TestApp`], with the same configuration and keys. End it with [`Neighbour::finish`], first.
pub struct Neighbour {
    app: App,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Neighbour {
    /// Starts it.
    pub async fn of(first: &TestApp) -> Self {
        let config = first.state().config().clone();
        let app = App::start_on(first.database().another(), config, Arc::new(SystemClock))
            .await
            .expect("a second application starts");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(app.clone().serve(listener, async move {
            let _ = stopped.await;
        }));
        Self {
            app,
            address,
            stop,
            server,
        }
    }

    /// Address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What its handlers work with.
    #[must_use]
    pub fn state(&self) -> &AppState {
        self.app.state()
    }

    /// Stops it.
    pub async fn finish(self) {
        let _ = self.stop.send(());
        self.server
            .await
            .expect("the server does not panic")
            .expect("the server had a listener");
        self.app.stop().await.expect("the application stops");
    }
}
