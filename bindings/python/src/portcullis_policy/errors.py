"""What can go wrong. No error is a verdict: a host that catches one defers the mail (451), and never accepts it."""

from __future__ import annotations

from typing import Any


class PolicyError(Exception):
    """A policy cannot be loaded, or gives no answer."""


class ComponentError(PolicyError):
    """The bytes are no component that this package can run."""


class RulesError(PolicyError):
    """A rules document is not accepted; `problems` has what `portcullis check --format json` prints."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        self.problems = problems
        errors = [it for it in problems if it["severity"] == "error"]
        super().__init__("; ".join(f"{it['line']}:{it['column']}: {it['message']} [{it['code']}]" for it in errors))


class ContextError(PolicyError, ValueError):
    """A context is none. The text names the field."""


class TrapError(PolicyError):
    """The policy has failed: it trapped, or asked for more memory or stack than it may have."""


class TimeoutError(PolicyError):  # noqa: A001 - the name says it best
    """The policy did not answer in time."""
