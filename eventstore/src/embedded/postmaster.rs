//! What `postmaster.pid` says, and whether the process it names is a server of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// The file that PostgreSQL keeps in its folder while it runs, and leaves behind when it is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// The process that wrote it.
    pub pid: i32,
    /// Port, which also names the socket.
    pub port: u16,
    /// The folder of the socket.
    pub socket_folder: Option<PathBuf>,
    /// Whether the server accepts connections.
    pub ready: bool,
}

impl PidFile {
    /// Reads the file in `cluster`. Absence, and a file still being written, are none.
    #[must_use]
    pub fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    /// Lines: pid, data folder, start time, port, socket folder, listen address, shared memory, state.
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let line = |number: usize| {
            lines
                .get(number)
                .map(|line| line.trim())
                .filter(|line| !line.is_empty())
        };
        Some(Self {
            pid: line(0)?.parse().ok()?,
            port: line(3).and_then(|port| port.parse().ok()).unwrap_or(0),
            socket_folder: line(4).map(PathBuf::from),
            ready: line(7) == Some("ready"),
        })
    }
}

/// Whom a process number belongs to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postmaster {
    /// A server runs on our folder.
    Ours,
    /// The number was given to something else, or to a dead process that nobody has buried.
    Foreign,
    /// There is no such process.
    Gone,
}

impl Postmaster {
    /// Who `pid` is to the cluster in `cluster`, a path without symbolic links.
    #[must_use]
    pub fn identify(pid: i32, cluster: &Path) -> Self {
        let Some(process) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Self::Gone;
        };
        if rustix::process::test_kill_process(process) == Err(Errno::SRCH) {
            return Self::Gone;
        }
        let ours = if Path::new("/proc/self/exe").exists() {
            runs_in(pid, cluster)
        } else {
            // The server is always started with its folder on the command line.
            let answer = Command::new("ps")
                .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
                .output();
            answer.is_ok_and(|answer| {
                let command = String::from_utf8_lossy(&answer.stdout).into_owned();
                command.contains("postgres") && command.contains(&*cluster.to_string_lossy())
            })
        };
        if ours { Self::Ours } else { Self::Foreign }
    }
}

/// Every process of a server works in the server's folder. The program may have been replaced by an update.
fn runs_in(pid: i32, cluster: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let program = fs::read_link(process.join("exe")).unwrap_or_default();
    let is_postgres = program
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"postgres"));
    is_postgres && fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == cluster)
}

/// Sends `signal`; a process that is gone already is fine.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(process) = Pid::from_raw(pid).filter(|_| pid > 0)
        && let Err(error) = rustix::process::kill_process(process, signal)
        && error != Errno::SRCH
    {
        tracing::warn!(pid, ?signal, %error, "PostgreSQL could not be signalled");
    }
}

/// Tells the processes that a killed server left behind to end at once, for no new server can start beside them. Those
/// that wait for their client notice the death by themselves; those that compute do not. Linux only; elsewhere they
/// end when their statement does.
pub(super) fn end_leftovers(cluster: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if runs_in(pid, cluster) {
            signal(pid, Signal::QUIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_line_by_line() {
        let file = PidFile::parse("4711\n/data\n1700000000\n5432\n/data/socket\n\n  123  456\nready   \n").unwrap();
        assert_eq!(
            file,
            PidFile {
                pid: 4711,
                port: 5432,
                socket_folder: Some("/data/socket".into()),
                ready: true
            }
        );
        assert!(
            !PidFile::parse("4711\n/data\n1700000000\n5432\n/s\n\n1 2\nstarting\n")
                .unwrap()
                .ready
        );
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn we_are_not_a_server_and_nobody_has_number_zero() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Postmaster::identify(me, Path::new("/")), Postmaster::Foreign);
        assert_eq!(Postmaster::identify(0, Path::new("/")), Postmaster::Gone);
    }
}
