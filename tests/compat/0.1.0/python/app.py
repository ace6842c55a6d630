"""The policy of the compatibility fixtures, in Python. ../README.md says what it decides."""

from dataclasses import replace

from wit_world.exports import Evaluation
from wit_world.exports.evaluation import *

BANK = "contosobank.com"
NAME = "mail.contosobank.com"
KEY = (1, 0x2233445566778899, 0xFEDCBA9876543210, 2**64 - 1)
LOST = (2**64 - 1, 0, 1, 0x8000000000000000)
# 2100-01-01.
LAST_DAY = 4102444800
TLS_1_2 = 0x0303
TLS_1_3 = 0x0304


class Evaluation(Evaluation):
    def evaluate(self, context):
        if context.direction == Direction.INBOUND:
            return inbound(context)
        return outbound(context)

    def explain(self, context):
        if context.direction == Direction.INBOUND:
            considered = [consider_bank(context), consider_trial(context)]
            others = 0
        else:
            enabled = [it for it in outbound_connectors() if it.mode != Mode.DISABLED]
            considered = [consider_outbound(it, context) for it in enabled]
            others = 1
        return Explanation(self.evaluate(context), considered, others)

    def describe(self, first, limit):
        connectors = inbound_connectors() + outbound_connectors()
        return Description(
            organization="Contoso",
            accepted_domains=["contoso.com", "xn--contos-rva.example"],
            reads=list(Fact),
            authorities=[
                NamedAuthority(name, "To Contoso Bank") for name in ("public", "Contoso CA")
            ],
            total=len(connectors),
            connectors=connectors[first : first + limit],
        )


def inbound(context):
    audit = findings(context)
    to = domain(context.rcpt_to)
    if to == "closed.contoso.com":
        text = "this mailbox is closed \N{EN DASH} for good"
        return Verdict_Reject(Refusal(None, "closed", 554, "5.2.1", text, audit))
    if to == "later.contoso.com":
        return Verdict_Defer(Refusal(None, "busy", 450, "4.2.1", "try again later", audit))
    if domain(context.mail_from) != BANK:
        return Verdict_Accept(Acceptance([], audit))
    requirements = bank_requirements(context)
    for it in requirements:
        if it.satisfied == Outcome.NO:
            text = f"{it.fact} where {it.expected} is required"
            return Verdict_Reject(
                Refusal("Contoso Bank", it.requirement, 550, "5.7.1", text, audit)
            )
    for it in requirements:
        if it.satisfied == Outcome.UNKNOWN:
            text = f"{it.requirement} cannot be checked now"
            return Verdict_Defer(
                Refusal("Contoso Bank", "fact-unavailable", 451, "4.7.0", text, audit)
            )
    return Verdict_Accept(Acceptance(["Contoso Bank"], audit))


def outbound(context):
    to = domain(context.rcpt_to)
    if to == "closed.example":
        text = "we do not write to them"
        return Verdict_Reject(Refusal("Closed", "closed", 550, "5.7.1", text, []))
    if to == "later.example":
        return Verdict_Defer(Refusal(None, "busy", 451, "4.4.1", "they do not answer", []))
    for connector in outbound_connectors():
        if connector.mode != Mode.DISABLED and connector.selects.recipient_domains == [to]:
            return Verdict_Deliver(connector.delivery)
    return Verdict_Deliver(by_mx(None, opportunistic()))


def findings(context):
    """What the connector in audit mode would have refused."""
    requirement = trial_requirement(context)
    if requirement.satisfied == Outcome.YES:
        return []
    if requirement.satisfied == Outcome.NO:
        return [Finding("Trial", requirement.requirement)]
    return [Finding("Trial", "fact-unavailable")]


def trial_requirement(context):
    return version_requirement(context, TLS_1_3)


def bank_requirements(context):
    def fingerprint(it):
        return it.sha256 and (it.sha256 != LOST, hex_text(it.sha256))

    def key(it):
        return it.key_sha256 and (it.key_sha256 == KEY, hex_text(it.key_sha256))

    def expiry(it):
        return None if it.not_after is None else (it.not_after < LAST_DAY, str(it.not_after))

    def trust(it):
        if it.trust is None:
            return None
        return it.trust == Trust.TRUSTED, it.trust.name.lower().replace("_", "-")

    def authority(it):
        return None if it.anchors is None else ("public" in it.anchors, ",".join(it.anchors))

    def name(it):
        return None if it.dns_names is None else (NAME in it.dns_names, ",".join(it.dns_names))

    helo = context.helo
    return [
        source_ip(context),
        encryption(context),
        version_requirement(context, TLS_1_2),
        presented(context),
        of_certificate(context, "certificate-fingerprint", f"not {hex_text(LOST)}", fingerprint),
        of_certificate(context, "certificate-key", hex_text(KEY), key),
        of_certificate(context, "certificate-expiry", f"before {LAST_DAY}", expiry),
        of_certificate(context, "certificate-untrusted", "trusted", trust),
        of_certificate(context, "certificate-authority", "public", authority),
        of_certificate(context, "certificate-name", NAME, name),
        header_from(context),
        RequirementOutcome(
            "helo", answer(helo != "localhost"), "not localhost", "none" if helo is None else helo
        ),
        attributes(context),
    ]


