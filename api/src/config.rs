//! Settings: `config.default.toml` (built in) <- `annals.toml` <- `DATABASE_URL` <- `ANNALS_*`.
//!
//! Every key is described in `api/config.default.toml`. An unknown key is an error that names it. Secrets are held as
//! [`SecretString`], so neither `Debug` nor an error message shows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use annals_commands::services::mail::{LinkPaths, MailService, MailSettings, MailTransport, TOKEN_PLACE};
use annals_domain::permission::Role;
use axum::http::{HeaderName, HeaderValue};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

/// The base layer: every key that has a default, with unit and comment.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Variables that are not settings but choose where settings come from, or belong to the programs beside us.
const NOT_SETTINGS: &[&str] = &["config"];

/// Taken from the environment byte for byte: figment would read `0123` as a number and print it in its error.
const TEXT_SETTINGS: &[&str] = &["admin_email", "admin_password", "master_key", "log"];

/// Everything an operator may decide. See `api/config.default.toml` for meanings and units.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// Folder of the embedded database and of the keys.
    pub data_dir: PathBuf,
    /// Log directives.
    pub log: String,
    /// Shape of log lines.
    pub log_format: LogFormat,
    /// Networks whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<Network>,
    /// E-mail address of the first administrator.
    #[serde(default)]
    pub admin_email: Option<String>,
    /// Password of the first administrator.
    #[serde(default, deserialize_with = "secret")]
    pub admin_password: Option<SecretString>,
    /// Folder with the PostgreSQL programs.
    #[serde(default)]
    pub postgres_bin: Option<PathBuf>,
    /// Master key of the vault, 64 hexadecimal digits.
    #[serde(default, deserialize_with = "secret")]
    pub master_key: Option<SecretString>,
    /// Which database, and how many connections.
    pub database: DatabaseConfig,
    /// Limits of the HTTP server.
    pub server: ServerConfig,
    /// The session cookie of browsers.
    pub cookie: CookieConfig,
    /// Which foreign origins may call.
    pub cors: CorsConfig,
    /// What a stranger may do.
    pub registration: RegistrationConfig,
    /// Contracts that can be switched off.
    pub contracts: ContractsConfig,
    /// Lifetimes of tokens.
    pub token: TokenConfig,
    /// How many sessions, and how often those past their time are looked for.
    pub session: SessionConfig,
    /// Cost and bounds of password hashing.
    pub password: PasswordConfig,
    /// How long answers wait for read models.
    pub read_your_writes: ReadYourWritesConfig,
    /// How long answers are kept for repeated requests.
    pub idempotency: IdempotencyConfig,
    /// How mails leave, and what their links lead to.
    pub mail: MailConfig,
    /// How long mailed links last.
    pub link: LinkConfig,
    /// What only a developer's machine may do.
    pub development: DevelopmentConfig,
    /// Second factors.
    pub mfa: MfaConfig,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Connection URL; absent: the embedded cluster in `data_dir`. May hold a password.
    #[serde(default, deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// Size of the pool.
    pub pool_connections: u32,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Open connections at once.
    pub max_connections: usize,
    /// First byte to last header, seconds.
    pub header_timeout_s: u64,
    /// First to last byte of a body, seconds.
    pub body_timeout_s: u64,
    /// Life of a connection without a request, seconds.
    pub idle_timeout_s: u64,
    /// Largest body.
    pub max_body_bytes: usize,
    /// All headers of a request together.
    pub max_header_bytes: usize,
    /// Longest path with query.
    pub max_uri_bytes: usize,
    /// Deepest JSON.
    pub max_json_depth: usize,
    /// Time for open requests on stop, seconds.
    pub shutdown_timeout_s: u64,
}

/// `[cookie]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CookieConfig {
    /// Name of the cookie.
    pub name: String,
    /// Whether it is sent over HTTPS only.
    pub secure: bool,
}

/// `[cors]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Allowed origins, compared byte for byte.
    pub origins: Vec<String>,
}

