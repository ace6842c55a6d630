"""The library for C: python3 c.py libportcullis_policy.so

The package for Python reads contexts; the structures are those of portcullis_policy.h.
"""

import ctypes as c
import ipaddress
import json
import sys

from portcullis_policy import words
from portcullis_policy.errors import PolicyError

Texts = c.POINTER(c.c_char_p)


class Strings(c.Structure):
    _fields_ = [("at", Texts), ("count", c.c_size_t)]


class Sha256(c.Structure):
    _fields_ = [("octets", c.c_uint8 * 32)]


class Address(c.Structure):
    _fields_ = [("is_ipv6", c.c_bool), ("octets", c.c_uint8 * 16)]


class Client(c.Structure):
    _fields_ = [("kind", c.c_int), ("address", Address)]


class Certificate(c.Structure):
    _fields_ = [
        ("dns_names", c.POINTER(Strings)), ("subject", c.c_char_p), ("issuer", c.c_char_p),
        ("sha256", c.POINTER(Sha256)), ("key_sha256", c.POINTER(Sha256)), ("not_after", c.POINTER(c.c_int64)),
        ("trust", c.c_int), ("anchors", c.POINTER(Strings)),
    ]


class Tls(c.Structure):
    _fields_ = [
        ("version", c.c_uint16), ("cipher", c.c_char_p), ("certificate_kind", c.c_int), ("certificate", Certificate),
    ]


class Attribute(c.Structure):
    _fields_ = [("name", c.c_char_p), ("value", c.c_char_p)]


class Context(c.Structure):
    _fields_ = [
        ("direction", c.c_int), ("client", Client), ("helo", c.c_char_p), ("security", c.c_int), ("tls", Tls),
        ("mail_from", c.c_char_p), ("rcpt_to", c.c_char_p), ("header_kind", c.c_int), ("header_from", Strings),
        ("attributes", c.POINTER(Attribute)), ("attribute_count", c.c_size_t),
    ]


class Finding(c.Structure):
    _fields_ = [("connector", c.c_char_p), ("failed", c.c_char_p)]


class SmartHost(c.Structure):
    _fields_ = [("name", c.c_char_p), ("address", Address), ("port", c.c_uint16)]


class Protection(c.Structure):
    _fields_ = [
        ("level", c.c_int), ("names", Strings), ("min_version", c.c_uint16), ("fingerprints", c.POINTER(Sha256)),
        ("fingerprint_count", c.c_size_t), ("keys", c.POINTER(Sha256)), ("key_count", c.c_size_t),
        ("authorities", Strings), ("dane", c.c_int), ("mta_sts", c.c_int),
    ]


class Decision(c.Structure):
    _fields_ = [
        ("verdict", c.c_int), ("connector", c.c_char_p), ("audit", c.POINTER(Finding)), ("audit_count", c.c_size_t),
        ("code", c.c_uint), ("enhanced", c.c_char_p), ("text", c.c_char_p), ("failed", c.c_char_p),
        ("connectors", Strings), ("smart_hosts", c.POINTER(SmartHost)), ("smart_host_count", c.c_size_t),
        ("tls", Protection), ("audit_tls", c.POINTER(Protection)), ("audit_connector", c.c_char_p),
        ("memory", c.c_void_p),
    ]


class Limits(c.Structure):
    _fields_ = [("timeout_ms", c.c_uint), ("memory", c.c_size_t), ("stack", c.c_size_t)]


def strings(texts):
    return Strings((c.c_char_p * len(texts))(*(text.encode() for text in texts)), len(texts))


def optional(value, make):
    return None if value is None else c.pointer(make(value))


def sha256(numbers):
    return Sha256((c.c_uint8 * 32)(*b"".join(number.to_bytes(8, "big") for number in numbers)))


def client(tag, ip):
    made = Client({"unknown": 0, "none": 1, "known": 2}[tag])
    if tag == "known":
        made.address.is_ipv6 = isinstance(ip, tuple)
        octets = ip.to_bytes(4, "big") if isinstance(ip, int) else b"".join(part.to_bytes(8, "big") for part in ip)
        made.address.octets[:len(octets)] = octets
    return made


def certificate(it):
    trust = ("", *words.TRUST)
    return Certificate(
        optional(it["dns-names"], strings), it["subject"].encode(), it["issuer"].encode(),
        optional(it["sha256"], sha256), optional(it["key-sha256"], sha256), optional(it["not-after"], c.c_int64),
        trust.index(it["trust"] or ""), optional(it["anchors"], strings),
    )


def tls(it):
    peer = it["certificate"]
    made = Tls(it["version"] or 0, it["cipher"].encode(), {"unknown": 0, "none": 1, "presented": 2}[peer.tag])
    if peer.tag == "presented":
        made.certificate = certificate(vars(peer.payload))
    return made


