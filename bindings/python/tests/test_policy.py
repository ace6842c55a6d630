"""The package as others use it. PORTCULLIS_BIN builds components; PORTCULLIS_CASES has the verdicts."""

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

from portcullis_policy import ComponentError, ContextError, Engine, PolicyError, RulesError, TimeoutError, TrapError

PORTCULLIS = os.environ["PORTCULLIS_BIN"]
HERE = pathlib.Path(__file__).resolve().parent
CASES = pathlib.Path(os.environ.get("PORTCULLIS_CASES", HERE / "../../../conformance/cases"))

RULES = {
    "connectors": [
        {
            "name": "bank",
            "direction": "inbound",
            "from": {"sender-domains": ["bank.test"]},
            "require": {"tls": True},
        }
    ]
}
CONTEXT = {"direction": "inbound", "client-ip": "192.0.2.1", "mail-from": "a@bank.test", "rcpt-to": "b@c.test"}

# Policies that evaluate in their own ways: the octets of their function bodies.
BODIES = {
    "trap": [0x00],
    "loop": [0x03, 0x40, 0x0C, 0x00, 0x0B, 0x00],
    "recursion": [0x20, 0x00, 0x10, 0x01],
    # As long as memory.grow gives a page.
    "memory": [0x03, 0x40, 0x41, 0x01, 0x40, 0x00, 0x41, 0x7F, 0x47, 0x0D, 0x00, 0x0B, 0x00],
    "garbage": [0x41, 0xFF, 0xFF, 0xFF, 0xFF, 0x07],
}


