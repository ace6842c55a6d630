//! The configuration of `portcullis run` (TOML).
//!
//! It is parsed once: what is written (`RawConfig`) becomes types that can hold nothing else than a usable
//! configuration. Files that it names are opened by those who use them. What is wrong is told with line and column.

mod addresses;
mod admin;
mod egress;
mod error;
mod fleet;
mod folders;
mod frontend;
mod limits;
mod listener;
mod log;
mod next_hop;
mod problem;
mod raw;
#[cfg(test)]
mod schema;
mod show;
mod tenant;
mod trust;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use self::admin::{Admin, Alerts, Validation};
pub use self::egress::{AddressFamily, Connections, Delivery, Dns, SmartHost};
pub use self::error::ConfigError;
pub use self::fleet::{Fleet, Ring};
pub use self::folders::{default_cache_folder, state_file};
pub use self::frontend::{Frontend, KnownFiles, Protocol};
pub use self::limits::{Limits, Sandbox, Timeouts};
pub use self::listener::{Destination, Listener, Outbound, TlsMode};
pub use self::log::{Clients, Decisions, Log, Mailboxes, Metrics, TenantSeries};
pub use self::next_hop::{Login, NextHop, NextHopServer, ProxyVersion};
pub use self::problem::Problem;
pub use self::tenant::{Given, OPERATOR, Tenant, TenantError};
pub use self::trust::{Authority, Policies, Trust};
pub use self::values::{CertificateFiles, Paths, client_key, is_public};

use self::problem::Key::{Name, Number};
use self::problem::{Wrong, wrong};
use self::raw::RawConfig;

/// A configuration that can be used.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The name that this host gives in its greeting, to next hops and in Received fields.
    pub hostname: String,
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// Where other mail servers ask.
    pub frontends: Vec<Frontend>,
    /// Whose mail is taken.
    pub tenants: Vec<Tenant>,
    /// Whether there are further tenants, in files that cannot be used.
    pub lacks_tenants: bool,
    /// The folder of files of further tenants, which are among them.
    pub tenant_folder: Option<PathBuf>,
    /// What one session, one client and all may use.
    pub limits: Limits,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// What is asked about the mail of all tenants before their own policies, like a tenant without domains.
    pub before: Option<Tenant>,
    /// What a policy may use.
    pub sandbox: Sandbox,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// How mail leaves for partners.
    pub delivery: Delivery,
    /// Whom to ask where a domain's servers are.
    pub dns: Dns,
    /// How long connections to next hops and partners are kept for further messages.
    pub connections: Connections,
    /// Where numbers are shown.
    pub metrics: Option<Metrics>,
    /// What the log tells of people.
    pub log: Log,
    /// What is remembered of decisions.
    pub decisions: Decisions,
    /// Where alerts go.
    pub alerts: Alerts,
    /// When connectors are tried out.
    pub validation: Validation,
    /// The API and the page.
    pub admin: Option<Admin>,
    /// The store from which policies come.
    pub fleet: Option<Fleet>,
}

impl Config {
    /// All whose policies are asked: what is asked before all, and then the tenants.
    pub fn askable(&self) -> impl Iterator<Item = &Tenant> {
        self.before.iter().chain(&self.tenants)
    }

    /// At which places the fleet's tenants are, by their names.
    pub fn numbers_of_fleet(&self) -> HashMap<String, usize> {
        let all = self.tenants.iter().enumerate();
        let of_fleet = all.filter(|(_, it)| it.given.is_some());
        of_fleet.map(|(at, it)| (it.name.clone(), at)).collect()
    }

