//! Everything that runs: database, vault, log, commands and projections, started and stopped in order.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;

use annals_commands::reactions::mail::{MailOptions, Mailer};
use annals_commands::services::mail::{MailService, MailSettingsError};
use annals_commands::user::Register;
use annals_commands::{
    Clock, CommandContext, CommandError, CommandSettings, Commands, Lifetimes, LinkSettings, MfaSettings,
    PasswordPolicy, PasswordPool, PasswordSettings, SystemClock, TokenKey, TokenSettings, Tokens,
};
use annals_domain::{Caller, ClaimScope, EmailAddress, Role};
use annals_eventstore::checkpoint;
use annals_eventstore::database::{Database, DatabaseError, DatabaseOptions, DatabaseSource};
use annals_eventstore::doctor::{self, Severity};
use annals_eventstore::embedded::{BinariesSearch, Cluster, ClusterOptions};
use annals_eventstore::vault::{MasterKey, Vault, VaultError};
use annals_eventstore::{EventStore, SnapshotOptions, Snapshotter, WriterOptions};
use annals_projections::{Engine, EngineOptions, ProjectionState};
use axum::Router;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Config;
use crate::middleware::idempotency::Exchanges;
use crate::router;
use crate::server::Server;
use crate::sweeper::Sweeper;

/// What handlers work with. Clones share it.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    config: Config,
    store: EventStore,
    commands: Commands,
    engine: Engine,
    exchanges: Exchanges,
    snapshotter: Snapshotter,
    mailer: Mailer,
    sweeper: Sweeper,
}

impl AppState {
    /// What the operator decided.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The log.
    #[must_use]
    pub fn store(&self) -> &EventStore {
        &self.0.store
    }

    /// The database that the log and the read models are in.
    #[must_use]
    pub fn database(&self) -> &Database {
        self.0.store.database()
    }

    /// What commands are carried out with.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.0.commands
    }

    /// The context of one command.
    #[must_use]
    pub fn on_behalf_of<'a>(&'a self, caller: &'a Caller) -> CommandContext<'a> {
        self.0.commands.on_behalf_of(caller)
    }

    /// What keeps the read models in step.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// What sends mails.
    #[must_use]
    pub fn mailer(&self) -> &Mailer {
        &self.0.mailer
    }

    /// The requests under an idempotency key that are being carried out.
    pub(crate) fn exchanges(&self) -> &Exchanges {
        &self.0.exchanges
    }

    /// What keeps read models from going on, as far as this process knows: `projection <name>`, and why where the log is
    /// to blame.
    #[must_use]
    pub fn projection_faults(&self) -> Vec<String> {
        let statuses = self.0.engine.statuses();
        let stuck = statuses
            .into_iter()
            .filter_map(|status| match (status.state, status.error) {
                (ProjectionState::Diverged, Some(why)) => Some(format!("projection {}: {why}", status.name)),
                (
                    ProjectionState::Failing
                    | ProjectionState::Stopped
                    | ProjectionState::Unknown
                    | ProjectionState::Diverged,
                    _,
                ) => Some(format!("projection {}", status.name)),
                (ProjectionState::Following | ProjectionState::Rebuilding | ProjectionState::Standby, _) => None,
            });
        stuck.collect()
    }
}

/// A running application, without the HTTP server.
#[derive(Clone)]
pub struct App {
    state: AppState,
}