/// `[registration]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrationConfig {
    /// Role of a self-registered account.
    pub role: Role,
    /// Whether registration hides that an address is taken.
    pub conceal_existing: bool,
    /// Whether accounts can be used only once their address is proven.
    pub require_verified: bool,
}

/// `[contracts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractsConfig {
    /// Whether `/api/auth/<x>/` is served.
    pub django: bool,
}

/// `[token]`, all in seconds
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Access tokens of `/api/v1`.
    pub access_lifetime_s: u32,
    /// Refresh tokens of `/api/v1`, from their last use.
    pub refresh_lifetime_s: u32,
    /// How long an exchanged refresh token of `/api/v1` gives the same successor again; 0 = not at all.
    pub refresh_grace_s: u32,
    /// Access tokens of the Django contract.
    pub django_access_lifetime_s: u32,
    /// Refresh tokens of the Django contract.
    pub django_refresh_lifetime_s: u32,
}

/// `[session]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// Sessions of one user at once; 0 = any number.
    pub limit: usize,
    /// Between two looks for sessions that are past their time.
    pub sweep_every_s: u32,
}

/// `[password]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordConfig {
    /// Memory of one hash in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub lanes: u32,
    /// Hashes at once; 0 = one for each processor.
    pub threads: usize,
    /// Hashes that may wait.
    pub queue: usize,
}

/// `[read_your_writes]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadYourWritesConfig {
    /// Longest wait in milliseconds.
    pub timeout_ms: u64,
}

/// `[idempotency]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// Life of an answer that is kept, hours.
    pub retention_h: u32,
}

/// Where mails go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTransportKind {
    /// Into a folder.
    Outbox,
    /// To a mail server.
    Smtp,
}

/// `[mail]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// Where mails go.
    pub transport: MailTransportKind,
    /// Address of the mail server. May hold a password.
    #[serde(default, deserialize_with = "secret")]
    pub smtp_url: Option<SecretString>,
    /// Who writes.
    pub from: String,
    /// Where answers go.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// What links start with; absent: `http://` and `listen`.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Path of links that reset a password.
    pub password_reset_path: String,
    /// Path of links that prove an address.
    pub email_verification_path: String,
    /// Path of links that finish a registration.
    pub sign_up_path: String,
    /// Path of links that accept an invitation.
    pub invitation_path: String,
    /// One attempt to send, seconds.
    pub timeout_s: u64,
    /// Mails to one address within an hour.
    pub most_per_hour: u32,
}

/// `[link]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Life of a link that resets a password, seconds.
    pub password_reset_lifetime_s: u32,
    /// Life of a link that proves an address, seconds.
    pub email_verification_lifetime_s: u32,
    /// Life of a pending registration, seconds.
    pub sign_up_lifetime_s: u32,
    /// Life of an invitation, seconds.
    pub invitation_lifetime_s: u32,
    /// Links of one purpose for one account within an hour.
    pub most_per_hour: u32,
}

/// `[development]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevelopmentConfig {
    /// Whether answers show the tokens that are mailed.
    pub reveal_tokens: bool,
}

/// `[mfa]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MfaConfig {
    /// Who authenticators say that their codes are for.
    pub issuer: String,
    /// Greatest age of a sign-in that sets up a second factor without the password, seconds; 0 = any.
    pub fresh_sign_in_s: u32,
}

