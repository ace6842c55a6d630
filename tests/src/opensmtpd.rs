//! An OpenSMTPD of the test's own: its configuration and queue in one folder.
//!
//! Its Debian package does not go together with Postfix's, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::machine::free_address;
use crate::programs::{assert_may_mount, listens, missing, unpacked};

/// A running OpenSMTPD.
pub struct OpenSmtpd {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

/// In a mount namespace of its own, in which it finds the folders and the users that its package makes.
const SCRIPT: &str = r#"
    for name in var run; do mount --bind "$1/$name" "/$name" || exit; done &&
    for name in passwd group; do mount --bind "$1/$name" "/etc/$name" || exit; done &&
    exec "$2" -d -f "$1/smtpd.conf"
"#;

impl OpenSmtpd {
    /// Starts one that takes mail of `contoso.com`, with the filter of these lines (smtpd.conf), and passes it on to a
    /// server.
    pub fn start(filter: &str, next_hop: SocketAddr) -> OpenSmtpd {
        assert_may_mount();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open()).expect("the folder is opened");
        for name in ["var/spool/smtpd", "var/lib/opensmtpd/empty", "run"] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        std::os::unix::fs::symlink("/run", folder.path().join("var/run")).expect("a link");
        let spool = folder.path().join("var/spool/smtpd");
        fs::set_permissions(spool, fs::Permissions::from_mode(0o711)).expect("a mode");
        let add = |file: &str, lines: &str| {
            let present = fs::read_to_string(format!("/etc/{file}")).expect("a list of users");
            fs::write(folder.path().join(file), format!("{present}{lines}")).expect("a file");
        };
        let home = "/var/lib/opensmtpd/empty:/bin/false";
        add(
            "passwd",
            &format!("opensmtpd:x:64990:64990::{home}\nopensmtpq:x:64991:64991::{home}\n"),
        );
        add("group", "opensmtpd:x:64990:\nopensmtpq:x:64991:\n");
        let address = free_address();
        let settings = format!(
            "{filter}\n\
             listen on {} port {} filter portcullis\n\
             action out relay host smtp://{next_hop}\n\
             match from any for domain \"contoso.com\" action out\n",
            address.ip(),
            address.port()
        );
        fs::write(folder.path().join("smtpd.conf"), settings).expect("a file");
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", SCRIPT, "smtpd"])
            .arg(folder.path())
            .arg(unpacked("OpenSMTPD", "opensmtpd/usr/sbin/smtpd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .unwrap_or_else(missing("unshare"));
        let mut server = OpenSmtpd {
            child,
            folder,
            address,
        };
        let listens = listens(&mut server.child, server.address);
        assert!(listens, "OpenSMTPD does not listen: {}", server.log());
        server
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        // Its processes end when their parent is told to.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}
