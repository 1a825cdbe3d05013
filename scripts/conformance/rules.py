"""What a rule is, and what comes of it."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Generic, Protocol, TypeVar

import grpc


class Looked(Protocol):
    """Whatever is looked at."""

    def hang_up(self) -> None:
        """End what a script has left behind."""


Subject = TypeVar("Subject", bound=Looked)
Exchange = Callable[[Subject], None]


class BrokenError(AssertionError):
    """The other side has broken the rule; the message says what it did and what it was to do."""


class SkippedError(Exception):
    """The rule cannot be checked here; the message says why."""


def check(holds: object, otherwise: str) -> None:
    """Raises `BrokenError` unless it `holds`."""
    if not holds:
        raise BrokenError(otherwise)


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject]):
    """One rule of the contract."""

    name: str
    where: str
    """Where it stands: a field or message of slipstream.proto, or a section of proto/README.md."""
    says: str
    """One sentence."""
    exchange: Exchange[Subject]
    """Raises `BrokenError` or `SkippedError`, or returns."""
    last: bool = False
    """Whether nothing else can be checked on the same subject after it."""


class Outcome(enum.Enum):
    """What came of a rule."""

    KEPT = "kept"
    BROKEN = "broken"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict(Generic[Subject]):
    """One rule, checked."""

    rule: Rule[Subject]
    outcome: Outcome
    detail: str
    """Why it is broken, or was skipped."""
    seconds: float


class RuleBook(Generic[Subject]):
    """Rules in the order in which they are written down, those that come last behind all others. Names are unique."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule[Subject]] = {}

    def __iter__(self) -> Iterator[Rule[Subject]]:
        return iter(sorted(self._rules.values(), key=lambda rule: rule.last))

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, name: str) -> Rule[Subject]:
        return self._rules[name]

    def arrange(self, modules: Sequence[ModuleType]) -> None:
        """Put the rules into the order of the modules that they stand in, whatever the order of imports."""
        names = [module.__name__ for module in modules]
        order = sorted(self._rules.values(), key=lambda rule: names.index(rule.exchange.__module__))
        self._rules = {rule.name: rule for rule in order}

    def rule(self, where: str, *, last: bool = False) -> Callable[[Exchange[Subject]], Exchange[Subject]]:
        """Enter the decorated exchange: its name is the rule's, its docstring what the rule says."""

        def enter(exchange: Exchange[Subject]) -> Exchange[Subject]:
            name = exchange.__name__.replace("_", "-")
            says = " ".join((exchange.__doc__ or "").split())
            if name in self._rules or not says:
                raise ValueError(f"rule {name} is there already, or says nothing")
            self._rules[name] = Rule(name, where, says, exchange, last)
            return exchange

        return enter


def run(rule: Rule[Subject], subject: Subject) -> None:
    """The rule's exchange; nothing of it is left behind. Raises what it raises."""
    try:
        rule.exchange(subject)
    finally:
        subject.hang_up()


def judge(rule: Rule[Subject], subject: Subject) -> Verdict[Subject]:
    """Check one rule. A call that fails where the script counts on it has broken the rule."""
    began = time.monotonic()
    outcome, detail = Outcome.KEPT, ""
    try:
        run(rule, subject)
    except BrokenError as broken:
        outcome, detail = Outcome.BROKEN, str(broken)
    except SkippedError as skipped:
        outcome, detail = Outcome.SKIPPED, str(skipped)
    except grpc.RpcError as error:
        outcome, detail = Outcome.BROKEN, f"a call failed: {error.code().name} {error.details()}"
    return Verdict(rule, outcome, detail, time.monotonic() - began)