    /// Reads a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// Says where in the file and what.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let (config, errors) = Config::load_after(path, None)?;
        match errors.into_iter().next() {
            None => Ok(config),
            Some(wrong) => Err(wrong.error),
        }
    }

    /// Reads a configuration file, and gives what is wrong with files of single tenants beside it: each of them stays
    /// what it was before.
    ///
    /// # Errors
    /// Says where in the file and what.
    pub fn load_after(
        path: &Path,
        before: Option<&Config>,
    ) -> Result<(Config, Vec<TenantError>), ConfigError> {
        let (raw, mut config) = read_file(path)?;
        config.path = path.into();
        let Some(pattern) = &raw.tenant_files else {
            return Ok((config, Vec::new()));
        };
        let taken = tenant::validate(&config.tenants, config.before.as_ref()).unwrap_or_default();
        let before = before.map_or(&[][..], |before| &before.tenants);
        let included = tenant::include(pattern, taken, before)?;
        config.tenants.extend(included.tenants);
        config.lacks_tenants = included.errors.iter().any(|wrong| !wrong.stays);
        Ok((config, included.errors))
    }

    /// Reads a configuration whose relative paths start at `folder`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, Box<Problem>> {
        let (_, config) = read(text, folder)?;
        Ok(config)
    }

    /// Looks for what cannot be, in the order of this.
    fn of(raw: RawConfig) -> Result<Config, Wrong> {
        let hostname = raw.hostname;
        if hostname.is_empty() || !hostname.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong(
                [Name("hostname")],
                format!("{hostname:?} is not a host name"),
            );
        }
        if raw.listeners.is_empty() && raw.frontends.is_empty() {
            let message = "there is no [[listener]] and no [[frontend]]";
            return wrong([Name("listener")], message);
        }
        let listeners = raw.listeners.into_iter().enumerate();
        let listeners: Vec<Listener> = listeners
            .map(|(number, listener)| {
                let below = [Name("listener"), Number(number)];
                listener.check().map_err(|wrong| wrong.below(&below))
            })
            .collect::<Result<_, _>>()?;
        let frontends = raw.frontends.into_iter().enumerate();
        let frontends: Vec<Frontend> = frontends
            .map(|(number, frontend)| {
                let below = [Name("frontend"), Number(number)];
                let checked = frontend.check();
                checked.map_err(|wrong| wrong.below(&below))
            })
            .collect::<Result<_, _>>()?;
        let tenants = raw.tenants.into_iter().enumerate();
        let tenants: Vec<Tenant> = tenants
            .map(|(number, tenant)| {
                let below = [Name("tenant"), Number(number)];
                tenant.check().map_err(|wrong| wrong.below(&below))
            })
            .collect::<Result<_, _>>()?;
        let before = raw.policy.check();
        tenant::validate(&tenants, before.as_ref())?;
        let folder = raw.tenant_files.as_deref().map(tenant::folder_of);
        if folder == Some(None) {
            return wrong([Name("tenants")], "it is to be like \"tenants.d/*.toml\"");
        }
        let delivery = raw.delivery.check()?;
        raw.connections.validate()?;
        // Tenants of files, and of the fleet, come later.
        let has_others = folder.is_some() || raw.fleet.is_some();
        raw.trust.validate(&tenants, has_others)?;
        egress::validate_smart_hosts(&delivery.smart_hosts, &tenants, has_others)?;
        listener::validate_senders(&listeners, &tenants, has_others)?;
        frontend::validate_tenants(&frontends, &tenants, has_others)?;
        frontend::validate_relays(&frontends, &listeners)?;
        raw.sandbox.validate()?;
        raw.limits.validate()?;
        raw.decisions.validate()?;
        raw.alerts.validate()?;
        if let Some(admin) = &raw.admin {
            admin.validate(raw.fleet.as_ref())?;
        }
        if let Some(fleet) = &raw.fleet {
            fleet.validate(&raw.trust)?;
        }
        addresses::validate(&listeners, &frontends, raw.metrics.as_ref())?;
        Ok(Config {
            path: PathBuf::new(),
            hostname,
            listeners,
            frontends,
            tenants,
            lacks_tenants: false,
            tenant_folder: folder.flatten().map(ToOwned::to_owned),
            limits: raw.limits,
            timeouts: raw.timeouts,
            before,
            sandbox: raw.sandbox,
            trust: raw.trust,
            delivery,
            dns: raw.dns,
            connections: raw.connections,
            metrics: raw.metrics,
            log: raw.log,
            decisions: raw.decisions,
            alerts: raw.alerts,
            validation: raw.validation,
            admin: raw.admin,
            fleet: raw.fleet,
        })
    }
}

/// The configuration of a file as it is in force, defaults included: TOML from which it can be read again. What is not
/// the default is marked with the default.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn show(path: &Path) -> Result<String, ConfigError> {
    let (raw, _) = read_file(path)?;
    Ok(raw.show()?)
}

fn read_file(path: &Path) -> Result<(RawConfig, Config), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read(&text, folder).map_err(|problem| ConfigError::Wrong {
        path: path.into(),
        problem,
    })
}

