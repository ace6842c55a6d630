//! The configuration of `portcullis run` (TOML).
//!
//! Reading it decides nothing yet: files that it names are opened by those who use them. What is
//! wrong is told with line and column.

mod problem;
mod show;
mod validate;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::problem::Problem;
pub use self::values::client_key;
use portcullis::{CompileLimits, TenantSource};

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The file that it was read from.
    #[serde(skip)]
    pub path: PathBuf,
    /// The name that this host gives in its greeting, to next hops and in Received fields.
    pub hostname: String,
    /// Where to listen.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Whose mail is taken.
    #[serde(rename = "tenant", default)]
    pub tenants: Vec<Tenant>,
    /// What one session, one client and all may use.
    #[serde(default)]
    pub limits: Limits,
    /// How long to wait.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What a policy may use.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Whose certificates are trusted.
    #[serde(default)]
    pub trust: Trust,
    /// How mail leaves for partners.
    #[serde(default)]
    pub delivery: Delivery,
    /// Whom to ask where a domain's servers are.
    #[serde(default)]
    pub dns: Dns,
    /// How long connections to next hops and partners are kept for further messages.
    #[serde(default)]
    pub connections: Connections,
    /// Where numbers are shown.
    pub metrics: Option<Metrics>,
    /// What the log tells of people.
    #[serde(default)]
    pub log: Log,
}

/// A listening socket.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// How TLS begins.
    #[serde(default)]
    pub tls: TlsMode,
    /// The certificate chains (PEM): one, or several for several names and kinds of keys.
    #[serde(default)]
    pub certificate: Paths,
    /// Their keys (PEM), in the same order.
    #[serde(default)]
    pub key: Paths,
    /// The load balancers that speak the PROXY protocol; from these it is demanded, from others it is
    /// not understood.
    #[serde(default, with = "values::networks")]
    pub proxy_protocol: Vec<IpNet>,
    /// Whether recipients are taken whose local part a server behind us could read as another address, a route, a
    /// file or a program.
    #[serde(default)]
    pub allow_untrusted_routing: bool,
    /// Whether names of clients' addresses are looked up; by default if the next hop is told them.
    pub client_names: Option<bool>,
    /// Where accepted mail goes.
    pub next_hop: Option<NextHop>,
    /// Instead of a next hop: the organization's own servers send their mail to partners here.
    pub outbound: Option<Outbound>,
}

/// A listener for the mail that the organization sends.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Outbound {
    /// The addresses of the organization's own servers.
    #[serde(default, with = "values::networks")]
    pub clients: Vec<IpNet>,
    /// Names of which their trusted certificates carry one, `*.name` for all below as well.
    #[serde(default)]
    pub certificate_names: Vec<String>,
    /// The SHA-256 of their certificates, in hexadecimal.
    #[serde(default)]
    pub certificate_fingerprints: Vec<String>,
    /// Whose policy decides where the sender's domain is no tenant's: for notifications, whose sender is
    /// `<>`, and for mail that is passed on. Not needed where there is one tenant.
    pub tenant: Option<String>,
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// By STARTTLS (RFC 3207), if there is a certificate.
    #[default]
    Starttls,
    /// With the first octet.
    Implicit,
    /// Never.
    None,
}

/// Where accepted mail goes.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NextHop {
    /// An SMTP server, `host:port`.
    pub smtp: Option<String>,
    /// An LMTP server (RFC 2033), `host:port` or `unix:/path`.
    pub lmtp: Option<String>,
    /// A Maildir.
    pub maildir: Option<PathBuf>,
    /// Whether to use STARTTLS where the server offers it.
    #[serde(default = "yes")]
    pub starttls: bool,
    /// Whether to tell an SMTP server the client's address and name by XCLIENT.
    #[serde(default)]
    pub xclient: bool,
    /// Whether to tell the server the client's address by the PROXY protocol, and in which version.
    pub proxy_protocol: Option<u8>,
    /// How many recipients one transaction may have towards this server; as many as there are by default.
    pub recipients: Option<usize>,
}

fn yes() -> bool {
    true
}

