//! Verdicts.

use alloc::string::String;
use alloc::vec::Vec;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::{Dane, EnhancedCode, MtaSts, Sha256, SmartHost, tls_version_name};

/// A decision about one recipient of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Inbound: accept the mail.
    Accept(Acceptance),
    /// Refuse it permanently (5yz).
    Reject(Refusal),
    /// Refuse it temporarily (4yz).
    Defer(Refusal),
    /// Outbound: deliver the mail.
    Deliver(Delivery),
}

/// The mail is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// The names of the enforced connectors that matched, most specific first.
    pub connectors: Vec<String>,
    /// What connectors in audit mode would have refused.
    pub audit: Vec<Finding>,
}

/// The mail is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The connector that refuses; absent if no single one does.
    pub connector: Option<String>,
    /// The stable name of the requirement that failed.
    pub failed: String,
    /// The SMTP reply code.
    pub code: u16,
    /// The enhanced status code (RFC 3463).
    pub enhanced: String,
    /// The text of the reply.
    pub text: String,
    /// What connectors in audit mode would have refused.
    pub audit: Vec<Finding>,
}

/// What a connector in audit mode found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the connector.
    pub connector: String,
    /// The requirement that failed.
    pub failed: String,
}

/// Where outbound mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// The mail exchangers of the recipient's domain.
    Mx,
    /// These hosts, in order.
    SmartHosts(Vec<SmartHost>),
}

/// The TLS level that the next hop must reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsLevel {
    /// None; TLS is used if offered.
    Opportunistic,
    /// TLS, with any certificate.
    Encrypt,
    /// A certificate that a trusted authority issued, for any name.
    Verify,
    /// And for one of these names.
    Name(Vec<String>),
}

impl TlsLevel {
    /// The word for the level.
    pub fn name(&self) -> &'static str {
        match self {
            TlsLevel::Opportunistic => "opportunistic",
            TlsLevel::Encrypt => "encrypt",
            TlsLevel::Verify => "verify",
            TlsLevel::Name(_) => "name",
        }
    }
}

/// What the next hop must satisfy before mail is sent to it. All of it must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// The level.
    pub level: TlsLevel,
    /// The lowest TLS version on the wire; absent for any.
    pub min_version: Option<u16>,
    /// The certificate is one of these.
    pub fingerprints: Vec<Sha256>,
    /// The certificate has one of these public keys.
    pub keys: Vec<Sha256>,
    /// The trusted chain ends at one of these authorities. Empty: at `public`, where the level asks for trust.
    pub authorities: Vec<String>,
    /// TLSA records.
    pub dane: Dane,
    /// MTA-STS.
    pub mta_sts: MtaSts,
}

impl Protection {
    /// The protection if no connector asks for more.
    pub const OPPORTUNISTIC: Protection = Protection {
        level: TlsLevel::Opportunistic,
        min_version: None,
        fingerprints: Vec::new(),
        keys: Vec::new(),
        authorities: Vec::new(),
        dane: Dane::Opportunistic,
        mta_sts: MtaSts::Opportunistic,
    };
}

/// How outbound mail is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The connector that decided; absent if none matches the recipient's domain.
    pub connector: Option<String>,
    /// The route.
    pub route: Route,
    /// The protection.
    pub tls: Protection,
    /// The protection that a connector in audit mode asks for.
    pub audit_tls: Option<Protection>,
    /// The connector that `audit_tls` belongs to, if it is another one than `connector`.
    pub audit_connector: Option<String>,
    /// What connectors in audit mode would have refused.
    pub audit: Vec<Finding>,
}

impl Verdict {
    /// The word for the verdict.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Accept(_) => "accept",
            Verdict::Reject(_) => "reject",
            Verdict::Defer(_) => "defer",
            Verdict::Deliver(_) => "deliver",
        }
    }

    /// What connectors in audit mode found.
    pub fn audit(&self) -> &[Finding] {
        match self {
            Verdict::Accept(acceptance) => &acceptance.audit,
            Verdict::Reject(refusal) | Verdict::Defer(refusal) => &refusal.audit,
            Verdict::Deliver(delivery) => &delivery.audit,
        }
    }

    /// The same, to change it.
    pub fn audit_mut(&mut self) -> &mut Vec<Finding> {
        match self {
            Verdict::Accept(acceptance) => &mut acceptance.audit,
            Verdict::Reject(refusal) | Verdict::Defer(refusal) => &mut refusal.audit,
            Verdict::Deliver(delivery) => &mut delivery.audit,
        }
    }

    /// Has a refusal answered with codes of its class, whatever a policy says: a host, or whoever asks it, sends them to
    /// the client, for which `250` is no refusal.
    pub fn correct_codes(&mut self) {
        let (refusal, class, code, enhanced) = match self {
            Verdict::Accept(_) | Verdict::Deliver(_) => return,
            Verdict::Reject(refusal) => (refusal, 500, 550, "5.7.1"),
            Verdict::Defer(refusal) => (refusal, 400, 451, "4.7.1"),
        };
        // RFC 5321 section 4.2.1: the second digit is at most 5.
        if !(class..class + 60).contains(&refusal.code) {
            refusal.code = code;
        }
        let parsed = refusal.enhanced.parse::<EnhancedCode>();
        if !parsed.is_ok_and(|parsed| parsed.fits(class)) {
            refusal.enhanced = enhanced.into();
        }
    }

    /// All texts in it, to make them harmless.
    pub fn texts_mut(&mut self, each: &mut dyn FnMut(&mut String)) {
        let audit = match self {
            Verdict::Accept(acceptance) => {
                acceptance.connectors.iter_mut().for_each(&mut *each);
                &mut acceptance.audit
            }
            Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
                refusal.connector.iter_mut().for_each(&mut *each);
                each(&mut refusal.failed);
                each(&mut refusal.enhanced);
                each(&mut refusal.text);
                &mut refusal.audit
            }
            Verdict::Deliver(delivery) => {
                delivery.texts_mut(each);
                return;
            }
        };
        for finding in audit {
            each(&mut finding.connector);
            each(&mut finding.failed);
        }
    }
}

