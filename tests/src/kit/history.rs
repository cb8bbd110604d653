//! What workers did and were told, written down so that a `kill -9` of the worker takes nothing of it away.
//!
//! One file for each life of a worker, one JSON object a line. A call is handed to the kernel before it is made and
//! its answer right after it came, each in one write, so that at most the last line of a file is torn.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use annals_eventstore::{Append, AppendError, Appended, Hash, StreamId};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Microseconds of a clock that all processes of this machine share and that is never set.
#[must_use]
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Line {
    /// A commit is about to be asked for.
    Call(Call),
    /// An answer has come.
    Answer(Answer),
    /// A reader has come this far.
    Seen(Seen),
    /// A worker has met what must not be.
    Found {
        /// In words.
        what: String,
    },
}

/// What a commit asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its command id.
    pub id: Uuid,
    /// By [`now_us`].
    pub at: u64,
    /// Streams in the order of their events, the version expected of each, and how many events it gets.
    pub streams: Vec<(String, u64, u64)>,
    /// The idempotency key and the first byte of the request's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<(String, u8)>,
    /// The path of a route that it takes, if it competes for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
}

impl Call {
    /// What `append` asks for, from this moment on.
    #[must_use]
    pub fn of(append: &Append, slug: Option<String>) -> Self {
        Self {
            id: append.command_id,
            at: now_us(),
            streams: append
                .streams
                .iter()
                .map(|of| (of.stream.to_string(), of.expected, of.events.len() as u64))
                .collect(),
            key: append
                .idempotency
                .as_ref()
                .map(|key| (key.key.clone(), key.request_hash.0[0])),
            slug,
        }
    }
}

/// What came of a commit, as its caller was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the call.
    pub id: Uuid,
    /// By [`now_us`].
    pub at: u64,
    /// What was said.
    pub told: Told,
}

/// An answer in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It is in the log.
    Done {
        /// The command that wrote the events.
        by: Uuid,
        /// Position of the first event.
        first: u64,
        /// Position of the last event.
        last: u64,
        /// Whether it had been carried out before.
        duplicate: bool,
    },
    /// A stream was at another version.
    Conflict {
        /// The stream.
        stream: String,
        /// The version it was at.
        actual: u64,
    },
    /// Another stream held a claim.
    Taken,
    /// Nobody held a claim.
    Missing,
    /// The idempotency key belonged to another request.
    Reused,
    /// Too many were waiting.
    Overloaded,
    /// The log could not be written.
    Unavailable,
    /// Nobody knows.
    Unknown,
    /// The commit was malformed, which no commit of the kit is.
    Refused(String),
}

impl Told {
    /// The name by which answers are counted.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Done { duplicate: false, .. } => "done",
            Self::Done { duplicate: true, .. } => "duplicate",
            Self::Conflict { .. } => "conflict",
            Self::Taken => "taken",
            Self::Missing => "missing",
            Self::Reused => "reused",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<&Result<Appended, AppendError>> for Told {
    fn from(answer: &Result<Appended, AppendError>) -> Self {
        match answer {
            Ok(appended) => Self::Done {
                by: appended.command_id,
                first: appended.first_position.get(),
                last: appended.last_position.get(),
                duplicate: appended.duplicate,
            },
            Err(AppendError::Conflict { stream, actual, .. }) => Self::Conflict {
                stream: stream.to_string(),
                actual: *actual,
            },
            Err(AppendError::Taken { .. }) => Self::Taken,
            Err(AppendError::Missing { .. }) => Self::Missing,
            Err(AppendError::IdempotencyKeyReused) => Self::Reused,
            Err(AppendError::Overloaded { .. }) => Self::Overloaded,
            Err(AppendError::Unavailable(_)) => Self::Unavailable,
            Err(AppendError::OutcomeUnknown) => Self::Unknown,
            Err(AppendError::Refused(why)) => Self::Refused(why.clone()),
            // Every commit of the kit is of registered events and says which version it expects.
            Err(error @ (AppendError::NoStream { .. } | AppendError::Unregistered { .. })) => {
                Self::Refused(error.to_string())
            }
        }
    }
}

/// How far a reader has come, and what it has seen up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The last position seen.
    pub position: u64,
    /// [`Digest`](super::checker::Digest) of everything up to it.
    pub digest: Hash,
    /// By [`now_us`].
    pub at: u64,
}

/// The history of one life of one worker, being written.
#[derive(Debug)]
pub struct Recorder {
    file: Mutex<File>,
}

impl Recorder {
    /// Goes on with the history in `path`, or begins it.
    ///
    /// # Errors
    /// What opening gives.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if file.metadata()?.len() > 0 {
            // Ends a line that may have been torn.
            file.write_all(b"\n")?;
        }
        Ok(Self { file: Mutex::new(file) })
    }

    /// Writes one line. On return it survives the death of this process, though not that of the machine.
    ///
    /// # Errors
    /// What writing gives: without its history a run proves nothing, so the worker must end.
    pub fn write(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&text)
    }
}

/// Goes through a history, line by line. A torn line is passed over: it is one that nobody relied on.
///
/// # Errors
/// What reading gives; [`io::ErrorKind::InvalidData`] for a line that is whole and yet none of ours.
pub fn read(path: &Path, mut take: impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut text = Vec::new();
    loop {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        if text == b"\n" {
            continue;
        }
        // Without its end, which within a torn text would be an error of another kind.
        match serde_json::from_slice(text.trim_ascii_end()) {
            Ok(line) => take(line)?,
            Err(error) if error.is_eof() => {}
            Err(error) => {
                let line = String::from_utf8_lossy(&text).into_owned();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}: {line}", path.display()),
                ));
            }
        }
    }
}

/// Reads a stream's name as a history holds it.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`].
pub fn stream_of(name: &str) -> io::Result<StreamId> {
    StreamId::parse(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_survives_a_torn_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.ndjson");
        let seen = |position| {
            Line::Seen(Seen {
                position,
                digest: Hash([7; 32]),
                at: now_us(),
            })
        };
        let (first, second) = (seen(1), seen(2));
        Recorder::open(&path)
            .and_then(|file| file.write(&first))
            .expect("written");
        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"{\"is\":\"seen\",\"posi").expect("torn");
        Recorder::open(&path)
            .and_then(|file| file.write(&second))
            .expect("written");
        let mut lines = Vec::new();
        read(&path, |line| {
            lines.push(line);
            Ok(())
        })
        .expect("read");
        assert_eq!(lines, [first, second]);
    }
}
