//! Mail: what is written, and how it leaves.
//!
//! Nothing here decides that a mail is sent; [`crate::reactions::mail`] does, behind the requests. Links are built from
//! the configured address alone, never from anything that a request says.

mod letter;
mod outbox;
mod smtp;

use std::path::PathBuf;
use std::time::Duration;

use annals_domain::EmailAddress;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use secrecy::SecretString;

use letter::Letters;
pub use letter::{Letter, LinkPaths};
use outbox::Outbox;
use smtp::Relay;

/// The place in a configured link that the token takes.
pub const TOKEN_PLACE: &str = "{token}";

/// How mails leave.
#[derive(Debug, Clone)]
pub enum MailTransport {
    /// Into a folder, one file a mail; created with mode 0700.
    Outbox(PathBuf),
    /// To a server: `smtp://` or `smtps://` with user and password, and `?tls=required` for STARTTLS.
    Smtp(SecretString),
}

/// What an operator decides about mail.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// How mails leave.
    pub transport: MailTransport,
    /// Who writes, such as `Annals <annals@example.com>`.
    pub from: String,
    /// Where answers go; absent: to `from`.
    pub reply_to: Option<String>,
    /// What links start with: scheme and host, without a slash at the end.
    pub public_url: String,
    /// What follows in the links of each purpose.
    pub paths: LinkPaths,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailSettingsError {
    /// Not an address with or without a name.
    #[error("{0} must be an address, such as `Annals <annals@example.com>`")]
    Mailbox(&'static str),
    /// Not an address that mails can point to.
    #[error("public_url must be http:// or https:// with a host, without a slash at the end")]
    PublicUrl,
    /// A link without a place for its token.
    #[error("{0} must start with a slash and hold {TOKEN_PLACE}")]
    LinkPath(&'static str),
    /// Not an address of a server. The text never shows the password in it.
    #[error("smtp_url must be smtp://host or smtps://host, with user, password and port where needed")]
    SmtpUrl,
    /// A template of ours is broken.
    #[error("a template cannot be used")]
    Template(#[from] minijinja::Error),
}

/// Why a mail did not leave. Says nothing about its address or its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailFailure {
    /// The mail can never leave.
    #[error("the mail cannot be written: {0}")]
    Unwritable(String),
    /// The transport did not take it this time.
    #[error("the mail was not taken: {0}")]
    NotTaken(String),
}

/// Writes letters and hands them to the transport. Clones share it.
#[derive(Clone)]
pub struct MailService {
    letters: std::sync::Arc<Letters>,
    transport: Transport,
    from: Mailbox,
    reply_to: Option<Mailbox>,
    host: String,
    timeout: Duration,
}

#[derive(Clone)]
enum Transport {
    Outbox(Outbox),
    Relay(Relay),
}

impl std::fmt::Debug for MailService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailService").finish_non_exhaustive()
    }
}

impl MailService {
    /// Checks the settings; nothing is connected or written yet.
    ///
    /// # Errors
    /// [`MailSettingsError`] naming the setting.
    pub fn new(settings: &MailSettings) -> Result<Self, MailSettingsError> {
        let host = host_of(&settings.public_url)
            .ok_or(MailSettingsError::PublicUrl)?
            .to_owned();
        let from = settings.from.parse().map_err(|_| MailSettingsError::Mailbox("from"))?;
        let reply_to = settings
            .reply_to
            .as_ref()
            .map(|text| text.parse().map_err(|_| MailSettingsError::Mailbox("reply_to")))
            .transpose()?;
        let transport = match &settings.transport {
            MailTransport::Outbox(folder) => Transport::Outbox(Outbox::new(folder.clone())),
            MailTransport::Smtp(url) => Transport::Relay(Relay::new(url, settings.timeout)?),
        };
        Ok(Self {
            letters: std::sync::Arc::new(Letters::new(&settings.public_url, &settings.paths)?),
            transport,
            from,
            reply_to,
            host,
            timeout: settings.timeout,
        })
    }

    /// Writes `letter` and hands it over. `name` tells mails apart: the same one twice is the same mail, for whoever
    /// receives it and in the outbox.
    ///
    /// # Errors
    /// [`MailFailure`].
    pub async fn send(&self, to: &EmailAddress, letter: &Letter, name: &str) -> Result<(), MailFailure> {
        let message = self.write(to, letter, name)?;
        let sending = async {
            match &self.transport {
                Transport::Outbox(outbox) => outbox.put(name, message.formatted()).await,
                Transport::Relay(relay) => relay.send(message).await,
            }
        };
        match tokio::time::timeout(self.timeout, sending).await {
            Ok(result) => result,
            Err(_) => Err(MailFailure::NotTaken("no answer in time".to_owned())),
        }
    }

    fn write(&self, to: &EmailAddress, letter: &Letter, name: &str) -> Result<Message, MailFailure> {
        let unwritable = |what: &str| MailFailure::Unwritable(what.to_owned());
        let address: Address = to
            .as_str()
            .parse()
            .map_err(|_| unwritable("the address is none that mail can be sent to"))?;
        let written = self
            .letters
            .write(letter)
            .map_err(|error| MailFailure::Unwritable(error.to_string()))?;
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(written.subject)
            .message_id(Some(format!("<{name}@{}>", self.host)))
            // Nobody's absence note should answer (RFC 3834).
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.clone());
        }
        builder
            .multipart(MultiPart::alternative_plain_html(written.text, written.html))
            .map_err(|_| unwritable("its headers cannot be written"))
    }
}

/// The host of `http(s)://host[:port]`, without its port.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    let clean = !rest.ends_with('/') && !rest.contains(['?', '#', '@', '\\', ' ', '"', '<', '>']);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (clean && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn only_an_origin_with_an_optional_path_is_a_public_url() {
        assert_eq!(host_of("https://example.com"), Some("example.com"));
        assert_eq!(host_of("http://127.0.0.1:8080"), Some("127.0.0.1"));
        assert_eq!(host_of("https://example.com/app"), Some("example.com"));
        for url in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://a@b.example",
            "https://example.com?x",
            "javascript:alert(1)",
        ] {
            assert_eq!(host_of(url), None, "{url}");
        }
    }
}
