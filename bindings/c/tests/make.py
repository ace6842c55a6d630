"""Makes the policies of the tests: make.py PORTCULLIS FOLDER"""

import json
import pathlib
import subprocess
import sys

from wasmtime import wat2wasm

PORTCULLIS, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
OF = "portcullis:policy/evaluation@0.1.0#"
MB = 1 << 20
RULES = {
    "organization": "Contoso",
    "accepted-domains": ["contoso.com"],
    "connectors": [
        {
            "name": "Contoso Bank is encrypted",
            "direction": "inbound",
            "from": {"sender-domains": ["*.contosobank.com"]},
            "require": {"tls": True},
        },
        {
            "name": "To Contoso Bank",
            "direction": "outbound",
            "to": {"recipient-domains": ["*.contosobank.com"]},
            "tls": {"level": "name", "names": ["*.contosobank.com"]},
        },
    ],
}


def core(evaluate, more="", pages=1, describe="i32.const 0"):
    """A core module whose functions have such bodies. What it is asked is at 4096 and beyond; zeros are an empty list,
    and a verdict that accepts.
    """
    return wat2wasm(f"""(module
        (memory (export "memory") {pages}) {more}
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
        (func $evaluate (export "{OF}evaluate") (param i32) (result i32) (local $page i32) {evaluate})
        (func (export "{OF}explain") (param i32) (result i32) i32.const 0)
        (func (export "{OF}describe") (param i32 i32) (result i32) {describe}))""")


def build(name, source, suffix=".core.wasm"):
    """What `portcullis build` makes of a core module or of rules."""
    path, made = FOLDER / f"{name}{suffix}", FOLDER / f"{name}.wasm"
    path.write_bytes(source)
    subprocess.run([PORTCULLIS, "build", path, "-o", made], check=True, capture_output=True)
    path.unlink()
    return made.read_bytes()


def write(name, octets):
    (FOLDER / f"{name}.wasm").write_bytes(octets)


def change(name, octets, before, after):
    """Changes a component afterwards: `portcullis build` tries out what it makes."""
    assert before in octets, name
    write(name, octets.replace(before, after))


def store(at, number):
    return f"(i32.store (i32.const {at}) (i32.const {number}))"


def accept(count, at):
    """Accepts with a list of so many elements at 1 MB: 4 is where the connectors are, 12 the findings."""
    return f"{store(at, MB)} {store(at + 4, count)} i32.const 0"


def make_failing():
    grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))"
    touch = """(loop $l (local.set $page (memory.grow (i32.const 1)))
        (if (i32.ne (local.get $page) (i32.const -1)) (then
            (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1) (i32.const 65536)) (br $l))))"""
    for name, body in (
        ("accept", "i32.const 0"),
        ("trap", "unreachable"),
        ("division", "(i32.div_u (i32.const 1) (i32.const 0))"),
        ("out-of-bounds", "(i32.load (i32.const -8))"),
        ("recursion", "(call $evaluate (i32.const 0))"),
        ("loop", "(loop $l (br $l)) i32.const 0"),
        ("garbage", "i32.const -1"),
        ("bad-case", "(i32.store8 (i32.const 0) (i32.const 9)) i32.const 0"),
        ("not-utf8", f"{store(MB - 4, -1)} {store(MB, MB - 4)} {store(MB + 4, 4)} {accept(1, 4)}"),
        # Allocators give up; others go on.
        ("memory", f"{grow} unreachable"),
        ("memory-goes-on", f"{grow} i32.const 0"),
        ("memory-touches", f"{touch} i32.const 0"),
    ):
        build(name, core(body, pages=32))
    # Lists that cost the host more than the policy: names of nothing, and 50 MB of text said many times.
    for count in (400_000, 4_000_000):
        build(f"names-{count}", core(accept(count, 4), pages=1000))
    build("findings-200000", core(accept(200_000, 12), pages=1000))
    for count in (1, 1000):
        names = " ".join(store(MB + 8 * i, 8 * MB) + store(MB + 8 * i + 4, 50 * MB) for i in range(count))
        build(f"long-names-{count}", core(f"{names} {accept(count, 4)}", pages=1000))


def make_answering():
    build("example", json.dumps(RULES).encode(), ".json")
    # The connector of a refusal is at 4, its failed at 16, code at 24, enhanced at 28, text at 36.
    for word, case, code in (("reject", 1, 250), ("reject", 1, 554), ("reject", 1, 560), ("defer", 2, 550)):
        build(f"{word}-{code}", core(f"{store(0, case)} {store(24, code)} i32.const 0"))
    text = "\x9b2J line\r\n250 ok\0\u202e\u061c\u2066 x\u20ac".encode()
    data = "".join(f"\\{octet:02x}" for octet in text)
    build("text", core(
        f"{store(0, 1)} {store(28, 150)} {store(32, 5)} {store(36, 100)} {store(40, len(text))} i32.const 0",
        f'(data (i32.const 100) "{data}") (data (i32.const 150) "5.1.9")',
    ))
    build("deliver", core(f"{store(0, 3)} i32.const 0"))
    # The route of a delivery is at 16.
    build("deliver-no-hosts", core(f"{store(0, 3)} {store(16, 1)} i32.const 0"))


def make_refused():
    good = build("accept", core("i32.const 0", pages=32))
    write("empty", b"")
    write("text.wat", b"(component)")
    write("module", core("i32.const 0"))
    write("cut", good[:1000])
    write("stream", wat2wasm("(component (type (stream u8)))"))
    write("nothing", wat2wasm("(component)"))
    write("imports", wat2wasm('(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))'))
    write("no-parameters", wat2wasm(f"""(component
        (core module $module (func (export "f")))
        (core instance $core (instantiate $module))
        (func $f (canon lift (core func $core "f")))
        (instance $interface (export "evaluate" (func $f)) (export "describe" (func $f)))
        (export "{OF[:-1]}" (instance $interface)))"""))
    change("newer-patch", good, b"evaluation@0.1.0", b"evaluation@0.1.7")
    change("newer-minor", good, b"evaluation@0.1.0", b"evaluation@0.2.0")
    change("other-field", good, b"rcpt-to", b"rcpt-on")
    change("other-case", good, b"smart-hosts", b"smart-ghost")
    # `i32.const 19088743 drop` marks what comes next: a block that becomes a loop, a nop that becomes unreachable.
    mark, octets = "(drop (i32.const 19088743))", bytes.fromhex("41e78a8d091a")
    start = "(func $start {} {}) (start $start)"
    loops = build("start-loops", core("i32.const 0", start.format(mark, "(block $l (br $l))")))
    change("start-loops", loops, octets + b"\x02", octets + b"\x03")
    traps = build("start-traps", core("i32.const 0", start.format(mark, "nop")))
    change("start-traps", traps, octets + b"\x01", octets + b"\x00")
    traps = build("describe-traps", core("i32.const 0", describe=f"{mark} nop i32.const 0"))
    change("describe-traps", traps, octets + b"\x01", octets + b"\x00")
    # The section of a memory of 1000 pages, and of 2000.
    large = build("starts-large", core("i32.const 0", pages=1000))
    change("starts-large", large, bytes.fromhex("05040100e807"), bytes.fromhex("05040100d00f"))


FOLDER.mkdir(parents=True, exist_ok=True)
make_failing()
make_answering()
make_refused()
