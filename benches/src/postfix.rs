//! A Postfix of the benchmark's own, with the same agreements.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::Placement;

/// A Postfix with its configuration, queue and log in one folder.
pub struct Postfix {
    folder: PathBuf,
}

impl Postfix {
    /// Starts one with these public services (master.cf).
    ///
    /// The folder has the certificate, its key and the clients' addresses.
    pub fn start(folder: &Path, placement: Placement, smtpd: &str) -> Result<Postfix> {
        ensure!(
            Path::new(POSTFIX).exists() && rustix::process::geteuid().is_root(),
            "the peers need root, and Postfix (Debian package postfix)"
        );
        let files = folder.display();
        let folder = folder.join("postfix");
        let here = folder.display();
        for name in ["conf", "queue", "data"] {
            fs::create_dir_all(folder.join(name))?;
        }
        succeed(
            Command::new("chown")
                .arg("postfix")
                .arg(folder.join("data")),
        )?;
        let main = format!(
            "compatibility_level = 3.6
queue_directory = {here}/queue
data_directory = {here}/data
maillog_file = {here}/log
maillog_file_prefixes = {here}
myhostname = mx.dest.example
mydestination =
mynetworks =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = {files}/cert.pem
smtpd_tls_key_file = {files}/key.pem
relay_domains = dest.example
relay_transport = discard
smtpd_relay_restrictions = reject_unauth_destination
smtpd_sender_restrictions = check_sender_access inline:{{ contosobank.com=bank, iponly.example=addresses }}
smtpd_restriction_classes = bank, addresses
bank = reject_plaintext_session, addresses
addresses = check_client_access cidr:{files}/clients.cidr, reject
plaintext_reject_code = 550
"
        );
        fs::write(folder.join("conf/main.cf"), main)?;
        fs::write(
            folder.join("conf/master.cf"),
            format!("{smtpd}{INNER_SERVICES}"),
        )?;
        let postfix = Postfix { folder };
        // The value is there first: a start that fails half-way is undone.
        succeed(&mut postfix.command(placement.server(POSTFIX), "start"))?;
        Ok(postfix)
    }

    fn command(&self, mut command: Command, verb: &str) -> Command {
        command.arg("-c").arg(self.folder.join("conf")).arg(verb);
        command
    }

    /// The process from which all others come.
    pub fn master(&self) -> Result<u32> {
        let path = self.folder.join("queue/pid/master.pid");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.trim()
            .parse()
            .with_context(|| path.display().to_string())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // It fails only if Postfix does not run.
        let _ = self.command(Command::new(POSTFIX), "stop").output();
    }
}

const POSTFIX: &str = "/usr/sbin/postfix";

const INNER_SERVICES: &str = "
cleanup  unix       n - n -     0 cleanup
qmgr     unix       n - n 300   1 qmgr
tlsmgr   unix       - - n 1000? 1 tlsmgr
rewrite  unix       - - n -     - trivial-rewrite
discard  unix       - - n -     - discard
bounce   unix       - - n -     0 bounce
defer    unix       - - n -     0 bounce
error    unix       - - n -     - error
retry    unix       - - n -     - error
proxymap unix       - - n -     - proxymap
anvil    unix       - - n -     1 anvil
postlog  unix-dgram n - n -     1 postlogd
";

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} fails: {}", said.trim_end());
    }
    Ok(())
}
