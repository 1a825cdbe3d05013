"""The codec: what goes in comes out, what has no value is refused, a chain of drafts is little more than its tokens."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from shared import wire
from shared.errors import ContractViolation, Status
from shared.messages import (
    DEFAULT_COST,
    Attach,
    Attached,
    Close,
    CloudMessage,
    Commit,
    Draft,
    Drain,
    EdgeMessage,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Open,
    Opened,
    SessionNotice,
)
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.sampling import SamplingParams

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TOKENS = st.lists(U32, max_size=12).map(tuple)
TEXT = st.text(max_size=12)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 1e6),
    top_k=U32,
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    seed=U64,
)
LIMITS = st.builds(
    Limits,
    max_message_bytes=U32,
    max_nodes_per_message=U32,
    max_live_nodes=U32,
    max_depth=U32,
    max_messages_per_second=U32,
    max_sessions=U32,
    max_patience_us=U64,
    run_ahead=U32,
    max_attached=U32,
)
OPENS = st.builds(
    Open,
    tokens=TOKENS,
    prompt_length=U32,
    max_length=U32,
    sampling=SAMPLING,
    stop_tokens=TOKENS,
    model_fingerprint=TEXT,
    tokenizer_fingerprint=TEXT,
    patience_us=U64,
    adaptive_patience_us=U64,
    want_logprobs=st.booleans(),
    more=st.booleans(),
    protocol_version=U32,
    session_id=TEXT,
    secret=TEXT,
)
ATTACHES = st.builds(
    Attach,
    session_id=TEXT,
    secret=TEXT,
    model_fingerprint=TEXT,
    tokenizer_fingerprint=TEXT,
    protocol_version=U32,
)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    tokens = draw(TOKENS)
    count = len(tokens)
    offsets = st.lists(U32, min_size=count, max_size=count).map(tuple)
    costs = st.lists(U32, min_size=count, max_size=count).map(tuple)
    return Draft(
        first_node=draw(st.integers(1, 2**64 - 1)) if tokens else 0,
        root_position=draw(U32),
        tokens=tokens,
        parent_offsets=draw(st.just(wire.chain_offsets(count)) | offsets),
        costs=draw(st.just((DEFAULT_COST,) * count) | costs),
        seen=draw(U32),
        step_now=draw(st.booleans()),
    )


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    tokens = draw(st.lists(U32, min_size=1, max_size=12).map(tuple))
    logprob = st.floats(max_value=0, width=32)
    logprobs = st.lists(logprob, min_size=len(tokens), max_size=len(tokens)).map(tuple)
    counts = {
        name: draw(U32)
        for name in (
            "steps",
            "facts",
            "judged",
            "accepted",
            "received",
            "stale",
            "self_decoded",
            "advised_window",
        )
    }
    return Commit(
        position=draw(U32),
        tokens=tokens,
        logprobs=draw(st.just(()) | logprobs),
        queue_us=draw(U64),
        verify_us=draw(U64),
        **counts,
    )


@st.composite
def attacheds(draw: st.DrawFn) -> Attached:
    tokens = draw(st.lists(U32, min_size=1, max_size=12).map(tuple))
    return Attached(
        tokens=tokens,
        prompt_length=draw(st.integers(1, len(tokens))),
        max_length=draw(U32),
        sampling=draw(SAMPLING),
        stop_tokens=draw(TOKENS),
        model_fingerprint=draw(TEXT),
        limits=draw(LIMITS),
        sp_degree=draw(U32),
    )


EDGE_MESSAGES = OPENS | ATTACHES | drafts() | st.builds(Close, position=st.none() | U32)
CLOUD_MESSAGES = (
    commits()
    | st.builds(
        Opened,
        session_id=st.text(min_size=1, max_size=12),
        secret=TEXT,
        seed=U64,
        model_fingerprint=TEXT,
        limits=LIMITS,
        sp_degree=U32,
    )
    | attacheds()
    | st.builds(Drain, target=TEXT)
    | st.builds(Finish, reason=st.sampled_from(FinishReason), prompt_tokens=U32, completion_tokens=U32)
)


def chain(count: int, *, first_node: int = 100, position: int = 1000, token: int = 4000) -> Draft:
    return Draft(
        first_node=first_node,
        root_position=position,
        tokens=tuple(range(token, token + count)),
        parent_offsets=wire.chain_offsets(count),
        costs=(DEFAULT_COST,) * count,
        seen=position,
    )


def _attached(**changed: Any) -> pb.CloudMessage:
    whole: dict[str, Any] = {
        "tokens": [1, 2],
        "prompt_length": 1,
        "sampling": pb.Sampling(),
        "limits": pb.Limits(),
    }
    return pb.CloudMessage(attached=pb.Attached(**(whole | changed)))


class TestRoundTrip:
    @given(EDGE_MESSAGES)
    def test_edge_message(self, message: EdgeMessage) -> None:
        sent = wire.edge_message_to_wire(message).SerializeToString()
        assert wire.edge_message_from_wire(pb.EdgeMessage.FromString(sent)) == message

    @given(CLOUD_MESSAGES)
    def test_cloud_message(self, message: CloudMessage) -> None:
        sent = wire.cloud_message_to_wire(message).SerializeToString()
        assert wire.cloud_message_from_wire(pb.CloudMessage.FromString(sent)) == message

    @given(
        st.builds(
            ModelInfo,
            name=TEXT,
            model_fingerprint=TEXT,
            tokenizer_fingerprint=TEXT,
            vocabulary_size=U32,
            context_length=U32,
            stop_tokens=TOKENS,
            limits=LIMITS,
            protocol_version=U32,
            takes_attached=st.booleans(),
            open_sessions=U32,
            sp_degree=U32,
        )
    )
    def test_model_info(self, info: ModelInfo) -> None:
        sent = wire.model_info_to_wire(info).SerializeToString()
        assert wire.model_info_from_wire(pb.Model.FromString(sent)) == info

    @given(st.builds(SessionNotice, session_id=st.text(min_size=1, max_size=12), secret=TEXT))
    def test_session_notice(self, notice: SessionNotice) -> None:
        sent = wire.session_notice_to_wire(notice).SerializeToString()
        assert wire.session_notice_from_wire(pb.SessionNotice.FromString(sent)) == notice

    @given(EDGE_MESSAGES)
    def test_unknown_fields_are_ignored(self, message: EdgeMessage) -> None:
        sent = wire.edge_message_to_wire(message).SerializeToString()
        field_1000_varint_1 = b"\xc0\x3e\x01"
        assert wire.edge_message_from_wire(pb.EdgeMessage.FromString(sent + field_1000_varint_1)) == message


class TestPresence:
    """Where absent differs from 0, both survive."""

    @pytest.mark.parametrize("position", [None, 0, 7])
    def test_close_position(self, position: int | None) -> None:
        sent = wire.edge_message_to_wire(Close(position=position)).SerializeToString()
        assert wire.edge_message_from_wire(pb.EdgeMessage.FromString(sent)) == Close(position=position)

    def test_seen_zero_is_not_the_root_position(self) -> None:
        draft = Draft(first_node=0, root_position=5, tokens=(), parent_offsets=(), costs=(), seen=0)
        assert wire.edge_message_from_wire(wire.edge_message_to_wire(draft)) == draft

    def test_absent_seen_is_the_root_position(self) -> None:
        assert _read(draft=pb.Draft(root_position=9)) == Draft(0, 9, (), (), (), seen=9)

    def test_absent_top_p_keeps_all(self) -> None:
        message = _read(open=pb.Open(sampling=pb.Sampling()))
        assert isinstance(message, Open)
        assert message.sampling == SamplingParams()

    def test_absent_arrays_are_a_chain_of_one_nat_each(self) -> None:
        message = _read(draft=pb.Draft(first_node=3, root_position=9, tokens=[5, 6, 7]))
        assert message == Draft(3, 9, (5, 6, 7), (0, 1, 1), (16, 16, 16), seen=9)


class TestSize:
    def test_a_chain_of_eight_is_at_most_31_bytes(self) -> None:
        body = wire.edge_message_to_wire(chain(8)).SerializeToString()
        assert len(body) <= 31

    def test_so_is_one_with_the_tokens_of_a_large_vocabulary(self) -> None:
        draft = chain(8, first_node=100, position=100, token=150_000)
        assert len(wire.edge_message_to_wire(draft).draft.SerializeToString()) <= 31

    def test_what_says_something_is_sent(self) -> None:
        """Negative control: the size comes from the defaults that are left out."""
        plain = chain(8)
        tree = Draft(plain.first_node, plain.root_position, plain.tokens, (0,) * 8, (3,) * 8, plain.seen)
        body = wire.edge_message_to_wire(tree).draft
        assert len(body.parent_offsets) == len(body.costs) == 8
        assert body.ByteSize() > wire.edge_message_to_wire(plain).draft.ByteSize() + 16

    def test_a_commit_of_one_token_without_measurements(self) -> None:
        body = wire.cloud_message_to_wire(Commit(position=1000, tokens=(4000,)))
        assert body.ByteSize() <= 10


class TestRefused:
    @pytest.mark.parametrize(
        ("message", "names"),
        [
            (pb.EdgeMessage(), "open, attach, draft and close"),
            (pb.EdgeMessage(open=pb.Open(tokens=[1], prompt_length=1)), "open.sampling"),
            (
                pb.EdgeMessage(draft=pb.Draft(first_node=1, tokens=[1, 2], parent_offsets=[0])),
                "parent_offsets",
            ),
            (pb.EdgeMessage(draft=pb.Draft(first_node=1, tokens=[1, 2], costs=[1, 2, 3])), "costs"),
            (pb.EdgeMessage(draft=pb.Draft(parent_offsets=[0])), "parent_offsets"),
            (pb.EdgeMessage(draft=pb.Draft(tokens=[1])), "first_node"),
            (pb.EdgeMessage(draft=pb.Draft(first_node=1)), "first_node"),
        ],
    )
    def test_edge_message(self, message: pb.EdgeMessage, names: str) -> None:
        with pytest.raises(ContractViolation, match=names) as caught:
            wire.edge_message_from_wire(message)
        assert caught.value.status is Status.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.5),
            ("temperature", math.nan),
            ("temperature", math.inf),
            ("top_p", 0.0),
            ("top_p", 1.5),
            ("top_p", math.nan),
            ("min_p", -0.1),
            ("min_p", 1.5),
            ("min_p", math.nan),
        ],
    )
    def test_sampling_names_the_field(self, field: str, value: float) -> None:
        sampling: dict[str, Any] = {field: value}
        with pytest.raises(ContractViolation, match=rf"open\.sampling.*{field}") as caught:
            _read(open=pb.Open(sampling=pb.Sampling(**sampling)))
        assert caught.value.status is Status.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        ("message", "names"),
        [
            (pb.CloudMessage(), "opened, attached, commit, drain and finish"),
            (pb.CloudMessage(opened=pb.Opened(limits=pb.Limits())), "session_id"),
            (pb.CloudMessage(opened=pb.Opened(session_id="s")), "limits"),
            (_attached(tokens=[]), r"attached\.prompt_length: 1 of 0"),
            (_attached(prompt_length=0), r"attached\.prompt_length: 0"),
            (_attached(prompt_length=3), r"attached\.prompt_length: 3 of 2"),
            (_attached(sampling=None), r"attached\.sampling"),
            (_attached(limits=None), r"attached\.limits"),
            (_attached(sampling=pb.Sampling(temperature=-1.0)), r"attached\.sampling.*temperature"),
            (pb.CloudMessage(commit=pb.Commit(position=4)), "tokens"),
            (pb.CloudMessage(commit=pb.Commit(tokens=[1, 2], logprobs=[0.0])), "logprobs"),
            (pb.CloudMessage(finish=pb.Finish()), "reason: 0"),
            (pb.CloudMessage.FromString(b"\x22\x02\x08\x63"), "reason: 99"),
        ],
    )
    def test_cloud_message(self, message: pb.CloudMessage, names: str) -> None:
        with pytest.raises(ContractViolation, match=names) as caught:
            wire.cloud_message_from_wire(message)
        assert caught.value.status is Status.INVALID_ARGUMENT

    def test_a_notice_of_no_session(self) -> None:
        with pytest.raises(ContractViolation, match="session_id"):
            wire.session_notice_from_wire(pb.SessionNotice(secret="s"))

    def test_model_without_limits(self) -> None:
        with pytest.raises(ContractViolation, match="limits"):
            wire.model_info_from_wire(pb.Model(name="m"))

    @given(st.binary(max_size=64))
    def test_any_bytes_are_a_message_or_a_violation(self, body: bytes) -> None:
        """Whatever parses is a value or a `ContractViolation`, never another exception."""
        with contextlib.suppress(DecodeError, ContractViolation):
            wire.edge_message_from_wire(pb.EdgeMessage.FromString(body))
        with contextlib.suppress(DecodeError, ContractViolation):
            wire.cloud_message_from_wire(pb.CloudMessage.FromString(body))


class TestOwnMistakes:
    """What this side builds wrongly is a bug here, not a violation by the peer."""

    @pytest.mark.parametrize(
        "draft",
        [
            Draft(first_node=1, root_position=1, tokens=(1, 2), parent_offsets=(), costs=(16, 16), seen=1),
            Draft(first_node=1, root_position=1, tokens=(1, 2), parent_offsets=(0, 1), costs=(16,), seen=1),
            Draft(first_node=0, root_position=1, tokens=(1,), parent_offsets=(0,), costs=(16,), seen=1),
            Draft(first_node=2, root_position=1, tokens=(), parent_offsets=(), costs=(), seen=1),
            Draft(first_node=1, root_position=1, tokens=(-1,), parent_offsets=(0,), costs=(16,), seen=1),
        ],
    )
    def test_draft(self, draft: Draft) -> None:
        with pytest.raises(ValueError):
            wire.edge_message_to_wire(draft)

    def test_commit_with_stray_logprobs(self) -> None:
        with pytest.raises(ValueError, match="logprobs"):
            wire.cloud_message_to_wire(Commit(position=1, tokens=(1, 2), logprobs=(-0.5,)))


class TestContract:
    """What the proto file promises beyond single values."""

    def test_every_dataclass_field_is_on_the_wire_under_its_own_name(self) -> None:
        for message, described in (
            (Open, pb.Open),
            (Draft, pb.Draft),
            (Close, pb.Close),
            (Attach, pb.Attach),
            (Opened, pb.Opened),
            (Attached, pb.Attached),
            (Commit, pb.Commit),
            (Drain, pb.Drain),
            (Finish, pb.Finish),
            (ModelInfo, pb.Model),
            (SessionNotice, pb.SessionNotice),
            (Limits, pb.Limits),
            (SamplingParams, pb.Sampling),
        ):
            assert set(message.__dataclass_fields__) == set(described.DESCRIPTOR.fields_by_name)

    def test_what_an_older_peer_leaves_out_means_what_it_meant(self) -> None:
        info = wire.model_info_from_wire(pb.Model(limits=pb.Limits()))
        assert (info.takes_attached, info.open_sessions, info.sp_degree) == (False, 0, 0)
        opened = wire.cloud_message_from_wire(
            pb.CloudMessage(opened=pb.Opened(session_id="s", limits=pb.Limits()))
        )
        assert isinstance(opened, Opened)
        assert opened.sp_degree == 0
        message = _read(open=pb.Open(sampling=pb.Sampling()))
        assert isinstance(message, Open)
        assert (message.session_id, message.secret) == ("", "")

    def test_a_secret_is_not_in_what_is_logged(self) -> None:
        for value in (
            Open((1,), 1, 2, SamplingParams(), session_id="s", secret="hush"),
            Attach("s", "hush"),
            Opened("s", "hush", 0, "m", Limits()),
            SessionNotice("s", "hush"),
        ):
            assert value.secret == "hush"
            assert "hush" not in repr(value)

    def test_there_is_no_text_on_the_wire(self) -> None:
        names = {
            field.full_name.removeprefix("slipstream.v1.")
            for message in pb.DESCRIPTOR.message_types_by_name.values()
            for field in message.fields
            if field.type in (field.TYPE_STRING, field.TYPE_BYTES)
        }
        assert names == {
            "Open.model_fingerprint",
            "Open.tokenizer_fingerprint",
            "Open.session_id",
            "Open.secret",
            "Attach.session_id",
            "Attach.secret",
            "Attach.model_fingerprint",
            "Attach.tokenizer_fingerprint",
            "Opened.session_id",
            "Opened.secret",
            "Opened.model_fingerprint",
            "Attached.model_fingerprint",
            "SessionNotice.session_id",
            "SessionNotice.secret",
            "Drain.target",
            "Model.name",
            "Model.model_fingerprint",
            "Model.tokenizer_fingerprint",
        }


def _read(**kind: Any) -> EdgeMessage:
    return wire.edge_message_from_wire(pb.EdgeMessage(**kind))
