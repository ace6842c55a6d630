//! A Sendmail of the test's own: its configuration, queue and log in one folder.
//!
//! Its Debian packages do not go together with Postfix's, so `scripts/setup.sh tests` only unpacks them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::machine::free_address;
use crate::programs::{assert_may_mount, listens, missing, unpacked};

/// A running Sendmail.
pub struct Sendmail {
    child: Child,
    folder: TempDir,
    log: Arc<Mutex<String>>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// In namespaces of its own, in which the test's folder is `/mnt`, because it trusts nothing below `/tmp`,
/// syslog's socket is the test's, and the machine has the full name that it asks for.
const SCRIPT: &str = r#"
    hostname sendmail.test && mount --bind "$1/hosts" /etc/hosts &&
    for device in null random urandom zero; do mount --bind "/dev/$device" "$1/dev/$device" || exit; done &&
    mount --bind "$1/dev" /dev && mount --bind "$1" /mnt &&
    exec "$2" -bD -C /mnt/sendmail.cf
"#;

impl Sendmail {
    /// Starts one with these further lines in its configuration (sendmail.mc), and this table of domains
    /// and their ways (mailertable).
    pub fn start(settings: &str, ways: &str) -> Sendmail {
        assert_may_mount();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = free_address();
        write(folder.path(), address, settings, ways);
        let log = Arc::new(Mutex::new(String::new()));
        keep_log(&folder.path().join("dev/log"), log.clone());
        let child = Command::new("unshare")
            .args(["--mount", "--uts", "sh", "-c", SCRIPT, "sendmail"])
            .arg(folder.path())
            .arg(unpacked(
                "Sendmail",
                "sendmail/usr/libexec/sendmail/sendmail",
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .unwrap_or_else(missing("unshare"));
        let mut sendmail = Sendmail {
            child,
            folder,
            log,
            address,
        };
        let listens = listens(&mut sendmail.child, sendmail.address);
        assert!(
            listens,
            "Sendmail does not listen: {}{}",
            fs::read_to_string(sendmail.folder.path().join("stderr")).unwrap_or_default(),
            sendmail.log()
        );
        sendmail
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its queue is empty.
    pub fn wait_until_idle(&self) {
        let queue = self.folder.path().join("queue");
        let is_idle = || {
            fs::read_dir(&queue)
                .expect("a queue")
                .map(|entry| entry.expect("an entry").file_name())
                .all(|name| name.to_string_lossy().starts_with('.'))
        };
        let deadline = Instant::now() + TIMEOUT;
        while !is_idle() {
            assert!(Instant::now() < deadline, "{}", self.log());
            // It tells nobody when its queue changes.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Sendmail {
    fn drop(&mut self) {
        // It ends only when it is told to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes what would go to the machine's log.
fn keep_log(path: &Path, log: Arc<Mutex<String>>) {
    let socket = UnixDatagram::bind(path).expect("a socket");
    fs::set_permissions(path, PermissionsExt::from_mode(0o666)).expect("it is opened");
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read) = socket.recv(&mut buffer) {
            let mut log = log.lock().unwrap();
            log.push_str(&String::from_utf8_lossy(&buffer[..read]));
            log.push('\n');
        }
    });
}

fn write(folder: &Path, address: SocketAddr, settings: &str, ways: &str) {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("the folder is opened");
    for name in ["queue", "dev"] {
        fs::create_dir(folder.join(name)).expect("a folder");
    }
    let file = |name: &str, content: &str| {
        fs::write(folder.join(name), content).expect("a file");
    };
    // What the devices of the same names are mounted over.
    for device in ["null", "random", "urandom", "zero"] {
        file(&format!("dev/{device}"), "");
    }
    file("hosts", "127.0.0.1 sendmail.test localhost\n");
    file(
        "service.switch",
        "hosts files\naliases files\npasswd files\n",
    );
    file("mailertable", ways);
    file("aliases", "postmaster: root\n");
    let source = format!(
        "OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `sendmail.test')dnl
define(`QUEUE_DIR', `/mnt/queue')dnl
define(`HELP_FILE', `')dnl
define(`STATUS_FILE', `')dnl
define(`ALIAS_FILE', `text:/mnt/aliases')dnl
define(`confPID_FILE', `/mnt/pid')dnl
define(`confTO_IDENT', `0')dnl
define(`confSERVICE_SWITCH_FILE', `/mnt/service.switch')dnl
define(`confHOSTS_FILE', `/mnt/hosts')dnl
define(`confDELIVERY_MODE', `i')dnl
FEATURE(`mailertable', `text -k0 -v1 -o /mnt/mailertable')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Name=MTA,Family=inet,Addr={ip},Port={port}')dnl
{settings}
MAILER(`smtp')dnl
MAILER(`local')dnl
",
        ip = address.ip(),
        port = address.port()
    );
    file("sendmail.mc", &source);
    let macros = unpacked("Sendmail", "sendmail/usr/share/sendmail/cf/m4/cf.m4");
    let sources = macros
        .ancestors()
        .nth(2)
        .expect("the folder of all sources");
    let made = Command::new("m4")
        .arg(format!("-D_CF_DIR_={}/", sources.display()))
        .arg(&macros)
        .arg(folder.join("sendmail.mc"))
        .output()
        .unwrap_or_else(missing("m4"));
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    fs::write(folder.join("sendmail.cf"), made.stdout).expect("a file");
}
