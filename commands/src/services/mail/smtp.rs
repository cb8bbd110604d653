//! A mail server that takes mails over SMTP.

use std::time::Duration;

use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};

use super::{MailFailure, MailSettingsError};

/// Connections to the server at once.
const CONNECTIONS: u32 = 4;

#[derive(Clone)]
pub(super) struct Relay {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Relay {
    pub(super) fn new(url: &SecretString, timeout: Duration) -> Result<Self, MailSettingsError> {
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
            .map_err(|_| MailSettingsError::SmtpUrl)?;
        let transport = builder
            .timeout(Some(timeout))
            .pool_config(PoolConfig::new().max_size(CONNECTIONS))
            .build();
        Ok(Self { transport })
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), MailFailure> {
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            // What the server says may repeat the address; its code does not.
            Err(error) => Err(MailFailure::NotTaken(match error.status() {
                Some(code) => format!("the server answered {code}"),
                None if error.is_timeout() => "the server did not answer in time".to_owned(),
                None if error.is_tls() => "no safe connection to the server".to_owned(),
                None => "the server could not be reached".to_owned(),
            })),
        }
    }
}
