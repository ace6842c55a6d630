"""The example as a server: `python3 example.py aiosmtpd_host.py`."""

import json
import pathlib
import smtplib
import subprocess
import sys
import tempfile

from test_policy import BODIES, RULES, hostile


def main() -> None:
    refused = b'5.7.1 refused by connector "bank" (tls): the session is not encrypted'
    with tempfile.TemporaryDirectory() as folder:
        rules, failing = pathlib.Path(folder, "rules.json"), pathlib.Path(folder, "failing.wasm")
        rules.write_text(json.dumps(RULES))
        failing.write_bytes(hostile(BODIES["trap"]))
        ask(rules, [("a@bank.test", 550, refused), ("a@other.test", 250, b"2.1.5 recipient ok")])
        # No answer is no acceptance.
        ask(failing, [("a@other.test", 451, b"4.3.0 the policy")] * 2)


def ask(policy: pathlib.Path, expected: list[tuple[str, int, bytes]]) -> None:
    command = [sys.executable, sys.argv[1], str(policy), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.ehlo("client.test")
                for sender, code, text in expected:
                    client.mail(sender)
                    reply = client.rcpt("b@c.test")
                    assert reply[0] == code and reply[1].startswith(text), (sender, reply)
                    client.rset()
        finally:
            server.kill()


main()
