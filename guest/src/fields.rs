//! The fields of the objects in a rules document: the reader knows no others, and `docs/schemas/rules.schema.json` is
//! made of the same tables.

/// A field of an object.
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    #[cfg(test)]
    pub kind: Kind,
    /// What it is for, in one line.
    #[cfg(test)]
    pub about: &'static str,
}

/// A table of fields.
pub type Fields = [Field];

/// What the value of a field is. The schema says it in full.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Text,
    Texts,
    Address,
    Anchor,
    AuditTls,
    Authorities,
    CertificateFact,
    CertificateNames,
    ClientIp,
    Code,
    Connectors,
    Context,
    Dane,
    Digest,
    Digests,
    Direction,
    Domains,
    Enabled,
    EnhancedCode,
    Expectation,
    ExpectedCode,
    ExpectedDane,
    ExpectedMtaSts,
    ExpectedRoute,
    ExpectedText,
    ExpectedTexts,
    ExpectedTls,
    Findings,
    HeaderFrom,
    MatchHeaderFrom,
    MinVersion,
    Mode,
    Moment,
    MtaSts,
    Name,
    OwnDomains,
    Ranges,
    Reply,
    ReplyText,
    Require,
    RequireTls,
    Route,
    Selectors,
    SmartHosts,
    Tests,
    TlsFact,
    TlsLevel,
    Tls,
    Trust,
    Unknown,
    Verdict,
    Version,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $table:ident { $($name:literal: $kind:ident, $about:literal;)+ })+) => {
        $($(#[$doc])*
        pub const $table: &Fields = &[$(Field {
            name: $name,
            #[cfg(test)]
            kind: Kind::$kind,
            #[cfg(test)]
            about: $about,
        }),+];)+
    };
}

