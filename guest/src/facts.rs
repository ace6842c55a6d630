//! The facts of a context, in the normal forms in which rules are compared with them.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::IpAddr;

use portcullis_types::COMMON_NAME;

use crate::connector::{PUBLIC, Texts};
use crate::names::{self, CertificateName};
use crate::truth::Truth;
use crate::{
    Certificate, ClientAddress, Context, Fact, HeaderFrom, PeerCertificate, SessionSecurity, Tls,
    Trust,
};

/// A fact that may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// It is known not to be there.
    Absent,
    /// It is this.
    Is(T),
    /// The host cannot tell.
    Unknown,
}

impl<T> Known<T> {
    /// Whether it is there.
    pub fn is_there(&self) -> Truth {
        match self {
            Known::Absent => Truth::No,
            Known::Is(_) => Truth::Yes,
            Known::Unknown => Truth::Unknown,
        }
    }

    /// Whether it is there and satisfies something.
    pub fn satisfies(self, test: impl FnOnce(T) -> Truth) -> Truth {
        match self {
            Known::Absent => Truth::No,
            Known::Is(value) => test(value),
            Known::Unknown => Truth::Unknown,
        }
    }
}

/// A domain that mail is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// The domain; the null sender has none.
    Domain(Option<&'a str>),
    /// That of a header which the host never learns.
    Unknown,
}

/// The facts of one context.
pub struct Facts<'a> {
    /// The context.
    pub context: &'a Context,
    /// The client's address.
    pub client_ip: Known<IpAddr>,
    /// The envelope sender's domain.
    pub sender: Option<Cow<'a, str>>,
    /// The domains of the From header's addresses, where the policy asks for them.
    pub header_from: Vec<Option<Cow<'a, str>>>,
    /// Whether the policy asks for a From header that the host never learns.
    pub header_is_unknown: bool,
    /// The recipient's domain.
    pub recipient: Option<Cow<'a, str>>,
    certificate_names: Vec<CertificateName<'a>>,
}

impl<'a> Facts<'a> {
    /// The facts of a context; the From header is only read where that is asked for.
    pub fn new(context: &'a Context, reads_header_from: bool) -> Self {
        let header_from = match &context.header_from {
            HeaderFrom::Addresses(addresses) if reads_header_from => &addresses[..],
            _ => &[],
        };
        let presented = match certificate(context) {
            Known::Is(certificate) => Some(certificate),
            Known::Absent | Known::Unknown => None,
        };
        let names = presented.and_then(|certificate| certificate.dns_names.as_deref());
        // Of all its names this one may be known.
        let common_name = presented
            .filter(|certificate| certificate.dns_names.is_none())
            .and_then(|_| common_name(context));
        Facts {
            context,
            client_ip: match context.client_ip {
                ClientAddress::None => Known::Absent,
                ClientAddress::Known(ip) => Known::Is(ip.into()),
                ClientAddress::Unknown => Known::Unknown,
            },
            sender: names::address_domain(&context.mail_from),
            header_from: header_from
                .iter()
                .map(|address| names::address_domain(address))
                .collect(),
            header_is_unknown: reads_header_from
                && matches!(context.header_from, HeaderFrom::Unknown),
            recipient: names::address_domain(&context.rcpt_to),
            certificate_names: names
                .unwrap_or_default()
                .iter()
                .map(|name| &name[..])
                .chain(common_name)
                .filter_map(CertificateName::parse)
                .collect(),
        }
    }

