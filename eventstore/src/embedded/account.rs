//! The account that the server runs as. PostgreSQL refuses to run as root, so root must give its folder away.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ClusterError;

/// Who the server runs as: ourselves, or for root an unprivileged user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
    /// Present when the child has to change to this account, which only root can.
    name: Option<String>,
}

/// Tells the first of the given folders that cannot be entered.
const FIRST_CLOSED_FOLDER: &str =
    r#"for folder do cd -- "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done"#;

impl Account {
    /// The account for the cluster in `folder`: ourselves unless we are root; else the folder's owner where it exists
    /// and has one below root; else `postgres`; else `nobody`.
    ///
    /// # Errors
    /// [`ClusterError::NoAccount`] as root; [`ClusterError::ForeignFolder`] where the folder is somebody else's.
    pub fn for_folder(folder: &Path) -> Result<Self, ClusterError> {
        let me = rustix::process::geteuid();
        let owner = fs::metadata(folder)
            .ok()
            .map(|metadata| (metadata.uid(), metadata.gid()));
        if !me.is_root() {
            return match owner {
                Some((owner, _)) if owner != me.as_raw() => Err(ClusterError::ForeignFolder {
                    folder: folder.to_owned(),
                    owner,
                }),
                _ => Ok(Self {
                    uid: me.as_raw(),
                    gid: rustix::process::getegid().as_raw(),
                    name: None,
                }),
            };
        }
        if let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != 0) {
            return Ok(Self {
                uid,
                gid,
                name: Some(format!("with uid {uid}")),
            });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(Self::named)
            .ok_or(ClusterError::NoAccount)
    }

    /// `id` asks every source of accounts that the system has, which reading `/etc/passwd` would not.
    fn named(name: &str) -> Option<Self> {
        let ask = |what: &str| -> Option<u32> {
            let answer = Command::new("id")
                .args([what, name])
                .stderr(Stdio::null())
                .output()
                .ok()?;
            String::from_utf8(answer.stdout).ok()?.trim().parse().ok()
        };
        let (uid, gid) = (ask("-u")?, ask("-g")?);
        (uid != 0).then(|| Self {
            uid,
            gid,
            name: Some(name.to_owned()),
        })
    }

    /// The user's number.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether this is another account than the one of this process.
    #[must_use]
    pub fn is_other(&self) -> bool {
        self.name.is_some()
    }

    /// A command that runs as this account, from the root folder because the present one may be closed to it, and
    /// without the `PG*` variables that would bend what PostgreSQL does.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        if self.is_other() {
            // Also drops root's supplementary groups.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Makes sure that this account can enter `folder`.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`], naming the first folder on the way that is closed.
    pub fn must_reach(&self, folder: &Path) -> Result<(), ClusterError> {
        let Some(user) = &self.name else { return Ok(()) };
        let mut way: Vec<&Path> = folder.ancestors().collect();
        way.reverse();
        let answer = self
            .command(Path::new("/bin/sh"))
            .args(["-c", FIRST_CLOSED_FOLDER, "sh"])
            .args(way)
            .output()
            .map_err(|source| ClusterError::Spawn {
                program: "/bin/sh".into(),
                source,
            })?;
        if answer.status.success() {
            return Ok(());
        }
        let blocked = PathBuf::from(String::from_utf8_lossy(&answer.stdout).into_owned());
        Err(ClusterError::Unreachable {
            user: user.clone(),
            blocked,
        })
    }

    /// Gives `path`, and all below it, to this account. Links are given away, never followed.
    ///
    /// # Errors
    /// What the system says.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        if !self.is_other() {
            return Ok(());
        }
        let metadata = fs::symlink_metadata(path)?;
        if metadata.uid() != self.uid || metadata.gid() != self.gid {
            lchown(path, Some(self.uid), Some(self.gid))?;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        Ok(())
    }
}