impl Delivery {
    /// All texts in it, to make them harmless.
    pub fn texts_mut(&mut self, each: &mut dyn FnMut(&mut String)) {
        self.connector.iter_mut().for_each(&mut *each);
        self.audit_connector.iter_mut().for_each(&mut *each);
        if let Route::SmartHosts(hosts) = &mut self.route {
            for SmartHost { host, .. } in hosts {
                if let crate::Host::Name(name) = host {
                    each(name);
                }
            }
        }
        for protection in self.audit_tls.iter_mut().chain([&mut self.tls]) {
            if let TlsLevel::Name(names) = &mut protection.level {
                names.iter_mut().for_each(&mut *each);
            }
            protection.authorities.iter_mut().for_each(&mut *each);
        }
        for finding in &mut self.audit {
            each(&mut finding.connector);
            each(&mut finding.failed);
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("verdict", self.name())?;
        match self {
            Verdict::Accept(acceptance) => {
                map.serialize_entry("connectors", &acceptance.connectors)?;
                map.serialize_entry("audit", &acceptance.audit)?;
            }
            Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
                if let Some(connector) = &refusal.connector {
                    map.serialize_entry("connector", connector)?;
                }
                map.serialize_entry("failed", &refusal.failed)?;
                map.serialize_entry("code", &refusal.code)?;
                map.serialize_entry("enhanced", &refusal.enhanced)?;
                map.serialize_entry("text", &refusal.text)?;
                if !refusal.audit.is_empty() {
                    map.serialize_entry("audit", &refusal.audit)?;
                }
            }
            Verdict::Deliver(delivery) => delivery.serialize_entries(&mut map)?,
        }
        map.end()
    }
}

impl Delivery {
    fn serialize_entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if let Some(connector) = &self.connector {
            map.serialize_entry("connector", connector)?;
        }
        map.serialize_entry("route", &self.route)?;
        map.serialize_entry("tls", &OfLevel(&self.tls))?;
        serialize_published(&self.tls, map)?;
        if let Some(protection) = &self.audit_tls {
            map.serialize_entry("audit-tls", protection)?;
        }
        if let Some(connector) = &self.audit_connector {
            map.serialize_entry("audit-connector", connector)?;
        }
        map.serialize_entry("audit", &self.audit)
    }
}

/// A delivery without a verdict around it, as in a description.
impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        self.serialize_entries(&mut map)?;
        map.end()
    }
}

/// What the rules call `tls`: the protection without what the next hop's domain publishes.
struct OfLevel<'a>(&'a Protection);

impl Serialize for OfLevel<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        serialize_level(self.0, &mut map)?;
        map.end()
    }
}

impl Serialize for Protection {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        serialize_level(self, &mut map)?;
        serialize_published(self, &mut map)?;
        map.end()
    }
}

fn serialize_level<M: SerializeMap>(protection: &Protection, map: &mut M) -> Result<(), M::Error> {
    map.serialize_entry("level", protection.level.name())?;
    if let TlsLevel::Name(names) = &protection.level {
        map.serialize_entry("names", names)?;
    }
    if let Some(version) = protection.min_version {
        map.serialize_entry("min-version", &tls_version_name(version))?;
    }
    for (key, digests) in [
        ("certificate-fingerprints", &protection.fingerprints),
        ("certificate-keys", &protection.keys),
    ] {
        if !digests.is_empty() {
            map.serialize_entry(key, digests)?;
        }
    }
    if !protection.authorities.is_empty() {
        map.serialize_entry("certificate-authorities", &protection.authorities)?;
    }
    Ok(())
}

/// The default is not written.
fn serialize_published<M: SerializeMap>(
    protection: &Protection,
    map: &mut M,
) -> Result<(), M::Error> {
    if protection.dane != Dane::Opportunistic {
        map.serialize_entry("dane", &protection.dane)?;
    }
    if protection.mta_sts != MtaSts::Opportunistic {
        map.serialize_entry("mta-sts", &protection.mta_sts)?;
    }
    Ok(())
}
