"""Engines, and the policies that run on them."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
import threading
import time
import weakref
from typing import Any, Callable

import wasmtime
from wasmtime import component

from . import words
from .errors import ComponentError, PolicyError, RulesError, TimeoutError, TrapError

VERSION = "0.1.0"
EVALUATION = f"portcullis:policy/evaluation@{VERSION}"
RULES = f"portcullis:policy/rules@{VERSION}"

# An evaluation ends at the last tick of its time.
TICKS = 4
# For reading rules: those of ten thousand connectors take seconds. A component is instantiated in the time of an answer.
BEGINNING = 30.0
# Milliseconds more than a timer can wait, and bytes more than 32 bits can address, mean no limit.
LONGEST = 24 * 60 * 60
LARGEST = 1 << 32
# What `portcullis run` allows as well.
LIMITS = {"table_elements": 100_000, "instances": 64, "tables": 8 * 64, "memories": 6}
# What is left of Python's own stack is more.
STACK = 512 << 10


class Engine:
    """What policies run on. A program needs one; any thread may use it.

    `timeout` is what one evaluation may take, in seconds; `memory` what a policy may have, in bytes.
    """

    def __init__(self, timeout: float = 0.05, memory: int = 64 << 20) -> None:
        if not 0.001 <= timeout <= LONGEST:
            raise ValueError("timeout is between 0.001 and 86400 seconds")
        if not 1 << 16 <= memory <= LARGEST:
            raise ValueError("memory is between 64 KiB and 4 GiB")
        self.timeout = timeout
        self.memory = int(memory)
        config = wasmtime.Config()
        config.epoch_interruption = True
        config.max_wasm_stack = STACK
        self._engine = wasmtime.Engine(config)
        self._linker = component.Linker(self._engine)
        self._start_clock()
        _engines.add(self)

    def _start_clock(self) -> None:
        stopped = threading.Event()
        arguments = (self._engine, self.timeout / TICKS, stopped)
        threading.Thread(target=_tick, args=arguments, name="policy-clock", daemon=True).start()
        weakref.finalize(self, stopped.set)

    def load(self, source: str | os.PathLike[str] | bytes | bytearray | dict[str, Any]) -> Policy:
        """Loads a policy: the bytes of a component, rules as a dictionary, or a file of either (.wasm, .json).

        Raises a PolicyError, or OSError if a file cannot be read.
        """
        if isinstance(source, dict):
            try:
                return self._rules(json.dumps(source, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise PolicyError(f"the rules are not JSON: {error}") from None
        if isinstance(source, (bytes, bytearray)):
            return self._component(bytes(source))
        path = os.fsdecode(source)
        with open(path, "rb") as file:
            octets = file.read()
        if path.endswith(".wasm"):
            return self._component(octets)
        try:
            return self._rules(octets.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise PolicyError(f"{path} is not UTF-8: {error}") from None

    def _component(self, octets: bytes) -> Policy:
        return Policy(self, self._compiled(octets), None)

    def _rules(self, document: str) -> Policy:
        return Policy(self, self._evaluator, document)

    @functools.cached_property
    def _evaluator(self) -> component.Component:
        file = importlib.resources.files(__package__) / "evaluator.wasm"
        return self._compiled(file.read_bytes())

    def _compiled(self, octets: bytes) -> component.Component:
        # Text of WebAssembly would be taken for what it stands for.
        if not octets.startswith(b"\0asm"):
            raise ComponentError("this is not a WebAssembly component")
        if octets[4:8] == b"\1\0\0\0":
            raise ComponentError("this is a core module: `portcullis build` makes a component of it")
        try:
            return component.Component(self._engine, octets)
        except wasmtime.WasmtimeError as error:
            raise ComponentError(f"this is not a WebAssembly component: {_reason(error)}") from error


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _restart_clocks() -> None:
    """Threads do not survive a fork, and without a clock nothing ends."""
    for engine in list(_engines):
        engine._start_clock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_clocks)


def _tick(engine: wasmtime.Engine, seconds: float, stopped: threading.Event) -> None:
    before = time.monotonic()
    while not stopped.wait(seconds):
        # Other threads may keep this one waiting.
        ticks = max(1, int((time.monotonic() - before) / seconds))
        for _ in range(min(ticks, TICKS)):
            engine.increment_epoch()
        before = time.monotonic()


def _reason(error: Exception) -> str:
    """The innermost cause, of those that wasmtime lists."""
    lines = [line.strip() for line in str(error).splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return re.sub(r"^\d+: ", "", last)


class Policy:
    """A policy that is loaded. Any thread may ask it, one at a time: ask a policy of its own for each.

    What has failed once is in an unknown state: the next question finds a fresh instance.
    """

    def __init__(self, engine: Engine, compiled: component.Component, document: str | None) -> None:
        self._engine = engine
        self._component = compiled
        self._document = document
        self._lock = threading.Lock()
        self._instance: _Instance | None = self._begin()

    def evaluate(self, context: dict[str, Any]) -> dict[str, Any]:
        """The verdict about a context, both as JSON (docs/spec.md). Raises a PolicyError, which is no verdict."""
        asked = words.context(context)
        return self._call("evaluate", lambda it: words.verdict(it, context["direction"]), asked)

    def explain(self, context: dict[str, Any]) -> dict[str, Any]:
        """The verdict, and the connectors that were considered."""
        asked = words.context(context)
        return self._call("explain", lambda it: words.explanation(it, context["direction"]), asked)

    @property
    def reads(self) -> list[str]:
        """The facts that it reads; with `header-from` among them it is asked again when the header is there."""
        return self._call("describe", lambda it: list(vars(it)["reads"]), 0, 0)

    def _begin(self) -> _Instance:
        return _Instance(self._engine, self._component, self._document)

    def _call(self, name: str, read: Callable[[Any], Any], *arguments: Any) -> Any:
        with self._lock:
            instance = self._instance or self._begin()
            self._instance = None
            answer = instance.call(name, self._engine.timeout, *arguments)
            try:
                told = read(answer)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                # An export of another type answers with something else.
                raise ComponentError(f"the policy does not speak {EVALUATION}: {error}") from error
            self._instance = instance
            return told


class _Instance:
    """A component with its memory."""

    def __init__(self, engine: Engine, compiled: component.Component, document: str | None) -> None:
        self._engine = engine
        self._store = wasmtime.Store(engine._engine)
        self._store.set_limits(memory_size=engine.memory, **LIMITS)
        seconds = engine.timeout if document is None else BEGINNING
        self._instance = self._timed(seconds, lambda: self._made(compiled))
        if document is not None:
            self._configure(document)

    def _made(self, compiled: component.Component) -> component.Instance:
        instance = self._engine._linker.instantiate(self._store, compiled)
        of = instance.get_export_index(self._store, EVALUATION)
        if of is None:
            raise ComponentError(f"this is not a policy: it does not export {EVALUATION}")
        for name in ("evaluate", "explain", "describe"):
            if instance.get_export_index(self._store, name, of) is None:
                raise ComponentError(f"this is not a policy: {EVALUATION} has no {name}")
        return instance

    def _configure(self, document: str) -> None:
        answer = self._timed(BEGINNING, lambda: self._function(RULES, "configure", document))
        # A result: the summary, or the problems.
        if isinstance(answer, component.Variant):
            answer = answer.payload
        if isinstance(answer, list):
            raise RulesError(words.plain(answer))

    def call(self, name: str, seconds: float, *arguments: Any) -> Any:
        """Calls a function of the interface."""
        return self._timed(seconds, lambda: self._function(EVALUATION, name, *arguments))

    def _function(self, interface: str, name: str, *arguments: Any) -> Any:
        of = self._instance.get_export_index(self._store, interface)
        index = self._instance.get_export_index(self._store, name, of)
        function = self._instance.get_func(self._store, index)
        if function is None:
            raise ComponentError(f"{interface} has no function {name}")
        answer = function(self._store, *arguments)
        function.post_return(self._store)
        return answer

    def _timed(self, seconds: float, work: Callable[[], Any]) -> Any:
        ticks = seconds / (self._engine.timeout / TICKS)
        self._store.set_epoch_deadline(max(2, round(ticks)))
        try:
            return work()
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._told(error, seconds) from error
        except (TypeError, ValueError, AssertionError) as error:
            # An export of another type has no such arguments.
            raise ComponentError(f"the policy does not speak {EVALUATION}: {error}") from error

    @staticmethod
    def _told(error: Exception, seconds: float) -> PolicyError:
        reason = _reason(error)
        if "interrupt" in reason:
            return TimeoutError(f"the policy did not answer within {seconds * 1000:.0f} ms")
        if "implementation was not found in the linker" in str(error):
            return ComponentError(f"the component imports what this host does not give: {reason}")
        return TrapError(f"the policy gives no answer: {reason}")
