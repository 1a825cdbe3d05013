"""Drafts change when a token is committed, never which: whatever is drafted, the text is the one without drafts."""

from __future__ import annotations

from typing import Any

import grpc

from scripts.conformance.rules import check
from scripts.conformance.server.client import Stream
from scripts.conformance.server.opening import SAMPLED
from scripts.conformance.server.subject import AT, NEW, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

BLOCK = 4
"""Tokens in a drafted chain."""


@RULES.rule("Draft")
def right_drafts_are_accepted(server: Server) -> None:
    """Drafts of the target's own text are accepted, and the text stays what it is."""
    want = server.text()
    stream = _blocks(server, want)
    check(stream.tokens == want, _differs(stream.tokens, want))
    if server.limits.max_patience_us:
        check(stream.total("accepted") > 0, "no draft was accepted, though all were right")


@RULES.rule("Draft")
def wrong_drafts_change_nothing(server: Server) -> None:
    """Drafts that are wrong in every token give the same text, and none is accepted."""
    want = server.text()
    stream = _blocks(server, [server.wrong(token) for token in want])
    check(stream.tokens == want, _differs(stream.tokens, want))
    check(stream.total("accepted") == 0, "a wrong draft was counted as accepted")


@RULES.rule("Draft")
def drafts_that_turn_wrong_are_corrected(server: Server) -> None:
    """Of a chain that turns wrong the right beginning is kept and the rest replaced by the target's tokens."""
    want = server.text()
    for right in range(BLOCK):
        chain = [*want[:right], *map(server.wrong, want[right : right + BLOCK])]
        stream = server.resting()
        stream.draft(1, AT, chain)
        stream.read_tokens(right + 1)
        _go_on(stream)
        check(stream.tokens == want, f"{right} right tokens, then wrong: {_differs(stream.tokens, want)}")


@RULES.rule("Draft")
def sampled_text_keeps_its_drafts(server: Server) -> None:
    """Above temperature 0 right, wrong and no drafts give the same text."""
    want = server.text(sampling=SAMPLED)
    for name, drafted in (("right", want), ("wrong", [server.wrong(token) for token in want])):
        stream = _blocks(server, drafted, sampling=SAMPLED)
        check(stream.tokens == want, f"{name} drafts: {_differs(stream.tokens, want)}")


@RULES.rule("Draft.parent_offsets")
def trees_are_followed(server: Server) -> None:
    """Several children of one parent are one tree: the right branch is accepted, the others die."""
    want = server.text()
    wrong = [server.wrong(token) for token in want]
    stream = server.resting()
    # Two children of the end, the wrong one first; below each a right-looking child; below the right one another pair.
    stream.draft(
        1, AT, [wrong[0], want[0], want[1], wrong[1], want[1], want[2]], parent_offsets=[0, 0, 2, 2, 3, 1]
    )
    stream.read_tokens(3)
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))
    if server.limits.max_patience_us:
        accepted = stream.total("accepted")
        check(accepted >= 3, f"{accepted} tokens were accepted, though a branch of three was right")


@RULES.rule("Draft.parent_offsets")
def a_chain_needs_no_offsets(server: Server) -> None:
    """Without parent_offsets a message is a chain from the end; a later message hangs from it by its ids."""
    want = server.text()
    stream = server.patient()
    stream.draft(1, AT, want[:2])
    stream.draft(3, AT, want[2:4], parent_offsets=[1, 1])
    stream.read_tokens(4)
    stream.read_received(4)
    # The step in between may have given the third token by itself.
    accepted, stale = stream.total("accepted"), stream.total("stale")
    check(accepted >= 3, f"{accepted} tokens of a right chain of 4 in two messages were accepted")
    check(stale == 0, f"{stale} nodes of a right chain of 4 in two messages were stale")
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("Draft.costs")
def costs_are_advice(server: Server) -> None:
    """No cost changes a token: the least for what is wrong, the greatest for what is right."""
    want = server.text()
    wrong = [server.wrong(token) for token in want]
    stream = server.resting()
    stream.draft(
        1,
        AT,
        [wrong[0], wrong[1], want[0], want[1]],
        parent_offsets=[0, 1, 0, 1],
        costs=[0, 0, 2**32 - 1, 2**32 - 1],
    )
    stream.read_tokens(2)
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("Draft")
def the_same_guess_twice_is_one(server: Server) -> None:
    """A child that is proposed again stands for the same node, also as a parent; the text stays what it is."""
    want = server.text()
    stream = server.patient()
    # #4 hangs from the second of three, #5 to #7 are the chain of all of them once more.
    again = [want[0], want[0], want[0], want[1], want[0], want[1], want[2]]
    stream.draft(1, AT, again, parent_offsets=[0, 0, 0, 2, 0, 1, 1])
    stream.read_tokens(3)
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))
    accepted = stream.total("accepted")
    check(accepted == 3, f"{accepted} accepted tokens, for drafts of the first 3")
    check(stream.total("received") == len(again), "not all ids count as received")


@RULES.rule("Draft")
def drafts_need_not_wait_for_opened(server: Server) -> None:
    """Neither side waits for the other: a Draft right behind the Open is taken."""
    want = server.text()
    chain = pb.Draft(first_node=1, root_position=AT, tokens=want[:BLOCK])
    stream = server.stream(server.opening(), pb.EdgeMessage(draft=chain))
    stream.finish()
    check(stream.tokens == want, _differs(stream.tokens, want))
    check(stream.total("received") <= BLOCK, "more nodes were counted than sent")