/// Reads a configuration: as it is written, with relative paths that start at `folder`, and as it can be used.
fn read(text: &str, folder: &Path) -> Result<(RawConfig, Config), Box<Problem>> {
    let mut raw = RawConfig::read(text)?;
    raw.resolve(folder);
    let config = Config::of(raw.clone());
    let config = config.map_err(|wrong| Box::new(Problem::of_value(text, wrong)))?;
    Ok((raw, config))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use portcullis::Sha256;

    use super::*;

    const FINGERPRINT: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    /// A configuration of one tenant, with this in place of a listener, and these tables.
    fn parse(listener: &str, tables: &str) -> Result<Config, Box<Problem>> {
        let text = format!(
            "hostname = \"mx.contoso.com\"\n\
             [[listener]]\naddress = \"127.0.0.1:25\"\n{listener}\n\
             [[tenant]]\nname = \"contoso\"\ndomains = [\"contoso.com\"]\npolicy = \"rules.json\"\n\
             {tables}"
        );
        Config::parse(&text, Path::new("/etc/portcullis"))
    }

    fn destination(listener: &str) -> Destination {
        let mut config = parse(listener, "").unwrap_or_else(|problem| panic!("{problem}"));
        config.listeners.remove(0).destination
    }

    #[test]
    fn next_hops_are_one_of_three_kinds() {
        let server = |address: &str| NextHopServer {
            address: address.into(),
            starttls: true,
            implicit_tls: None,
            login: None,
            proxy_protocol: None,
            recipients: None,
        };
        for (written, parsed) in [
            (
                "smtp = \"10.0.0.5:25\"",
                NextHop::Smtp {
                    server: server("10.0.0.5:25"),
                    xclient: false,
                },
            ),
            (
                "smtp = \"x\", xclient = true, proxy-protocol = 2, recipients = 7",
                NextHop::Smtp {
                    server: NextHopServer {
                        proxy_protocol: Some(ProxyVersion::V2),
                        recipients: NonZeroUsize::new(7),
                        ..server("x")
                    },
                    xclient: true,
                },
            ),
            (
                "lmtp = \"unix:/run/lmtp\", starttls = false, proxy-protocol = 1",
                NextHop::Lmtp {
                    server: NextHopServer {
                        starttls: false,
                        proxy_protocol: Some(ProxyVersion::V1),
                        ..server("unix:/run/lmtp")
                    },
                },
            ),
            (
                "maildir = \"mail\", recipients = 1",
                NextHop::Maildir {
                    folder: "/etc/portcullis/mail".into(),
                    recipients: NonZeroUsize::new(1),
                },
            ),
        ] {
            let found = destination(&format!("next-hop = {{ {written} }}"));
            assert_eq!(found, Destination::NextHop(parsed), "{written}");
        }
    }

    #[test]
    fn outbound_listeners_know_their_clients() {
        let found = destination(&format!(
            "certificate = [\"a.pem\"]\nkey = \"a.key\"\n\
             outbound = {{ clients = [\"10.0.0.1\", \"::ffff:192.0.2.0/120\"], \
             certificate-names = [\"*.contoso.com\"], certificate-fingerprints = [\"{FINGERPRINT}\"] }}"
        ));
        let Destination::Outbound(outbound) = found else {
            panic!("{found:?}")
        };
        let clients: Vec<String> = outbound.clients.iter().map(ToString::to_string).collect();
        assert_eq!(clients, ["10.0.0.1/32", "192.0.2.0/24"]);
        assert_eq!(outbound.certificate_names, ["*.contoso.com"]);
        let digest = Sha256::parse(FINGERPRINT).unwrap();
        assert_eq!(outbound.certificate_fingerprints, [digest]);
        assert_eq!(outbound.tenant, None);
    }

    #[test]
    fn certificates_come_with_their_keys() {
        let listener = "next-hop = { maildir = \"mail\" }\n\
            certificate = [\"a.pem\", \"/b.pem\"]\nkey = [\"a.key\", \"b.key\"]";
        let delivery = "[delivery]\ncertificate = \"c.pem\"\nkey = \"c.key\"";
        let config = parse(listener, delivery).unwrap();
        let files = |certificate: &str, key: &str| CertificateFiles {
            certificate: certificate.into(),
            key: key.into(),
        };
        assert_eq!(
            config.listeners[0].certificates,
            [
                files("/etc/portcullis/a.pem", "/etc/portcullis/a.key"),
                files("/b.pem", "/etc/portcullis/b.key")
            ]
        );
        let own = files("/etc/portcullis/c.pem", "/etc/portcullis/c.key");
        assert_eq!(config.delivery.identity, Some(own));
    }

    #[test]
    fn names_are_looked_up_for_next_hops_that_are_told() {
        for (listener, wants) in [
            ("next-hop = { smtp = \"x\" }", false),
            ("next-hop = { smtp = \"x\", xclient = true }", true),
            (
                "next-hop = { smtp = \"x\", xclient = true }\nclient-names = false",
                false,
            ),
            ("next-hop = { lmtp = \"x\" }\nclient-names = true", true),
            ("outbound = { clients = [\"10.0.0.1\"] }", false),
        ] {
            let config = parse(listener, "").unwrap();
            assert_eq!(
                config.listeners[0].wants_client_names(),
                wants,
                "{listener}"
            );
        }
    }

    #[test]
    fn durations_and_sizes_are_parsed() {
        let tables = "[timeouts]\ncommand = \"1m 30s\"\n[limits]\nmessage-size = \"1KiB\"\n\
            [sandbox]\nmemory = \"2MiB\"";
        let config = parse("next-hop = { maildir = \"mail\" }", tables).unwrap();
        assert_eq!(config.timeouts.command, Duration::from_secs(90));
        assert_eq!(config.limits.message_size.as_u64(), 1024);
        assert_eq!(config.sandbox.limits().memory, 2 << 20);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_key() {
        const MAILDIR: &str = "next-hop = { maildir = \"mail\" }";
        for (listener, tables, path, message) in [
            ("", "", "listener[0]", "next-hop or outbound"),
            ("next-hop = {}", "", "listener[0].next-hop", "exactly one"),
            (
                "next-hop = { smtp = \"x\", lmtp = \"y\" }",
                "",
                "listener[0].next-hop",
                "exactly one",
            ),
            (
                "next-hop = { maildir = \"x\", xclient = true }",
                "",
                "listener[0].next-hop.xclient",
                "smtp next hop",
            ),
            (
                "next-hop = { maildir = \"x\", proxy-protocol = 1 }",
                "",
                "listener[0].next-hop.proxy-protocol",
                "smtp or lmtp",
            ),
            (
                "next-hop = { smtp = \"x\", proxy-protocol = 0 }",
                "",
                "listener[0].next-hop.proxy-protocol",
                "1 or 2",
            ),
            (
                "next-hop = { smtp = \"x\", recipients = 0 }",
                "",
                "listener[0].next-hop.recipients",
                "at least 1",
            ),
            (
                "next-hop = { maildir = \"x\" }\ncertificate = [\"a\", \"b\"]\nkey = [\"a\"]",
                "",
                "listener[0].certificate",
                "belong together",
            ),
            (
                "next-hop = { maildir = \"x\" }\nkey = \"a\"",
                "",
                "listener[0].key",
                "belong together",
            ),
            (
                "outbound = { clients = [\"10.0.0.1\"], tenant = \"nobody\" }",
                "",
                "listener[0].outbound.tenant",
                "no tenant \"nobody\"",
            ),
            (
                "certificate = \"a\"\nkey = \"b\"\noutbound = { certificate-fingerprints = [\"00\"] }",
                "",
                "listener[0].outbound.certificate-fingerprints[0]",
                "not a SHA-256",
            ),
            (
                "certificate = \"a\"\nkey = \"b\"\noutbound = { certificate-names = [\"*\"] }",
                "",
                "listener[0].outbound.certificate-names[0]",
                "not a certificate name",
            ),
            (
                MAILDIR,
                "[delivery]\ncertificate = \"a\"",
                "delivery.certificate",
                "needs key",
            ),
            (
                MAILDIR,
                "[delivery]\nkey = \"a\"",
                "delivery.key",
                "needs certificate",
            ),
            (
                MAILDIR,
                "[delivery]\nport = 0",
                "delivery.port",
                "at least 1",
            ),
            (
                MAILDIR,
                "[sandbox]\ninstances = 0",
                "sandbox.instances",
                "at least 1",
            ),
            (
                MAILDIR,
                "[timeouts]\nroute = \"0s\"",
                "timeouts.route",
                "no time",
            ),
            (
                MAILDIR,
                "[timeouts]\nroute = 5",
                "timeouts.route",
                "expected a time",
            ),
            (
                MAILDIR,
                "[trust]\nauthority = [{ name = \"public\", roots = \"a\" }]",
                "trust.authority[0].name",
                "ordinary roots",
            ),
            (
                MAILDIR,
                "[trust]\nauthority = [{ name = \"a\", roots = [] }]",
                "trust.authority[0].roots",
                "root certificates",
            ),
            (
                MAILDIR,
                "[trust]\nauthority = [{ name = \"a\", roots = \"a\", tenants = [\"b\"] }]",
                "trust.authority[0].tenants",
                "no tenant \"b\"",
            ),
            (
                MAILDIR,
                "[metrics]\naddress = \"0.0.0.0:25\"",
                "metrics.address",
                "taken by listener",
            ),
        ] {
            let problem = parse(listener, tables).expect_err(path);
            assert_eq!(problem.path, path, "{problem}");
            assert!(problem.message.contains(message), "{problem}");
        }
    }
}