/// An organization.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tenant {
    /// The name, for logs and metrics.
    pub name: String,
    /// The recipient domains, exact or `*.domain` for the domain and all below it.
    pub domains: Vec<String>,
    /// The rules document (.json) or component (.wasm).
    pub policy: PathBuf,
    /// Cases that it must pass before it is taken, as those of a rules document's `tests`.
    pub tests: Option<PathBuf>,
}

impl From<&Tenant> for TenantSource {
    fn from(tenant: &Tenant) -> Self {
        TenantSource {
            name: tenant.name.clone(),
            domains: tenant.domains.clone(),
            policy: tenant.policy.clone(),
            tests: tenant.tests.clone(),
        }
    }
}

/// What one session, one client and all may use.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Octets of a message.
    #[serde(with = "values::size")]
    pub message_size: ByteSize,
    /// Octets of a line of a message, its end included.
    pub text_line: usize,
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Refused commands of a session.
    pub errors: u32,
    /// Commands of a session from one message to the next.
    pub commands: u32,
    /// Sessions at a time.
    pub sessions: usize,
    /// Sessions at a time from one IPv4 address or IPv6 /64.
    pub sessions_per_address: usize,
    /// Received fields of a message; more are a loop (RFC 5321 §6.3).
    pub hops: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_size: ByteSize::mib(50),
            text_line: 8192,
            recipients: 100,
            errors: 20,
            commands: 2000,
            sessions: 2000,
            sessions_per_address: 100,
            hops: 50,
        }
    }
}

/// How long to wait. The defaults are those of RFC 5321 §4.5.3.2.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a client's next command, whole.
    #[serde(with = "values::duration")]
    pub command: Duration,
    /// For the next part of a message.
    #[serde(with = "values::duration")]
    pub data_block: Duration,
    /// For a whole message.
    #[serde(with = "values::duration")]
    pub message: Duration,
    /// For a TLS handshake, or a PROXY header.
    #[serde(with = "values::duration")]
    pub handshake: Duration,
    /// For a connection to the next hop.
    #[serde(with = "values::duration")]
    pub connect: Duration,
    /// For the next hop's reply to a command.
    #[serde(with = "values::duration")]
    pub reply: Duration,
    /// For the next hop's reply to the end of a message.
    #[serde(with = "values::duration")]
    pub final_reply: Duration,
    /// For finding a partner's server and getting it ready, all attempts together. RFC 5321 §4.5.3.2.3
    /// lets a client wait five minutes for the reply to RCPT, which tells the outcome.
    #[serde(with = "values::duration")]
    pub route: Duration,
    /// For sessions to end when the daemon is told to.
    #[serde(with = "values::duration")]
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Timeouts {
            command: minutes(5),
            data_block: minutes(3),
            message: minutes(60),
            handshake: minutes(1),
            connect: Duration::from_secs(30),
            reply: minutes(5),
            final_reply: minutes(10),
            route: minutes(4),
            shutdown: Duration::from_secs(30),
        }
    }
}

/// What a policy may use.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Sandbox {
    /// Memory of an instance.
    #[serde(with = "values::optional_size")]
    pub memory: Option<ByteSize>,
    /// Wall time of an evaluation.
    #[serde(with = "values::optional_duration")]
    pub evaluation: Option<Duration>,
    /// Stack of an instance.
    #[serde(with = "values::optional_size")]
    pub stack: Option<ByteSize>,
    /// Elements of all tables of an instance.
    pub table_elements: Option<usize>,
    /// Instances at a time.
    pub instances: Option<u32>,
    /// Memory of all instances that sessions keep between two questions.
    #[serde(with = "values::optional_size")]
    pub retained_memory: Option<ByteSize>,
    /// Size of a component or rules document.
    #[serde(with = "values::optional_size")]
    pub policy_size: Option<ByteSize>,
    /// Compiled code of policies that is in memory at a time.
    #[serde(with = "values::optional_size")]
    pub code: Option<ByteSize>,
    /// Processor time that it may take to compile a component, in whole seconds.
    #[serde(with = "values::optional_duration")]
    pub compile_time: Option<Duration>,
    /// Memory that it may take to compile a component.
    #[serde(with = "values::optional_size")]
    pub compile_memory: Option<ByteSize>,
    /// Folder of compiled policies; owned by this user, mode 0700.
    pub cache_directory: Option<PathBuf>,
}

