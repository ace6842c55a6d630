//! A Dovecot of the test's own that only looks names and passwords up, as Postfix and Exim have it do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::programs::installed;

/// A running Dovecot.
pub struct Dovecot {
    child: Child,
    folder: TempDir,
    /// The socket at which a mail server asks it.
    pub socket: PathBuf,
}

impl Dovecot {
    /// Starts one that offers these mechanisms to those who have these names and passwords.
    pub fn start(mechanisms: &str, users: &[(&str, &str)]) -> Dovecot {
        let program = installed("Dovecot", "/usr/sbin/dovecot");
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Its programs run as several users, and so do those of who asks it.
        let open = PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let lines = users.iter();
        let lines = lines.map(|(name, password)| format!("{name}:{{PLAIN}}{password}\n"));
        fs::write(folder.path().join("users"), lines.collect::<String>()).expect("a file");
        let path = folder.path().display();
        // Whoever gives a wrong password need not wait.
        let config = format!(
            "base_dir = {path}/run
state_dir = {path}/state
log_path = {path}/log
ssl = no
protocols =
auth_mechanisms = {mechanisms}
auth_username_chars =
auth_failure_delay = 0
auth_verbose = yes
passdb {{
  driver = passwd-file
  args = {path}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {path}/ask {{
    mode = 0666
  }}
}}
"
        );
        let file = folder.path().join("dovecot.conf");
        fs::write(&file, config).expect("a file");
        fs::create_dir(folder.path().join("state")).expect("a folder");
        let child = Command::new(program)
            .arg("-F")
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("Dovecot starts");
        let socket = folder.path().join("ask");
        let mut dovecot = Dovecot {
            child,
            folder,
            socket,
        };
        dovecot.wait_until_it_listens();
        dovecot
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while UnixStream::connect(&self.socket).is_err() {
            let has_ended = self.child.try_wait().expect("a child").is_some();
            assert!(
                !has_ended && Instant::now() < deadline,
                "Dovecot does not listen: {}{}",
                self.read("stderr"),
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.read("log")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // Its other programs end with it only if it is asked to end.
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
