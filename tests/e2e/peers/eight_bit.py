"""Makes messages with eight bits, and compares what was sent with what came, as Python's `email` reads both.

    eight_bit.py generate FOLDER SEED COUNT
    eight_bit.py compare FOLDER POLICY...

The second compares each NAME.sent with NAME.came by these policies of `email`, writes a line for each difference, and how
many it has compared.
"""

import pathlib
import random
import re
import sys
from email import errors, message_from_bytes, policy

EIGHT_BITS = re.compile(rb"[\x80-\xff]")


# Reading


def octets(text):
    """What a text was read from."""
    return text.encode("ascii", "surrogateescape")


def shown(text):
    """What nobody reads, with question marks for octets that cannot be sent."""
    return EIGHT_BITS.sub(b"?", octets(text or ""))


def fields(part):
    """The header as it stands there, without what a conversion may change."""
    kept = []
    for name, value in part.raw_items():
        if name.lower() in ("content-transfer-encoding", "mime-version", "content-type"):
            continue
        kept.append((name, octets(str(value)) if isinstance(value, str) else value))
    return kept


def raw(part, name):
    """The values of a field as they stand there."""
    found = [value for key, value in part.raw_items() if key.lower() == name]
    return [octets(value) if isinstance(value, str) else value for value in found]


def encoding(part):
    values = raw(part, "content-transfer-encoding")
    return values[0].strip().lower().decode() if values else ""


def differences(sent, came, where="message"):
    """How two messages, or parts of them, differ to somebody who reads them."""
    if fields(sent) != fields(came):
        yield f"{where}: header {fields(sent)} is {fields(came)}"
    before, after = raw(sent, "content-type"), raw(came, "content-type")
    if before != after and not (before == [] and after == [b"text/plain; charset=unknown-8bit"]):
        yield f"{where}: type {before} is {after}"
    if sent.is_multipart() != came.is_multipart():
        yield f"{where}: it has parts, or has none"
        return
    # Python says where it had to guess.
    # An empty line that is missing may be there afterwards.
    kinds = lambda it: [type(d) for d in it.defects if type(d) is not errors.MissingHeaderBodySeparatorDefect]
    if kinds(sent) != kinds(came):
        yield f"{where}: defects {sent.defects} are {came.defects}"
    if sent.is_multipart():
        for name in ("preamble", "epilogue"):
            if shown(getattr(sent, name)) != shown(getattr(came, name)):
                yield f"{where}: another {name}"
        ours, theirs = sent.get_payload(), came.get_payload()
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} parts are {len(theirs)}"
            return
        for number, pair in enumerate(zip(ours, theirs)):
            yield from differences(*pair, f"{where}.{number}")
        return
    one, other = sent.get_payload(decode=True), came.get_payload(decode=True)
    if one != other:
        yield f"{where}: {one!r} is {other!r}"
    if encoding(sent) != encoding(came) and not EIGHT_BITS.search(one or b""):
        yield f"{where}: it need not be converted"


def header_lines(part):
    """The lines of all headers."""
    for name, value in part.raw_items():
        yield from octets(f"{name}: {value}").split(b"\r\n")
        yield from octets(f"{name}:{value}").split(b"\r\n")
    if part.is_multipart():
        for below in part.get_payload():
            yield from header_lines(below)


def compare(folder, policies):
    compared = 0
    for path in sorted(pathlib.Path(folder).glob("*.sent")):
        sent, came = path.read_bytes(), path.with_suffix(".came").read_bytes()
        compared += 1
        for name in policies:
            how = getattr(policy, name)
            before, after = (message_from_bytes(it, policy=how) for it in (sent, came))
            for difference in differences(before, after):
                print(f"{path.stem}: {name}: {difference}")
        if EIGHT_BITS.search(came):
            known = set(header_lines(message_from_bytes(sent)))
            for line in came.split(b"\r\n"):
                if EIGHT_BITS.search(line) and line not in known:
                    print(f"{path.stem}: eight bits: {line!r}")
        for line in came.split(b"\r\n"):
            if len(line) > 998:
                print(f"{path.stem}: a line is too long: {line!r}")
    print(f"compared: {compared}")


# Writing

CHARACTERS = "abcXYZ019'()+_,-./:=?"
SPECIAL = [
    b".",
    b"..",
    b"...",
    b"",
    b" ",
    b"\t",
    b"=",
    b"==",
    b"soft =",
    b"=C3=BC",
    b"=3D",
    b"From here on",
    b">From there",
    b"--",
    b"-- ",
    b"--no boundary",
    b"trailing   ",
    b"trailing\t",
    b"Subject: not a header",
    b"Content-Transfer-Encoding: base64",
]
TYPES = [
    "text/plain; charset=utf-8",
    "text/plain; charset=iso-8859-1",
    'text/html;\r\n\tcharset="utf-8"',
    "TEXT/PLAIN; format=flowed; charset=UTF-8",
    "text/calendar; method=REQUEST; charset=utf-8",
    "application/octet-stream",
    'application/pdf; name="a b.pdf"',
    "image/png",
    "application/xml;charset=utf-8",
    None,
]
ENCODINGS = [None, "7bit", "8bit", "8BIT", "binary", "quoted-printable", "base64"]


