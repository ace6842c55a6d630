//! Postfix's smtp-sink, a next hop that is not ours.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::machine::free_address;
use crate::programs::missing;

/// A running smtp-sink that keeps what it is sent.
pub struct SmtpSink {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl SmtpSink {
    /// Starts one with these further options (see smtp-sink(1)).
    pub fn start(options: &[&str]) -> SmtpSink {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // It gives up root, and writes as somebody else.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let address = free_address();
        let child = Command::new("/usr/sbin/smtp-sink")
            .args(["-u", "nobody", "-R"])
            .arg(folder.path())
            .args(["-d", "message-"])
            .args(options)
            .args([&address.to_string(), "128"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(missing("smtp-sink"));
        let sink = SmtpSink {
            child,
            folder,
            address,
        };
        let deadline = Instant::now() + TIMEOUT;
        // It says nothing when it is ready, other than by accepting.
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "smtp-sink does not listen");
            std::thread::yield_now();
        }
        sink
    }

    /// What it was sent: one text a message, its own header lines in front.
    pub fn messages(&self) -> Vec<String> {
        read_all(self.folder.path())
    }
}

fn read_all(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| String::from_utf8_lossy(&fs::read(path).expect("a message")).into_owned())
        .collect()
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        // It ends only when it is told to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