fields! {
    /// The document.
    DOCUMENT {
        "organization": Text, "The name of the organization, for people.";
        "accepted-domains": OwnDomains, "The domains that the organization receives mail for.";
        "connectors": Connectors, "The connectors.";
        "tests": Tests, "Cases that the rules must pass before they are accepted.";
        "$schema": Text, "The JSON Schema of this document, for editors. It is ignored.";
    }

    /// A connector, in either direction.
    CONNECTOR {
        "name": Name, "The name, unique in the document. It appears in replies, in logs and in metrics.";
        "direction": Direction, "Whether the mail comes from a partner or goes to one.";
        "enabled": Enabled, "Whether the connector is in use. With `false`, it has no effect in any mode.";
        "mode": Mode, "What happens to mail that does not comply: it is refused, or only reported.";
        "comment": Text, "A remark for people. It has no effect.";
        "except": Selectors, "Mail that is selected and matches this is not for the connector.";
    }

    /// What an inbound connector has beside these.
    INBOUND {
        "from": Selectors, "The mail that the connector is for. All selectors that are given must match.";
        "match-header-from": MatchHeaderFrom, "Whether `sender-domains` are compared with the From header as well.";
        "require": Require, "What the mail must satisfy. All of it must hold.";
        "reply": Reply, "The SMTP reply to mail that does not comply.";
    }

    /// What an outbound connector has beside these.
    OUTBOUND {
        "to": Selectors, "The mail that the connector is for.";
        "route": Route, "Where the mail goes: to the mail exchangers of the recipient's domain, or to smart hosts.";
        "tls": Tls, "The TLS protection that the next hop must reach.";
        "dane": Dane, "The use of TLSA records (RFC 7672).";
        "mta-sts": MtaSts, "The use of the MTA-STS policy of the recipient's domain (RFC 8461).";
    }

    /// Which mail an inbound connector is for.
    SELECTORS {
        "sender-domains": Domains, "Domains of the sender.";
        "sender-ips": Ranges, "Addresses of the client.";
        "certificate-names": CertificateNames, "Names in the client's trusted certificate.";
        "recipient-domains": Domains, "Domains of the recipient.";
    }

    /// Which mail an outbound connector is for.
    OUTBOUND_SELECTORS {
        "recipient-domains": Domains, "Domains of the recipient.";
    }

    /// What inbound mail must satisfy.
    REQUIRE {
        "tls": RequireTls, "The session is encrypted, perhaps with at least some version of TLS.";
        "certificate-names": CertificateNames, "The client's certificate is trusted and has one of these names.";
        "certificate-fingerprints": Digests, "The client's certificate is one of these: SHA-256 of its DER form.";
        "certificate-keys": Digests, "The client's certificate has one of these public keys: SHA-256 of the subjectPublicKeyInfo.";
        "certificate-authorities": Authorities, "The chain of the client's certificate ends at one of these authorities.";
        "source-ips": Ranges, "The client's address is one of these.";
    }

    /// A floor of the TLS version.
    REQUIRE_TLS {
        "min-version": MinVersion, "The lowest TLS version.";
    }

    /// A reply.
    REPLY {
        "code": Code, "The reply code.";
        "enhanced": EnhancedCode, "The enhanced status code (RFC 3463).";
        "text": ReplyText, "Text that follows the connector and the requirement: one line of at most 250 bytes.";
    }

    /// A route by smart hosts.
    ROUTE {
        "smart-hosts": SmartHosts, "The hosts, in order: name, name:port, [address] or [address]:port.";
    }

    /// The protection of outbound mail. What stands behind `names` needs a level that requires TLS.
    TLS {
        "level": TlsLevel, "The level that the next hop must reach.";
        "names": CertificateNames, "Names of which the next hop's certificate has one; with the level `name`.";
        "min-version": MinVersion, "The lowest TLS version.";
        "certificate-fingerprints": Digests, "The next hop's certificate is one of these: SHA-256 of its DER form.";
        "certificate-keys": Digests, "The next hop's certificate has one of these public keys: SHA-256 of the subjectPublicKeyInfo.";
        "certificate-authorities": Authorities, "The chain of the next hop's certificate ends at one of these authorities.";
    }

    /// A case.
    CASE {
        "name": Text, "The name of the case, for people.";
        "context": Context, "The facts about one recipient of one message.";
        "expect": Expectation, "What the verdict must contain.";
    }

    /// A verdict, as far as a case looks at it. The names are those of `portcullis_types::VERDICT_FIELDS`.
    EXPECTATION {
        "verdict": Verdict, "The verdict.";
        "connector": ExpectedText, "The connector that decides.";
        "connectors": ExpectedTexts, "The enforced connectors that match, most specific first.";
        "failed": ExpectedText, "The requirement that fails.";
        "code": ExpectedCode, "The reply code.";
        "enhanced": ExpectedText, "The enhanced status code.";
        "text": ExpectedText, "The text of the reply.";
        "route": ExpectedRoute, "The route.";
        "tls": ExpectedTls, "The protection; fields that are left out are not compared.";
        "dane": ExpectedDane, "The use of TLSA records.";
        "mta-sts": ExpectedMtaSts, "The use of MTA-STS.";
        "audit-tls": AuditTls, "The protection that a connector in audit mode asks for.";
        "audit-connector": ExpectedText, "The connector that `audit-tls` belongs to.";
        "audit": Findings, "What connectors in audit mode would have refused.";
    }

    /// The facts about one recipient of one message.
    CONTEXT {
        "direction": Direction, "Selects the connectors that apply.";
        "client-ip": ClientIp, "The client's address, or \"unknown\".";
        "helo": Text, "The argument of EHLO or HELO.";
        "tls": TlsFact, "The protection of the session, or \"unknown\". Without it, the session is not encrypted.";
        "mail-from": Address, "The envelope sender; empty for the null sender.";
        "rcpt-to": Address, "The envelope recipient.";
        "header-from": HeaderFrom, "The addresses of the From header, or \"unknown\".";
        "certificate-common-name": Text, "A name of the peer's certificate, where not all of its names are known.";
    }

    /// An encrypted session.
    TLS_FACT {
        "version": Version, "The TLS version, or \"unknown\".";
        "cipher": Text, "The cipher suite.";
        "certificate": CertificateFact, "The peer's certificate, or \"unknown\". Without it, the peer presented none.";
    }

    /// A certificate. What stands before `subject` may be unknown.
    CERTIFICATE_FACT {
        "dns-names": Texts, "The SAN dNSNames; without any, the subject's CN.";
        "sha256": Digest, "The SHA-256 of its DER form.";
        "key-sha256": Digest, "The SHA-256 of its subjectPublicKeyInfo.";
        "not-after": Moment, "The end of its validity.";
        "trust": Trust, "Whether the chain is trusted, or why not.";
        "anchor": Anchor, "The authority, or authorities, whose roots the trusted chain ends at.";
        "subject": Text, "The subject's distinguished name.";
        "issuer": Text, "The issuer's distinguished name.";
        "unknown": Unknown, "The facts that the host cannot tell.";
    }
}

/// The fields of a certificate that may be unknown.
pub const MAY_BE_UNKNOWN: usize = 6;
