"""Small values and helpers for the tests of the machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

from shared.messages import Commit, Draft, Limits, ModelInfo, Open
from shared.sampling import SamplingParams
from shared.session.cloud import CloudEffect, CloudSession, Send
from shared.session.log import TokenLog
from shared.session.tree import DraftTree, Node
from shared.step import Fact, StepItem

VOCABULARY = 100
PROMPT = (1, 2, 3)
SECOND = 1_000_000_000
MILLISECOND = 1_000_000

Answer = Callable[[tuple[int, ...]], int]
"""The target: from the tokens after the prompt to the next token."""


def model_info(*, context: int = 1000, limits: Limits | None = None) -> ModelInfo:
    return ModelInfo(
        "test", "model-a", "tokenizer-a", VOCABULARY, context, (), limits or Limits(), takes_attached=True
    )


def opening(tokens: Sequence[int] = PROMPT, *, room: int = 20, **fields: Any) -> Open:
    values: dict[str, Any] = {"prompt_length": len(tokens), "max_length": len(tokens) + room}
    return Open(tokens=tuple(tokens), **({"sampling": SamplingParams()} | values | fields))


def session(
    *, limits: Limits | None = None, context: int = 1000, now: int = 0, **fields: Any
) -> CloudSession:
    return CloudSession(7, 7, opening(**fields), model_info(context=context, limits=limits), now=now)


def draft(
    first: int,
    tokens: Sequence[int],
    *,
    root: int = len(PROMPT),
    seen: int | None = None,
    offsets: Sequence[int] | None = None,
    costs: Sequence[int] | None = None,
    step_now: bool = False,
) -> Draft:
    """A draft; without `offsets` a chain from the end."""
    chain = [0, *[1] * len(tokens)][: len(tokens)]
    return Draft(
        first_node=first,
        root_position=root,
        tokens=tuple(tokens),
        parent_offsets=tuple(chain if offsets is None else offsets),
        costs=tuple([16] * len(tokens) if costs is None else costs),
        seen=root if seen is None else seen,
        step_now=step_now,
    )


def idle(seen: int, *, step_now: bool = False) -> Draft:
    """A draft without nodes."""
    return draft(0, (), root=seen, seen=seen, step_now=step_now)


def grow(tree: DraftTree, *paths: Sequence[int]) -> None:
    """Hang paths of tokens below the end."""
    for path in paths:
        node = tree.root
        for token in path:
            node = tree.add(node, token, 1.0)


def at(tree: DraftTree, path: Iterable[int]) -> Node:
    node = tree.root
    for token in path:
        node = node.children[token]
    return node


def new_log(*, room: int = 20, context: int = 1000, stop: Iterable[int] = ()) -> TokenLog:
    return TokenLog(
        PROMPT,
        prompt_length=len(PROMPT),
        max_length=len(PROMPT) + room,
        context_length=context,
        stop_tokens=stop,
    )


def facts_of(item: StepItem, answer: Answer) -> list[tuple[int, Fact]]:
    """What a worker would state, from the item alone."""
    base = tuple(item.log[item.prompt_length : item.length])
    facts = [] if item.end_key is None else [(item.end_key, Fact(answer(base)))]
    paths: list[tuple[int, ...]] = []
    for node in item.nodes:
        paths.append((base if node.parent < 0 else paths[node.parent]) + (node.token,))
        if node.wanted:
            facts.append((node.key, Fact(answer(paths[-1]))))
    return facts


def verify(cloud: CloudSession, answer: Answer, *, now: int = 0) -> list[CloudEffect]:
    """One step over everything that is missing."""
    item = cloud.take(cloud.missing_drafts(), now=now)
    return cloud.learn(facts_of(item, answer), verify_us=0, now=now)


def writes(*tokens: int) -> Answer:
    """A target that writes these tokens, and 99 wherever a draft has left them or they are over."""
    return lambda path: tokens[len(path)] if path == tokens[: len(path)] and len(path) < len(tokens) else 99


def commits(effects: Iterable[object]) -> list[Commit]:
    return [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, Commit)]


def snapshot(value: object, seen: dict[int, int] | None = None) -> object:
    """Everything that can be reached from a value, as plain data; objects met again are numbered, so cycles end."""
    seen = {} if seen is None else seen
    if value is None or isinstance(value, bool | int | float | str | Enum) or callable(value):
        return value
    if id(value) in seen:
        return ("met", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, Mapping):
        return [(snapshot(key, seen), snapshot(one, seen)) for key, one in value.items()]
    if isinstance(value, AbstractSet):
        return sorted(value)
    if isinstance(value, Sequence):
        return [snapshot(one, seen) for one in value]
    return [(name, snapshot(getattr(value, name), seen)) for name in _fields(value)]


def _fields(value: object) -> list[str]:
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *vars(value)] if hasattr(value, "__dict__") else slots
