"""Engines, and the policies that run on them."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
import threading
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
TICKS = 10
# Compiling is not measured, instantiating is; rules of ten thousand connectors take seconds.
BEGINNING = 30.0
# What is left of Python's own stack is more.
STACK = 512 << 10


class Engine:
    """What policies run on. A program needs one; any thread may use it.

    `timeout` is what one evaluation may take, in seconds; `memory` what a policy may have, in bytes.
    """

    def __init__(self, timeout: float = 0.05, memory: int = 64 << 20) -> None:
        if timeout <= 0 or memory <= 0:
            raise ValueError("timeout and memory are more than nothing")
        self.timeout = timeout
        self.memory = memory
        config = wasmtime.Config()
        config.epoch_interruption = True
        config.max_wasm_stack = STACK
        self._engine = wasmtime.Engine(config)
        self._linker = component.Linker(self._engine)
        self._stopped = threading.Event()
        tick = threading.Thread(
            target=_tick, args=(self._engine, timeout / TICKS, self._stopped), name="policy-clock", daemon=True
        )
        tick.start()
        weakref.finalize(self, self._stopped.set)

    def load(self, source: str | os.PathLike[str] | bytes | dict[str, Any]) -> Policy:
        """Loads a policy: the bytes of a component, rules as a dictionary, or a file of either (.wasm, .json).

        Raises a PolicyError, or OSError if a file cannot be read.
        """
        if isinstance(source, dict):
            return self._rules(json.dumps(source))
        if isinstance(source, bytes):
            return self._component(source)
        with open(source, "rb") as file:
            octets = file.read()
        if os.fspath(source).endswith(".wasm"):
            return self._component(octets)
        try:
            return self._rules(octets.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise PolicyError(f"{os.fspath(source)} is not UTF-8: {error}") from None

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


def _tick(engine: wasmtime.Engine, seconds: float, stopped: threading.Event) -> None:
    while not stopped.wait(seconds):
        engine.increment_epoch()


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
        return words.verdict(self._call("evaluate", words.context(context)))

    def explain(self, context: dict[str, Any]) -> dict[str, Any]:
        """The verdict, and the connectors that were considered."""
        fields = vars(self._call("explain", words.context(context)))
        return {
            "verdict": words.verdict(fields["verdict"]),
            "considered": words.plain(fields["considered"]),
            "others": fields["others"],
        }

    @property
    def reads(self) -> list[str]:
        """The facts that it reads; with `header-from` among them it is asked again when the header is there."""
        return list(vars(self._call("describe", 0, 0))["reads"])

    def _begin(self) -> _Instance:
        return _Instance(self._engine, self._component, self._document)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            instance = self._instance or self._begin()
            self._instance = None
            answer = instance.call(name, self._engine.timeout, *arguments)
            self._instance = instance
            return answer


class _Instance:
    """A component with its memory."""

    def __init__(self, engine: Engine, compiled: component.Component, document: str | None) -> None:
        self._engine = engine
        self._store = wasmtime.Store(engine._engine)
        self._store.set_limits(memory_size=engine.memory)
        self._instance = self._timed(BEGINNING, lambda: self._made(compiled))
        if document is not None:
            self._configure(document)

    def _made(self, compiled: component.Component) -> component.Instance:
        instance = self._engine._linker.instantiate(self._store, compiled)
        if instance.get_export_index(self._store, EVALUATION) is None:
            raise ComponentError(f"this is not a policy: it does not export {EVALUATION}")
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