impl Sandbox {
    /// With the defaults filled in.
    pub fn limits(&self) -> portcullis::Limits {
        let mut limits = portcullis::Limits::default();
        let bytes = |size: ByteSize| size.as_u64() as usize;
        limits.memory = self.memory.map_or(limits.memory, bytes);
        limits.evaluation = self.evaluation.unwrap_or(limits.evaluation);
        limits.stack = self.stack.map_or(limits.stack, bytes);
        limits.table_elements = self.table_elements.unwrap_or(limits.table_elements);
        limits.instances = self.instances.unwrap_or(limits.instances);
        limits.retained_memory = self.retained_memory.map_or(limits.retained_memory, bytes);
        limits.policy_size = self.policy_size.map_or(limits.policy_size, bytes);
        limits.code = self.code.map_or(limits.code, |size| size.as_u64());
        limits
    }

    /// What it may take to compile a component.
    pub fn compile_limits(&self) -> CompileLimits {
        let defaults = CompileLimits::default();
        CompileLimits {
            time: self.compile_time.unwrap_or(defaults.time),
            memory: self
                .compile_memory
                .map_or(defaults.memory, |size| size.as_u64()),
        }
    }

    /// The folder of compiled policies.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.cache_directory.clone().or_else(default_cache_folder)
    }
}

/// The folder of compiled policies where none is configured: systemd's, or the user's.
pub fn default_cache_folder() -> Option<PathBuf> {
    folder_of("CACHE_DIRECTORY")
        .or_else(|| folder_of("XDG_CACHE_HOME").map(|folder| folder.join("portcullis")))
        .or_else(|| folder_of("HOME").map(|folder| folder.join(".cache/portcullis")))
}

/// The folder of what must not be lost, where none is configured. It is not that of compiled policies, which may be
/// emptied at any time.
fn default_state_folder() -> Option<PathBuf> {
    folder_of("STATE_DIRECTORY")
        .or_else(|| folder_of("XDG_STATE_HOME").map(|folder| folder.join("portcullis")))
        .or_else(|| folder_of("HOME").map(|folder| folder.join(".local/state/portcullis")))
}

fn folder_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// How mail leaves for partners.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Delivery {
    /// The certificate chain (PEM) that is shown to partners who ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// The addresses that connections come from, at most one of each family.
    pub source_addresses: Vec<IpAddr>,
    /// Which addresses of a partner's servers are used.
    pub address_family: AddressFamily,
    /// The port of mail exchangers, and of smart hosts that name none.
    pub port: u16,
    /// The port of MTA-STS policy servers.
    pub mta_sts_port: u16,
    /// Folder in which MTA-STS policies are kept.
    pub state_directory: Option<PathBuf>,
    /// Networks that mail is sent to although they belong to this machine or its link only.
    #[serde(with = "values::networks")]
    pub private_networks: Vec<IpNet>,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            certificate: None,
            key: None,
            source_addresses: Vec::new(),
            address_family: AddressFamily::Any,
            port: 25,
            mta_sts_port: 443,
            state_directory: None,
            private_networks: Vec::new(),
        }
    }
}

impl Delivery {
    /// The folder of what outlives the process: the configured one, systemd's, or the user's.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_directory.clone().or_else(default_state_folder)
    }
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum AddressFamily {
    /// Both families.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// Whom to ask where a domain's servers are.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Dns {
    /// Recursive name servers, address and port; the system's if there are none.
    pub servers: Vec<SocketAddr>,
    /// Whether answers are validated by DNSSEC. Without, DANE never applies.
    pub dnssec: bool,
    /// The keys of the root (DNSKEY records); the Internet's if absent.
    pub trust_anchor: Option<PathBuf>,
    /// Name servers whose word for it that an answer is proven (the AD bit) is taken, beside those on loopback: nobody
    /// can change what comes from them.
    pub trust_ad: Vec<IpAddr>,
    /// For one answer of a name server.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            servers: Vec::new(),
            dnssec: true,
            trust_anchor: None,
            trust_ad: Vec::new(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// How long connections are kept for further messages.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Connections {
    /// To partners, at a time, by one route and with one protection.
    pub per_route: usize,
    /// That are kept idle, in all.
    pub max_idle: usize,
    /// How long one is kept idle.
    #[serde(with = "values::duration")]
    pub idle: Duration,
    /// How long one is used; after that the partner's certificate and records are looked at anew.
    #[serde(with = "values::duration")]
    pub lifetime: Duration,
    /// How many messages one carries.
    pub messages: u32,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            per_route: 20,
            max_idle: 200,
            idle: Duration::from_secs(20),
            lifetime: Duration::from_secs(300),
            messages: 100,
        }
    }
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Trust {
    /// Root certificates (PEM) in place of the system's.
    pub roots: Option<Paths>,
    /// Root certificates (PEM) beside those.
    pub additional_roots: Paths,
    /// Folder of revocation lists (PEM or DER).
    pub crls: Option<PathBuf>,
    /// Authorities that connectors name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authority: Vec<Authority>,
}

