//! The servers that are compared, all with the same agreements.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use crate::client::{self, Plan};
use crate::postfix::Postfix;
use crate::process::{Placement, Process};

/// Its mail has to be encrypted and to come from the loopback network.
pub const ENCRYPTED: &str = "user@contosobank.com";
/// Its mail has to come from the loopback network.
pub const ANY_SESSION: &str = "user@iponly.example";
/// Who gets all mail.
pub const RECIPIENT: &str = "user@dest.example";

/// The names of the targets that the others are compared with: where mail is taken, and where it is refused.
pub const FLOOR: &str = "floor";
pub const REFUSE: &str = "refuse";

/// A server to be measured.
pub struct Target {
    /// What it is called in results.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// The process whose time, with that of all below it, is its time.
    pub pid: u32,
    /// Where it tells what it does.
    pub metrics: Option<SocketAddr>,
}

/// All servers; they end with this value.
pub struct Servers {
    /// Those to be measured.
    pub targets: Vec<Target>,
    placement: Placement,
    processes: Vec<Process>,
    postfix: Option<Postfix>,
    folder: TempDir,
}

impl Servers {
    /// Starts them, and makes sure that each keeps the agreements. Another Portcullis is measured beside ours, to see what
    /// a change costs.
    pub async fn start(
        binary: &Path,
        before: Option<&Path>,
        log_level: &str,
        peers: bool,
        placement: Placement,
    ) -> Result<Servers> {
        let mut servers = Servers {
            targets: Vec::new(),
            placement,
            processes: Vec::new(),
            postfix: None,
            folder: tempfile::tempdir()?,
        };
        write_shared_files(servers.folder.path())?;
        let sink = servers.start_own(free_address()?).await?;
        let own = [
            ("portcullis", Some(binary), ""),
            ("portcullis-new", Some(binary), NO_REUSE),
            ("before", before, ""),
            ("before-new", before, NO_REUSE),
        ];
        for (name, binary, settings) in own {
            let Some(binary) = binary else { continue };
            let config = format!("{name}.toml");
            let address = free_address()?;
            let metrics = free_address()?;
            let settings = format!("[metrics]\naddress = \"{metrics}\"\n{settings}");
            let text = configuration(address, sink, &settings);
            fs::write(servers.folder.path().join(&config), text)?;
            let mut command = placement.server(binary);
            command.args(["run", "--log-level", log_level, "--config", &config]);
            servers
                .start_target(name, command, address, Some(metrics))
                .await?;
        }
        if peers {
            servers.start_postfix(sink).await?;
        }
        let deciding = |it: &&Target| ![FLOOR, REFUSE].contains(&it.name);
        for target in servers.targets.iter().filter(deciding) {
            check_agreements(target.address)
                .await
                .with_context(|| format!("{} does not keep the agreements", target.name))?;
        }
        Ok(servers)
    }

