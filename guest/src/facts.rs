//! The facts of a context, in the normal forms in which rules are held against them.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::names::{self, CertificateName};
use crate::{Certificate, Context, Tls, Trust};

/// The facts of one context.
pub struct Facts<'a> {
    /// The context.
    pub context: &'a Context,
    /// The client's address.
    pub client_ip: Option<IpAddr>,
    /// The envelope sender's domain.
    pub sender: Option<Cow<'a, str>>,
    /// The domains of the From header's addresses, where the policy asks for them.
    pub header_from: Vec<Option<Cow<'a, str>>>,
    /// The recipient's domain.
    pub recipient: Option<Cow<'a, str>>,
    certificate_names: Vec<CertificateName<'a>>,
}

impl<'a> Facts<'a> {
    /// The facts of a context; the From header is only looked at where that is asked for.
    pub fn new(context: &'a Context, reads_header_from: bool) -> Self {
        let header_from = context.header_from.as_deref().filter(|_| reads_header_from);
        let names = certificate(context).map_or(&[][..], |c| &c.dns_names);
        Facts {
            context,
            client_ip: context.client_ip.map(crate::IpAddress::to_ip),
            sender: names::address_domain(&context.mail_from),
            header_from: header_from
                .unwrap_or_default()
                .iter()
                .map(|address| names::address_domain(address))
                .collect(),
            recipient: names::address_domain(&context.rcpt_to),
            certificate_names: names
                .iter()
                .filter_map(|n| CertificateName::parse(n))
                .collect(),
        }
    }

    /// The encryption of the session.
    pub fn tls(&self) -> Option<&'a Tls> {
        self.context.tls.as_ref()
    }

    /// The certificate that the peer showed.
    pub fn certificate(&self) -> Option<&'a Certificate> {
        certificate(self.context)
    }

    /// The well-formed names of the certificate, whatever it is worth.
    pub fn certificate_names(&self) -> &[CertificateName<'a>] {
        &self.certificate_names
    }

    /// The well-formed names of the certificate, if it is trusted.
    pub fn trusted_names(&self) -> &[CertificateName<'a>] {
        match self.certificate() {
            Some(certificate) if certificate.trust == Trust::Trusted => &self.certificate_names,
            _ => &[],
        }
    }

    /// The sender's domain as the envelope has it and, where a policy asks, as the header has it.
    pub fn identities(&self) -> impl Iterator<Item = Option<&str>> {
        let header = self.header_from.iter().map(Option::as_deref);
        core::iter::once(self.sender.as_deref()).chain(header)
    }
}

fn certificate(context: &Context) -> Option<&Certificate> {
    context.tls.as_ref()?.certificate.as_ref()
}