@RULES.rule("Draft")
def drafts_beyond_the_last_token_are_dead(server: Server) -> None:
    """Nodes where no log can grow to are dropped without a word."""
    want = server.text()
    stream = server.resting(new=2)
    stream.draft(1, AT, want[:BLOCK])
    finish = stream.finish()
    check(stream.tokens == want[:2], _differs(stream.tokens, want[:2]))
    check(finish.reason == pb.FINISH_REASON_LENGTH, f"the reason is {finish.reason}, not LENGTH")


@RULES.rule("README: Dead is silent")
def drafts_of_a_dead_parent_are_dropped(server: Server) -> None:
    """A node below a dead one is dropped without a word, counted as stale, and its id is used up."""
    want = server.text()
    stream = server.patient()
    stream.draft(1, AT, [server.wrong(want[0])])
    stream.read_tokens(1)
    length = stream.length
    stream.draft(2, AT, [want[1], want[2]], parent_offsets=[1, 1], seen=length)
    stream.draft(4, length, [want[length - AT]])  # the next id, at the end: a live node
    stream.read_received(4)
    check(stream.total("stale") == 2, f"{stream.total('stale')} stale nodes, 2 were dead on arrival")
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("README: Behind the log")
def drafts_behind_the_log_become_aliases(server: Server) -> None:
    """A node at a position that is committed already is compared: equal, it stands for it and may be a parent; else it
    is dead.
    """
    want = server.text()
    stream = server.patient()
    stream.step_now()
    stream.read_tokens(1)
    done = len(stream.tokens)
    stream.draft(
        1, AT, want[: done + 2], seen=stream.length, step_now=True
    )  # the first are committed, two are guesses
    stream.read_received(done + 2)
    check(stream.total("stale") == 0, f"{stream.total('stale')} stale nodes of a right chain behind the log")
    stream.read_tokens(done + 2)
    accepted = stream.total("accepted")
    check(accepted >= 2, f"{accepted} accepted, though 2 right guesses hung from committed tokens")
    late = server.wrong(want[0])
    stream.draft(done + 3, AT, [late, want[1]], seen=stream.length)
    stream.step_now()
    stream.read_received(done + 4)
    check(stream.total("stale") == 2, f"{stream.total('stale')} stale nodes, 2 contradicted the log")
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("README: Behind the log")
def a_parent_may_have_been_committed(server: Server) -> None:
    """A node whose parent was committed meanwhile hangs from that position."""
    want = server.text()
    stream = server.patient()
    stream.draft(1, AT, want[:1])
    stream.read_tokens(1)
    done = len(stream.tokens)
    chain = want[1 : done + 2]  # from behind #1 to two beyond the log
    stream.draft(2, AT, chain, parent_offsets=[1] * len(chain), seen=stream.length, step_now=True)
    stream.read_received(1 + len(chain))
    check(stream.total("stale") == 0, f"{stream.total('stale')} stale nodes below a committed parent")
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("README: Forgetting")
def ids_below_the_root_position_are_forgotten(server: Server) -> None:
    """A node that names a parent whose position lies below root_position is dead."""
    want = server.text()
    stream = server.patient()
    stream.draft(1, AT, want[:1])
    stream.read_tokens(1)
    length = stream.length
    stream.draft(2, length, [server.wrong(want[length - AT])])
    stream.read_tokens(length - AT + 1)
    stream.draft(3, length, [want[1]], parent_offsets=[2], seen=stream.length)
    stream.step_now()
    stream.read_received(3)
    check(stream.total("stale") == 1, f"{stream.total('stale')} stale nodes, one named a forgotten parent")
    _go_on(stream)
    check(stream.tokens == want, _differs(stream.tokens, want))


@RULES.rule("Draft.step_now")
def step_now_asks_for_a_token(server: Server) -> None:
    """A token comes at once, whatever is left of the patience."""
    server.patience()
    stream = server.patient()
    want = server.text()
    stream.step_now()
    check(stream.read_tokens(1) == want[:1], "another token")
    commit = stream.commits[0]
    check(commit.self_decoded > 0, "a step without any draft was not counted as self_decoded")
    check(commit.queue_us < server.patience(), f"it waited {commit.queue_us} us")


def _blocks(server: Server, drafted: list[int], **fields: Any) -> Stream:
    """A session in which these tokens are drafted, block after block from the end as it is known."""
    stream = server.resting(**fields)
    first = 1
    while (at := len(stream.tokens)) < NEW:
        block = drafted[at : at + BLOCK]
        stream.draft(first, AT + at, block)
        first += len(block)
        stream.read_tokens(at + 1)
        stream.read_what_is_there()
    stream.finish()
    return stream


def _go_on(stream: Stream) -> None:
    """To the end of the session, without drafts."""
    while len(stream.tokens) < NEW:
        stream.step_now()
        stream.read_tokens(len(stream.tokens) + 1)
    ended = stream.end()
    check(ended.code is grpc.StatusCode.OK, f"the session ended with {ended}")


def _differs(found: list[int], want: list[int]) -> str:
    for at, (one, other) in enumerate(zip(found, want, strict=False)):
        if one != other:
            return f"another text: token {at} is {one}, without drafts it is {other}"
    return f"{len(found)} tokens, {len(want)} without drafts"