def built(source: bytes, suffix: str) -> bytes:
    """What `portcullis build` makes of rules or of a core module."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / f"in{suffix}").write_bytes(source)
        command = [PORTCULLIS, "build", str(path / f"in{suffix}"), "-o", str(path / "policy.wasm")]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return (path / "policy.wasm").read_bytes()


def hostile(body: list[int]) -> bytes:
    """A component whose `evaluate` has such a body."""

    def name(text: str) -> list[int]:
        return [len(text), *text.encode()]

    def section(kind: int, contents: list[int]) -> list[int]:
        return [kind, (len(contents) & 0x7F) | 0x80, len(contents) >> 7, *contents]

    def code(octets: list[int]) -> list[int]:
        length = len(octets) + 2
        return [(length & 0x7F) | 0x80, length >> 7, 0x00, *octets, 0x0B]

    of = "portcullis:policy/evaluation@0.1.0#"
    functions = {"cabi_realloc": 0, f"{of}evaluate": 1, f"{of}explain": 1, f"{of}describe": 2}
    exported = [octet for text, number in functions.items() for octet in [*name(text), 0, number]]
    exported += [*name("memory"), 2, 0]
    types = [3, 0x60, 4, 0x7F, 0x7F, 0x7F, 0x7F, 1, 0x7F, 0x60, 1, 0x7F, 1, 0x7F, 0x60, 2, 0x7F, 0x7F, 1, 0x7F]
    module = [
        *b"\0asm\1\0\0\0",
        *section(1, types),
        *section(3, [3, 0, 1, 2]),
        *section(5, [1, 0, 1]),
        *section(7, [5, *exported]),
        *section(10, [3, *code([0x41, 0x80, 0x20]), *code(body), *code([0x41, 0x00])]),
    ]
    return built(bytes(module), ".core.wasm")


class PolicyTest(unittest.TestCase):
    """One engine for all."""

    engine: Engine

    @classmethod
    def setUpClass(cls) -> None:
        # How busy the machine is does not matter.
        cls.engine = Engine(timeout=10)

    def test_it_decides_as_documents_and_components_say(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rules, wasm = pathlib.Path(folder, "rules.json"), pathlib.Path(folder, "policy.wasm")
            rules.write_text(json.dumps(RULES))
            wasm.write_bytes(built(json.dumps(RULES).encode(), ".json"))
            for source in (RULES, rules, str(wasm), wasm.read_bytes()):
                policy = self.engine.load(source)
                verdict = policy.evaluate(CONTEXT)
                self.assertEqual([verdict["verdict"], verdict["connector"], verdict["code"]], ["reject", "bank", 550])
                explanation = policy.explain(CONTEXT)
                self.assertEqual(explanation["verdict"], verdict)
                considered = explanation["considered"][0]
                self.assertEqual([considered["connector"], considered["matched"]], ["bank", True])
                self.assertEqual(considered["requirements"][0]["satisfied"], False)
                self.assertEqual(policy.reads, ["mail-from", "tls"])

    def test_it_gives_the_verdicts_of_all_cases(self) -> None:
        asked = 0
        for path in sorted(CASES.glob("*.json")):
            file = json.loads(path.read_text())
            component = built(json.dumps(file["rules"]).encode(), ".json")
            for policy in (self.engine.load(file["rules"]), self.engine.load(component)):
                for case in file["cases"]:
                    verdict = policy.evaluate(case["context"])
                    verdict.pop("text", None)
                    self.assertEqual(verdict, case["verdict"], f"{path.name}: {case['name']}")
                    asked += 1
        self.assertGreater(asked, 1400)

    def test_it_says_what_is_wrong_with_rules(self) -> None:
        with self.assertRaisesRegex(RulesError, '^1:17: the field "name" is missing') as caught:
            self.engine.load({"connectors": [{}]})
        self.assertEqual(caught.exception.problems[0]["code"], "missing-field")
        with self.assertRaises(OSError):
            self.engine.load("/nonexistent/rules.json")

    def test_it_says_what_is_no_component(self) -> None:
        octets = built(json.dumps(RULES).encode(), ".json")
        for source, text in (
            (b"", "not a WebAssembly component"),
            (b"(component)", "not a WebAssembly component"),
            (b"\0asm\1\0\0\0", "this is a core module"),
            (b"\0asm\x0d\0\1\0", "does not export portcullis:policy/evaluation@0.1.0"),
            (octets[:1000], "not a WebAssembly component"),
        ):
            with self.assertRaisesRegex(ComponentError, text):
                self.engine.load(source)
        for at in range(0, len(octets), len(octets) // 30):
            damaged = octets[:at] + bytes([octets[at] ^ 0xFF]) + octets[at + 1:]
            try:
                self.engine.load(damaged)
            except PolicyError:
                pass

    def test_what_fails_is_told_of_and_nobody_else_notices(self) -> None:
        engine = Engine(timeout=0.3)
        good = self.engine.load(RULES)
        for name, body in BODIES.items():
            bad = engine.load(hostile(body))
            for _ in range(2):
                with self.assertRaises(TimeoutError if name == "loop" else TrapError, msg=name):
                    bad.evaluate(CONTEXT)
                self.assertEqual(good.evaluate(CONTEXT)["verdict"], "reject")
            # Each time with a fresh instance, that answers what it can.
            self.assertEqual(bad.reads, [])
        for arguments in ({"timeout": 0}, {"timeout": float("inf")}, {"timeout": float("nan")}, {"memory": 1000}):
            with self.assertRaises(ValueError):
                Engine(**arguments)

    def test_it_ends_in_a_child_as_well(self) -> None:
        engine = Engine(timeout=0.2)
        policy = engine.load(hostile(BODIES["loop"]))
        child = os.fork()
        if child == 0:
            try:
                policy.evaluate(CONTEXT)
            except TimeoutError:
                os._exit(7)
            os._exit(1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)

    def test_it_gives_only_verdicts_that_can_be_carried_out(self) -> None:
        def sleb(value: int) -> list[int]:
            return [(value & 0x7F) | 0x80, value >> 7]

        for kind, code, expected in (
            (1, 250, ("reject", 550, "5.7.1")),
            (1, 554, ("reject", 554, "5.7.1")),
            (2, 550, ("defer", 451, "4.7.1")),
        ):
            # The octets of a verdict: the case, two strings and the code.
            octets = [kind, *[0] * 23, code & 255, code >> 8]
            body = []
            for at, octet in enumerate(octets):
                body += [0x41, *sleb(64 + at), 0x41, *sleb(octet), 0x3A, 0, 0]
            verdict = self.engine.load(hostile([*body, 0x41, *sleb(64)])).evaluate(CONTEXT)
            self.assertEqual((verdict["verdict"], verdict["code"], verdict["enhanced"]), expected)
        accepting = self.engine.load(hostile([0x41, *sleb(64)]))
        self.assertEqual(accepting.evaluate(CONTEXT)["verdict"], "accept")
        with self.assertRaisesRegex(ComponentError, "inbound verdict"):
            accepting.evaluate({**CONTEXT, "direction": "outbound"})

    def test_it_refuses_contexts_that_are_none(self) -> None:
        policy = self.engine.load(RULES)

        def tls(certificate: object) -> dict[str, object]:
            return {"version": "TLSv1.3", "certificate": certificate}

        for change, text in (
            ({"direction": "sideways"}, "^direction is one of inbound, outbound"),
            ({"rcpt-to": None}, "^rcpt-to: null is no fact"),
            ({"more": 1}, "^more: there is no such field"),
            ({"mail-from": "a@b.test, c@d.test"}, "^mail-from: .* is not an address"),
            ({"mail-from": 7}, "^mail-from is a text"),
            ({"client-ip": "192.0.2.256"}, "^client-ip: '192.0.2.256' is no IP address"),
            ({"client-ip": 7}, "is no IP address"),
            ({"client-ip": "fe80::1%eth0"}, "is no IP address"),
            ({"tls": {}}, "^tls.version is missing"),
            ({"tls": []}, "^tls is an object"),
            ({"tls": tls({})}, "^tls.certificate.trust is missing"),
            ({"tls": tls({"trust": "perhaps"})}, "^tls.certificate.trust is one of"),
            ({"tls": tls({"trust": "trusted", "sha256": "ab"})}, "^tls.certificate.sha256 is no SHA-256"),
            ({"tls": tls({"trust": "trusted", "not-after": "tomorrow"})}, "is no time such as"),
            ({"tls": tls({"trust": "trusted", "unknown": ["helo"]})}, "^tls.certificate.unknown is one of"),
            ({"tls": tls({"trust": "trusted", "not-after": "2027-02-29T00:00:00Z"})}, "is no time such as"),
            ({"tls": tls({"trust": "trusted", "not-after": "2027-01-01T00:00:00+00:60"})}, "is no time such as"),
            ({"tls": tls({"trust": "trusted", "not-after": "2027-01-01T23:59:60Z"})}, "is no time such as"),
            ({"header-from": "a@b.test"}, "^header-from is a list"),
            ({"mail-from": "\x1ca@b.test"}, "^mail-from: .* is not an address"),
            ({"helo": "\ud800"}, "^helo has half of a surrogate pair"),
        ):
            with self.assertRaisesRegex(ContextError, text):
                policy.evaluate({**CONTEXT, **change})
        for value in (None, [], "text"):
            with self.assertRaises(ContextError):
                policy.evaluate(value)  # type: ignore[arg-type]
        self.assertEqual(policy.evaluate(CONTEXT)["verdict"], "reject")

    def test_threads_share_an_engine(self) -> None:
        found: list[str] = []

        def ask() -> None:
            policy = self.engine.load(RULES)
            found.extend(policy.evaluate(CONTEXT)["verdict"] for _ in range(20))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, ["reject"] * 80)


if __name__ == "__main__":
    unittest.main()