    /// The encryption of the session.
    pub fn tls(&self) -> Known<&'a Tls> {
        tls(self.context)
    }

    /// The TLS version.
    pub fn version(&self) -> Known<u16> {
        match self.tls() {
            Known::Is(tls) => tls.version.map_or(Known::Unknown, Known::Is),
            Known::Absent => Known::Absent,
            Known::Unknown => Known::Unknown,
        }
    }

    /// The certificate that the peer presented.
    pub fn certificate(&self) -> Known<&'a Certificate> {
        certificate(self.context)
    }

    /// The certificate that the peer presented, if that is known.
    pub fn presented(&self) -> Option<&'a Certificate> {
        match self.certificate() {
            Known::Is(certificate) => Some(certificate),
            Known::Absent | Known::Unknown => None,
        }
    }

    /// The well-formed names of the certificate, whatever it is worth.
    pub fn certificate_names(&self) -> &[CertificateName<'a>] {
        &self.certificate_names
    }

    /// Whether a name of the certificate fits. Where not all of them are known, one that is may fit, and that none
    /// does cannot be told.
    pub fn has_name(&self, fits: impl FnMut(&CertificateName) -> bool) -> Truth {
        let fits = self.certificate_names.iter().any(fits);
        self.certificate()
            .satisfies(|certificate| match certificate.dns_names {
                None if !fits => Truth::Unknown,
                _ => fits.into(),
            })
    }

    /// Whether the certificate's chain is trusted.
    pub fn is_trusted(&self) -> Truth {
        let is_trusted = |trust| Truth::from(trust == Trust::Trusted);
        self.certificate()
            .satisfies(|certificate| certificate.trust.map_or(Truth::Unknown, is_trusted))
    }

    /// Whether the chain ends at one of these authorities; without any, at the ordinary roots.
    pub fn is_anchored(&self, authorities: Texts) -> Truth {
        self.certificate()
            .satisfies(|certificate| match &certificate.anchors {
                None => Truth::Unknown,
                Some(anchors) => {
                    let is_accepted = |anchor: &str| match authorities.is_empty() {
                        true => anchor == PUBLIC,
                        false => authorities.iter().any(|authority| authority == anchor),
                    };
                    anchors.iter().any(|anchor| is_accepted(anchor)).into()
                }
            })
    }

    /// The domains that the mail is sent as: the envelope's and, where a policy asks, the header's.
    pub fn identities(&self) -> impl Iterator<Item = Identity<'_>> {
        let header = self
            .header_from
            .iter()
            .map(|domain| Identity::Domain(domain.as_deref()));
        let unknown = self.header_is_unknown.then_some(Identity::Unknown);
        core::iter::once(Identity::Domain(self.sender.as_deref()))
            .chain(header)
            .chain(unknown)
    }

    /// Which fact is unknown where something about a certificate is: the session, the certificate or what is asked of
    /// it.
    pub fn unknown_of_certificate(&self, asked: Fact) -> Fact {
        match (self.tls(), self.certificate()) {
            (Known::Unknown, _) => Fact::Tls,
            (_, Known::Unknown) => Fact::Certificate,
            _ => asked,
        }
    }
}

fn tls(context: &Context) -> Known<&Tls> {
    match &context.security {
        SessionSecurity::Plaintext => Known::Absent,
        SessionSecurity::Encrypted(tls) => Known::Is(tls),
        SessionSecurity::Unknown => Known::Unknown,
    }
}

fn certificate(context: &Context) -> Known<&Certificate> {
    match tls(context) {
        Known::Absent => Known::Absent,
        Known::Unknown => Known::Unknown,
        Known::Is(tls) => match &tls.certificate {
            PeerCertificate::None => Known::Absent,
            PeerCertificate::Presented(certificate) => Known::Is(certificate),
            PeerCertificate::Unknown => Known::Unknown,
        },
    }
}

impl Trust {
    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        portcullis_types::Trust::from(self).name()
    }
}
/// A name of the certificate where not all of them are known: what Postfix tells of one is its CN. An authority lists that
/// among the names (CA/Browser Forum, Baseline Requirements 7.1.4.3), so it is one of them whatever the others are.
pub fn common_name(context: &Context) -> Option<&str> {
    let mut attributes = context.attributes.iter();
    let attribute = attributes.find(|attribute| attribute.name == COMMON_NAME)?;
    Some(&attribute.value)
}