impl Config {
    /// Reads all layers. `file`: that file must exist; `None`: the file named by `ANNALS_CONFIG`, else `annals.toml` if there is one.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, and the file or variable that it came from.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let named = file.map(Path::to_path_buf).or_else(|| {
            std::env::var_os("ANNALS_CONFIG")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        });
        let mut layers = Figment::from(Toml::string(DEFAULTS));
        layers = match named {
            Some(path) if !path.is_file() => return Err(ConfigError::NoFile(path)),
            Some(path) => layers.merge(Toml::file_exact(path)),
            None => layers.merge(Toml::file("annals.toml")),
        };
        if let Some(url) = variable("DATABASE_URL")? {
            layers = layers.merge(Serialized::default("database.url", url));
        }
        let unlike = [NOT_SETTINGS, TEXT_SETTINGS, &["database__url"]].concat();
        layers = layers.merge(Env::prefixed("ANNALS_").ignore(&unlike).split("__"));
        for key in TEXT_SETTINGS {
            if let Some(text) = variable(&format!("ANNALS_{}", key.to_uppercase()))? {
                layers = layers.merge(Serialized::default(key, text));
            }
        }
        if let Some(url) = variable("ANNALS_DATABASE__URL")? {
            layers = layers.merge(Serialized::default("database.url", url));
        }
        Self::extract(&layers)
    }

    /// The built-in defaults alone: what a start without file and variables gets.
    ///
    /// # Panics
    /// Never: a test reads the same text.
    #[must_use]
    pub fn defaults() -> Self {
        Self::extract(&Figment::from(Toml::string(DEFAULTS))).expect("a test reads the built-in defaults")
    }

    fn extract(layers: &Figment) -> Result<Self, ConfigError> {
        let config: Self = layers.extract().map_err(|error| ConfigError::Invalid(explain(error)))?;
        config.check()?;
        Ok(config)
    }

    /// Rules that no single key can check.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, rule: &str| Err(ConfigError::Invalid(format!("{key}: {rule}")));
        let cookie = &self.cookie;
        if cookie.name.is_empty() || HeaderName::from_str(&cookie.name).is_err() {
            return refuse("cookie.name", "letters, digits, `-` and `_` only");
        }
        if (cookie.name.starts_with("__Host-") || cookie.name.starts_with("__Secure-")) && !cookie.secure {
            return refuse("cookie.secure", "a cookie named __Host- or __Secure- must be secure");
        }
        for origin in &self.cors.origins {
            if origin == "*" {
                return refuse("cors.origins", "`*` cannot be used with credentials; name each origin");
            }
            let scheme = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if scheme.is_none_or(|host| host.is_empty() || host.contains('/')) || HeaderValue::from_str(origin).is_err()
            {
                return refuse("cors.origins", "an origin is scheme://host[:port] without a path");
            }
        }
        let positive = [
            ("server.max_connections", self.server.max_connections as u64),
            ("server.header_timeout_s", self.server.header_timeout_s),
            ("server.body_timeout_s", self.server.body_timeout_s),
            ("server.idle_timeout_s", self.server.idle_timeout_s),
            ("server.max_body_bytes", self.server.max_body_bytes as u64),
            ("server.max_header_bytes", self.server.max_header_bytes as u64),
            ("server.max_uri_bytes", self.server.max_uri_bytes as u64),
            ("server.max_json_depth", self.server.max_json_depth as u64),
            ("token.access_lifetime_s", self.token.access_lifetime_s.into()),
            ("token.refresh_lifetime_s", self.token.refresh_lifetime_s.into()),
            (
                "token.django_access_lifetime_s",
                self.token.django_access_lifetime_s.into(),
            ),
            (
                "token.django_refresh_lifetime_s",
                self.token.django_refresh_lifetime_s.into(),
            ),
            ("session.sweep_every_s", self.session.sweep_every_s.into()),
            ("password.queue", self.password.queue as u64),
            ("idempotency.retention_h", self.idempotency.retention_h.into()),
            ("mail.timeout_s", self.mail.timeout_s),
            ("mail.most_per_hour", self.mail.most_per_hour.into()),
            (
                "link.password_reset_lifetime_s",
                self.link.password_reset_lifetime_s.into(),
            ),
            (
                "link.email_verification_lifetime_s",
                self.link.email_verification_lifetime_s.into(),
            ),
            ("link.sign_up_lifetime_s", self.link.sign_up_lifetime_s.into()),
            ("link.invitation_lifetime_s", self.link.invitation_lifetime_s.into()),
            ("link.most_per_hour", self.link.most_per_hour.into()),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(key, "must be at least 1");
        }
        // serde_json itself stops at 128; a promise beyond it could not be kept.
        if self.server.max_json_depth > 100 {
            return refuse("server.max_json_depth", "must be at most 100");
        }
        if self.database.pool_connections < 4 {
            return refuse(
                "database.pool_connections",
                "must be at least 4: writer, projections and listener hold one each",
            );
        }
        if self.mail.transport == MailTransportKind::Smtp && self.mail.smtp_url.is_none() {
            return refuse(
                "mail.smtp_url",
                "mail.transport = \"smtp\" needs the address of a mail server",
            );
        }
        MailService::new(&self.mail_settings()).map_err(|error| ConfigError::Invalid(format!("[mail] {error}")))?;
        if self.mfa.issuer.trim().is_empty() || self.mfa.issuer.chars().any(char::is_control) {
            return refuse("mfa.issuer", "a name without control characters");
        }
        if self.admin_email.is_some() != self.admin_password.is_some() {
            return refuse("admin_email", "admin_email and admin_password belong together");
        }
        Ok(())
    }

    /// Folder of the generated keys, mode 0700.
    #[must_use]
    pub fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// Folder that mails go to without a mail server.
    #[must_use]
    pub fn outbox_dir(&self) -> PathBuf {
        self.data_dir.join("outbox")
    }

    /// Where invitations are accepted, with the token of one if it may be shown.
    #[must_use]
    pub fn invitation_url(&self, token: Option<&str>) -> String {
        let settings = self.mail_settings();
        let path = match token {
            Some(token) => settings.paths.invitation.replace(TOKEN_PLACE, token),
            None => {
                let path = &settings.paths.invitation;
                let end = path.find(['?', '#', '{']).unwrap_or(path.len());
                path[..end].to_owned()
            }
        };
        format!("{}{path}", settings.public_url)
    }

    /// How mails are written and leave.
    #[must_use]
    pub fn mail_settings(&self) -> MailSettings {
        let mail = &self.mail;
        let transport = match (mail.transport, &mail.smtp_url) {
            (MailTransportKind::Smtp, Some(url)) => MailTransport::Smtp(url.clone()),
            (MailTransportKind::Smtp | MailTransportKind::Outbox, _) => MailTransport::Outbox(self.outbox_dir()),
        };
        let listen = || format!("http://{}", self.listen);
        MailSettings {
            transport,
            from: mail.from.clone(),
            reply_to: mail.reply_to.clone(),
            public_url: mail.public_url.clone().unwrap_or_else(listen),
            paths: LinkPaths {
                password_reset: mail.password_reset_path.clone(),
                email_verification: mail.email_verification_path.clone(),
                sign_up: mail.sign_up_path.clone(),
                invitation: mail.invitation_path.clone(),
            },
            timeout: Duration::from_secs(mail.timeout_s),
        }
    }

    /// Longest wait of an answer for its read models.
    #[must_use]
    pub fn settle_timeout(&self) -> Duration {
        Duration::from_millis(self.read_your_writes.timeout_ms)
    }

    /// How long an answer is kept for a repeated request.
    #[must_use]
    pub fn answer_retention(&self) -> Duration {
        Duration::from_hours(self.idempotency.retention_h.into())
    }

    /// Text of the connection URL, when a server of one's own is used.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.database
            .url
            .as_ref()
            .map(ExposeSecret::expose_secret)
            .filter(|url| !url.is_empty())
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file was asked for by name.
    #[error("configuration file {} does not exist", .0.display())]
    NoFile(PathBuf),
    /// A variable is not text.
    #[error("variable {0} is not valid UTF-8")]
    NotText(String),
    /// A key is unknown, or its value breaks a rule.
    #[error("configuration: {0}")]
    Invalid(String),
}

