//! A world of DNSSEC made by others: zones that BIND's tools sign, Knot that serves them, and Unbound that asks Knot.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::machine::free_address;
use crate::programs::{missing, unpacked};

/// How a zone is signed: with ECDSA P-256 unless another algorithm is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// Names are denied with NSEC.
    Nsec,
    /// Names are denied with NSEC3.
    Nsec3,
    /// The same, and delegations without DS are left out.
    OptOut,
    /// RSA with two keys, and NSEC3.
    Rsa,
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
    /// The signatures are long over.
    Expired,
}

/// What the parent says of a zone's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ds {
    /// That they are the zone's.
    Right,
    /// That the zone has another one.
    Wrong,
    /// Nothing.
    Missing,
}

/// What becomes of the signatures of one name and kind, after signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// They fit no more.
    Broken,
    /// They are gone.
    Stripped,
}

/// A zone.
pub struct Zone {
    name: String,
    body: String,
    signing: Option<Signing>,
    ds: Ds,
    damage: Vec<(String, &'static str, Damage)>,
}

impl Zone {
    /// An unsigned zone with these records, names relative to it. SOA, NS and delegations to other zones of the
    /// world come by themselves.
    pub fn new(name: &str, body: &str) -> Zone {
        Zone {
            name: name.to_owned(),
            body: body.to_owned(),
            signing: None,
            ds: Ds::Right,
            damage: Vec::new(),
        }
    }

    /// Signed.
    pub fn signed(mut self, signing: Signing) -> Zone {
        self.signing = Some(signing);
        self
    }

    /// With another word of the parent.
    pub fn ds(mut self, ds: Ds) -> Zone {
        self.ds = ds;
        self
    }

    /// With damaged signatures; the name is relative to the zone.
    pub fn damaged(mut self, name: &str, kind: &'static str, damage: Damage) -> Zone {
        let name = format!("{name}.{}", self.name);
        self.damage.push((name, kind, damage));
        self
    }

    fn contains(&self, name: &str) -> bool {
        self.name != name && (self.name == "." || name.ends_with(&format!(".{}", self.name)))
    }

    fn file(&self) -> String {
        format!("{}zone", self.name.replace('/', "_"))
    }

    /// Makes keys, and gives their names: the one that the parent vouches for is first.
    fn make_keys(&self, folder: &Path) -> Vec<String> {
        let make = |arguments: &[&str]| {
            let arguments = [&["-q", "-a"][..], arguments, &[&self.name]].concat();
            let output = tool("dnssec-keygen", folder, &arguments);
            let name = output.split_whitespace().last();
            name.expect("the name of a key").to_owned()
        };
        match self.signing {
            None => Vec::new(),
            Some(Signing::Rsa) => vec![
                make(&["RSASHA256", "-b", "2048", "-f", "KSK"]),
                make(&["RSASHA256", "-b", "1024"]),
            ],
            Some(Signing::Ed25519) => vec![make(&["ED25519", "-f", "KSK"])],
            Some(Signing::Ed448) => vec![make(&["ED448", "-f", "KSK"])],
            Some(_) => vec![make(&["ECDSAP256SHA256", "-f", "KSK"])],
        }
    }

    /// The DS records for the parent.
    fn ds_records(&self, folder: &Path, keys: &[String]) -> String {
        let key = match (self.ds, self.signing) {
            (Ds::Missing, _) | (_, None) => return String::new(),
            (Ds::Wrong, _) => self.make_keys(folder).swap_remove(0),
            (Ds::Right, _) => keys[0].clone(),
        };
        tool("dnssec-dsfromkey", folder, &["-2", &key])
    }

