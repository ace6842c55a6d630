//! Configurations of the daemon, put together from their parts.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::pki::Identity;
use crate::{Dns, Pki};

/// Rules that refuse nothing.
pub const NO_RULES: &str = r#"{"connectors": []}"#;

/// A configuration (TOML), and the files beside it.
#[derive(Clone)]
pub struct Config {
    hostname: String,
    listeners: Vec<Listener>,
    tables: Vec<Table>,
    files: Vec<(String, Vec<u8>)>,
    tenant_files: Option<String>,
}

/// A table: its header, and a line for each key.
#[derive(Clone)]
struct Table {
    header: String,
    lines: Vec<String>,
}

impl Table {
    /// A key that is there already gets the new value.
    fn put(&mut self, line: &str) {
        let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
        match self.lines.iter_mut().find(|own| key(own) == key(line)) {
            Some(own) => *own = line.to_owned(),
            None => self.lines.push(line.to_owned()),
        }
    }
}

impl Display for Table {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}", self.header)?;
        self.lines
            .iter()
            .try_for_each(|line| writeln!(to, "{line}"))
    }
}

impl Config {
    /// The configuration of `mx.contoso.com`, which has no listener yet.
    pub fn new() -> Config {
        Config {
            hostname: "mx.contoso.com".into(),
            listeners: Vec::new(),
            tables: Vec::new(),
            files: Vec::new(),
            tenant_files: None,
        }
    }

    /// With further tenants in files like these.
    pub fn tenant_files(mut self, pattern: &str) -> Config {
        self.tenant_files = Some(pattern.into());
        self
    }

    /// Of another host, which comes before its certificate.
    pub fn hostname(mut self, name: &str) -> Config {
        self.hostname = name.into();
        self
    }

    /// With one more listener.
    pub fn listener(mut self, listener: Listener) -> Config {
        self.listeners.push(listener);
        self
    }

    /// With one more tenant: it is called by the first label of its domain, and its rules are in the file of that
    /// name, `contoso.json`.
    pub fn tenant(self, domain: &str, rules: &str) -> Config {
        let (name, _) = domain.split_once('.').expect("a domain of two labels");
        let policy = format!("{name}.json");
        self.tenant_with(name, &[domain], &policy)
            .file(&policy, rules)
    }

    /// With one more tenant, whose policy is in that file.
    pub fn tenant_with(self, name: &str, domains: &[&str], policy: &str) -> Config {
        self.with(&format!(
            "[[tenant]]\nname = {name:?}\ndomains = {domains:?}\npolicy = {policy:?}"
        ))
    }

    /// With a file beside it.
    pub fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Config {
        self.files.push((name.into(), content.as_ref().to_vec()));
        self
    }

    /// With the files `NAME.pem` and `NAME.key`.
    pub fn identity(self, name: &str, identity: &Identity) -> Config {
        self.file(&format!("{name}.pem"), &identity.certificate_pem)
            .file(&format!("{name}.key"), &identity.key_pem)
    }

    /// With a certificate of this authority for listeners with TLS.
    pub fn certificate(self, pki: &Pki) -> Config {
        let identity = pki.trusted(&[&self.hostname]);
        self.identity("server", &identity)
    }

    /// Trusting this authority.
    pub fn trust(self, pki: &Pki) -> Config {
        self.with("[trust]\nroots = \"ca.pem\"")
            .file("ca.pem", &pki.root_pem)
    }

    /// Trusting another authority where a connector names it; its root is in `NAME-roots.pem`. Only these tenants may
    /// name it, if any are given.
    pub fn authority(self, name: &str, pki: &Pki, tenants: &[&str]) -> Config {
        let roots = format!("{name}-roots.pem");
        let tenants = match tenants {
            [] => String::new(),
            some => format!("tenants = {some:?}"),
        };
        self.with(&format!(
            "[[trust.authority]]\nname = {name:?}\nroots = {roots:?}\n{tenants}"
        ))
        .file(&roots, &pki.root_pem)
    }

    /// Asking this name server, and trusting its root.
    pub fn dns(self, dns: &Dns) -> Config {
        let address = dns.address();
        self.with(&format!(
            "[dns]\nservers = [\"{address}\"]\ntrust-anchor = \"root.key\""
        ))
        .file("root.key", dns.trust_anchor())
    }

    /// With partners on this machine, whose mail exchangers have that port.
    pub fn partners_here(self, port: u16) -> Config {
        self.with(&format!(
            "[delivery]
             port = {port}
             state-directory = \"state\"
             private-networks = [\"127.0.0.0/8\", \"::1\"]"
        ))
    }

    /// With these tables, a line for each key. What a table has already is replaced, but for `[[...]]`, which is
    /// always one more.
    pub fn with(mut self, tables: &str) -> Config {
        let mut current = None;
        for line in tables
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            if line.starts_with('[') {
                current = Some(self.open(line));
            } else {
                let table = current.expect("a header comes first");
                self.tables[table].put(line);
            }
        }
        self
    }