def source_ip(context):
    expected = "203.0.113.0/24 or 2001:db8:7::/48"
    match context.client_ip:
        case ClientAddress_Known(ip):
            match ip:
                case IpAddress_Ipv4(octets):
                    is_theirs = octets >> 8 == 0xCB0071
                case IpAddress_Ipv6((upper, _)):
                    is_theirs = upper >> 16 == 0x20010DB80007
            return RequirementOutcome("source-ip", answer(is_theirs), expected, ip_text(ip))
        case ClientAddress_Unknown():
            return RequirementOutcome("source-ip", Outcome.UNKNOWN, expected, "unknown")
    return RequirementOutcome("source-ip", Outcome.NO, expected, "none")


def encryption(context):
    match context.security:
        case SessionSecurity_Encrypted(tls):
            satisfied, fact = Outcome.YES, f"encrypted {tls.cipher}"
        case SessionSecurity_Unknown():
            satisfied, fact = Outcome.UNKNOWN, "unknown"
        case SessionSecurity_Plaintext():
            satisfied, fact = Outcome.NO, "plaintext"
    return RequirementOutcome("tls", satisfied, "encryption", fact)


def version_requirement(context, least):
    satisfied, fact = Outcome.UNKNOWN, "unknown"
    match context.security:
        case SessionSecurity_Plaintext():
            satisfied, fact = Outcome.NO, "none"
        case SessionSecurity_Encrypted(tls) if tls.version is not None:
            satisfied, fact = answer(tls.version >= least), str(tls.version)
    return RequirementOutcome("tls-version", satisfied, str(least), fact)


def certificate(context):
    """The certificate; without encryption there is none."""
    match context.security:
        case SessionSecurity_Plaintext():
            return PeerCertificate_None_()
        case SessionSecurity_Encrypted(tls):
            return tls.certificate
    return PeerCertificate_Unknown()


def presented(context):
    match certificate(context):
        case PeerCertificate_None_():
            satisfied, fact = Outcome.NO, "none"
        case PeerCertificate_Unknown():
            satisfied, fact = Outcome.UNKNOWN, "unknown"
        case PeerCertificate_Presented(it):
            satisfied, fact = Outcome.YES, f"{it.subject} by {it.issuer}"
    return RequirementOutcome("certificate-missing", satisfied, "a certificate", fact)


def of_certificate(context, name, expected, read):
    """A requirement on a field, which is unknown where `read` gives nothing."""
    satisfied, fact = Outcome.UNKNOWN, "unknown"
    match certificate(context):
        case PeerCertificate_None_():
            satisfied, fact = Outcome.NO, "none"
        case PeerCertificate_Presented(it):
            if found := read(it):
                satisfied, fact = answer(found[0]), found[1]
    return RequirementOutcome(name, satisfied, expected, fact)


def header_from(context):
    match context.header_from:
        case HeaderFrom_Pending():
            # The host asks again.
            satisfied, fact = Outcome.YES, "pending"
        case HeaderFrom_Unknown():
            satisfied, fact = Outcome.UNKNOWN, "unknown"
        case HeaderFrom_Addresses(addresses):
            is_blocked = any(domain(it) == "blocked.example" for it in addresses)
            satisfied, fact = answer(not is_blocked), ",".join(addresses)
    return RequirementOutcome("header-from", satisfied, "not blocked.example", fact)


def attributes(context):
    is_listed = Attribute("example.listed", "yes") in context.attributes
    fact = ",".join(f"{it.name}={it.value}" for it in context.attributes)
    return RequirementOutcome("listed", answer(not is_listed), "not listed", fact)


def consider_bank(context):
    matched = domain(context.mail_from) == BANK
    selector = SelectorOutcome("from.sender-domains", answer(matched), BANK, context.mail_from)
    requirements = bank_requirements(context) if matched else []
    return Consideration("Contoso Bank", Mode.ENFORCE, answer(matched), [selector], requirements)