    fn sign(&self, folder: &Path, keys: &[String]) {
        let Some(signing) = self.signing else {
            return;
        };
        let (file, signed) = (self.file(), format!("{}.signed", self.file()));
        let mut arguments = vec!["-q", "-P", "-O", "full", "-o", &self.name, "-f", &signed];
        if signing != Signing::Rsa {
            arguments.push("-z");
        }
        match signing {
            Signing::Nsec3 | Signing::Rsa => arguments.extend(["-3", "aabb", "-H", "0"]),
            Signing::OptOut => arguments.extend(["-3", "-", "-H", "0", "-A"]),
            _ => {}
        }
        arguments.extend(match signing {
            Signing::Expired => ["-s", "20240101000000", "-e", "20240201000000"],
            _ => ["-s", "now-86400", "-e", "now+2592000"],
        });
        arguments.push(&file);
        arguments.extend(keys.iter().map(String::as_str));
        tool("dnssec-signzone", folder, &arguments);
        let text = fs::read_to_string(folder.join(&signed)).expect("the signed zone");
        let mut found = vec![false; self.damage.len()];
        let lines = text.lines().filter_map(|line| self.harm(line, &mut found));
        let text: String = lines.map(|line| line + "\n").collect();
        assert!(!found.contains(&false), "{}: {found:?}", self.name);
        fs::write(folder.join(file), text).expect("a file");
    }

    /// A line of the signed zone as it is after the damage.
    fn harm(&self, line: &str, found: &mut [bool]) -> Option<String> {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.len() > 5 && words[3] == "RRSIG" {
            for (number, (name, kind, damage)) in self.damage.iter().enumerate() {
                if words[0] != *name || words[4] != *kind {
                    continue;
                }
                found[number] = true;
                if *damage == Damage::Stripped {
                    return None;
                }
                let signature = words.last_mut().expect("a signature");
                let other = if signature[5..].starts_with('A') {
                    "B"
                } else {
                    "A"
                };
                signature.replace_range(5..6, other);
                return Some(words.join(" "));
            }
        }
        Some(line.to_owned())
    }
}

/// A program of a Debian package.
fn program(name: &str, path: &str) -> PathBuf {
    let paths = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(name));
    let found = paths.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| unpacked(name, path))
}