impl App {
    /// Opens the database, brings its schema up to date and starts everything. What was started is stopped again when a
    /// later step fails.
    ///
    /// # Errors
    /// [`StartError`] naming the step.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let options = DatabaseOptions {
            max_connections: config.database.pool_connections,
            ..DatabaseOptions::default()
        };
        let database = Database::open(database_source(&config), options).await?;
        match Self::start_on(database.clone(), config, Arc::new(SystemClock)).await {
            Ok(app) => Ok(app),
            Err(error) => {
                if let Err(error) = database.close().await {
                    tracing::warn!(%error, "closing the database after a failed start");
                }
                Err(error)
            }
        }
    }

    /// The same on a database that is open already; [`App::stop`] will close it.
    ///
    /// # Errors
    /// [`StartError`] naming the step.
    pub async fn start_on(database: Database, config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        tracing::info!(database = %database.kind(), "using");
        let mail = MailService::new(&config.mail_settings())?;
        let migrated = database.migrate().await?;
        if !migrated.application_role {
            tracing::warn!("role annals_app may not be used here; triggers alone protect the log");
        }
        warn_of_faults(&database).await;
        let store = start_store(database, &config).await?;
        store.remember_the_live();
        give_back_leases_of_the_dead(store.database()).await;
        let commands = match start_commands(&store, clock, &config) {
            Ok(commands) => commands,
            Err(error) => {
                store.close().await;
                return Err(error);
            }
        };
        let engine = Engine::start(
            store.clone(),
            annals_projections::read_models(),
            EngineOptions::default(),
        );
        let snapshotter = Snapshotter::start(store.clone(), SnapshotOptions::default());
        let mailer = Mailer::start(commands.clone(), mail, mail_options(&config));
        let app = Self {
            state: AppState(Arc::new(Inner {
                config,
                store,
                commands,
                engine,
                exchanges: Exchanges::default(),
                snapshotter,
                mailer,
                sweeper: Sweeper::new(),
            })),
        };
        let state = &app.state;
        state.0.sweeper.start(state);
        state
            .exchanges()
            .sweep(state.store().clone(), state.config().answer_retention());
        if let Err(error) = app.ensure_administrator().await {
            app.wind_down().await;
            return Err(error);
        }
        Ok(app)
    }

    /// What handlers work with.
    #[must_use]
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// The log.
    #[must_use]
    pub fn store(&self) -> &EventStore {
        self.state.store()
    }

    /// Serves on a listener that is bound already, until `stop` is ready and open requests have ended. The application goes on.
    ///
    /// # Errors
    /// What the system says about the listener.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        let server = Server::from_listener(listener, self.state.config().server.clone())?;
        let token = CancellationToken::new();
        let running = server.run(self.router(), token.clone());
        let stopping = async {
            stop.await;
            token.cancel();
        };
        tokio::join!(running, stopping);
        Ok(())
    }

    /// Every route with its surroundings.
    pub fn router(&self) -> Router {
        router::build(self.state.clone())
    }

    /// Stops the projections after the batch at hand, finishes what is being written, closes the database. Stop the HTTP
    /// server first.
    ///
    /// # Errors
    /// What closing the database reports; everything else has been stopped by then.
    pub async fn stop(self) -> Result<(), DatabaseError> {
        self.wind_down().await;
        self.state.database().close().await
    }

    async fn wind_down(&self) {
        self.state.0.sweeper.finish().await;
        self.state.exchanges().finish().await;
        self.state.commands().quiesce().await;
        self.state.mailer().stop().await;
        self.state.engine().stop().await;
        self.state.0.snapshotter.stop().await;
        self.state.store().close().await;
    }

    /// Creates the administrator of the configuration unless the address has an account.
    async fn ensure_administrator(&self) -> Result<(), StartError> {
        let config = self.state.config();
        let (Some(email), Some(password)) = (&config.admin_email, &config.admin_password) else {
            return Ok(());
        };
        let email = EmailAddress::parse(email).map_err(|error| StartError::Administrator(error.to_string()))?;
        let caller = Caller::system("start", Uuid::now_v7());
        let wanted = administrator(email, password.clone());
        match annals_commands::user::register(&self.state.on_behalf_of(&caller), wanted).await {
            Ok(registered) => {
                tracing::info!(user.id = %registered.user_id, "created the first administrator");
                Ok(())
            }
            Err(CommandError::Taken { scopes }) if scopes.contains(&ClaimScope::Email) => Ok(()),
            Err(error) => Err(StartError::Administrator(error.to_string())),
        }
    }
}

