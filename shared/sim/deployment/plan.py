"""What a deployment is: users and what they ask for, servers and their workers, and what befalls them.

Frozen values that say everything before a run begins. Whatever is drawn at random is a function of who it belongs to
(a user's number, a visit's number), never of the order of events: so two policies meet the same users.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.servers import Balance
from shared.pool import PoolScheduler
from shared.profiled import ProfiledPair
from shared.session.edge import EdgePolicies
from shared.session.front import CloudPolicies
from shared.sim.setting import Faults
from shared.sim.workers import FleetPlan
from shared.sim.world import Outage

MOST_VISITS: Final = 1 << 20
"""Of one user: what its generations are numbered with."""
MOST_RETRIES: Final = 255
"""After refusals, of one generation: as `MOST_VISITS`."""


class Loop(enum.Enum):
    """When a user's next visit begins."""

    CLOSED = "closed"
    """So long after the answer before has ended: somebody who reads, thinks and asks again."""
    OPEN = "open"
    """So long after the visit before began, whatever became of that: a source of arrivals."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One generation that a user asks for.

    Raises:
        ValueError: a negative wait, no prompt, no token asked for.
    """

    wait_ms: float
    """Since the user's previous one ended, or began: see `Loop`. Of the first: since the user's `start_ms`."""
    prompt: tuple[int, ...]
    output_tokens: int
    """So many at most: a stop token ends it before."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.wait_ms < math.inf:
            raise ValueError(f"wait_ms must be finite and at least 0, not {self.wait_ms}")
        if not self.prompt:
            raise ValueError("the prompt is empty: a target continues at least one token")
        if self.output_tokens < 1:
            raise ValueError(f"output_tokens must be at least 1, not {self.output_tokens}")


@dataclass(frozen=True, slots=True)
class AssistantPlan:
    """A device that drafts for somebody else's generation; each generation is given one of its own."""

    pair: ProfiledPair
    """As its drafter sees the target."""
    make_policies: Callable[[], EdgePolicies]
    up: LinkProfile = field(default_factory=LinkProfile)
    down: LinkProfile = field(default_factory=LinkProfile)
    delay_ms: float = 0.0
    """It attaches that long after the session was opened."""
    life_ms: float | None = None
    """It dies without a word so long after that."""


@dataclass(frozen=True, slots=True)
class UserPlan:
    """One user, or with `Loop.OPEN` one source of arrivals, whose generations may overlap."""

    group: str
    """Users of one group are counted together."""
    pair: ProfiledPair | None
    """The target with this user's drafter; None: it never drafts."""
    make_policies: Callable[[], EdgePolicies]
    """Fresh ones for each generation, since they remember."""
    visits: Callable[[], Iterator[Visit]]
    """What it asks for, one after the other; when there are no more it is gone. Called once; a pure function of who the
    user is."""
    up: LinkProfile = field(default_factory=LinkProfile)
    down: LinkProfile = field(default_factory=LinkProfile)
    start_ms: float = 0.0
    loop: Loop = Loop.CLOSED
    patience_us: int = 0
    adaptive_patience_us: int = 0
    stop_tokens: tuple[int, ...] = ()
    balance: Balance = Balance.FIRST
    """How it chooses among servers."""
    retries: int = MOST_RETRIES
    """Where every server is full it comes again when it was told to, so many times; then it gives up on this visit."""
    assistants: tuple[AssistantPlan, ...] = ()
    """Devices that help with each of its generations."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_ms < math.inf:
            raise ValueError(f"start_ms must be finite and at least 0, not {self.start_ms}")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise ValueError(f"retries must lie in 0..{MOST_RETRIES}, not {self.retries}")


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One server: its workers, and the policies that they are run by."""

    fleet: FleetPlan
    """Its workers: each with the cost of its hardware (`WorkerPlan.profile`) and what befalls it."""
    make_pool: Callable[[], PoolScheduler]
    """A pool that nobody has joined, for each life of the server."""
    policies: CloudPolicies = field(default_factory=CloudPolicies)
    limits: Limits = field(default_factory=Limits)
    """`max_sessions` is how many it takes in at once."""


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """Everything that happens.

    Raises:
        ValueError: a number is out of its range, or there is no server.
    """

    pair: ProfiledPair
    """The target that every server holds. A worker without a profile of its own steps as this one's says."""
    users: Sequence[UserPlan]
    servers: tuple[PoolPlan, ...]
    duration_ms: float
    """Generations that still run then are cut."""
    warm_up_ms: float = 0.0
    """Figures count what happens after this."""
    seed: int = 0
    """Of links and faults; prompts, lengths and times are the users' own."""
    faults: Faults = field(default_factory=Faults)
    outages: tuple[Outage, ...] = ()
    near: AssistantPlan | None = None
    """A device beside the cloud that helps with every session as soon as a server says that it has it."""
    check_share: float = 0.02
    """Share of generations whose text is compared with what the target alone writes; 0..1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.duration_ms < math.inf:
            raise ValueError(f"duration_ms must be finite and above 0, not {self.duration_ms}")
        if not 0.0 <= self.warm_up_ms < self.duration_ms:
            raise ValueError(
                f"warm_up_ms must lie in 0..{self.duration_ms:g} (duration_ms, excluded), not {self.warm_up_ms}"
            )
        if not 0.0 <= self.check_share <= 1.0:
            raise ValueError(f"check_share must lie in 0..1, not {self.check_share}")
        if not self.servers:
            raise ValueError("servers must name at least one")
        for outage in self.outages:
            if not 0 <= outage.server < len(self.servers):
                raise ValueError(f"an outage names server {outage.server} of {len(self.servers)}")
