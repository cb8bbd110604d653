//! The mails that an application has sent, as its outbox holds them, and a mail server that takes some.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its name in the outbox; empty when a server took it.
    pub name: String,
    /// Headers and body with their line ends mended and quoted-printable undone.
    pub text: String,
}

impl Mail {
    fn read(name: &str, raw: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: plain(raw),
        }
    }

    /// The value of a header; empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let lines = self.text.lines().take_while(|line| !line.is_empty());
        let found = lines
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    }

    /// The link in the plain text.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn link(&self) -> &str {
        let line = self
            .text
            .lines()
            .find(|line| line.trim_start().starts_with("http") && line.contains("token="));
        line.unwrap_or_else(|| panic!("no link in {}", self.text)).trim()
    }

    /// The token of the link.
    ///
    /// # Panics
    /// When there is no link.
    #[must_use]
    pub fn token(&self) -> &str {
        self.link().split_once("token=").expect("a link has a token").1
    }
}

/// Undoes quoted-printable, whose line breaks would cut links apart.
fn plain(raw: &str) -> String {
    let joined = raw.replace("\r\n", "\n").replace("=\n", "");
    let mut text = String::with_capacity(joined.len());
    let mut rest = joined.as_str();
    while let Some(at) = rest.find('=') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3);
        match code
            .and_then(|code| u8::from_str_radix(code, 16).ok())
            .filter(u8::is_ascii)
        {
            // Only what is written so: `=3D` is `=`.
            Some(byte) if code == Some("3D") || byte < b' ' => {
                text.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                text.push('=');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// The mails in a folder, in the order of the events that asked for them.
///
/// # Panics
/// When the folder cannot be read.
#[must_use]
pub fn outbox(folder: &Path) -> Vec<Mail> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new(); // made with the first mail
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path
                .file_stem()
                .expect("a file has a name")
                .to_string_lossy()
                .into_owned();
            Mail::read(&name, &std::fs::read_to_string(path).expect("a mail is text"))
        })
        .collect()
}

/// A mail server that takes every mail, or none while it is told to refuse.
#[derive(Debug)]
pub struct MailServer {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
    refuses: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl MailServer {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (mails, refuses) = (Arc::<Mutex<Vec<Mail>>>::default(), Arc::<AtomicBool>::default());
        let (taken, refusing) = (Arc::clone(&mails), Arc::clone(&refuses));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&taken), Arc::clone(&refusing)));
            }
        });
        Self {
            address,
            mails,
            refuses,
            task,
        }
    }

    /// Its address, as `[mail] smtp_url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Whether mails are refused from now on, for a while.
    pub fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }

    /// The mails taken so far.
    ///
    /// # Panics
    /// When a conversation panicked.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().expect("no conversation panics").clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As much of RFC 5321 as a client that sends mails needs.
async fn converse(stream: TcpStream, mails: Arc<Mutex<Vec<Mail>>>, refuses: Arc<AtomicBool>) {
    let mut stream = BufReader::new(stream);
    let mut say = "220 sink ESMTP\r\n".to_owned();
    let mut data: Option<String> = None;
    loop {
        if !say.is_empty() && stream.get_mut().write_all(say.as_bytes()).await.is_err() {
            return;
        }
        say.clear();
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(text) = &mut data {
            if line == ".\r\n" {
                mails.lock().expect("no conversation panics").push(Mail::read("", text));
                data = None;
                "250 taken\r\n".clone_into(&mut say);
            } else {
                text.push_str(line.strip_prefix('.').filter(|rest| !rest.is_empty()).unwrap_or(&line));
            }
            continue;
        }
        let answer = match line.get(..4).map(str::to_ascii_uppercase).as_deref() {
            Some("EHLO") => "250-sink\r\n250 8BITMIME\r\n",
            Some("MAIL") if refuses.load(Ordering::SeqCst) => "451 not now\r\n",
            Some("DATA") => {
                data = Some(String::new());
                "354 go on\r\n"
            }
            Some("QUIT") => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        answer.clone_into(&mut say);
    }
}
