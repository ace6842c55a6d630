"""An SMTP server in Python that asks a policy about each recipient: `python3 aiosmtpd_host.py POLICY [PORT]`.

Needs aiosmtpd. POLICY is a rules document (.json) or a component (.wasm). Accepted mail is thrown away.
"""

import asyncio
import sys

from aiosmtpd.smtp import SMTP, Envelope, Session
from portcullis_policy import Engine, Policy, PolicyError

UNAVAILABLE = "451 4.3.0 the policy for this recipient is not available now, try again later"


class Handler:
    """Asks at RCPT TO, once for each recipient."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, to: str, options: list[str]) -> str:
        context = {
            "direction": "inbound",
            "client-ip": session.peer[0],
            "helo": session.host_name,
            "mail-from": envelope.mail_from or "",
            "rcpt-to": to,
        }
        if session.ssl is not None:
            # aiosmtpd tells no certificate; what a host cannot tell is unknown.
            context["tls"] = {"version": session.ssl["version"], "certificate": "unknown"}
        try:
            verdict = await asyncio.to_thread(self.policy.evaluate, context)
        except PolicyError as error:
            # No answer is no acceptance.
            print(error, file=sys.stderr)
            return UNAVAILABLE
        if verdict["verdict"] == "accept":
            envelope.rcpt_tos.append(to)
            return "250 2.1.5 recipient ok"
        if verdict["verdict"] == "deliver":
            # The policy decides about mail of the other direction.
            return UNAVAILABLE
        return f"{verdict['code']} {verdict['enhanced']} {one_line(verdict['text'])}"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "250 2.0.0 thrown away"


def one_line(text: str) -> str:
    """What a reply can hold (RFC 5321 section 4.5.3.1.5)."""
    return "".join(it if " " <= it <= "~" else "?" for it in text)[:400]


async def serve(policy: Policy, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(policy)), "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Engine().load(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2525))
