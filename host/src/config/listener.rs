//! Listeners: where mail comes in, who may send it there, and where it goes.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::next_hop::{NextHop, RawNextHop, fingerprints};
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Wrong, wrong};
use super::tenant::Tenant;
use super::values::{self, CertificateFiles, Paths};
use portcullis::{Sha256, is_well_formed};

/// A listening socket.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawListener {
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
    #[cfg_attr(test, schemars(with = "super::schema::Networks"))]
    pub proxy_protocol: Vec<IpNet>,
    /// Whether recipients are taken whose local part a server behind us could read as another address, a route, a
    /// file or a program.
    #[serde(default)]
    pub allow_untrusted_routing: bool,
    /// Whether names of clients' addresses are looked up; by default if the next hop is told them.
    pub client_names: Option<bool>,
    /// The clients whose lines may end in LF, which becomes CRLF.
    #[serde(default, with = "values::networks")]
    #[cfg_attr(test, schemars(with = "super::schema::Networks"))]
    pub normalize: Vec<IpNet>,
    /// The clients that may use cipher suites which are no good ones any more.
    #[serde(default, with = "values::networks")]
    #[cfg_attr(test, schemars(with = "super::schema::Networks"))]
    pub legacy_ciphers: Vec<IpNet>,
    /// Where accepted mail goes.
    pub next_hop: Option<RawNextHop>,
    /// Instead of a next hop: the organization's own servers send their mail to partners here.
    pub outbound: Option<RawOutbound>,
}

/// Who may send to partners.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawOutbound {
    /// The addresses of the organization's own servers.
    #[serde(default, with = "values::networks")]
    #[cfg_attr(test, schemars(with = "super::schema::Networks"))]
    pub clients: Vec<IpNet>,
    /// Names of which their trusted certificates carry one, `*.name` for all below as well.
    #[serde(default)]
    pub certificate_names: Vec<String>,
    /// The SHA-256 of their certificates, in hexadecimal.
    #[serde(default)]
    pub certificate_fingerprints: Vec<String>,
    /// The file of the names and passwords with which others log in.
    pub password_file: Option<PathBuf>,
    /// Whose policy decides where the sender's domain is no tenant's: for notifications, whose sender is
    /// `<>`, and for mail that is passed on. Not needed where there is one tenant.
    pub tenant: Option<String>,
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// How TLS begins.
    pub tls: TlsMode,
    /// The certificates: one, or several for several names and kinds of keys.
    pub certificates: Vec<CertificateFiles>,
    /// The load balancers that speak the PROXY protocol; from these it is demanded, from others it is
    /// not understood.
    pub proxy_protocol: Vec<IpNet>,
    /// Whether recipients are taken whose local part a server behind us could read as another address, a route, a
    /// file or a program.
    pub allow_untrusted_routing: bool,
    /// Whether names of clients' addresses are looked up; absent if the next hop decides.
    pub client_names: Option<bool>,
    /// The clients whose lines may end in LF, which becomes CRLF.
    pub normalize: Vec<IpNet>,
    /// The clients that may use cipher suites which are no good ones any more.
    pub legacy_ciphers: Vec<IpNet>,
    /// Where accepted mail goes.
    pub destination: Destination,
}

/// Where the mail of a listener goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Mail from partners goes to a next hop.
    NextHop(NextHop),
    /// Mail from the organization's own servers goes to partners.
    Outbound(Outbound),
}

/// Who may send to partners: the organization's own servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Their addresses.
    pub clients: Vec<IpNet>,
    /// Names of which their trusted certificates carry one, `*.name` for all below as well.
    pub certificate_names: Vec<String>,
    /// The digests of their certificates.
    pub certificate_fingerprints: Vec<Sha256>,
    /// The file of the names and passwords with which others log in.
    pub password_file: Option<PathBuf>,
    /// Whose policy decides where the sender's domain is no tenant's. Absent if there is one tenant.
    pub tenant: Option<String>,
}

