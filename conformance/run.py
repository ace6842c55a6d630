#!/usr/bin/env python3
"""Holds a host of Portcullis policies against the cases: `run.py -- COMMAND ...`.

README.md says what COMMAND has to do. Needs Python 3.9, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
# Seconds for an answer: a host may have to compile first.
PATIENCE = 120
# What an answer may be.
KINDS = {"loaded", "verdict", "reply", "skip", "error"}
# Characters of an answer.
LONGEST = 1 << 20


class Broken(Exception):
    """The host does not do what the protocol says."""


class Host:
    """A program that speaks the protocol."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        try:
            self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8", errors="replace")
        except OSError as error:
            raise Broken(f"it cannot be started: {error}") from error
        # One that says more waits, instead of filling the memory.
        self.answers: queue.Queue[str] = queue.Queue(maxsize=4)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        while line := self.child.stdout.readline(LONGEST):
            self.answers.put(line)
        self.answers.put("")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Says a line, and gives the answer to it."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(question) + "\n")
            self.child.stdin.flush()
        except OSError as error:
            raise Broken(f"it does not read: {error}") from error
        try:
            line = self.answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise Broken(f"no answer within {PATIENCE} s to {json.dumps(question)[:200]}") from None
        if not line:
            raise Broken(f"it ended instead of answering {json.dumps(question)[:200]}")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Broken(f"an answer is not JSON ({error}): {line[:200]!r}") from None
        if not isinstance(answer, dict):
            raise Broken(f"an answer is no object: {line[:200]!r}")
        # What is meant by two at once, or by none, nobody can tell.
        if len(KINDS & set(answer)) > 1 or any(not isinstance(answer.get(name, ""), str) for name in ("skip", "error")):
            raise Broken(f"an answer is not one of the protocol: {line[:200]!r}")
        return answer

    def end(self) -> None:
        """Waits for its end, which has to be a good one."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            code = self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise Broken("it goes on after its input has ended") from None
        if code != 0:
            raise Broken(f"it ended with {code}")
        try:
            more = self.answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise Broken("it has ended, and something that it has begun has not") from None
        if more:
            raise Broken(f"it says more than it was asked: {more[:200]!r}")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


def is_right(answer: dict[str, Any], expected: dict[str, Any] | None) -> bool:
    if expected is None:
        return "error" in answer and "verdict" not in answer and "reply" not in answer
    if "error" in answer:
        return False
    reply, verdict = answer.get("reply"), answer.get("verdict")
    if isinstance(reply, dict):
        if expected["verdict"] == "accept":
            return set(reply) == {"code"} and reply["code"] == 250
        # What a reply does not say is not compared; what it says has to be so.
        return "code" in reply and all(expected.get(name) == value for name, value in reply.items())
    # How a refusal is worded is for the policy.
    return isinstance(verdict, dict) and {name: verdict[name] for name in verdict if name != "text"} == expected


class Report:
    """What came of the cases."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []

    def note(self, file: str, case: str, answer: dict[str, Any], expected: dict[str, Any] | None) -> None:
        """`expected` is a verdict; without one the context is none, and an error is the right answer."""
        if "skip" in answer:
            self.skipped.append({"file": file, "case": case, "reason": answer["skip"]})
            return
        if is_right(answer, expected):
            self.passed += 1
        else:
            expects = {"error": "…"} if expected is None else {"verdict": expected}
            self.failed.append({"file": file, "case": case, "expected": expects, "found": answer})


def load(host: Host, name: str, file: dict[str, Any], portcullis: str | None) -> dict[str, Any]:
    """Has the host load a policy: the document, and the component that is built of it if there is a builder."""
    rules = file["rules"]
    domains = {domain(case["context"]) for case in file["cases"] if case["context"]["direction"] == "inbound"}
    question: dict[str, Any] = {"load": name, "rules": rules, "recipient-domains": sorted(domains)}
    if portcullis is None:
        return host.ask(question)
    with tempfile.TemporaryDirectory() as folder:
        document, component = pathlib.Path(folder, "rules.json"), pathlib.Path(folder, "policy.wasm")
        document.write_text(json.dumps(rules), encoding="utf-8")
        command = [portcullis, "build", str(document), "-o", str(component)]
        try:
            built = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise Broken(f"{portcullis} cannot be started: {error}") from error
        if built.returncode != 0:
            raise Broken(f"{name} cannot be built: {built.stderr.strip()}")
        return host.ask({**question, "component": str(component)})


def domain(context: dict[str, Any]) -> str:
    """The recipient's domain."""
    return context["rcpt-to"].rpartition("@")[2].rstrip(".").lower()


def run(host: Host, arguments: argparse.Namespace) -> tuple[dict[str, Any], Report]:
    about = json.loads((HERE / "conformance.json").read_text(encoding="utf-8"))
    hello = host.ask({"conformance": about["version"], "interface": about["interface"]})
    report = Report()
    for path in sorted((HERE / "cases").glob("*.json")):
        file = json.loads(path.read_text(encoding="utf-8"))
        loaded = load(host, path.stem, file, arguments.portcullis)
        for case in file["cases"]:
            if hello.get("smtp") is True and case.get("smtp") is False:
                answer = {"skip": "a fact that no SMTP session has"}
            elif loaded.get("loaded") is True:
                answer = host.ask({"context": case["context"]})
            else:
                answer = loaded
            report.note(path.stem, case["name"], answer, case["verdict"])
    # Any policy will do.
    for case in json.loads((HERE / "contexts.json").read_text(encoding="utf-8")):
        report.note("contexts", case["name"], host.ask({"context": case["context"]}), None)
    host.end()
    return hello, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portcullis", metavar="PROGRAM", help="builds a component of each document for the host")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    # A host may answer with what no terminal can show.
    sys.stdout.reconfigure(errors="backslashreplace")
    host = None
    try:
        host = Host(arguments.command)
        hello, report = run(host, arguments)
    except Broken as error:
        if host is not None:
            host.kill()
        print(f"{arguments.command[0]}: {error}", file=sys.stderr)
        return 2
    show(hello.get("name", arguments.command[0]), hello.get("version", ""), report, arguments.format)
    return 1 if report.failed else 0


def show(name: Any, version: Any, report: Report, form: str) -> None:
    name = f"{name} {version}".strip()
    if form == "json":
        print(json.dumps({"host": name, **vars(report)}, indent=2, ensure_ascii=False))
        return
    for it in report.failed:
        print(f"{it['file']}: {it['case']}\n  expected {it['expected']}\n  found    {it['found']}")
    for reason in sorted({it["reason"] for it in report.skipped}):
        number = sum(it["reason"] == reason for it in report.skipped)
        print(f"skipped {number}: {printable(reason)}")
    print(f"{printable(name)}: {report.passed} passed, {len(report.failed)} failed, {len(report.skipped)} skipped")


def printable(text: str) -> str:
    """What a host says, without what steers a terminal."""
    return "".join(it if it.isprintable() else repr(it)[1:-1] for it in text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)
