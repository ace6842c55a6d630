//! An Exim of the test's own: its configuration, queue and log in one folder.
//!
//! Its Debian package does not go together with Postfix's, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::daemon::{PATIENCE, binary};
use crate::sink::free_address;

/// A running Exim that takes all mail and keeps it in its queue.
pub struct Exim {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Exim {
    /// Starts one, where there is one and the right to run it.
    pub fn start() -> Option<Exim> {
        let program = program()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
            .expect("the folder is opened");
        let address = free_address();
        write(folder.path(), address);
        // It will not run without the user that its package makes. In a mount namespace of its own there
        // is one.
        let script =
            "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group &&
            exec \"$2\" -bdf -C \"$1/exim.conf\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "exim"])
            .arg(folder.path())
            .arg(program)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("unshare can be run");
        let mut exim = Exim {
            child,
            folder,
            address,
        };
        exim.wait_until_it_listens();
        Some(exim)
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "Exim does not listen: {}{}",
                self.read("stderr"),
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Its log of mail.
    pub fn log(&self) -> String {
        self.read("log/main")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        // It ends only when it is told to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where setup.sh has put it.
fn program() -> Option<PathBuf> {
    let target = binary().ancestors().nth(2)?;
    let program = target.join("tools/exim/usr/sbin/exim4");
    program.is_file().then_some(program)
}

fn write(folder: &Path, address: SocketAddr) {
    for name in ["spool", "log"] {
        let path = folder.join(name);
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("it is opened");
    }
    let user = |file: &str, line: &str| {
        let present = fs::read_to_string(format!("/etc/{file}")).expect("a list of users");
        fs::write(folder.join(file), format!("{present}{line}\n")).expect("a file");
    };
    user(
        "passwd",
        "Debian-exim:x:64999:64999::/nonexistent:/bin/false",
    );
    user("group", "Debian-exim:x:64999:");
    let config = format!(
        "primary_hostname = exim.test
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
daemon_smtp_ports = {port}
local_interfaces = {ip}
tls_advertise_hosts =
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 200
smtp_enforce_sync = false
queue_only = true
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin acl
accept:
  accept
begin routers
all:
  driver = redirect
  data = :blackhole:
",
        folder = folder.display(),
        ip = address.ip(),
        port = address.port()
    );
    fs::write(folder.join("exim.conf"), config).expect("a file");
}
