//! A folder that mails are put into, for machines without a mail server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MailFailure;

#[derive(Clone)]
pub(super) struct Outbox {
    folder: Arc<PathBuf>,
}

impl Outbox {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder: Arc::new(folder),
        }
    }

    /// Durable on return; the same name replaces what was there. Whoever lists the folder never sees half a mail.
    pub(super) async fn put(&self, name: &str, mail: Vec<u8>) -> Result<(), MailFailure> {
        let (folder, name) = (Arc::clone(&self.folder), name.to_owned());
        let written = tokio::task::spawn_blocking(move || put(&folder, &name, &mail)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(MailFailure::NotTaken(format!("the outbox cannot be written: {error}"))),
            Err(error) => Err(MailFailure::NotTaken(error.to_string())),
        }
    }
}

fn put(folder: &Path, name: &str, mail: &[u8]) -> io::Result<()> {
    use std::io::Write as _;

    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let partial = folder.join(format!(".{name}.part"));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&partial)?;
    file.write_all(mail)?;
    file.sync_all()?;
    std::fs::rename(&partial, folder.join(format!("{name}.eml")))
}

#[cfg(test)]
mod tests {
    use super::Outbox;

    #[tokio::test]
    async fn a_mail_is_one_private_file_and_its_repetition_too() {
        let folder = std::env::temp_dir().join(format!("annals-outbox-{}", uuid::Uuid::now_v7()));
        let outbox = Outbox::new(folder.clone());
        for text in ["first", "second"] {
            outbox.put("1-reset", text.as_bytes().to_vec()).await.unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["1-reset.eml"]);
        let path = folder.join("1-reset.eml");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
