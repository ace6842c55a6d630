"""Runs the programs of the tests: run.py FOLDER, where they are; the policies are in build/policies."""

import pathlib
import subprocess
import sys
import unittest

PROGRAMS = pathlib.Path(sys.argv.pop(1))
POLICIES = pathlib.Path("build/policies")
COMPONENT, INTERFACE, TIMEOUT, TRAP, VERDICT = "2", "3", "5", "6", "7"
DEFERRED = "verdict 0 code 451 4.3.0 policy-unavailable"
UNAVAILABLE = "451 4.3.0 the policy for this recipient is not available now, try again later"

# Those that are not loaded, with the kind of the error and what it says.
REFUSED = {
    "empty": (COMPONENT, "this is not a WebAssembly component"),
    "text.wat": (COMPONENT, "this is not a WebAssembly component"),
    "module": (COMPONENT, "this is not a WebAssembly component"),
    "cut": (COMPONENT, "unexpected end-of-file"),
    "stream": (COMPONENT, "requires the component model async feature"),
    "nothing": (INTERFACE, "does not export portcullis:policy/evaluation@0.1.0"),
    "newer-patch": (INTERFACE, "does not export"),
    "newer-minor": (INTERFACE, "does not export"),
    "other-field": (INTERFACE, "is another interface"),
    "other-case": (INTERFACE, "is another interface"),
    "no-parameters": (INTERFACE, "is another interface"),
    "imports": (INTERFACE, "imports what this host does not give: wasi:clocks/wall-clock@0.2.0"),
    "start-loops": (TIMEOUT, "has not answered within 1000 ms"),
    "start-traps": (TRAP, "unreachable"),
    "describe-traps": (TRAP, "unreachable"),
    "starts-large": (TRAP, "memory minimum size of 2000 pages exceeds memory limits"),
}
# Those that give no answer, twice.
FAILING = {
    "trap": (TRAP, "wasm trap: wasm `unreachable` instruction executed"),
    "division": (TRAP, "wasm trap: integer divide by zero"),
    "out-of-bounds": (TRAP, "wasm trap: out of bounds memory access"),
    "recursion": (TRAP, "wasm trap: call stack exhausted"),
    "loop": (TIMEOUT, "the policy has not answered within 400 ms"),
    "memory": (TRAP, "unreachable"),
    "garbage": (TRAP, "return pointer not aligned"),
    "bad-case": (TRAP, "discriminant 9 out of range"),
    "not-utf8": (TRAP, "invalid utf-8"),
    "names-400000": (VERDICT, "it is too long"),
    "findings-200000": (VERDICT, "it is too long"),
    "names-4000000": (TRAP, "too much data is being copied"),
    "long-names-1": (VERDICT, "it is too long"),
    "long-names-1000": (TRAP, "too much data is being copied"),
    "deliver": (VERDICT, "it answers inbound mail with an outbound verdict"),
}
ANSWERING = {
    ("accept", "inbound"): "verdict 2",
    ("memory-goes-on", "inbound"): "verdict 2",
    ("memory-touches", "inbound"): "verdict 2",
    ("reject-250", "inbound"): "verdict 1 code 550 5.7.1",
    ("reject-554", "inbound"): "verdict 1 code 554 5.7.1",
    ("reject-560", "inbound"): "verdict 1 code 550 5.7.1",
    ("defer-550", "inbound"): "verdict 0 code 451 4.7.1",
    ("deliver", "outbound"): "verdict 3",
    ("text", "inbound"): "verdict 1 code 550 5.1.9  connector - text  2J line  250 ok     x\u20ac",
    ("example", "inbound"): "verdict 1 code 550 5.7.1 tls connector Contoso Bank is encrypted",
    ("example", "outbound"): "verdict 3 code 0 - - connector To Contoso Bank text - hosts 0 level 3",
}


