"""The rules for assistants: edges that attach to a session of another."""

from __future__ import annotations

from typing import Final

from scripts.conformance.edge import rules
from scripts.conformance.edge.cloud import SECRET, SESSION
from scripts.conformance.edge.subject import ASSIST_RULES, RULES, Recordings
from scripts.conformance.rules import check

SHARED: Final = (
    *(rules.the_model_is_asked_for_first, rules.the_message_size_is_kept, rules.ids_are_dense),
    *(rules.root_position_is_kept, rules.seen_is_kept, rules.parents_are_known, rules.arrays_belong_together),
    *(rules.drafted_tokens_are_tokens, rules.nodes_in_a_message_are_kept, rules.live_nodes_are_kept),
    *(rules.depth_is_kept, rules.the_message_rate_is_kept, rules.close_is_the_last_message),
)
"""What holds on every stream, whoever's it is."""


@ASSIST_RULES.rule("Attach")
def attach_comes_first(edge: Recordings) -> None:
    """The first message names the session, its secret, the protocol version, and no other model."""
    for script, talk in edge.talks():
        attach, model = talk.attach, talk.cloud.model
        if attach is None:
            check(False, f"in the script {script} a stream begins without Attach")
            return
        said = attach.session_id, attach.secret, attach.protocol_version
        check(said == (SESSION, SECRET, 1), f"in the script {script} Attach is not what it is to be")
        check(
            attach.model_fingerprint in ("", model.model_fingerprint),
            f"it means {attach.model_fingerprint!r}",
        )


@ASSIST_RULES.rule("Attached")
def nothing_is_drafted_before_attached(edge: Recordings) -> None:
    """Before Attached a drafter knows no position to draft at: nothing is drafted."""
    edge.without("nothing-is-drafted-before-attached")


for _exchange in SHARED:
    ASSIST_RULES.rule(RULES[_exchange.__name__.replace("_", "-")].where)(_exchange)


@ASSIST_RULES.rule("Draft.seen")
def an_assistant_keeps_up(edge: Recordings) -> None:
    """It reports what it has seen before it is further behind the log than run_ahead."""
    edge.without("seen-is-reported")
    _ = edge["helping-narrow"].went


@ASSIST_RULES.rule("Finish")
def finish_ends_the_help(edge: Recordings) -> None:
    """After Finish it begins no other stream for the session."""
    for name in ("helping", "helping-narrow"):
        check(len(edge[name].went.talks) == 1, f"in the script {name} it began another stream")


@ASSIST_RULES.rule("Attach")
def a_lost_assistant_attaches_again(edge: Recordings) -> None:
    """A lost stream is replaced, with ids that begin anew; the session was never in danger."""
    talks = edge["helping-lost"].went.talks
    check(len(talks) == 2, f"{len(talks)} streams where one was lost")


@ASSIST_RULES.rule("README: Status codes")
def a_session_that_is_not_there_is_not_asked_for_again(edge: Recordings) -> None:
    """NOT_FOUND in answer to Attach is the end."""
    talks = edge["helping-nobody"].went.talks
    check(len(talks) == 1, f"it asked {len(talks)} times")


@ASSIST_RULES.rule("Close")
def an_assistant_says_that_it_has_had_enough(edge: Recordings) -> None:
    """Interrupted, it sends Close, without a position, which is its owner's to name."""
    check(edge["helping-interrupted"].went.talks[0].closed is not None, "no Close came")
    edge.without("an-attached-stream-names-no-position")