/// A variable's text; an empty one counts as absent.
fn variable(name: &str) -> Result<Option<String>, ConfigError> {
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(ConfigError::NotText(name.to_owned())),
    }
}

/// All faults in one line each, with the full key and its origin. Never a value: it might be a secret in the wrong place.
fn explain(error: figment::Error) -> String {
    use figment::error::Kind;

    let lines = error.into_iter().map(|fault| {
        let origin = fault.metadata.as_ref().map_or_else(String::new, |metadata| {
            let place = metadata
                .source
                .as_ref()
                .map_or_else(|| metadata.name.to_string(), ToString::to_string);
            format!(" (in {place})")
        });
        let mut path = fault.path.clone();
        let rule = match &fault.kind {
            Kind::UnknownField(name, known) => {
                if path.last() != Some(name) {
                    path.push(name.clone());
                }
                format!("unknown key; known here: {}", known.join(", "))
            }
            Kind::MissingField(name) => {
                path.push(name.to_string());
                "missing".to_owned()
            }
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("must be {expected}"),
            Kind::UnknownVariant(_, known) => format!("must be one of {}", known.join(", ")),
            Kind::Message(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{}: {rule}{origin}", path.join("."))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    struct Networks;

    impl<'de> Visitor<'de> for Networks {
        type Value = Vec<Network>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of networks such as 10.0.0.0/8")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| part.parse().map_err(E::custom))
                .collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut networks = Vec::new();
            while let Some(text) = sequence.next_element::<String>()? {
                networks.push(text.parse().map_err(A::Error::custom)?);
            }
            Ok(networks)
        }
    }

    deserializer.deserialize_any(Networks)
}

/// A range of addresses in CIDR notation. IPv4-mapped IPv6 addresses count as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
    version: u8,
}

impl Network {
    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (version, bits) = number(address);
        version == self.version && bits & self.mask == self.base
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "a network is an address with an optional /prefix, such as 10.0.0.0/8".to_owned();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (version, bits) = number(address);
        let width: u32 = if version == 4 { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix
                .parse::<u32>()
                .ok()
                .filter(|prefix| *prefix <= width)
                .ok_or_else(wrong)?,
            None => width,
        };
        let all = if version == 4 { u128::from(u32::MAX) } else { u128::MAX };
        let host = if prefix == width { 0 } else { all >> prefix };
        let mask = all & !host;
        Ok(Self {
            base: bits & mask,
            mask,
            version,
        })
    }
}

fn number(address: IpAddr) -> (u8, u128) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (4, u128::from(Ipv4Addr::to_bits(v4))),
        IpAddr::V6(v6) => (6, Ipv6Addr::to_bits(v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::extract(&Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(text)))
    }

    #[test]
    fn the_defaults_are_complete_and_listen_on_loopback_only() {
        let config = Config::defaults();
        assert!(config.listen.ip().is_loopback());
        assert!(config.database_url().is_none());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_section() {
        let error = read("[server]\nmax_conections = 3").expect_err("misspelt").to_string();
        assert!(error.contains("server.max_conections: unknown key"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_not_repeated() {
        let error = read("[token]\naccess_lifetime_s = \"s3cret\"")
            .expect_err("not a number")
            .to_string();
        assert!(
            error.contains("token.access_lifetime_s") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn rules_over_several_keys_are_checked() {
        assert!(read("[cookie]\nname = \"__Host-annals\"").is_err());
        assert!(read("[cookie]\nname = \"__Host-annals\"\nsecure = true").is_ok());
        assert!(read("[cors]\norigins = [\"*\"]").is_err());
        assert!(read("[cors]\norigins = [\"https://app.example.com\"]").is_ok());
        assert!(read("admin_email = \"a@example.com\"").is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let config = read("admin_email = \"a@example.com\"\nadmin_password = \"canary-1\"\n[database]\nurl = \"postgres://u:canary-2@h/d\"")
            .expect("valid");
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let network: Network = "10.1.0.0/16".parse().expect("valid");
        assert!(network.contains("10.1.255.1".parse().expect("address")));
        assert!(network.contains("::ffff:10.1.2.3".parse().expect("address")));
        assert!(!network.contains("10.2.0.1".parse().expect("address")));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!(
            "0.0.0.0/0"
                .parse::<Network>()
                .expect("valid")
                .contains("8.8.8.8".parse().expect("address"))
        );
        assert!(
            "::/0"
                .parse::<Network>()
                .expect("valid")
                .contains("2001:db8::1".parse().expect("address"))
        );
        assert_eq!(
            read("trusted_proxies = \"10.0.0.0/8, ::1\"")
                .expect("text")
                .trusted_proxies
                .len(),
            2
        );
    }
}
