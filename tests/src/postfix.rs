//! A Postfix of the test's own: its configuration, queue and log in one folder.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::programs::{installed, missing};

/// A running Postfix.
pub struct Postfix {
    folder: TempDir,
}

const SERVICES: &str = "
pickup    unix  n  -  n  60     1  pickup
cleanup   unix  n  -  n  -      0  cleanup
qmgr      unix  n  -  n  300    1  qmgr
tlsmgr    unix  -  -  n  1000?  1  tlsmgr
rewrite   unix  -  -  n  -      -  trivial-rewrite
bounce    unix  -  -  n  -      0  bounce
defer     unix  -  -  n  -      0  bounce
trace     unix  -  -  n  -      0  bounce
flush     unix  n  -  n  1000?  0  flush
proxymap  unix  -  -  n  -      -  proxymap
smtp      unix  -  -  n  -      -  smtp
relay     unix  -  -  n  -      -  smtp
local     unix  -  n  n  -      -  local
showq     unix  n  -  n  -      -  showq
error     unix  -  -  n  -      -  error
retry     unix  -  -  n  -      -  error
discard   unix  -  -  n  -      -  discard
anvil     unix  -  -  n  -      1  anvil
scache    unix  -  -  n  -      1  scache
postlog   unix-dgram n - n  -   1  postlogd
";

impl Postfix {
    /// Starts one with these further settings (main.cf), which listens at an address if it is given one.
    pub fn start(settings: &str, listen: Option<SocketAddr>) -> Postfix {
        let service = listen.map(|address| format!("{address} inet n - n - - smtpd\n"));
        Postfix::start_with(settings, &service.unwrap_or_default())
    }

    /// Starts one with these further settings (main.cf) and services (master.cf).
    pub fn start_with(settings: &str, services: &str) -> Postfix {
        installed("Postfix", "/usr/sbin/postfix");
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Its programs run as several users.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let postfix = Postfix { folder };
        for name in ["conf", "queue", "data"] {
            fs::create_dir(postfix.path(name)).expect("a folder");
        }
        let owned = Command::new("chown")
            .arg("postfix")
            .arg(postfix.path("data"))
            .status()
            .expect("chown");
        assert!(owned.success(), "the tests with Postfix need root");
        let main = format!(
            "compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
maillog_file = {log}
maillog_file_prefixes = {folder}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
smtpd_peername_lookup = no
{settings}
",
            queue = postfix.path("queue").display(),
            data = postfix.path("data").display(),
            log = postfix.path("log").display(),
            folder = postfix.folder.path().display(),
        );
        fs::write(postfix.path("conf/main.cf"), main).expect("a file");
        fs::write(
            postfix.path("conf/master.cf"),
            format!("{services}{SERVICES}"),
        )
        .expect("a file");
        let started = postfix.command("postfix").arg("start").output();
        let started = started.unwrap_or_else(missing("Postfix"));
        assert!(
            started.status.success(),
            "{}{}{}",
            String::from_utf8_lossy(&started.stdout),
            String::from_utf8_lossy(&started.stderr),
            postfix.log()
        );
        postfix
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder in its queue folder, which all of its programs may enter.
    pub fn folder_in_queue(&self, name: &str) -> PathBuf {
        let folder = self.path("queue").join(name);
        fs::create_dir(&folder).expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&folder, open).expect("the folder is opened");
        folder
    }

    /// The folder of its configuration.
    pub fn configuration(&self) -> PathBuf {
        self.path("conf")
    }

    /// One of Postfix's commands, for this instance.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(format!("/usr/sbin/{name}"));
        command.arg("-c").arg(self.path("conf"));
        command
    }

    /// Gives it a message to send.
    pub fn submit(&self, from: &str, to: &[&str], text: &str) {
        let mut child = Command::new("/usr/sbin/sendmail")
            .arg("-C")
            .arg(self.path("conf"))
            .args(["-i", "-f", from])
            .args(to)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sendmail");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("the message");
        drop(input);
        assert!(
            child.wait().expect("sendmail ends").success(),
            "{}",
            self.log()
        );
    }

    /// What `postqueue -p` says.
    pub fn queue(&self) -> String {
        let output = self.command("postqueue").arg("-p").output();
        String::from_utf8_lossy(&output.expect("postqueue").stdout).into_owned()
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        let output = self.command("postfix").arg("reload").output();
        assert!(output.expect("postfix").status.success());
    }

    /// Has the queue tried again now.
    pub fn flush(&self) {
        let flushed = self.command("postqueue").arg("-f").status();
        assert!(flushed.expect("postqueue").success());
    }

    /// Waits until its queue looks so.
    pub fn wait_for_queue(&self, looks_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let queue = self.queue();
            if looks_so(&queue) {
                return queue;
            }
            assert!(Instant::now() < deadline, "{queue}\n{}", self.log());
            // It tells nobody when its queue changes.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for a line of its log that contains `text`: another of its programs writes them down, later
    /// than a client has its reply.
    pub fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let log = self.log();
            // The last line may not be whole yet.
            let mut lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| line.contains(text)) {
                return line.trim_end().to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "no line with {text:?} in:\n{log}"
            );
            // It tells nobody when its log grows.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // It ends only when it is told to.
        let _ = self.command("postfix").arg("stop").output();
    }
}
