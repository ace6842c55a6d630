//! An Exim of the test's own: its configuration, queue and log in one folder.
//!
//! Its Debian package does not go together with Postfix's, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::machine::free_address;
use crate::programs::{assert_may_mount, listens, missing, unpacked};

/// A running Exim.
pub struct Exim {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Exim {
    /// Starts one that takes all mail and keeps it in its queue.
    pub fn start() -> Exim {
        let routers = "all:\n  driver = redirect\n  data = :blackhole:\n";
        Exim::start_with("queue_only = true", routers, "")
    }

    /// Starts one that takes all mail, with these further options, routers and transports.
    pub fn start_with(options: &str, routers: &str, transports: &str) -> Exim {
        let address = free_address();
        let listen = format!(
            "daemon_smtp_ports = {}\nlocal_interfaces = {}\n",
            address.port(),
            address.ip()
        );
        Exim::start_at(address, &format!("{listen}{options}"), routers, transports)
    }

    /// The same, with a name server of its own at port 53 of an address, which it believes to validate DNSSEC.
    pub fn start_with_dns(
        name_server: IpAddr,
        options: &str,
        routers: &str,
        transports: &str,
    ) -> Exim {
        let address = free_address();
        let listen = format!(
            "daemon_smtp_ports = {}\nlocal_interfaces = {}\ndns_dnssec_ok = 1\n",
            address.port(),
            address.ip()
        );
        let resolver = format!("nameserver {name_server}\noptions trust-ad timeout:2 attempts:2\n");
        let options = format!("{listen}{options}");
        Exim::start_in(address, &options, routers, transports, Some(&resolver))
    }

    /// Starts one that offers TLS with a certificate and takes all mail of `contoso.com` that these ACLs let through.
    /// `rcpt` and `data` are the verbs of the ACLs of RCPT and DATA.
    pub fn asking(
        options: &str,
        (certificate, key, roots): (&Path, &Path, &Path),
        acls: &str,
        [rcpt, data]: [&str; 2],
    ) -> Exim {
        let options = format!(
            "{options}tls_certificate = {}\ntls_privatekey = {}\ntls_verify_certificates = {}\nqueue_only = true\nacl_smtp_rcpt = rcpt\nacl_smtp_data = data\nbegin acl\n{acls}\nrcpt:\n{rcpt}\n  accept\ndata:\n{data}\n  accept\n",
            certificate.display(),
            key.display(),
            roots.display()
        );
        let routers = "all:\n  driver = redirect\n  data = :blackhole:\n";
        Exim::start_with(&options, routers, "")
    }

    /// The same, where the options say that it listens at that address.
    pub fn start_at(address: SocketAddr, options: &str, routers: &str, transports: &str) -> Exim {
        Exim::start_in(address, options, routers, transports, None)
    }

    fn start_in(
        address: SocketAddr,
        options: &str,
        routers: &str,
        transports: &str,
        resolver: Option<&str>,
    ) -> Exim {
        let program = program();
        assert_may_mount();
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
            .expect("the folder is opened");
        write(folder.path(), options, routers, transports);
        let resolver = resolver.map_or_else(
            || fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            str::to_owned,
        );
        fs::write(folder.path().join("resolv.conf"), resolver).expect("a file");
        // It will not run without the user that its package makes. In a mount namespace of its own there
        // is one.
        let script =
            "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group &&
            mount --bind \"$1/resolv.conf\" /etc/resolv.conf &&
            exec \"$2\" -bdf -C \"$1/exim.conf\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "exim"])
            .arg(folder.path())
            .arg(program)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .unwrap_or_else(missing("unshare"));
        let mut exim = Exim {
            child,
            folder,
            address,
        };
        let listens = listens(&mut exim.child, exim.address);
        assert!(
            listens,
            "Exim does not listen: {}{}",
            exim.read("stderr"),
            exim.log()
        );
        exim
    }

    /// Its program once more, where the daemon runs.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--target", &self.child.id().to_string()])
            .arg(program())
            .arg("-C")
            .arg(self.folder.path().join("exim.conf"));
        command
    }

    /// Gives it a message to send, and waits until it has tried.
    pub fn submit(&self, from: &str, to: &[&str], text: &str) {
        let mut child = self
            .command()
            .args(["-odf", "-i", "-f", from])
            .args(to)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(missing("nsenter"));
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("the message");
        drop(input);
        assert!(
            child.wait().expect("it ends").success(),
            "{}{}",
            self.read("stderr"),
            self.log()
        );
    }

    /// Has all of its queue tried now, and waits until that is done.
    pub fn run_queue(&self) {
        let done = self.command().arg("-qff").status();
        assert!(
            done.unwrap_or_else(missing("nsenter")).success(),
            "{}{}",
            self.read("stderr"),
            self.log()
        );
    }

    /// Whether its queue is empty.
    pub fn is_idle(&self) -> bool {
        let entries = fs::read_dir(self.folder.path().join("spool/input"));
        entries.is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Waits until its queue is empty.
    pub fn wait_until_idle(&self) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.is_idle() {
            assert!(Instant::now() < deadline, "{}", self.log());
            // It tells nobody when its queue changes.
            std::thread::sleep(Duration::from_millis(50));
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
fn program() -> PathBuf {
    unpacked("Exim", "exim-heavy/usr/sbin/exim4")
}

fn write(folder: &Path, options: &str, routers: &str, transports: &str) {
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
exim_path = {program}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
{tls}host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
smtp_enforce_sync = false
{options}
{acl}
accept:
  accept
begin routers
{routers}
begin transports
{transports}
begin retry
* * F,1d,1h
",
        program = program().display(),
        folder = folder.display(),
        tls = match options.contains("tls_certificate") {
            true => "",
            false => "tls_advertise_hosts =\n",
        },
        // Options may begin ACLs of their own.
        acl = match options.contains("begin acl") {
            true => "",
            false => "acl_smtp_rcpt = accept\nacl_smtp_data = accept\nbegin acl",
        }
    );
    fs::write(folder.join("exim.conf"), config).expect("a file");
}