/// Says what `annals doctor` would, as far as that costs nothing. A server with faults starts all the same: it may be what
/// its operator needs to mend them.
async fn warn_of_faults(database: &Database) {
    match doctor::examine_settings(database).await {
        Ok(findings) => {
            for fault in findings.iter().filter(|finding| finding.severity == Severity::Fault) {
                tracing::warn!(
                    code = fault.code,
                    advice = fault.advice,
                    "{}. {}",
                    fault.what,
                    fault.breaks
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the settings of the database could not be looked at"),
    }
}

/// Read models need not wait for leases to run out that a killed server has left: where this process runs the database,
/// nobody else can be leading them.
async fn give_back_leases_of_the_dead(database: &Database) {
    if database.cluster().is_some_and(Cluster::is_owner)
        && let Err(error) = checkpoint::release_all(database.pool()).await
    {
        tracing::warn!(%error, "leases of an earlier process were not given back; they run out by themselves");
    }
}

/// The log of an open, migrated database, with the keys that the configuration names.
///
/// # Errors
/// [`StartError::Vault`].
pub(crate) async fn start_store(database: Database, config: &Config) -> Result<EventStore, StartError> {
    let master = match &config.master_key {
        Some(text) => MasterKey::from_text(text)?,
        None => MasterKey::load_or_create(&config.keys_dir().join("master.key"))?,
    };
    let vault = Vault::open(&database, &master).await?;
    Ok(EventStore::start(database, vault, WriterOptions::default()))
}

/// What carries commands out on `store`, with the token key and the password pool of the configuration.
///
/// # Errors
/// [`StartError::TokenKey`], [`StartError::Passwords`].
pub(crate) fn start_commands(
    store: &EventStore,
    clock: Arc<dyn Clock>,
    config: &Config,
) -> Result<Commands, StartError> {
    make_private_folder(&config.keys_dir()).map_err(StartError::TokenKey)?;
    let token_key = TokenKey::load_or_create(&config.keys_dir().join("token.key")).map_err(StartError::TokenKey)?;
    let tokens = Tokens::new(token_key, Vec::new(), TokenSettings::default());
    let passwords = PasswordPool::start(&password_settings(config))?;
    Ok(Commands::new(
        store.clone(),
        clock,
        passwords,
        tokens,
        command_settings(config),
    ))
}

/// Whoever may list the folder of the keys may at least see when they change; only their owner has a reason to.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Registration of an administrator, for the start and for the command line.
pub(crate) fn administrator(email: EmailAddress, password: SecretString) -> Register {
    Register {
        email,
        password,
        policy: PasswordPolicy::EIGHT,
        name: "Administrator".to_owned(),
        username: None,
        organization_name: None,
        role: Role::Administrator,
        sign_in: None,
    }
}

/// Runs the application behind its HTTP server until `stop` is ready, then ends open requests and stops everything.
///
/// `started` learns the bound address and the application once requests are served.
///
/// # Errors
/// [`StartError`] when it could not start, or when closing the database failed.
pub async fn serve(
    config: Config,
    started: impl FnOnce(std::net::SocketAddr, &App),
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let (listen, limits) = (config.listen, config.server.clone());
    // Bound before anything is started: a taken port should be told at once.
    let server = Server::bind(listen, limits).map_err(|error| StartError::Listen(listen, error))?;
    let app = App::start(config).await?;
    let address = server.address();
    let token = CancellationToken::new();
    let mut running = tokio::spawn(server.run(app.router(), token.clone()));
    tracing::info!(%address, "serving HTTP");
    started(address, &app);
    let panicked = tokio::select! {
        () = stop => {
            token.cancel();
            running.await.is_err()
        }
        ended = &mut running => ended.is_err(),
    };
    app.stop().await?;
    if panicked {
        Err(StartError::ServerPanicked)
    } else {
        Ok(())
    }
}

/// Why the application did not start, or did not stop as it should.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(std::net::SocketAddr, #[source] io::Error),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[from] DatabaseError),
    /// The keys of personal data cannot be used.
    #[error("the vault cannot be opened")]
    Vault(#[from] VaultError),
    /// The key that signs tokens cannot be read or made.
    #[error("the token key cannot be used")]
    TokenKey(#[source] io::Error),
    /// The settings of password hashing are unusable.
    #[error("[password]")]
    Passwords(#[from] annals_commands::services::password::PasswordSettingsError),
    /// The settings of mail are unusable.
    #[error("[mail]")]
    Mail(#[from] MailSettingsError),
    /// The configured administrator could not be created.
    #[error("the administrator of the configuration cannot be created: {0}")]
    Administrator(String),
    /// The accept loop ended by a mistake of ours.
    #[error("the HTTP server ended unexpectedly")]
    ServerPanicked,
}

/// Which database the configuration means.
pub(crate) fn database_source(config: &Config) -> DatabaseSource {
    match config.database_url() {
        Some(url) => DatabaseSource::External(SecretString::from(url)),
        None => {
            let binaries = BinariesSearch {
                configured: config.postgres_bin.clone(),
                ..BinariesSearch::from_environment()
            };
            let options = ClusterOptions {
                binaries,
                ..ClusterOptions::default()
            };
            DatabaseSource::Embedded {
                data_dir: config.data_dir.clone(),
                options,
            }
        }
    }
}

fn password_settings(config: &Config) -> PasswordSettings {
    let wanted = &config.password;
    let threads = if wanted.threads == 0 {
        PasswordSettings::default().threads
    } else {
        wanted.threads
    };
    PasswordSettings {
        memory_kib: wanted.memory_kib,
        iterations: wanted.iterations,
        lanes: wanted.lanes,
        threads,
        queue: wanted.queue,
    }
}

fn command_settings(config: &Config) -> CommandSettings {
    let token = &config.token;
    CommandSettings {
        registration_role: config.registration.role,
        opaque_sessions: Lifetimes {
            access_seconds: token.access_lifetime_s,
            refresh_seconds: token.refresh_lifetime_s,
        },
        signed_sessions: Lifetimes {
            access_seconds: token.django_access_lifetime_s,
            refresh_seconds: token.django_refresh_lifetime_s,
        },
        links: LinkSettings {
            reset_seconds: config.link.password_reset_lifetime_s,
            verification_seconds: config.link.email_verification_lifetime_s,
            sign_up_seconds: config.link.sign_up_lifetime_s,
            invitation_seconds: config.link.invitation_lifetime_s,
            most_per_hour: config.link.most_per_hour,
        },
        mfa: MfaSettings {
            issuer: config.mfa.issuer.clone(),
            fresh_sign_in_seconds: config.mfa.fresh_sign_in_s,
        },
        sessions_per_user: config.session.limit,
        refresh_grace_seconds: token.refresh_grace_s,
        ..CommandSettings::default()
    }
}

fn mail_options(config: &Config) -> MailOptions {
    MailOptions {
        most_per_hour: config.mail.most_per_hour,
        ..MailOptions::default()
    }
}
