//! A HAProxy of the test's own.
//!
//! Its Debian package would start a server, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::programs::{listens, missing, unpacked};

/// A running HAProxy.
pub struct HaProxy {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl HaProxy {
    /// Starts one with these sections (haproxy.cfg), which listens at that address.
    pub fn start(sections: &str, address: SocketAddr) -> HaProxy {
        let program = unpacked("HAProxy", "haproxy/usr/sbin/haproxy");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("haproxy.cfg");
        let settings = format!(
            "defaults\n    timeout connect 30s\n    timeout client 60s\n    timeout server 60s\n\n{sections}"
        );
        fs::write(&file, settings).expect("a file");
        let stderr = fs::File::create(folder.path().join("stderr")).expect("a file");
        let child = Command::new(program)
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(missing("HAProxy"));
        let mut haproxy = HaProxy {
            child,
            folder,
            address,
        };
        let listens = listens(&mut haproxy.child, address);
        assert!(listens, "HAProxy does not listen: {}", haproxy.said());
        haproxy
    }

    /// What it has said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
