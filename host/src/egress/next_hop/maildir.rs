//! A Maildir as next hop (cr.yp.to/proto/maildir.html): a message is in `new/` whole and on disk, or
//! not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::smtp::address::{Address, ReversePath};
use crate::smtp::reply::Reply;

const WRITE_SIZE: usize = 64 << 10;

/// Deliveries of this process, for unique names.
static DELIVERIES: AtomicU64 = AtomicU64::new(0);

/// A Maildir.
#[derive(Clone)]
pub struct Maildir {
    folder: Arc<Path>,
    hostname: Arc<str>,
}

impl Maildir {
    /// A Maildir; nothing is made yet.
    pub fn new(folder: &Path, hostname: &str) -> Self {
        Maildir {
            folder: folder.into(),
            hostname: hostname.into(),
        }
    }

    /// Makes the folders.
    pub async fn prepare(&self) -> io::Result<()> {
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(self.folder.join(part)).await?;
        }
        Ok(())
    }

    /// A way to deliver, for one session.
    pub fn delivery(&self) -> MaildirDelivery {
        MaildirDelivery {
            maildir: self.clone(),
            from: String::new(),
            recipients: Vec::new(),
            file: None,
        }
    }

    fn unique_name(&self) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let number = DELIVERIES.fetch_add(1, Ordering::Relaxed);
        format!(
            "{}.M{}P{}Q{number}.{}",
            now.as_secs(),
            now.subsec_micros(),
            std::process::id(),
            self.hostname.replace(['/', ':'], "_")
        )
    }
}

/// Deliveries into a Maildir, one after another.
pub struct MaildirDelivery {
    maildir: Maildir,
    from: String,
    recipients: Vec<String>,
    file: Option<Unfinished>,
}

/// A message in `tmp/`. Dropped before it is kept, it is removed.
struct Unfinished {
    path: PathBuf,
    name: String,
    file: File,
    buffer: Vec<u8>,
    kept: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // What stays in tmp/ is never mail; readers clear it out in time.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl MaildirDelivery {
    /// Begins a transaction.
    pub fn mail(&mut self, from: &ReversePath) {
        self.reset();
        self.from = from.as_str().into();
    }

    /// Adds a recipient.
    pub fn rcpt(&mut self, to: &Address) -> Reply {
        self.recipients.push(to.as_str().into());
        Reply::new(250, (2, 1, 5), "recipient ok")
    }

    /// Begins the message.
    pub async fn data(&mut self) -> Result<(), Reply> {
        self.begin().await.map_err(|error| self.failed(&error))
    }

    async fn begin(&mut self) -> io::Result<()> {
        let name = self.maildir.unique_name();
        let path = self.maildir.folder.join("tmp").join(&name);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .await?;
        // RFC 5321 §4.4: whoever makes the final delivery tells the reverse path.
        let mut buffer = format!("Return-Path: <{}>\n", self.from).into_bytes();
        for recipient in &self.recipients {
            buffer.extend_from_slice(format!("Delivered-To: {recipient}\n").as_bytes());
        }
        self.file = Some(Unfinished {
            path,
            name,
            file,
            buffer,
            kept: false,
        });
        Ok(())
    }

    /// A part of the message. Lines end in LF on disk.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        let Some(unfinished) = &mut self.file else {
            return Err(Reply::new(451, (4, 3, 0), "the message was given up"));
        };
        unfinished
            .buffer
            .extend(content.iter().filter(|byte| **byte != b'\r'));
        if unfinished.buffer.len() < WRITE_SIZE {
            return Ok(());
        }
        let written = unfinished.file.write_all(&unfinished.buffer).await;
        unfinished.buffer.clear();
        written.map_err(|error| self.failed(&error))
    }

    /// Keeps the message: it is on disk, and so is its name, before this says so.
    pub async fn finish(&mut self) -> Reply {
        let Some(unfinished) = self.file.take() else {
            return Reply::new(451, (4, 3, 0), "the message was given up");
        };
        match self.keep(unfinished).await {
            Ok(name) => Reply::new(250, (2, 0, 0), format!("stored as {name}")),
            Err(error) => self.failed(&error),
        }
    }

    async fn keep(&self, mut unfinished: Unfinished) -> io::Result<String> {
        unfinished.file.write_all(&unfinished.buffer).await?;
        unfinished.file.flush().await?;
        unfinished.file.sync_all().await?;
        let new = self.maildir.folder.join("new");
        fs::rename(&unfinished.path, new.join(&unfinished.name)).await?;
        // From here on the message may be read: it cannot be taken back.
        unfinished.kept = true;
        File::open(&new).await?.sync_all().await?;
        Ok(unfinished.name.clone())
    }

    /// Gives the transaction up.
    pub fn reset(&mut self) {
        self.file = None;
        self.from.clear();
        self.recipients.clear();
    }

    fn failed(&mut self, error: &io::Error) -> Reply {
        self.file = None;
        tracing::error!(maildir = %self.maildir.folder.display(), %error, "a message cannot be kept");
        if error.kind() == io::ErrorKind::StorageFull {
            return Reply::new(452, (4, 3, 1), "no room for the message now");
        }
        Reply::new(451, (4, 3, 0), "the message cannot be kept now")
    }
}
