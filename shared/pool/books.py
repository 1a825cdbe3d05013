"""The pool's books: what it knows of each worker and of each session's place."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.policy.batching import NodeBudget
from shared.policy.step_curve import StepCurve
from shared.session.cloud import CloudSession
from shared.step import Step, StepItem

UNLIMITED = 1 << 30
"""Tokens of room where a worker holds as many as there are."""
KV_SLACK = 64
"""Tokens by which a session may take more room in a worker than it has: its last page."""
FEW = 4
"""Measurements before an average is believed."""
SMOOTHING = 0.1
"""Weight of the newest prefill."""


@dataclass(slots=True)
class Out:
    """A step that is out."""

    step: Step
    began: int
    overdue_at: int | None
    """When it is given up on (ns); None: never, or it has been."""
    owed: dict[int, list[int]]
    """By session, the keys whose facts are in flight here. Empty once the step is given up on."""
    prefills: int
    """Trunk tokens that it computes beside facts, as far as the books know."""


@dataclass(slots=True)
class WorkerBooks:
    """One worker: what it holds, does and costs."""

    number: int
    kv_tokens: int | None
    budget: NodeBudget
    claimed_us: float = 0.0
    """What a step takes by its own word; 0: it does not know."""
    draining: bool = False
    late: bool = False
    """Its step was given up on and has not come back: nothing is given to it."""
    cached: dict[int, int] = field(default_factory=dict)
    """By session, trunk tokens that it holds."""
    released: list[int] = field(default_factory=list)
    """Keys whose KV may go with the next step."""
    out: Out | None = None
    trial: frozenset[int] | None = None
    """The suspects whose trial this is."""
    together: int | None = None
    """Sessions that one step asks for at most, since larger ones broke the worker; it grows back."""
    cost: StepCurve = field(default_factory=StepCurve)
    steps: int = 0
    """Steps that came back, prefills not counted."""
    prefill_us: float = 0.0
    """What a token of a prompt took, smoothed; 0: not measured."""

    @property
    def idle(self) -> bool:
        """Whether it can be given a step."""
        return self.out is None

    @property
    def serves(self) -> bool:
        """Whether sessions may be given to it."""
        return not self.draining and not self.late

    @property
    def step_us(self) -> float:
        """Its average verify step, or what it says of it; 0: nobody knows."""
        return self.cost.mean_us if self.steps >= FEW else self.claimed_us

    def holds(self, session: CloudSession, chunk: int) -> bool:
        """Whether what it lacks of the log is no more than a chunk, so that it can go with a step."""
        return len(session.log) - 1 - self.cached.get(session.key, 0) <= chunk

    def expected_us(self, prefills: int) -> float:
        """What a step should take that computes so many prompt tokens as well; 0: unknown."""
        return self.step_us + prefills * self.prefill_us if self.step_us else 0.0

    def measured(self, step: Step, computed: int, duration_us: int) -> None:
        """A step came back."""
        if any(item.prefill_only for item in step.items):
            if computed == 0:
                return  # all of it was known: that says nothing of what a token takes
            # A step that prefills is charged to the prompt tokens alone: they are most of it.
            each = max(0.0, duration_us - self.step_us) / computed
            self.prefill_us += SMOOTHING * (each - self.prefill_us) if self.prefill_us else each
        elif step.items:
            self.steps += 1
            self.cost.learn(computed, duration_us)
            self.budget.measured(computed, duration_us)


@dataclass(slots=True, eq=False)
class Place:
    """One session: where it is served."""

    session: CloudSession
    joined: int
    """In the order in which sessions came (a count)."""
    home: int | None = None
    """Its worker; None: there is none that serves. Changed by `Places.give` alone."""
    moving: int | None = None
    """The worker to which its KV is on its way."""
    outs: set[int] = field(default_factory=set)
    """Workers with steps of this session out, those that were given up on not counted."""
    begun: int | None = None
    """When the newest of its steps began."""
    first_begun: int | None = None
    losses: int = 0
    """Workers lost in a row while a step of this session was out on them; those lost together count once."""
    lost_before: int = 0
    """Steps up to this number were handed out before the last of those losses was known."""


def keys_of(item: StepItem) -> list[int]:
    """The keys under which an item asks for facts."""
    keys = [node.key for node in item.nodes if node.wanted]
    return keys if item.end_key is None else [*keys, item.end_key]