    /// The sink, which runs beside the client as its time is not the servers', and what others are compared with.
    async fn start_own(&mut self, sink: SocketAddr) -> Result<SocketAddr> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(&program);
        command.args(["sink", "--listen", &sink.to_string()]);
        self.start_process("sink", command, sink).await?;
        let floor = free_address()?;
        let mut command = self.placement.server(&program);
        command
            .args(["proxy", "--listen", &floor.to_string()])
            .args(["--next", &sink.to_string()])
            .args(["--cert", "cert.pem", "--key", "key.pem"]);
        self.start_target(FLOOR, command, floor, None).await?;
        let refuse = free_address()?;
        let mut command = self.placement.server(&program);
        command.args(["sink", "--refuse", "--listen", &refuse.to_string()]);
        self.start_target(REFUSE, command, refuse, None).await?;
        Ok(sink)
    }

    async fn start_postfix(&mut self, sink: SocketAddr) -> Result<()> {
        let [native, proxy] = [free_address()?, free_address()?];
        let services = format!(
            "{native} inet n - n - - smtpd\n\
             {proxy} inet n - n - - smtpd -o smtpd_proxy_filter={sink}\n"
        );
        let postfix = Postfix::start(self.folder.path(), self.placement, &services)?;
        let postfix = self.postfix.insert(postfix);
        let pid = postfix.master()?;
        for (name, address) in [("postfix-native", native), ("postfix-proxy", proxy)] {
            let greeted = await_greeting(address, || Ok(())).await;
            greeted.with_context(|| format!("{name} did not start"))?;
            self.targets.push(Target {
                name,
                address,
                pid,
                metrics: None,
            });
        }
        Ok(())
    }

    async fn start_target(
        &mut self,
        name: &'static str,
        command: Command,
        address: SocketAddr,
        metrics: Option<SocketAddr>,
    ) -> Result<()> {
        let pid = self.start_process(name, command, address).await?;
        self.targets.push(Target {
            name,
            address,
            pid,
            metrics,
        });
        Ok(())
    }

    async fn start_process(
        &mut self,
        name: &str,
        mut command: Command,
        address: SocketAddr,
    ) -> Result<u32> {
        command.current_dir(self.folder.path());
        let log = self.folder.path().join(format!("{name}.log"));
        let mut process = Process::start(&mut command, log)?;
        let greeted = await_greeting(address, || process.check()).await;
        greeted.with_context(|| format!("{name} did not start"))?;
        let pid = process.id();
        self.processes.push(process);
        Ok(pid)
    }
}

/// Writes the certificate, the rules and the clients' addresses that all servers share.
pub fn write_shared_files(folder: &Path) -> Result<()> {
    // Postfix's programs run as several users.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["mx.dest.example".to_owned()])?;
    fs::write(folder.join("cert.pem"), cert.pem())?;
    fs::write(folder.join("key.pem"), signing_key.serialize_pem())?;
    fs::write(folder.join("rules.json"), RULES)?;
    fs::write(folder.join("clients.cidr"), "127.0.0.0/8 permit\n")?;
    Ok(())
}

const NO_REUSE: &str = "[connections]\nmessages = 1\n";

/// Portcullis as a proxy before this next hop.
pub fn configuration(address: SocketAddr, next_hop: SocketAddr, settings: &str) -> String {
    format!(
        r#"hostname = "mx.dest.example"
[[listener]]
address = "{address}"
certificate = "cert.pem"
key = "key.pem"
next-hop = {{ smtp = "{next_hop}" }}
[[tenant]]
name = "dest"
domains = ["dest.example"]
policy = "rules.json"
[limits]
sessions-per-address = 2000
[sandbox]
cache-directory = "cache"
{settings}"#
    )
}

const RULES: &str = r#"{
  "accepted-domains": ["dest.example"],
  "connectors": [
    {"name": "bank", "direction": "inbound", "from": {"sender-domains": ["contosobank.com"]},
     "require": {"tls": true, "source-ips": ["127.0.0.0/8"]}},
    {"name": "addresses", "direction": "inbound", "from": {"sender-domains": ["iponly.example"]},
     "require": {"source-ips": ["127.0.0.0/8"]}}
  ]
}
"#;

/// An address on which nothing listens now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Waits until a server answers.
pub async fn await_greeting(
    address: SocketAddr,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    // Long enough for a policy to be compiled on a busy machine.
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let Err(error) = client::open(address, None, None).await else {
            return Ok(());
        };
        check()?;
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is measured is worth nothing if the server lets everything pass, or nothing.
pub async fn check_agreements(address: SocketAddr) -> Result<()> {
    for (from, tls, reject) in [
        (ENCRYPTED, false, true),
        (ENCRYPTED, true, false),
        (ANY_SESSION, false, false),
    ] {
        let plan = Plan {
            tls,
            reject,
            ..Plan::one(address, from, RECIPIENT)
        };
        let session = if tls { "over TLS" } else { "in plaintext" };
        client::run_once(&plan)
            .await
            .with_context(|| format!("{from} {session}"))?;
    }
    Ok(())
}
