"""Who may send mail to whom. README.md says how it is built and tried."""

from wit_world.exports import Evaluation
from wit_world.exports.evaluation import *

BLOCKED = {"blocked.example"}


class Evaluation(Evaluation):
    """The interface, which wit/policy.wit documents."""

    def evaluate(self, context):
        """What is raised defers the mail. Nothing can be printed; what stands under `failed` is in the log, and shown by
        `make test`.
        """
        try:
            return self.decide(context)
        except Exception as error:
            text = "the policy has failed, try again later"
            return Verdict_Defer(Refusal(None, f"exception: {error!r}", 451, "4.3.0", text, []))

    def decide(self, context):
        """Decides about one recipient of one message."""
        domain = context.mail_from.rpartition("@")[2].lower()
        if domain in BLOCKED:
            return reject("blocked", "not from there")
        if context.direction == Direction.INBOUND:
            return Verdict_Accept(Acceptance([], []))
        return deliver()

    def explain(self, context):
        """The same, with what was considered."""
        return Explanation(self.evaluate(context), [], 0)

    def describe(self, first, limit):
        """What the policy is, and which facts it reads."""
        return Description("", [], [Fact.MAIL_FROM], [], 0, [])


def reject(failed, text):
    """`failed` is a word for logs and metrics, `text` what the client reads."""
    return Verdict_Reject(Refusal(None, failed, 550, "5.7.1", text, []))


def deliver():
    """Mail that the organization sends needs a route, and what the next hop must show."""
    level = TlsLevel_Opportunistic()
    tls = Protection(level, None, [], [], [], Dane.OPPORTUNISTIC, MtaSts.OPPORTUNISTIC)
    return Verdict_Deliver(Delivery(None, Route_Mx(), tls, None, None, []))