class Writer:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.boundaries = []

    def line(self):
        chance = self.random.random()
        if chance < 0.35:
            return self.random.choice(SPECIAL)
        if chance < 0.4 and self.boundaries:
            # Nearly a boundary.
            near = self.random.choice(self.boundaries).encode()
            return self.random.choice([b"--" + near + b"x", b"-" + near, b" --" + near, near])
        if chance < 0.45:
            return self.random.choice([b"x", b"\xc3\xbc", b"="]) * self.random.choice([76, 77, 200, 499])
        if chance < 0.7:
            return "grüße, señor €".encode()[: self.random.randrange(20)]
        choice = range(32, 127) if self.random.random() < 0.5 else range(128, 256)
        return bytes(self.random.choices(choice, k=self.random.randrange(120)))

    def body(self):
        return b"\r\n".join(self.line() for _ in range(self.random.randrange(8)))

    def boundary(self):
        if self.boundaries and self.random.random() < 0.3:
            known = self.random.choice(self.boundaries)
            # One begins with another.
            return known + self.random.choice("abc09_")
        text = "".join(self.random.choices(CHARACTERS + " ", k=self.random.randrange(1, 40)))
        # A blank cannot be the last one, and two hyphens would end.
        return text + self.random.choice("abc09_")

    def leaf(self):
        from base64 import encodebytes
        from quopri import encodestring

        fields = []
        kind = self.random.choice(TYPES)
        if kind:
            fields.append(f"Content-Type: {kind}")
        encoding = self.random.choice(ENCODINGS)
        body = self.body()
        if encoding == "7bit":
            body = EIGHT_BITS.sub(b"#", body)
        elif encoding == "base64":
            body = encodebytes(body).replace(b"\n", b"\r\n")
        elif encoding == "quoted-printable":
            body = encodestring(body.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        if encoding:
            fields.append(f"Content-Transfer-Encoding: {encoding}")
        return fields, body

    def multipart(self, depth):
        boundary = self.boundary()
        while boundary in self.boundaries:
            boundary = self.boundary()
        self.boundaries.append(boundary)
        kind = self.random.choice(["mixed", "alternative", "related", "digest", "report", "x-own"])
        fields = [f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"']
        if self.random.random() < 0.4:
            fields.append("Content-Transfer-Encoding: " + self.random.choice(["8bit", "7bit", "binary"]))
        mark = b"--" + boundary.encode()
        content = b""
        if self.random.random() < 0.3:
            content += b"This is for old readers. \xfc\r\n"
        for _ in range(self.random.randrange(1, 4)):
            below, body = self.message(depth + 1) if kind == "digest" else self.entity(depth + 1)
            if kind == "digest":
                body = self.header(below) + body
                below = []
            content += mark + self.random.choice([b"", b"", b" ", b"\t "]) + b"\r\n"
            content += self.header(below) + body + b"\r\n"
        content += mark + b"--"
        if self.random.random() < 0.3:
            content += b"\r\nbehind \xc3\xa4 all"
        self.boundaries.remove(boundary)
        return fields, content

    def message(self, depth):
        fields, body = self.entity(depth)
        if self.random.random() < 0.7:
            fields.insert(0, "MIME-Version: 1.0")
        fields.insert(self.random.randrange(len(fields) + 1), "Subject: of a message")
        return fields, body

    def entity(self, depth):
        chance = self.random.random()
        if depth < 4 and chance < 0.5:
            return self.multipart(depth)
        if depth < 4 and chance < 0.6:
            fields, body = self.message(depth + 1)
            own = ["Content-Type: message/rfc822"]
            if self.random.random() < 0.5:
                own.append("Content-Transfer-Encoding: 8bit")
            return own, self.header(fields) + body
        return self.leaf()

    @staticmethod
    def header(fields):
        return "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


def generate(folder, seed, count):
    for number in range(count):
        writer = Writer(f"{seed}-{number}")
        fields, body = writer.message(0)
        path = pathlib.Path(folder, f"{number:04}.eml")
        path.write_bytes(b"From: alice@contoso.com\r\n" + writer.header(fields) + body + b"\r\n")


match sys.argv[1:]:
    case ["generate", folder, seed, count]:
        generate(folder, seed, int(count))
    case ["compare", folder, *policies] if policies:
        compare(folder, policies)
    case _:
        sys.exit(__doc__)