    /// The number of the table with this header.
    fn open(&mut self, header: &str) -> usize {
        let is_list = header.starts_with("[[");
        let mut tables = self.tables.iter();
        match tables.position(|table| !is_list && table.header == header) {
            Some(known) => known,
            None => {
                self.tables.push(Table {
                    header: header.into(),
                    lines: Vec::new(),
                });
                self.tables.len() - 1
            }
        }
    }

    /// With the listeners at these addresses.
    pub fn at(mut self, addresses: &[SocketAddr]) -> Config {
        for (listener, address) in self.listeners.iter_mut().zip(addresses) {
            listener.address = address.to_string();
        }
        self
    }

    /// Writes the files beside it into a folder.
    pub fn write_files(&self, folder: &Path) {
        for (name, content) in &self.files {
            fs::write(folder.join(name), content).expect("a file is written");
        }
    }

    /// Writes those of the files beside it into a folder that it does not have.
    pub fn write_missing_files(&self, folder: &Path) {
        for (name, content) in &self.files {
            let path = folder.join(name);
            if !path.exists() {
                fs::write(path, content).expect("a file is written");
            }
        }
    }

    /// Writes the configuration, `portcullis.toml`, and the files beside it into a folder.
    pub fn write(&self, folder: &Path) {
        self.write_files(folder);
        fs::write(folder.join("portcullis.toml"), self.to_string()).expect("a file is written");
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}

impl Display for Config {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "hostname = {:?}", self.hostname)?;
        if let Some(pattern) = &self.tenant_files {
            writeln!(to, "tenants = {pattern:?}")?;
        }
        for listener in &self.listeners {
            write!(to, "{listener}")?;
        }
        self.tables
            .iter()
            .try_for_each(|table| write!(to, "{table}"))
    }
}

/// A listener on a free port of 127.0.0.1.
#[derive(Clone)]
pub struct Listener {
    address: String,
    lines: Vec<String>,
}

impl Listener {
    fn new(line: String) -> Listener {
        Listener {
            address: "127.0.0.1:0".into(),
            lines: vec![line],
        }
    }

    /// In front of the Maildir `mail` of the daemon's folder.
    pub fn maildir() -> Listener {
        Listener::next_hop("maildir = \"mail\"")
    }

    /// In front of a server that speaks SMTP.
    pub fn smtp(server: SocketAddr) -> Listener {
        Listener::next_hop(&format!("smtp = \"{server}\""))
    }

    /// In front of a server that speaks LMTP.
    pub fn lmtp(server: SocketAddr) -> Listener {
        Listener::next_hop(&format!("lmtp = \"{server}\""))
    }

    /// In front of the next hop that this describes, what stands between the braces.
    pub fn next_hop(description: &str) -> Listener {
        Listener::new(format!("next-hop = {{ {description} }}"))
    }

    /// For mail to partners, from those whom this describes, what stands between the braces.
    pub fn outbound(description: &str) -> Listener {
        Listener::new(format!("outbound = {{ {description} }}"))
    }

    /// With one more line.
    pub fn with(mut self, line: &str) -> Listener {
        self.lines.push(line.into());
        self
    }

    /// With STARTTLS, and the configuration's certificate.
    pub fn starttls(self) -> Listener {
        self.with("certificate = \"server.pem\"")
            .with("key = \"server.key\"")
    }

    /// With TLS from the first octet on, and the configuration's certificate.
    pub fn implicit_tls(self) -> Listener {
        self.with("tls = \"implicit\"").starttls()
    }

    /// For clients that come through the PROXY protocol.
    pub fn proxied(self) -> Listener {
        self.with("proxy-protocol = [\"127.0.0.0/8\"]")
    }
}

impl Display for Listener {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "[[listener]]\naddress = {:?}", self.address)?;
        self.lines
            .iter()
            .try_for_each(|line| writeln!(to, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_value_that_came_last() {
        let config = Config::new()
            .listener(Listener::maildir())
            .with("[delivery]\nstate = \"one\"\nport = 1\n[limits]\nerrors = 2")
            .with("[delivery]\nstate = \"two\"");
        let text = "hostname = \"mx.contoso.com\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
                    next-hop = { maildir = \"mail\" }\n[delivery]\nstate = \"two\"\nport = 1\n\
                    [limits]\nerrors = 2\n";
        assert_eq!(config.to_string(), text);
    }

    #[test]
    fn each_tenant_is_one_more() {
        let config = Config::new()
            .tenant("contoso.com", NO_RULES)
            .tenant("fabrikam.com", NO_RULES);
        let text = config.to_string();
        assert_eq!(text.matches("[[tenant]]").count(), 2, "{text}");
        assert!(text.contains("domains = [\"contoso.com\"]\npolicy = \"contoso.json\""));
    }
}