/// An authority that is trusted where a connector names it (`certificate-authorities`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Authority {
    /// Its name in rules.
    pub name: String,
    /// Its root certificates (PEM).
    pub roots: Paths,
    /// The tenants whose rules may name it; all, if absent.
    pub tenants: Option<Vec<String>>,
}

/// A file, or a list of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl std::ops::Deref for Paths {
    type Target = Vec<PathBuf>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [only] => only.serialize(to),
            several => several.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Files;
        impl<'de> Visitor<'de> for Files {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a file such as \"mx.pem\", or a list of files")
            }

            fn visit_str<E>(self, text: &str) -> Result<Paths, E> {
                Ok(Paths(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_any(Files)
    }
}

/// Where numbers are shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of an HTTP server with `/metrics`, for Prometheus.
    pub address: SocketAddr,
}

/// What the log tells of people.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Log {
    /// Mailboxes of envelopes, and those in what other servers say.
    pub mailboxes: Mailboxes,
    /// Addresses of clients.
    pub clients: Clients,
}

/// What is told of a mailbox.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mailboxes {
    /// All of it.
    #[default]
    Full,
    /// Its domain.
    Domain,
}

/// What is told of a client's address.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Clients {
    /// All of it.
    #[default]
    Full,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Network,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What.
        problem: Box<Problem>,
    },
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// Says where in the file and what.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut config = Config::parse(&text, folder).map_err(|problem| ConfigError::Wrong {
            path: path.into(),
            problem,
        })?;
        config.path = path.into();
        Ok(config)
    }

    /// Reads a configuration whose relative paths start at `folder`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, Box<Problem>> {
        let mut config: Config =
            toml::from_str(text).map_err(|error| Box::new(Problem::of_reader(text, &error)))?;
        config
            .validate()
            .map_err(|wrong| Box::new(Problem::of_value(text, wrong)))?;
        config.resolve(folder);
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        for listener in &mut self.listeners {
            listener.certificate.iter_mut().for_each(absolute);
            listener.key.iter_mut().for_each(absolute);
            if let Some(hop) = &mut listener.next_hop {
                hop.maildir.iter_mut().for_each(absolute);
            }
        }
        self.delivery.certificate.iter_mut().for_each(absolute);
        self.delivery.key.iter_mut().for_each(absolute);
        self.delivery.state_directory.iter_mut().for_each(absolute);
        self.dns.trust_anchor.iter_mut().for_each(absolute);
        self.tenants
            .iter_mut()
            .flat_map(|tenant| [Some(&mut tenant.policy), tenant.tests.as_mut()])
            .flatten()
            .for_each(absolute);
        let trust = &mut self.trust;
        trust
            .roots
            .iter_mut()
            .for_each(|paths| paths.iter_mut().for_each(absolute));
        trust.additional_roots.iter_mut().for_each(absolute);
        let roots = trust
            .authority
            .iter_mut()
            .flat_map(|it| it.roots.iter_mut());
        roots.for_each(absolute);
        trust.crls.iter_mut().for_each(absolute);
        self.sandbox.cache_directory.iter_mut().for_each(absolute);
    }
}

impl Listener {
    /// Whether names of clients' addresses are looked up.
    pub fn wants_client_names(&self) -> bool {
        let told = self.next_hop.as_ref().is_some_and(|hop| hop.xclient);
        self.client_names.unwrap_or(told)
    }
}