def consider_trial(context):
    selectors = [
        SelectorOutcome("from.sender-domains", Outcome.YES, "*", context.mail_from),
        SelectorOutcome("to.recipient-domains", Outcome.YES, "*", context.rcpt_to),
    ]
    requirements = [trial_requirement(context)]
    return Consideration("Trial", Mode.AUDIT, Outcome.YES, selectors, requirements)


def consider_outbound(connector, context):
    [pattern] = connector.selects.recipient_domains
    matched = answer(pattern == domain(context.rcpt_to))
    selector = SelectorOutcome("to.recipient-domains", matched, pattern, context.rcpt_to)
    return Consideration(connector.name, connector.mode, matched, [selector], [])


def inbound_connectors():
    return [
        Connector(
            name="Contoso Bank",
            direction=Direction.INBOUND,
            mode=Mode.ENFORCE,
            applies_to="from contosobank.com",
            requires="encryption, its certificate, its addresses",
            comment="agreed in Z\N{LATIN SMALL LETTER U WITH DIAERESIS}rich",
            selects=Selectors(
                sender_domains=[BANK],
                sender_ips=["203.0.113.0/24", "2001:db8:7::/48"],
                certificate_names=[NAME],
                recipient_domains=["*"],
            ),
            delivery=None,
            reads=list(Fact),
        ),
        Connector(
            name="Trial",
            direction=Direction.INBOUND,
            mode=Mode.AUDIT,
            applies_to="from everyone",
            requires="TLS 1.3",
            comment=None,
            selects=Selectors(["*"], [], [], ["*"]),
            delivery=None,
            reads=[Fact.TLS, Fact.TLS_VERSION],
        ),
    ]


def outbound_connectors():
    to_bank = Delivery(
        connector="To Contoso Bank",
        route=Route_SmartHosts(
            [
                SmartHost(Host_Name("mx1.contosobank.com"), 2525),
                SmartHost(Host_Address(IpAddress_Ipv4(0xC0000201)), None),
                SmartHost(Host_Address(IpAddress_Ipv6((0x20010DB800000000, 0x25))), 65535),
            ]
        ),
        tls=Protection(
            level=TlsLevel_Name([NAME, "*.contosobank.com"]),
            min_version=TLS_1_2,
            fingerprints=[LOST, KEY],
            keys=[KEY],
            authorities=["public", "Contoso CA"],
            dane=Dane.NONE,
            mta_sts=MtaSts.NONE,
        ),
        audit_tls=None,
        audit_connector=None,
        audit=[],
    )
    verified = replace(
        opportunistic(), level=TlsLevel_Verify(), min_version=TLS_1_3, dane=Dane.MANDATORY
    )
    encrypted = replace(
        by_mx("Encrypted", replace(opportunistic(), level=TlsLevel_Encrypt())),
        audit_tls=verified,
        audit_connector="Verified",
        audit=[Finding("Verified", "tls")],
    )
    former = by_mx("Former", opportunistic())
    by_name = by_mx("Verified", verified)
    return [
        outbound_connector("To Contoso Bank", Mode.ENFORCE, BANK, "its smart hosts", to_bank),
        outbound_connector(
            "Verified", Mode.ENFORCE, "verify.example", "a trusted certificate", by_name
        ),
        outbound_connector("Encrypted", Mode.AUDIT, "encrypt.example", "encryption", encrypted),
        outbound_connector("Former", Mode.DISABLED, "former.example", "", former),
    ]


def outbound_connector(name, mode, to, requires, delivery):
    return Connector(
        name=name,
        direction=Direction.OUTBOUND,
        mode=mode,
        applies_to=f"to {to}",
        requires=requires,
        comment=None,
        selects=Selectors([], [], [], [to]),
        delivery=delivery,
        reads=[Fact.RCPT_TO],
    )


def by_mx(connector, tls):
    return Delivery(connector, Route_Mx(), tls, None, None, [])


def opportunistic():
    level = TlsLevel_Opportunistic()
    return Protection(level, None, [], [], [], Dane.OPPORTUNISTIC, MtaSts.OPPORTUNISTIC)


def answer(holds):
    return Outcome.YES if holds else Outcome.NO


def domain(address):
    return address.rpartition("@")[2].lower() if "@" in address else ""


def hex_text(digest):
    return "".join(f"{word:016x}" for word in digest)


def ip_text(ip):
    match ip:
        case IpAddress_Ipv4(octets):
            return ".".join(str(octet) for octet in octets.to_bytes(4, "big"))
        case IpAddress_Ipv6(halves):
            groups = (half >> shift & 0xFFFF for half in halves for shift in (48, 32, 16, 0))
            return ":".join(f"{group:x}" for group in groups)
