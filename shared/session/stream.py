"""One stream's view of a session in the cloud: its node ids, what it has seen, and its limits.

Law 5: dead is silent, unknown is loud. Ids are dense, so an id that was never given out is a violation, and any
other id that maps neither to a live node nor to a log position is dead: dropped without a word.

Memory is bounded by the live tree: an id dies with its node; the id of a committed node is kept as an alias of
its position only until the stream's `root_position` has passed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import ContractViolation, Status
from shared.messages import COST_UNITS_PER_NAT, Draft, Limits
from shared.session.log import TokenLog
from shared.session.rate import Allowance
from shared.session.tree import DraftTree, Node


@dataclass(frozen=True, slots=True)
class _Alias:
    """A drafted token that equals the token committed at `position`."""

    position: int


@dataclass(slots=True, eq=False)
class _New:
    """A node that this message will create."""

    parent: Node | _New
    token: int
    cost: float
    position: int
    made: Node | None = None

    def make(self, tree: DraftTree) -> Node:
        """The node, once its parent is there."""
        parent = self.parent
        if isinstance(parent, _New):
            if parent.made is None:
                raise ValueError("a node was planned before its parent")
            parent = parent.made
        self.made = tree.add(parent, self.token, self.cost)
        return self.made


class _Dead:
    """A guess that can no longer come true."""


_DEAD = _Dead()
_Place = Node | _Alias | _New | _Dead


@dataclass(frozen=True, slots=True)
class Applied:
    """What one `Draft` did."""

    received: int
    stale: int
    """Nodes that were dead on arrival."""
    created: tuple[Node, ...]
    """Nodes that are drafts from now on: the tree did not hold them, or the cloud had only looked them up."""


class DraftStream:
    """Ids, root position and `seen` of one stream; applies its drafts to the session's tree, all or nothing."""

    def __init__(self, limits: Limits, vocabulary_size: int, log: TokenLog, *, now: int) -> None:
        self._limits = limits
        self._vocabulary_size = vocabulary_size
        self._nodes: dict[int, Node] = {}
        self._aliases: dict[int, int] = {}
        self._ids: dict[int, list[int]] = {}  # node key -> this stream's ids of it
        self._last_id = 0
        rate = float(limits.max_messages_per_second)
        self._allowance = Allowance(rate, rate, now=now)
        self.root_position = log.prompt_length
        self.sent_length = len(log)
        """Log length that this stream has been told."""
        self.seen = len(log)
        """Log length that the edge says it has."""

    @property
    def live(self) -> int:
        """Live nodes that this stream has proposed."""
        return len(self._ids)

    @property
    def remembered(self) -> int:
        """Ids held in memory: bounded by the live tree and the log past `root_position`."""
        return len(self._nodes) + len(self._aliases)

    def holds(self, node: Node) -> bool:
        """Whether this stream has proposed the live node."""
        return node.key in self._ids

    def apply(self, draft: Draft, log: TokenLog, tree: DraftTree, *, now: int) -> Applied:
        """Hang the draft's nodes into the tree.

        Raises:
            ContractViolation: the message breaks a rule; then nothing has changed.
        """
        self._check_rate(now)
        self._check_shape(draft)
        self._check_positions(draft)
        plan = _Plan(log, tree)
        places = self._resolve(draft, plan)
        self._check_room(draft, plan, places, log)
        # Nothing can fail from here on: one Draft is applied atomically.
        self._allowance.take(now)
        self.seen = draft.seen
        self._last_id += len(draft.tokens)
        created = [new.make(tree) for new in plan.new]
        for identity, place in enumerate(places, draft.first_node):
            if place is _DEAD:
                continue
            if isinstance(place, _Alias):
                self._aliases[identity] = place.position
                continue
            node = place.made if isinstance(place, _New) else place
            if not isinstance(node, Node):
                continue
            if not node.drafted:
                tree.adopt(node, draft.costs[identity - draft.first_node] / COST_UNITS_PER_NAT)
                created.append(node)
            self._nodes[identity] = node
            self._ids.setdefault(node.key, []).append(identity)
        if draft.tokens:
            self._advance_root(draft.root_position)
        return Applied(len(places), places.count(_DEAD), tuple(created))

    def promoted(self, nodes: Iterable[Node]) -> None:
        """These nodes are part of the log now: their ids become aliases of their positions."""
        for node in nodes:
            for identity in self._ids.pop(node.key, ()):
                del self._nodes[identity]
                if node.position >= self.root_position:
                    self._aliases[identity] = node.position

    def killed(self, nodes: Iterable[Node]) -> None:
        """These nodes are dead, and so are their ids."""
        for node in nodes:
            for identity in self._ids.pop(node.key, ()):
                del self._nodes[identity]

    # ---- rules, in the order in which they are checked ----

    def _check_rate(self, now: int) -> None:
        if self._allowance.left(now) < 1.0:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"more than {self._limits.max_messages_per_second} messages a second: put the nodes of one drafter "
                "forward into one Draft",
            )

    def _check_shape(self, draft: Draft) -> None:
        count = len(draft.tokens)
        if len(draft.parent_offsets) != count or len(draft.costs) != count:
            raise _invalid(
                f"{count} tokens with {len(draft.parent_offsets)} parent_offsets and {len(draft.costs)} costs: "
                "send as many of each as tokens, or leave them out"
            )
        if count > self._limits.max_nodes_per_message:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"{count} nodes in one message, at most {self._limits.max_nodes_per_message}: split the Draft",
            )
        if count and draft.first_node != self._last_id + 1:
            raise _invalid(
                f"first_node {draft.first_node}, expected {self._last_id + 1}: ids are dense per stream from 1"
            )
        if count == 0:
            return
        for token in (min(draft.tokens), max(draft.tokens)):
            if not 0 <= token < self._vocabulary_size:
                raise _invalid(f"token {token} is outside the vocabulary of {self._vocabulary_size}")
        if min(draft.costs) < 0:
            raise _invalid(f"cost {min(draft.costs)} is negative: costs are in 1/16 nat from 0")

    def _check_positions(self, draft: Draft) -> None:
        if draft.tokens and draft.root_position < self.root_position:
            raise _invalid(
                f"root_position {draft.root_position} is below {self.root_position}: it starts at the prompt length "
                "and never decreases"
            )
        if draft.tokens and draft.root_position > self.sent_length:
            raise _invalid(
                f"root_position {draft.root_position} is beyond {self.sent_length}, the log length sent to this stream"
            )
        if not self.seen <= draft.seen <= self.sent_length:
            raise _invalid(
                f"seen {draft.seen} is outside {self.seen}..{self.sent_length}: it never decreases and never exceeds "
                "the log length sent to this stream"
            )

    def _resolve(self, draft: Draft, plan: _Plan) -> list[_Place]:
        places: list[_Place] = []
        end = _Alias(draft.root_position - 1)
        for index, (token, offset, cost) in enumerate(
            zip(draft.tokens, draft.parent_offsets, draft.costs, strict=True)
        ):
            identity = draft.first_node + index
            if not 0 <= offset < identity:
                raise _invalid(
                    f"node {identity} has parent offset {offset}: 0 is the end, else 1 to {identity - 1}"
                )
            parent: _Place
            if offset == 0:
                parent = end
            elif offset <= index:
                parent = places[index - offset]
            else:
                parent = self._nodes.get(identity - offset) or self._committed(identity - offset)
            child = plan.child(parent, token, cost / COST_UNITS_PER_NAT) if parent is not _DEAD else _DEAD
            places.append(child)
        return places

    def _committed(self, identity: int) -> _Place:
        """What an id stands for that is no live node's."""
        position = self._aliases.get(identity)
        return _DEAD if position is None else _Alias(position)

    def _check_room(self, draft: Draft, plan: _Plan, places: list[_Place], log: TokenLog) -> None:
        # Ids are counted, not nodes: one guess sent a thousand times is one node and a thousand ids to remember. An
        # edge holds each of these ids in flight itself, since its log ends at the draft's root position.
        if not places:
            return
        root, live = draft.root_position, len(self._nodes) + len(self._aliases) + len(places)
        if live > self._limits.max_live_nodes:  # perhaps: not all of them count
            old = sum([position >= root for position in self._aliases.values()])
            live = len(self._nodes) + old + sum([_remembered(place, root) for place in places])
        if live > self._limits.max_live_nodes:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"{live} live nodes, at most {self._limits.max_live_nodes}: keep fewer nodes in flight",
            )
        depth = max((new.position for new in plan.new), default=0) - (len(log) - 1)
        if depth > self._limits.max_depth:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"a node {depth} tokens below the end, at most {self._limits.max_depth}: draft less far ahead",
            )

    def _advance_root(self, root_position: int) -> None:
        if root_position > self.root_position:
            self.root_position = root_position
            for identity in [i for i, position in self._aliases.items() if position < root_position]:
                del self._aliases[identity]