def context(record):
    it = vars(record)
    security, header = it["security"], it["header-from"]
    attributes = [Attribute(vars(each)["name"].encode(), vars(each)["value"].encode()) for each in it["attributes"]]
    made = Context(
        {"inbound": 1, "outbound": 2}[it["direction"]],
        client(it["client-ip"].tag, it["client-ip"].payload),
        None if it["helo"] is None else it["helo"].encode(),
        {"unknown": 0, "plaintext": 1, "encrypted": 2}[security.tag],
        mail_from=it["mail-from"].encode(), rcpt_to=it["rcpt-to"].encode(),
        header_kind={"unknown": 0, "pending": 1, "addresses": 2}[header.tag],
        attributes=(Attribute * len(attributes))(*attributes), attribute_count=len(attributes),
    )
    if security.tag == "encrypted":
        made.tls = tls(vars(security.payload))
    if header.tag == "addresses":
        made.header_from = strings(header.payload)
    return made


def texts(it):
    return [it.at[number].decode() for number in range(it.count)]


def smart_host(it):
    if it.name is not None:
        host = it.name.decode()
    else:
        host = f"[{ipaddress.ip_address(bytes(it.address.octets[:16 if it.address.is_ipv6 else 4]))}]"
    return host if it.port == 25 else f"{host}:{it.port}"


def protection(it):
    told = {"level": ("opportunistic", "encrypt", "verify", "name")[it.level]}
    if it.level == 3:
        told["names"] = texts(it.names)
    if it.min_version:
        told["min-version"] = next(name for name, number in words.VERSIONS.items() if number == it.min_version)
    for name, digests, count in (
        ("certificate-fingerprints", it.fingerprints, it.fingerprint_count),
        ("certificate-keys", it.keys, it.key_count),
    ):
        if count:
            told[name] = [bytes(digests[number].octets).hex() for number in range(count)]
    if it.authorities.count:
        told["certificate-authorities"] = texts(it.authorities)
    return told


def published(it):
    """The default is not written."""
    told = {}
    if it.dane:
        told["dane"] = ("", "mandatory", "none")[it.dane]
    if it.mta_sts:
        told["mta-sts"] = "none"
    return told


def verdict(it):
    name = ("defer", "reject", "accept", "deliver")[it.verdict]
    audit = [
        {"connector": found.connector.decode(), "failed": found.failed.decode()}
        for found in it.audit[:it.audit_count]
    ]
    told = {"verdict": name}
    if name == "accept":
        return {**told, "connectors": texts(it.connectors), "audit": audit}
    if it.connector is not None:
        told["connector"] = it.connector.decode()
    if name == "deliver":
        hosts = [smart_host(host) for host in it.smart_hosts[:it.smart_host_count]]
        told.update({"route": {"smart-hosts": hosts} if hosts else "mx", "tls": protection(it.tls), "audit": audit})
        told.update(published(it.tls))
        if it.audit_tls:
            told["audit-tls"] = {**protection(it.audit_tls[0]), **published(it.audit_tls[0])}
        if it.audit_connector is not None:
            told["audit-connector"] = it.audit_connector.decode()
        return told
    told.update({"failed": it.failed.decode(), "code": it.code, "enhanced": it.enhanced.decode()})
    told["text"] = it.text.decode()
    return {**told, "audit": audit} if audit else told


class Host:
    def __init__(self, path):
        self.library = c.CDLL(path)
        for name in ("pc_engine_new", "pc_policy_load", "pc_decide", "pc_session_new"):
            getattr(self.library, name).restype = c.c_void_p
        self.library.pc_error_message.restype = c.c_char_p
        self.engine, self.policy, self.session = c.c_void_p(), c.c_void_p(), c.c_void_p()
        self.check(self.library.pc_engine_new(c.byref(Limits(10000)), c.byref(self.engine)))

    def check(self, error):
        if error is not None:
            error = c.c_void_p(error)
            message = self.library.pc_error_message(error).decode()
            self.library.pc_error_free(error)
            raise PolicyError(message)

    def load(self, octets):
        self.library.pc_session_free(self.session)
        self.library.pc_policy_free(self.policy)
        self.session = c.c_void_p()
        self.check(self.library.pc_policy_load(self.engine, octets, c.c_size_t(len(octets)), c.byref(self.policy)))
        self.session = c.c_void_p(self.library.pc_session_new(self.policy))

    def decide(self, asked):
        decision = Decision()
        self.check(self.library.pc_decide(self.session, c.byref(context(words.context(asked))), c.byref(decision)))
        try:
            return verdict(decision)
        finally:
            self.library.pc_decision_free(c.byref(decision))


def answer(host, question):
    if "conformance" in question:
        return {"name": "portcullis_policy (C)", "version": "0.1.0"}
    if "load" in question:
        if "component" not in question:
            return {"error": "this host loads components: run.py --portcullis PROGRAM"}
        with open(question["component"], "rb") as file:
            host.load(file.read())
        return {"loaded": True}
    return {"verdict": host.decide(question["context"])}


def main():
    host = Host(sys.argv[1])
    for line in sys.stdin:
        try:
            said = answer(host, json.loads(line))
        except PolicyError as error:
            said = {"error": str(error)}
        print(json.dumps(said), flush=True)


main()
