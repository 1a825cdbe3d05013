"""One stream's way up: its node ids, what the cloud was told on it, and its message rate. Writes its drafts.

`DraftStream` is its counterpart in the cloud. Laws kept here:

5. Unknown is loud, so ids are dense from 1, in the order in which nodes are sent, parents first. Only nodes in flight
   are held: an id is forgotten with its node's death, or when the node becomes part of the log.
6. For the cloud every stream is the first: each has an uplink of its own, which knows nothing of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from operator import attrgetter

from shared.messages import COST_UNITS_PER_NAT, Draft, Limits
from shared.session.log import TokenLog
from shared.session.rate import Allowance
from shared.session.tree import DraftTree, Node

MAX_WIRE_COST = 255
_KEY = attrgetter("key")
RATE_SHARE = 0.9
BURST_SHARE = 0.5
"""Of the message rate that the cloud takes, and of a second of it at once: the rest is for what jitter compresses."""


class Uplink:
    """Made when its stream stands. The log and the tree are the session's, and only read."""

    def __init__(self, log: TokenLog, tree: DraftTree, limits: Limits, *, now: int) -> None:
        self._log = log
        self._tree = tree
        rate = float(limits.max_messages_per_second)
        self._allowance = Allowance(RATE_SHARE * rate, max(1.0, BURST_SHARE * rate), now=now)
        self._ids: dict[int, int] = {}  # node key -> id: the nodes in flight
        self._next_id = 1
        self._seen = len(log)
        """Log length that the cloud knows to be here."""
        self._asked_at = 0
        """Log length at which the cloud was asked for a token at once."""

    @property
    def in_flight(self) -> int:
        """Live nodes that were sent."""
        return len(self._ids)

    @property
    def unreported(self) -> int:
        """Tokens of the log that the cloud does not know to be here."""
        return len(self._log) - self._seen

    @property
    def asked(self) -> bool:
        """Whether the cloud was asked for the token after this end at once."""
        return self._asked_at == len(self._log)

    @property
    def sent(self) -> AbstractSet[int]:
        """Keys of the nodes in flight: a view."""
        return self._ids.keys()

    def may_draft(self, now: int) -> bool:
        """Whether the message rate has room for one more."""
        return self._allowance.left(now) >= 1.0

    def draft(self, nodes: list[Node], *, now: int, step_now: bool = False) -> Draft:
        """The next message: `nodes` are in flight from here on. Without any it reports `seen` alone."""
        nodes.sort(key=_KEY)  # parents first
        first = self._next_id
        self._next_id += len(nodes)
        for identity, node in enumerate(nodes, start=first):
            self._ids[node.key] = identity
        length = self._seen = len(self._log)
        if step_now:
            self._asked_at = length
        self._allowance.take(now)
        return Draft(
            first_node=first if nodes else 0,
            root_position=length,
            tokens=tuple([node.token for node in nodes]),
            parent_offsets=tuple(map(self._offset, nodes)),
            costs=tuple([round(min(node.cost * COST_UNITS_PER_NAT, MAX_WIRE_COST)) for node in nodes]),
            seen=length,
            step_now=step_now,
        )

    def forget(self, nodes: Iterable[Node]) -> None:
        """These nodes are dead or part of the log now; some of them were perhaps never sent."""
        for node in nodes:
            self._ids.pop(node.key, None)

    def _offset(self, node: Node) -> int:
        parent = node.parent
        if parent is None or parent is self._tree.root:
            return 0
        return self._ids[node.key] - self._ids[parent.key]