impl RawListener {
    pub(super) fn check(self) -> Result<Listener, Wrong> {
        let certificates = self.certificates()?;
        if certificates.is_empty() && self.tls == TlsMode::Implicit {
            return wrong([Name("tls")], "\"implicit\" needs a certificate");
        }
        let has_tls = !certificates.is_empty() && self.tls != TlsMode::None;
        if !self.legacy_ciphers.is_empty() && !has_tls {
            let message = "there is no TLS without certificate and key";
            return wrong([Name("legacy-ciphers")], message);
        }
        let destination = match (self.next_hop, self.outbound) {
            (Some(hop), None) => Destination::NextHop(
                hop.check()
                    .map_err(|wrong| wrong.below(&[Name("next-hop")]))?,
            ),
            (None, Some(outbound)) => Destination::Outbound(
                outbound
                    .check(has_tls)
                    .map_err(|wrong| wrong.below(&[Name("outbound")]))?,
            ),
            (None, None) => return wrong([], "a listener needs next-hop or outbound"),
            (Some(_), Some(_)) => {
                return wrong(
                    [Name("outbound")],
                    "a listener has next-hop or outbound, not both",
                );
            }
        };
        Ok(Listener {
            address: self.address,
            tls: self.tls,
            certificates,
            proxy_protocol: self.proxy_protocol,
            allow_untrusted_routing: self.allow_untrusted_routing,
            client_names: self.client_names,
            normalize: self.normalize,
            legacy_ciphers: self.legacy_ciphers,
            destination,
        })
    }

    fn certificates(&self) -> Result<Vec<CertificateFiles>, Wrong> {
        if self.certificate.len() != self.key.len() {
            let key = match self.certificate.is_empty() {
                true => "key",
                false => "certificate",
            };
            return wrong([Name(key)], "certificate and key belong together");
        }
        let pairs = self.certificate.iter().zip(self.key.iter());
        Ok(pairs
            .map(|(certificate, key)| CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
            })
            .collect())
    }

    /// Whether names of clients' addresses are looked up.
    pub(super) fn wants_client_names(&self) -> bool {
        let told = self.next_hop.as_ref().is_some_and(|hop| hop.xclient);
        self.client_names.unwrap_or(told)
    }
}

impl RawOutbound {
    /// A listener that `has_certificate` can ask clients for theirs.
    fn check(self, has_certificate: bool) -> Result<Outbound, Wrong> {
        let by_certificate =
            !self.certificate_names.is_empty() || !self.certificate_fingerprints.is_empty();
        if self.clients.is_empty() && !by_certificate && self.password_file.is_none() {
            return wrong(
                [],
                "it needs clients, certificate-names, certificate-fingerprints or password-file: it would relay for anybody",
            );
        }
        if self.password_file.is_some() && !has_certificate {
            return wrong(
                [Name("password-file")],
                "clients log in over TLS only, which needs certificate and key",
            );
        }
        if by_certificate && !has_certificate {
            return wrong(
                [],
                "clients show certificates over TLS, which needs certificate and key",
            );
        }
        for (number, name) in self.certificate_names.iter().enumerate() {
            if !is_well_formed(name) {
                let message = format!("{name:?} is not a certificate name");
                return wrong([Name("certificate-names"), Number(number)], message);
            }
        }
        let certificate_fingerprints = fingerprints(&self.certificate_fingerprints)?;
        Ok(Outbound {
            clients: self.clients,
            certificate_names: self.certificate_names,
            certificate_fingerprints,
            password_file: self.password_file,
            tenant: self.tenant,
        })
    }
}

impl Listener {
    /// Whether names of clients' addresses are looked up.
    pub fn wants_client_names(&self) -> bool {
        let told = matches!(
            &self.destination,
            Destination::NextHop(NextHop::Smtp { xclient: true, .. })
        );
        self.client_names.unwrap_or(told)
    }
}

/// Of outbound listeners: somebody decides about mail whose sender is no tenant's.
/// Tenants that are named are known, unless they may be in files of their own.
pub(super) fn validate_senders(
    listeners: &[Listener],
    tenants: &[Tenant],
    has_files: bool,
) -> Outcome {
    for (number, listener) in listeners.iter().enumerate() {
        let Destination::Outbound(outbound) = &listener.destination else {
            continue;
        };
        let of_listener = [Name("listener"), Number(number), Name("outbound")];
        let [list, place, own] = of_listener;
        match &outbound.tenant {
            Some(tenant) if !has_files && !tenants.iter().any(|known| known.name == *tenant) => {
                return wrong(
                    [list, place, own, Name("tenant")],
                    format!("there is no tenant {tenant:?}"),
                );
            }
            None if has_files || tenants.len() != 1 => {
                return wrong(
                    of_listener,
                    "it needs tenant, since there is not exactly one: it decides on mail whose sender is no tenant's, such as <>",
                );
            }
            _ => {}
        }
    }
    Ok(())
}
