"""Servers that each break one rule: ours, with one thing changed. Each names the rule that must catch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

import shared.session.cloud
import shared.session.front
import shared.session.held
import shared.session.joining
from cloud_server.engine import Engine
from cloud_server.service import SlipstreamService
from shared import wire
from shared.errors import ContractViolation, Status
from shared.messages import Commit, Draft, Drain, Finish, FinishReason, Opened
from shared.policy.patience import FixedPatience
from shared.session.cloud import CloudSession, EndStream, Send
from shared.session.drafters import Drafters
from shared.session.front import CloudFront
from shared.session.log import TokenLog
from shared.session.parts import OpenParts
from shared.session.stream import DraftStream
from shared.step import Fact

Break = Callable[[pytest.MonkeyPatch], None]
BROKEN: dict[str, tuple[Break, str, str]] = {}
"""What is broken -> how, the rule that catches it, and words of what it says."""


def broken(rule: str, words: str) -> Callable[[Break], Break]:
    def enter(patch: Break) -> Break:
        BROKEN[patch.__name__.replace("_", " ")] = (patch, rule, words)
        return patch

    return enter


def drafts(patch: pytest.MonkeyPatch, change: Callable[[DraftStream, Draft], Draft]) -> None:
    """Every Draft is changed before it is looked at."""
    real = DraftStream.apply
    patch.setattr(
        DraftStream,
        "apply",
        lambda self, draft, *rest, **more: real(self, change(self, draft), *rest, **more),
    )


def says(patch: pytest.MonkeyPatch, kind: type, change: Callable[[Any], None]) -> None:
    """Every message of a kind is changed before it goes down."""
    real = wire.cloud_message_to_wire

    def to_wire(message: object) -> object:
        form = real(message)  # type: ignore[arg-type]
        if isinstance(message, kind):
            change(getattr(form, form.WhichOneof("kind") or ""))
        return form

    patch.setattr(wire, "cloud_message_to_wire", to_wire)


# The form of drafts


@broken("ids-begin-at-one-and-are-dense", "first_node 2 at first")
def ids_are_taken_as_they_come(patch: pytest.MonkeyPatch) -> None:
    drafts(
        patch,
        lambda self, draft: (
            dataclasses.replace(draft, first_node=self._last_id + 1) if draft.tokens else draft
        ),
    )


@broken("seen-never-decreases", "seen below the opened log")
def seen_may_decrease(patch: pytest.MonkeyPatch) -> None:
    drafts(patch, lambda self, draft: dataclasses.replace(draft, seen=max(draft.seen, self.seen)))


@broken("seen-is-within-what-was-sent", "seen 28")
def seen_may_be_anything(patch: pytest.MonkeyPatch) -> None:
    drafts(patch, lambda self, draft: dataclasses.replace(draft, seen=min(draft.seen, self.sent_length)))


@broken("root-position-never-decreases", "root_position 4, then 3")
def root_position_may_decrease(patch: pytest.MonkeyPatch) -> None:
    real = DraftStream._advance_root
    patch.setattr(
        DraftStream,
        "_check_positions",
        lambda self, draft: None if draft.root_position <= self.sent_length else real(self, 0),
    )


@broken("offsets-reach-no-lower-than-the-first-id", "offsets [1, 0]")
def offsets_are_bent(patch: pytest.MonkeyPatch) -> None:
    def bend(self: DraftStream, draft: Draft) -> Draft:
        pairs = enumerate(draft.parent_offsets, draft.first_node)
        return dataclasses.replace(
            draft, parent_offsets=tuple(min(offset, node - 1) for node, offset in pairs)
        )

    drafts(patch, bend)


# What becomes of drafts


@broken("wrong-drafts-change-nothing", "another text")
def drafts_are_believed(patch: pytest.MonkeyPatch) -> None:
    real = CloudSession.learn

    def learn(self: CloudSession, facts: Sequence[tuple[int, Fact]], **more: Any) -> Any:
        bent = []
        for key, fact in facts:
            node = self._nodes.get(key)
            guess = next(iter(node.children), fact.token) if node is not None else fact.token
            bent.append((key, Fact(guess)))
        return real(self, bent, **more)

    patch.setattr(CloudSession, "learn", learn)


@broken("drafts-behind-the-log-become-aliases", "INVALID_ARGUMENT")
def late_drafts_are_refused(patch: pytest.MonkeyPatch) -> None:
    real = DraftStream._check_positions

    def check(self: DraftStream, draft: Draft) -> None:
        real(self, draft)
        if draft.tokens and draft.root_position < self.sent_length:
            raise ContractViolation(Status.INVALID_ARGUMENT, "too late")

    patch.setattr(DraftStream, "_check_positions", check)


@broken("drafts-of-a-dead-parent-are-dropped", "INVALID_ARGUMENT")
def dead_is_loud(patch: pytest.MonkeyPatch) -> None:
    real = DraftStream._resolve

    def resolve(self: DraftStream, draft: Draft, plan: Any) -> list[Any]:
        places = real(self, draft, plan)
        if any(type(place).__name__ == "_Dead" for place in places):
            raise ContractViolation(Status.INVALID_ARGUMENT, "this node is dead")
        return places

    patch.setattr(DraftStream, "_resolve", resolve)


@broken("a-parent-may-have-been-committed", "stale")
def committed_nodes_are_forgotten_at_once(patch: pytest.MonkeyPatch) -> None:
    real = DraftStream.promoted

    def promoted(self: DraftStream, nodes: Any) -> None:
        real(self, nodes)
        self._aliases.clear()

    patch.setattr(DraftStream, "promoted", promoted)


@broken("ids-below-the-root-position-are-forgotten", "0 stale")
def ids_are_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    def advance(self: DraftStream, root_position: int) -> None:
        self.root_position = max(self.root_position, root_position)

    def promoted(self: DraftStream, nodes: Any) -> None:
        for node in nodes:
            for identity in self._ids.pop(node.key, ()):
                del self._nodes[identity]
                self._aliases[identity] = node.position

    patch.setattr(DraftStream, "_advance_root", advance)
    patch.setattr(DraftStream, "promoted", promoted)


# Limits


@broken("live-nodes-are-limited", "at most 40 live nodes")
def nobody_counts_nodes(patch: pytest.MonkeyPatch) -> None:
    real = DraftStream.__init__

    def init(self: DraftStream, limits: Any, *rest: Any, **more: Any) -> None:
        real(self, dataclasses.replace(limits, max_live_nodes=1 << 20), *rest, **more)

    patch.setattr(DraftStream, "__init__", init)


@broken("messages-in-a-second-are-limited", "at most 150 a second")
def nobody_counts_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DraftStream, "_check_rate", lambda self, now: None)


@broken("messages-are-no-larger-than-the-limit", "an Open of 4097 bytes")
def nobody_weighs_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlipstreamService, "_decode", lambda self, message: wire.edge_message_from_wire(message))


@broken("the-cloud-runs-ahead-of-what-was-seen", "without a word of the edge")
def the_cloud_runs_away(patch: pytest.MonkeyPatch) -> None:
    def due(self: CloudSession) -> int | None:
        if self.over or self.log.closed is not None or self.tree.root.key in self._in_flight:
            return None
        return self._patience.due_at(self._missing_since, self._bare_since)

    patch.setattr(CloudSession, "end_due_at", due)


@broken("the-cloud-waits-for-a-draft", "the first token came after")
def the_cloud_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shared.session.cloud, "patience_of", lambda opening, adaptive: FixedPatience(0))


@broken("sessions-are-limited", "13 sessions are open at once")
def everybody_is_let_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shared.session.front.PoolScheduler, "refused", lambda self, most: None)


# What comes down


@broken("commits-leave-no-gap", "a commit at 4, the log ends at 3")
def commits_are_numbered_from_one(patch: pytest.MonkeyPatch) -> None:
    says(patch, Commit, lambda commit: setattr(commit, "position", commit.position + 1))


@broken("logprobs-come-where-they-are-wanted", "want_logprobs False")
def logprobs_come_always(patch: pytest.MonkeyPatch) -> None:
    says(patch, Commit, lambda commit: commit.logprobs.__setitem__(slice(None), [0.0] * len(commit.tokens)))


@broken("opened-comes-first-and-once", "limits are not set")
def opened_has_no_limits(patch: pytest.MonkeyPatch) -> None:
    says(patch, Opened, lambda opened: opened.ClearField("limits"))


@broken("finish-counts-the-log", "a log that was opened again")
def finish_counts_what_this_stream_was_sent(patch: pytest.MonkeyPatch) -> None:
    real = CloudSession._finish
    patch.setattr(
        CloudSession,
        "_finish",
        lambda self, reason, position: real(
            self, reason, position - len(self._opening.tokens) + self.log.prompt_length
        ),
    )


@broken("messages-come-in-their-order", "not Finish")
def there_is_no_farewell(patch: pytest.MonkeyPatch) -> None:
    real = Drafters.finished
    patch.setattr(
        Drafters,
        "finished",
        lambda self, finish: [
            effect
            for effect in real(self, finish)
            if not (isinstance(effect, Send) and isinstance(effect.message, Finish))
        ],
    )


@broken("length-closes-the-log", "2 tokens, max_length leaves room for 1")
def there_is_room_for_one_more(patch: pytest.MonkeyPatch) -> None:
    real = TokenLog.__init__
    patch.setattr(
        TokenLog,
        "__init__",
        lambda self, tokens, *, max_length, **more: real(self, tokens, max_length=max_length + 1, **more),
    )


@broken("a-stop-token-closes-the-log", "the reason is FINISH_REASON_LENGTH")
def length_comes_before_stop(patch: pytest.MonkeyPatch) -> None:
    real = TokenLog._close_if_due

    def close(self: TokenLog) -> None:
        if len(self.tokens) >= self.max_length:
            self.close(FinishReason.LENGTH)
        real(self)

    patch.setattr(TokenLog, "_close_if_due", close)


@broken("max-length-is-absolute", "expected 2")
def opening_again_extends_the_log(patch: pytest.MonkeyPatch) -> None:
    real = OpenParts.add

    def add(self: OpenParts, part: Any, now: int) -> Any:
        whole = real(self, part, now)
        if whole is None:
            return None
        return dataclasses.replace(
            whole, max_length=whole.max_length + len(whole.tokens) - whole.prompt_length
        )

    patch.setattr(OpenParts, "add", add)


@broken("close-says-which-tokens-count", "position 3")
def close_counts_everything(patch: pytest.MonkeyPatch) -> None:
    real = CloudSession.close
    patch.setattr(
        CloudSession, "close", lambda self, close: real(self, dataclasses.replace(close, position=None))
    )


@broken("a-log-goes-on-with-the-same-text", "goes on differently")
def facts_depend_on_the_stream(patch: pytest.MonkeyPatch) -> None:
    real = CloudSession.learn

    def learn(self: CloudSession, facts: Sequence[tuple[int, Fact]], **more: Any) -> Any:
        drift = len(self._opening.tokens) - self._opening.prompt_length
        return real(self, [(key, Fact((fact.token + drift) % 1000)) for key, fact in facts], **more)

    patch.setattr(CloudSession, "learn", learn)


# Streams


@broken("protocol-version-is-spoken", "version 0")
def every_version_will_do(patch: pytest.MonkeyPatch) -> None:
    real = shared.session.front.check_open

    def check(opening: Any, info: Any) -> None:
        real(dataclasses.replace(opening, protocol_version=info.protocol_version), info)

    patch.setattr(shared.session.front, "check_open", check)
    patch.setattr(shared.session.cloud, "check_open", check)


@broken("unknown-fields-are-ignored", "INVALID_ARGUMENT")
def unknown_fields_are_refused(patch: pytest.MonkeyPatch) -> None:
    real = SlipstreamService._decode

    def decode(self: SlipstreamService, message: Any) -> Any:
        if len(UnknownFieldSet(message)):
            raise ContractViolation(Status.INVALID_ARGUMENT, "a field that nobody knows")
        return real(self, message)

    patch.setattr(SlipstreamService, "_decode", decode)


@broken("an-end-without-close-is-a-loss", "nothing comes")
def an_end_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "half_closed", lambda self, stream: None)


@broken("drain-is-said-once-and-streams-are-served", "Drain came [2, 2] times")
def drain_is_said_twice(patch: pytest.MonkeyPatch) -> None:
    real = CloudFront.drain

    def drain(self: CloudFront) -> Any:
        effects = real(self)
        return [*effects, *effects]

    patch.setattr(CloudFront, "drain", drain)


@broken("nothing-comes-before-opened", "nothing comes")
def drain_is_said_to_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CloudFront, "drain", lambda self: [Send(stream, Drain()) for stream in self._streams])


@broken("attaching-needs-id-and-secret", "a wrong secret")
def any_secret_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shared.session.held, "same_secret", lambda one, other: True)


@broken("a-violation-ends-the-attached-stream-alone", "expected 1 tokens")
def a_drafter_takes_the_session_along(patch: pytest.MonkeyPatch) -> None:
    real = CloudFront.violated

    def violated(self: CloudFront, stream: int, violation: ContractViolation) -> Any:
        known = self._streams.get(stream)
        session = None if known is None else known.session
        ends = [EndStream(one, violation.status, "") for one in (session.streams if session else ())]
        return [*real(self, stream, violation), *self._ended(ends)]

    patch.setattr(CloudFront, "violated", violated)


@broken("a-violation-ends-the-attached-stream-alone", "the message that brought them was refused")
def a_broken_message_is_applied_as_far_as_it_goes(patch: pytest.MonkeyPatch) -> None:
    real = CloudSession.draft

    def draft(self: CloudSession, draft: Draft, **more: Any) -> None:
        good = next((i for i, token in enumerate(draft.tokens) if token >= 1000), len(draft.tokens))
        cut = {name: getattr(draft, name)[:good] for name in ("tokens", "parent_offsets", "costs")}
        real(self, dataclasses.replace(draft, **cut), **more)
        if good < len(draft.tokens):
            raise ContractViolation(Status.INVALID_ARGUMENT, "a token beyond the vocabulary")

    patch.setattr(CloudSession, "draft", draft)


@broken("the-session-moves-to-another-stream", "Opened names another session")
def nobody_comes_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CloudSession, "continued_by", lambda self, opening: False)
