//! `annals admin`: administrators, who are made on the server's machine and never over HTTP.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use annals_commands::CommandError;
use annals_commands::{Commands, SystemClock};
use annals_domain::{Caller, ClaimScope, EmailAddress, Username};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use console::Term;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use uuid::Uuid;

use crate::config::{Config, ConfigError};

use super::output::Output;
use super::workplace::Workplace;
use super::{Answer, Refusal};

/// Arguments of `annals admin`.
#[derive(Debug, Args)]
pub(super) struct Admin {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Create an administrator
    ///
    /// The password is asked for on the terminal, or read as one line of standard input with --password-stdin. With
    /// ANNALS_ADMIN_EMAIL and ANNALS_ADMIN_PASSWORD set, and no other address given, it is that of the variable. It is
    /// never an argument, which every user of the machine could read.
    Create(Create),
}

#[derive(Debug, Args)]
struct Create {
    /// E-mail address to sign in with; ANNALS_ADMIN_EMAIL when absent
    #[arg(long)]
    email: Option<String>,
    /// Name for people to read
    #[arg(long, default_value = "Administrator")]
    name: String,
    /// Name to sign in with; derived from the address when absent
    #[arg(long)]
    username: Option<String>,
    /// Read the password from standard input, one line
    #[arg(long)]
    password_stdin: bool,
}

impl Admin {
    pub(super) async fn run(&self, config: Config, output: &mut Output) -> anyhow::Result<Answer> {
        match &self.command {
            AdminCommand::Create(create) => create.run(&config, output).await,
        }
    }
}

impl Create {
    async fn run(&self, config: &Config, output: &mut Output) -> anyhow::Result<Answer> {
        // Everything that can be wrong with the arguments is told before a database is started.
        let email = self.email(config)?;
        let username = self
            .username
            .as_deref()
            .map(|text| Username::parse(text).map_err(|error| ConfigError::Invalid(format!("--username: {error}"))))
            .transpose()?;
        let password = self.password(config)?;

        let workplace = Workplace::open(config).await?;
        let answer = self.create(&workplace, config, email, username, password, output).await;
        workplace.close(answer).await
    }

    fn email(&self, config: &Config) -> Result<EmailAddress, ConfigError> {
        let text = self.email.as_deref().or(config.admin_email.as_deref());
        let text = text.ok_or_else(|| ConfigError::Invalid("--email or ANNALS_ADMIN_EMAIL is needed".to_owned()))?;
        EmailAddress::parse(text).map_err(|error| ConfigError::Invalid(format!("--email: {error}")))
    }

    fn password(&self, config: &Config) -> anyhow::Result<SecretString> {
        if self.password_stdin {
            let mut line = String::new();
            io::stdin()
                .lock()
                .read_line(&mut line)
                .context("reading the password")?;
            return Ok(line.trim_end_matches(['\r', '\n']).to_owned().into());
        }
        let is_configured = self.email.is_none() || self.email == config.admin_email;
        if let (true, Some(password)) = (is_configured, &config.admin_password) {
            return Ok(password.clone());
        }
        if !io::stdin().is_terminal() {
            bail!(ConfigError::Invalid(
                "no terminal to ask for the password: use --password-stdin, or ANNALS_ADMIN_EMAIL with ANNALS_ADMIN_PASSWORD"
                    .to_owned()
            ));
        }
        let terminal = Term::stderr();
        let first = ask(&terminal, "Password: ")?;
        let second = ask(&terminal, "The same once more: ")?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Refusal::new("password.mismatch", "the two passwords differ").into());
        }
        Ok(first)
    }

    async fn create(
        &self,
        workplace: &Workplace,
        config: &Config,
        email: EmailAddress,
        username: Option<Username>,
        password: SecretString,
        output: &mut Output,
    ) -> anyhow::Result<Answer> {
        // So that the first administrator can be made before the first start of the server.
        workplace.database().migrate().await?;
        let store = crate::app::start_store(workplace.database().clone(), config).await?;
        let registered = match crate::app::start_commands(&store, Arc::new(SystemClock), config) {
            Ok(commands) => self.register(&commands, email.clone(), username, password).await,
            Err(error) => Err(error.into()),
        };
        store.close().await;
        let (user_id, position) = registered?;
        let result = json!({
            "user_id": user_id,
            "email": email.as_str(),
            "role": "administrator",
            "position": position,
        });
        output.result(&result, |out| {
            writeln!(
                out,
                "created administrator {} as user {user_id}, at position {position}",
                email.as_str()
            )
        })?;
        Ok(Answer::Good)
    }

    async fn register(
        &self,
        commands: &Commands,
        email: EmailAddress,
        username: Option<Username>,
        password: SecretString,
    ) -> anyhow::Result<(annals_domain::UserId, annals_eventstore::Position)> {
        let caller = Caller::system("admin_create", Uuid::now_v7());
        let mut wanted = crate::app::administrator(email, password);
        wanted.name.clone_from(&self.name);
        wanted.username = username;
        let registered = annals_commands::user::register(&commands.on_behalf_of(&caller), wanted).await;
        let registered = registered.map_err(refused)?;
        Ok((registered.user_id, registered.position))
    }
}

/// Tells what the rules refuse from what went wrong.
fn refused(error: CommandError) -> anyhow::Error {
    match error {
        CommandError::Taken { scopes } if scopes.contains(&ClaimScope::Email) => {
            Refusal::new("user.email_taken", "the e-mail address has an account already").into()
        }
        CommandError::Taken { .. } => Refusal::new("user.username_taken", "the username is somebody else's").into(),
        CommandError::Domain { code, message, .. } => Refusal::new(code, message).into(),
        other => other.into(),
    }
}

fn ask(terminal: &Term, prompt: &str) -> anyhow::Result<SecretString> {
    terminal.write_str(prompt)?;
    Ok(terminal.read_secure_line().context("reading the password")?.into())
}