/// Runs one of BIND's tools in a folder, and gives what it says.
fn tool(name: &str, folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program(name, &format!("bind/usr/bin/{name}")))
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap_or_else(missing(name));
    assert!(
        output.status.success(),
        "{name} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// A server that ends with us.
struct Process(Child);

impl Process {
    /// Starts it, and waits until it says on standard error that it is ready.
    fn start(mut command: Command, ready: &str) -> Process {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = Process(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let stderr = process.0.stderr.take().expect("standard error is a pipe");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut said = String::new();
        loop {
            let Some(line) = lines.next() else {
                panic!("{command:?} has ended: {said}");
            };
            if line.contains(ready) {
                break;
            }
            said = said + "\n" + &line;
        }
        // It would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Knot with zones, the root's included.
pub struct Authority {
    address: SocketAddr,
    zones: Vec<String>,
    anchor: String,
    // It ends before its folder goes.
    _process: Process,
    folder: TempDir,
}

impl Authority {
    /// Signs the zones, the first of which is the root, and serves them.
    pub fn start(zones: &[Zone]) -> Authority {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let keys: Vec<Vec<String>> = zones.iter().map(|zone| zone.make_keys(path)).collect();
        let mut delegations: BTreeMap<&str, String> = BTreeMap::new();
        for (zone, keys) in zones.iter().zip(&keys) {
            let parents = zones.iter().filter(|parent| parent.contains(&zone.name));
            if let Some(parent) = parents.max_by_key(|parent| parent.name.len()) {
                let text = delegations.entry(&parent.name).or_default();
                text.push_str(&format!("{} NS ns.servers.test.\n", zone.name));
                text.push_str(&zone.ds_records(path, keys));
            }
        }
        for (zone, keys) in zones.iter().zip(&keys) {
            let name = &zone.name;
            let mut text = format!(
                "$ORIGIN {name}\n$TTL 300\n@ SOA ns.servers.test. h.test. 1 3600 600 86400 60\n\
                 @ NS ns.servers.test.\n"
            );
            let lines = zone.body.lines().map(|line| format!("{}\n", line.trim()));
            text.extend(lines);
            text.extend(delegations.remove(name.as_str()));
            text.extend(keys.iter().map(|key| public(path, key)));
            fs::write(path.join(zone.file()), text).expect("a file");
            zone.sign(path, keys);
        }
        let address = free_address();
        let (at, storage) = (endpoint(address), path.display());
        let mut config = format!(
            "server:\n    rundir: \"{storage}\"\n    listen: {at}\n    udp-workers: 1\n    tcp-workers: 1\n    \
             background-workers: 1\ndatabase:\n    storage: \"{storage}\"\nlog:\n  - target: stderr\n    any: info\n\
             template:\n  - id: default\n    storage: \"{storage}\"\n    semantic-checks: off\n    \
             zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\nzone:\n"
        );
        for zone in zones {
            let (name, file) = (&zone.name, zone.file());
            config.push_str(&format!("  - domain: \"{name}\"\n    file: \"{file}\"\n"));
        }
        fs::write(path.join("knot.conf"), config).expect("a file");
        let mut command = Command::new(program("knotd", "knot/usr/sbin/knotd"));
        command.arg("-c").arg(path.join("knot.conf"));
        Authority {
            address,
            zones: zones.iter().map(|zone| zone.name.clone()).collect(),
            anchor: public(path, &keys[0][0]),
            _process: Process::start(command, "server started"),
            folder,
        }
    }

    /// The root's key as the content of a trust anchor file.
    pub fn trust_anchor(&self) -> &str {
        &self.anchor
    }

    /// An Unbound that asks this server, and others for further zones. It validates or passes DNSSEC on only.
    pub fn resolver(&self, validates: bool, others: &[(&str, SocketAddr)]) -> Unbound {
        self.resolver_at(free_address(), validates, others)
    }

    /// The same at an address.
    pub fn resolver_at(
        &self,
        address: SocketAddr,
        validates: bool,
        others: &[(&str, SocketAddr)],
    ) -> Unbound {
        let path = self.folder.path();
        let (name, modules) = match validates {
            true => ("validating", "validator iterator"),
            false => ("passing", "iterator"),
        };
        let anchor = path.join("anchor");
        fs::write(&anchor, &self.anchor).expect("a file");
        let mut config = format!(
            "server:
    interface: {at}
    port: {port}
    do-daemonize: no
    username: \"\"
    chroot: \"\"
    directory: \"{folder}\"
    pidfile: \"{folder}/{name}.pid\"
    use-syslog: no
    verbosity: 1
    module-config: \"{modules}\"
    trust-anchor-file: \"{anchor}\"
    do-not-query-localhost: no
    access-control: 127.0.0.0/8 allow
    do-ip6: no
    num-threads: 1
    msg-cache-size: 4m
    rrset-cache-size: 4m
    local-zone: \"test.\" nodefault
    edns-buffer-size: 1232
    harden-below-nxdomain: no
    minimal-responses: no
    qname-minimisation: no
remote-control:
    control-enable: no
",
            at = endpoint(address),
            port = address.port(),
            folder = path.display(),
            anchor = anchor.display(),
        );
        let own = self.zones.iter().map(|zone| (zone.as_str(), self.address));
        for (zone, server) in own.chain(others.iter().copied()) {
            config.push_str(&format!(
                "stub-zone:\n    name: \"{zone}\"\n    stub-addr: {}\n",
                endpoint(server)
            ));
        }
        let file = path.join(format!("{name}.conf"));
        fs::write(&file, config).expect("a file");
        let mut command = Command::new(program("unbound", "unbound/usr/sbin/unbound"));
        command.arg("-d").arg("-c").arg(file);
        Unbound {
            address,
            _process: Process::start(command, "start of service"),
        }
    }
}

/// A running Unbound.
pub struct Unbound {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

/// An address as Knot and Unbound write it.
fn endpoint(address: SocketAddr) -> String {
    format!("{}@{}", address.ip(), address.port())
}

/// The public half of a key, as a record.
fn public(folder: &Path, key: &str) -> String {
    fs::read_to_string(folder.join(format!("{key}.key"))).expect("a key")
}
