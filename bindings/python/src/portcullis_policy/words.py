"""Contexts and verdicts: the JSON of docs/spec.md, and the values of wit/policy.wit as wasmtime has them."""

from __future__ import annotations

import datetime
import ipaddress
import re
import unicodedata
from typing import Any, Callable

from wasmtime.component import Record, Variant

from .errors import ComponentError, ContextError

UNKNOWN = "unknown"
# The first name of a version is the one that is written.
VERSIONS = {"TLSv1": 0x0301, "TLSv1.0": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
TRUST = ("trusted", "expired", "unknown-issuer", "not-yet-valid", "revoked", "invalid")
CERTIFICATE = ("dns-names", "subject", "issuer", "sha256", "key-sha256", "not-after", "trust", "anchor", "unknown")
FACTS = ("dns-names", "sha256", "key-sha256", "not-after", "trust", "anchor")
CONTEXT = (
    "direction", "client-ip", "helo", "tls", "mail-from", "rcpt-to", "header-from", "certificate-common-name",
)


def record(**fields: Any) -> Record:
    """A record; `_` in the names stands for `-`."""
    made = Record()
    made.__dict__.update({name.replace("_", "-"): value for name, value in fields.items()})
    return made


def _object(value: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """A JSON object that has no other fields; `None` is no fact."""
    if not isinstance(value, dict):
        raise ContextError(f"{where or 'a context'} is an object")
    prefix = f"{where}." if where else ""
    for name, found in value.items():
        if name not in known:
            raise ContextError(f"{prefix}{name}: there is no such field")
        if found is None:
            raise ContextError(f'{prefix}{name}: null is no fact: leave it out, or say "unknown"')
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ContextError(f"{where} is a text")
    # Half of a surrogate pair has no UTF-8. Another character in its place would be another name.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ContextError(f"{where} has half of a surrogate pair")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise ContextError(f"{where} is a list of texts")
    return [_text(each, f"{where}[{number}]") for number, each in enumerate(value)]


def _one_of(value: Any, words: tuple[str, ...], where: str) -> str:
    if value not in words:
        raise ContextError(f"{where} is one of {', '.join(words)}")
    return value


def _or_unknown(value: Any, known: Callable[[Any], Variant], absent: str) -> Variant:
    if value is None:
        return Variant(absent)
    return Variant(UNKNOWN) if value == UNKNOWN else known(value)


def context(json: Any) -> Record:
    """A context as the interface has it."""
    fields = _object(json, CONTEXT, "")
    direction = _one_of(fields.get("direction"), ("inbound", "outbound"), "direction")
    if "mail-from" not in fields and direction == "inbound":
        raise ContextError("mail-from is missing")
    if "rcpt-to" not in fields:
        raise ContextError("rcpt-to is missing")
    name = fields.get("certificate-common-name")
    attributes = []
    if name is not None:
        value = _text(name, "certificate-common-name")
        attributes.append(record(name="certificate-common-name", value=value))
    return record(
        direction=direction,
        client_ip=_or_unknown(fields.get("client-ip"), lambda it: Variant("known", _address(it)), "none"),
        helo=_text(fields["helo"], "helo") if "helo" in fields else None,
        security=_or_unknown(fields.get("tls"), lambda it: Variant("encrypted", _tls(it)), "plaintext"),
        mail_from=_mailbox(fields.get("mail-from", ""), "mail-from"),
        rcpt_to=_mailbox(fields["rcpt-to"], "rcpt-to"),
        header_from=_or_unknown(
            fields.get("header-from"), lambda it: Variant("addresses", _mailboxes(it)), "pending"
        ),
        attributes=attributes,
    )


def _tls(json: Any) -> Record:
    fields = _object(json, ("version", "cipher", "certificate"), "tls")
    if "version" not in fields:
        raise ContextError("tls.version is missing")
    version = _text(fields["version"], "tls.version")
    if version != UNKNOWN and version not in VERSIONS:
        raise ContextError(f"tls.version: {version!r} is no version of TLS")
    return record(
        version=VERSIONS.get(version),
        cipher=_text(fields.get("cipher", ""), "tls.cipher"),
        certificate=_or_unknown(
            fields.get("certificate"), lambda it: Variant("presented", _certificate(it)), "none"
        ),
    )


def _certificate(json: Any) -> Record:
    at = "tls.certificate"
    fields = _object(json, CERTIFICATE, at)
    unknown = _texts(fields.get("unknown", []), f"{at}.unknown")
    for name in unknown:
        _one_of(name, FACTS, f"{at}.unknown")
    if "trust" not in fields and "trust" not in unknown:
        raise ContextError(f'{at}.trust is missing; "unknown": ["trust"] says that it is not known')

    def known(name: str, read: Any) -> Any:
        """What is there is read, also if it is said to be unknown."""
        return None if name in unknown else read

    def optional(name: str, read: Callable[[Any, str], Any]) -> Any:
        return known(name, read(fields[name], f"{at}.{name}") if name in fields else None)

    trust = optional("trust", lambda value, where: _one_of(value, TRUST, where))
    anchors = fields.get("anchor")
    if anchors is None:
        usual = {None: None, "trusted": ["public"]}.get(trust, [])
    elif isinstance(anchors, list):
        usual = _texts(anchors, f"{at}.anchor")
    else:
        usual = [_text(anchors, f"{at}.anchor")]
    return record(
        dns_names=known("dns-names", _texts(fields.get("dns-names", []), f"{at}.dns-names")),
        subject=_text(fields.get("subject", ""), f"{at}.subject"),
        issuer=_text(fields.get("issuer", ""), f"{at}.issuer"),
        sha256=optional("sha256", _digest),
        key_sha256=optional("key-sha256", _digest),
        not_after=optional("not-after", _moment),
        trust=trust,
        anchors=known("anchor", usual),
    )


def _digest(value: Any, where: str) -> tuple[int, ...]:
    """A SHA-256 in hexadecimal, as four words."""
    digits = _text(value, where).replace(":", "")
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise ContextError(f"{where} is no SHA-256 in hexadecimal")
    return tuple(int(digits[at:at + 16], 16) for at in (0, 16, 32, 48))


MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


# The first second of the year 0, and the last one of 9999.
FIRST, LAST = -62_167_219_200, 253_402_300_799


def _moment(value: Any, where: str) -> int:
    """A time of RFC 3339 in seconds."""
    found = MOMENT.fullmatch(_text(value, where))
    seconds = _seconds(found) if found else None
    # With its offset, a time may be in a year of UTC that cannot be written.
    if seconds is None or not FIRST <= seconds <= LAST:
        raise ContextError(f"{where} is no time such as 2027-01-01T00:00:00Z")
    return seconds


# The calendar repeats after so many years and days. Python's begins at year 1, and ends with 9999.
YEARS, DAYS = 400, 146_097
EPOCH = datetime.date(1970, 1, 1).toordinal()


def _seconds(found: re.Match[str]) -> int | None:
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    sign, hours, minutes = found[7], int(found[8] or 0), int(found[9] or 0)
    if not (hour < 24 and minute < 60 and second <= 60 and hours < 24 and minutes < 60):
        return None
    try:
        ordinal = datetime.date(year % YEARS + YEARS, month, day).toordinal()
    except ValueError:
        return None
    days = ordinal + (year // YEARS - 1) * DAYS - EPOCH
    offset = (hours * 60 + minutes) * (-60 if sign == "-" else 60)
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
    if second < 60:
        return seconds
    # A leap second is the last one of a month in UTC, and counts as the second before it.
    days, rest = divmod(seconds, 86_400)
    is_first = datetime.date.fromordinal((days + EPOCH) % DAYS + DAYS).day == 1
    return seconds - 1 if rest == 0 and is_first else None


def _address(value: Any) -> int | tuple[int, int]:
    """An address as the interface has it: the cases are told apart by their types."""
    try:
        written = _text(value, "client-ip")
        # A zone is of this machine only.
        if "%" in written:
            raise ValueError
        ip = ipaddress.ip_address(written)
    except ValueError:
        raise ContextError(f"client-ip: {value!r} is no IP address") from None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if isinstance(ip, ipaddress.IPv6Address) and mapped is None:
        return int(ip) >> 64, int(ip) & (2**64 - 1)
    return int(mapped or ip)


# White_Space of Unicode; Python takes the separators of ASCII for it as well.
SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def _is_foreign(character: str) -> bool:
    return (
        character in SPACE
        or unicodedata.category(character) == "Cc"
        or character in '<>,;"()\u200b\u200c\u200d\u200e\u200f\ufeff'
    )


def _mailbox(value: Any, where: str) -> str:
    """The address in a text that people write for one: alone, in angle brackets, or behind a name. A text that could
    be read as an address of another domain is none.
    """
    inside = _text(value, where).strip(SPACE)
    wrong = ContextError(f'{where}: {value!r} is not an address such as "alice@contosobank.com"')
    if inside.endswith(">"):
        before, bracket, inside = inside[:-1].rpartition("<")
        if not bracket or "<" in before or ">" in before:
            raise wrong
    local, _, domain = inside.rpartition("@")
    if local.startswith('"'):
        is_local = re.fullmatch(r'"(?:[^"\\]|\\.)*"', local, re.DOTALL) is not None
    else:
        is_local = "@" not in local and not any(map(_is_foreign, local))
    if not is_local or any(map(_is_foreign, domain)):
        raise wrong
    return inside


def _mailboxes(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ContextError("header-from is a list of addresses")
    return [_mailbox(each, f"header-from[{number}]") for number, each in enumerate(value)]


def plain(value: Any) -> Any:
    """A record, with all in it, as dictionaries and lists."""
    if isinstance(value, Record):
        return {name: plain(found) for name, found in vars(value).items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


STEERING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


def line(text: str) -> str:
    """A text on one line, without what controls a terminal or turns the direction of writing."""
    return STEERING.sub(" ", text)


def _audit(findings: list[Record]) -> list[dict[str, str]]:
    return [{name: line(text) for name, text in vars(finding).items()} for finding in findings]


def verdict(value: Variant, direction: str) -> dict[str, Any]:
    """A verdict on mail of that direction, as JSON: one that can be carried out."""
    fields = vars(value.payload)
    if value.tag == "accept":
        if direction != "inbound":
            raise ComponentError("the policy answers outbound mail with an inbound verdict")
        connectors = [line(name) for name in fields["connectors"]]
        return {"verdict": value.tag, "connectors": connectors, "audit": _audit(fields["audit"])}
    if value.tag == "deliver":
        if direction != "outbound":
            raise ComponentError("the policy answers inbound mail with an outbound verdict")
        return {"verdict": value.tag, **_delivery(fields)}
    return {"verdict": value.tag, **_refusal(fields, *((5, 550, "5.7.1") if value.tag == "reject" else (4, 451, "4.7.1")))}


def _refusal(fields: dict[str, Any], kind: int, code: int, enhanced: str) -> dict[str, Any]:
    """The code is of the class of the verdict: a host sends it as it is."""
    is_enhanced = re.fullmatch(rf"{kind}(\.(0|[1-9][0-9]{{0,2}})){{2}}", fields["enhanced"])
    told: dict[str, Any] = {
        "failed": line(fields["failed"]),
        "code": fields["code"] if 100 * kind <= fields["code"] < 100 * kind + 60 else code,
        "enhanced": fields["enhanced"] if is_enhanced else enhanced,
        "text": line(fields["text"]),
    }
    if fields["connector"] is not None:
        told["connector"] = line(fields["connector"])
    if fields["audit"]:
        told["audit"] = _audit(fields["audit"])
    return told


def explanation(value: Record, direction: str) -> dict[str, Any]:
    """A verdict, and the connectors that were considered."""
    fields = vars(value)
    return {
        "verdict": verdict(fields["verdict"], direction),
        "considered": [_told(considered) for considered in fields["considered"]],
        "others": fields["others"],
    }


OUTCOMES = {"yes": True, "no": False, "unknown": "unknown"}


def _told(value: Any) -> Any:
    """A connector that was considered, and all in it, as JSON."""
    if isinstance(value, Record):
        outcomes = {"matched", "satisfied"}
        fields = vars(value).items()
        return {name: OUTCOMES[found] if name in outcomes else _told(found) for name, found in fields}
    if isinstance(value, list):
        return [_told(each) for each in value]
    return line(value)


def _delivery(fields: dict[str, Any]) -> dict[str, Any]:
    route = fields["route"]
    told: dict[str, Any] = {
        "route": "mx" if route is None else {"smart-hosts": [_smart_host(host) for host in route]},
        "tls": _level(fields["tls"]),
        **_published(fields["tls"]),
        "audit": _audit(fields["audit"]),
    }
    for name in ("connector", "audit-connector"):
        if fields[name] is not None:
            told[name] = fields[name]
    if fields["audit-tls"] is not None:
        told["audit-tls"] = {**_level(fields["audit-tls"]), **_published(fields["audit-tls"])}
    return told


def _smart_host(value: Record) -> str:
    host, port = vars(value)["host"], vars(value)["port"]
    if isinstance(host, int):
        host = f"[{ipaddress.IPv4Address(host)}]"
    elif isinstance(host, tuple):
        host = f"[{ipaddress.IPv6Address(host[0] << 64 | host[1])}]"
    return host if port is None else f"{host}:{port}"


def _level(protection: Record) -> dict[str, Any]:
    fields = vars(protection)
    told: dict[str, Any] = {"level": fields["level"].tag}
    if fields["level"].payload is not None:
        told["names"] = fields["level"].payload
    if fields["min-version"] is not None:
        names = (name for name, version in VERSIONS.items() if version == fields["min-version"])
        told["min-version"] = next(names, None)
    for name, digests in (("certificate-fingerprints", "fingerprints"), ("certificate-keys", "keys")):
        if fields[digests]:
            told[name] = ["".join(f"{word:016x}" for word in digest) for digest in fields[digests]]
    if fields["authorities"]:
        told["certificate-authorities"] = fields["authorities"]
    return told


def _published(protection: Record) -> dict[str, Any]:
    """The default is not written."""
    fields = vars(protection)
    return {name: fields[name] for name in ("dane", "mta-sts") if fields[name] != "opportunistic"}