class _Plan:
    """Where a message's nodes belong, worked out without touching the tree."""

    def __init__(self, log: TokenLog, tree: DraftTree) -> None:
        self._log = log
        self._tree = tree
        self.new: list[_New] = []
        self._index: dict[tuple[Node | _New, int], _New] = {}

    def child(self, parent: _Place, token: int, cost: float) -> _Place:
        log = self._log
        if isinstance(parent, _Dead) or log.closed is not None:
            return _DEAD
        if isinstance(parent, _Alias):
            position = parent.position + 1
            if position < len(log):  # the log has overtaken the draft: right or dead
                return _Alias(position) if log.tokens[position] == token else _DEAD
            parent = self._tree.root
        if isinstance(parent, Node):
            known = parent.children.get(token)
            if known is not None:
                return known
            if parent.fact is not None and parent.fact.token != token:
                return _DEAD
        position = parent.position + 1
        if position >= log.limit:
            return _DEAD  # no log can grow to hold it
        planned = self._index.get((parent, token))
        if planned is None:
            planned = self._index[parent, token] = _New(parent, token, cost, position)
            self.new.append(planned)
        return planned


def _remembered(place: _Place, root_position: int) -> bool:
    """Whether an id of this place is kept: a live node, or a token that the edge does not have yet."""
    return place.position >= root_position if isinstance(place, _Alias) else not isinstance(place, _Dead)


def _invalid(message: str) -> ContractViolation:
    return ContractViolation(Status.INVALID_ARGUMENT, message)
