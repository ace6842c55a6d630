"""Policies in Python: load one, ask it.

    from portcullis_policy import Engine

    policy = Engine().load("rules.json")
    verdict = policy.evaluate({"direction": "inbound", "mail-from": "a@b.test", "rcpt-to": "c@d.test"})
"""

from .errors import ComponentError, ContextError, PolicyError, RulesError, TimeoutError, TrapError
from .policy import VERSION as INTERFACE_VERSION
from .policy import Engine, Policy

__all__ = [
    "INTERFACE_VERSION",
    "ComponentError",
    "ContextError",
    "Engine",
    "Policy",
    "PolicyError",
    "RulesError",
    "TimeoutError",
    "TrapError",
]
