"""Devices that attach to somebody else's session: they come late, lag, die, are wrong, or break the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.link import LinkProfile
from shared.messages import ModelInfo
from shared.policy.reconnect import Reconnect
from shared.session.assist import AssistSession
from shared.session.edge import EdgePolicies
from shared.sim.clock import MILLISECOND
from shared.sim.device import Device
from shared.sim.link import CloudEnd
from shared.sim.models import SyntheticDrafter
from shared.sim.random import Keyed
from shared.sim.route import Route
from shared.sim.setting import LawBroken, Setting

ASSISTANT_STREAMS = 10_000
"""An edge's assistants number their streams from multiples of this."""


@dataclass(slots=True)
class AssistPlan:
    """A device that helps whichever session its owner has opened."""

    make_policies: Callable[[], EdgePolicies]
    drafter: SyntheticDrafter
    up: LinkProfile = field(default_factory=LinkProfile)
    down: LinkProfile = field(default_factory=LinkProfile)
    delay_ms: float = 0.0
    """It attaches that long after its owner's session was opened."""
    life_ms: float | None = None
    """It dies without a word so long after that."""
    rogue: bool = False
    """It breaks the contract every now and then."""


class Assistant(Device):
    """One device that is attached, or tries to be."""

    def __init__(
        self,
        setting: Setting,
        plan: AssistPlan,
        info: ModelInfo,
        session: tuple[str, str],
        cloud: CloudEnd,
        base: int,
    ) -> None:
        """`session`: its id and secret; `cloud`: where it is served."""
        self.copy = AssistSession(*session, info, plan.make_policies, Reconnect(patience=5.0))
        super().__init__(
            setting,
            self.copy,
            plan.drafter,
            Route([cloud]),
            plan.up,
            plan.down,
            base=base,
            random=Keyed(setting.seed, "assistant", base),
            rogue=plan.rogue,
        )
        self._plan = plan

    def start(self) -> None:
        """Attach."""
        if self._plan.life_ms is not None:
            self._setting.clock.after(round(self._plan.life_ms * MILLISECOND), self.vanish)
        super().start()

    def check(self, text: tuple[int, ...]) -> None:
        """It knows when the session is over, and has seen nothing but its `text` (the prompt and all that follows)."""
        if self.vanished:
            return
        if self.outcome is None:
            raise LawBroken(f"assistant {self._base} does not know that its session is over")
        seen = tuple(self.copy.log)
        if seen != text[: len(seen)]:
            raise LawBroken(f"assistant {self._base} has seen {seen[:20]}..., the text is {text[:20]}...")
