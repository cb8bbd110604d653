//! A disk of the run's own that can be filled without harm to anybody else: a file with a file system in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::kit::KitError;

/// Takes the room that is to be missing.
const BALLAST: &str = "ballast";
/// Allocated at once; a disk may refuse to give all of its last room in one piece.
const SMALLEST_PIECE_BYTES: u64 = 4096;

/// A mounted disk; unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Mounts a new disk of `bytes` at `folder`.
    ///
    /// # Errors
    /// Whatever keeps this machine or this user from doing so, in words.
    pub(crate) fn mount(folder: &Path, bytes: u64) -> Result<Self, KitError> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount a disk".into());
        }
        fs::create_dir_all(folder)?;
        let image = folder.with_extension("img");
        File::create(&image)?.set_len(bytes)?;
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0"], &image, None)
            .and_then(|()| run("mount", &["-o", "loop"], &image, Some(folder)));
        if let Err(error) = made {
            let _ = fs::remove_file(&image);
            return Err(error);
        }
        Ok(Self {
            folder: folder.to_owned(),
            image,
        })
    }

    /// Leaves no room, until [`Disk::relieve`]; returns the bytes taken.
    ///
    /// # Errors
    /// What the file system says, other than that it is full.
    pub(crate) fn fill(&self) -> Result<u64, KitError> {
        let ballast = File::create(self.folder.join(BALLAST))?;
        let before = free_bytes(&self.folder)?;
        let (mut end, mut piece) = (0, before);
        while piece >= SMALLEST_PIECE_BYTES {
            match fallocate(&ballast, FallocateFlags::empty(), end, piece) {
                Ok(()) => {
                    end += piece;
                    piece = free_bytes(&self.folder)?;
                }
                // Of what could not be had as a whole, a part has been taken.
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(before.saturating_sub(free_bytes(&self.folder)?))
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// What removing gives.
    pub(crate) fn relieve(&self) -> Result<(), KitError> {
        Ok(fs::remove_file(self.folder.join(BALLAST))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, for a process may be about to end on it.
        let _ = run("umount", &["-l"], &self.folder, None);
        let _ = fs::remove_file(&self.image);
    }
}

fn free_bytes(folder: &Path) -> Result<u64, KitError> {
    let room = statvfs(folder)?;
    Ok(room.f_bavail * room.f_frsize)
}

fn run(program: &str, options: &[&str], first: &Path, second: Option<&Path>) -> Result<(), KitError> {
    let output = Command::new(program)
        .args(options)
        .arg(first)
        .args(second)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()).into())
}