def tried(name, direction="inbound", milliseconds="400"):
    """The lines of `try`: about the loading, and about two decisions."""
    command = [PROGRAMS / "try", POLICIES / f"{name}.wasm", direction, milliseconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode or done.stderr:
        raise AssertionError(f"{name}: {done.returncode}\n{done.stdout}{done.stderr}")
    loading, *decisions = done.stdout.splitlines()
    return loading, decisions


class LibraryTest(unittest.TestCase):
    def test_what_is_no_policy_is_not_loaded(self):
        for name, (kind, text) in REFUSED.items():
            loading, decisions = tried(name)
            self.assertRegex(loading, f"^load {kind} ", name)
            self.assertIn(text, loading, name)
            self.assertEqual(decisions, [])

    def test_what_fails_defers(self):
        for name, (kind, text) in FAILING.items():
            loading, decisions = tried(name)
            self.assertEqual((loading, len(decisions)), ("load ok", 2), name)
            for told in decisions:
                self.assertRegex(told, f"^decide {kind} ", name)
                self.assertIn(text, told, name)
                self.assertIn(DEFERRED, told, name)

    def test_outbound_mail_needs_an_outbound_verdict(self):
        for name, text in (
            ("accept", "it answers outbound mail with an inbound verdict"),
            ("deliver-no-hosts", "it names no smart host"),
        ):
            for told in tried(name, "outbound")[1]:
                self.assertRegex(told, f"^decide {VERDICT} ")
                self.assertIn(text, told)
                self.assertIn(DEFERRED, told)

    def test_what_answers_is_carried_out(self):
        for (name, direction), text in ANSWERING.items():
            loading, decisions = tried(name, direction)
            self.assertEqual((loading, len(decisions)), ("load ok", 2), name)
            for told in decisions:
                self.assertIn(f"decide ok | {text}", told, name)

    def test_threads_forks_contexts_and_limits(self):
        command = [PROGRAMS / "more", POLICIES / "example.wasm", POLICIES / "loop.wasm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "ok\n", ""))


class ExampleTest(unittest.TestCase):
    def answers(self, policy, direction, *lines, octets=None):
        command = [PROGRAMS / "smtp_rcpt", POLICIES / f"{policy}.wasm", direction, "400"]
        said = octets or "".join(f"{line}\r\n" for line in lines).encode()
        done = subprocess.run(command, input=said, capture_output=True, timeout=60)
        replies = done.stdout.decode("ascii").split("\r\n")
        self.assertEqual((replies[0], replies[-2:]), ("220 mail.contoso.com ESMTP", ["221 2.0.0 bye", ""]))
        return replies[1:-2], done.stderr.decode()

    def test_it_answers_by_the_policy(self):
        ok, sender = "250 2.1.5 ok", "250 2.1.0 ok"
        refused = '550 5.7.1 refused by connector "Contoso Bank is encrypted" (tls): the session is not encrypted'
        replies, errors = self.answers(
            "example", "inbound", "RCPT TO:<b@contoso.com>", "EHLO client", "MAIL FROM:<a@contosobank.com> SIZE=1",
            "RCPT TO:<b@contoso.com>", "RSET", "MAIL FROM:<>", "RCPT TO:<b@contoso.com>", "rcpt to:b", "DATA", "QUIT",
        )
        self.assertEqual(replies, [
            "503 5.5.1 MAIL first", "250 mail.contoso.com", sender, refused, "250 2.0.0 ok", sender, ok,
            "501 5.5.4 RCPT TO:<address>", "502 5.5.1 not implemented",
        ])
        self.assertEqual(errors, "")
        replies, _ = self.answers(
            "example", "outbound", "MAIL FROM:<b@contoso.com>", "RCPT TO:<a@mail.contosobank.com>", "RCPT TO:<a@b.test>"
        )
        self.assertEqual(replies[1:], [
            "250 2.1.5 ok, by mx with TLS level name", "250 2.1.5 ok, by mx with TLS level opportunistic",
        ])

    def test_failures_defer(self):
        mail = ("MAIL FROM:<a@b.test>", "RCPT TO:<b@contoso.com>", "RCPT TO:<c@contoso.com>")
        for policy, text in (
            ("trap", "deferred: the policy gives no answer"), ("loop", "deferred: the policy has not answered"),
            ("memory", "deferred: "), ("imports", "not loaded: the policy imports"), ("empty", "not loaded: "),
        ):
            replies, errors = self.answers(policy, "inbound", *mail)
            self.assertEqual(replies[1:], [UNAVAILABLE] * 2, policy)
            self.assertIn(text, errors)
        replies, errors = self.answers("accept", "inbound", octets=b"MAIL FROM:<\xff@b>\r\nRCPT TO:<b@c>\r\n")
        self.assertEqual(replies[1:], [UNAVAILABLE])
        self.assertIn("the context's mail_from is missing, or is not UTF-8", errors)

    def test_it_survives_what_is_no_smtp(self):
        for octets in (b"NOOP" * 200 + b"\r\n", b"MAIL FROM:<a\0b>\r\n", b"QUIT", b"\0\r\n"):
            replies, _ = self.answers("accept", "inbound", octets=octets)
            self.assertEqual(replies, ["500 5.5.2 the line is too long, or has a zero"])
        self.assertEqual(self.answers("accept", "inbound", octets=b"\r\n")[0], ["502 5.5.1 not implemented"])
        replies, _ = self.answers("text", "inbound", "MAIL FROM:<>", "RCPT TO:<b@c.test>")
        self.assertEqual(replies[1], "550 5.1.9  2J line  250 ok     x???")


unittest.main()
