"""One generation of a deployment: an edge that lives while it generates, and leaves two arrays and a few counts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from shared.errors import Status
from shared.messages import ModelInfo
from shared.profiled import ProfiledPair, decode
from shared.session.edge import Done, Emit, Failed
from shared.sim.deployment.record import Counts
from shared.sim.edge import Edge, EdgePlan
from shared.sim.server import Server
from shared.sim.setting import LawBroken, Setting


class Generation(Edge):
    """An edge that keeps no more than the figures need."""

    def __init__(
        self,
        setting: Setting,
        index: int,
        plan: EdgePlan,
        info: ModelInfo,
        servers: Sequence[Server],
        ended: Callable[[int], None],
        *,
        careful: bool,
    ) -> None:
        """`careful`: its text and the bounds of its memory are checked."""
        super().__init__(setting, index, plan, info, servers, ended)
        self.careful = careful
        self.times: array[int] = array("q")
        """When each commit came, ns."""
        self.sizes: array[int] = array("I")
        """Tokens in each."""
        self.refusals = 0
        """How often a server was full, so far."""
        self._before = Counts()
        if len(servers) > 1:
            self._introduce(servers)

    def _introduce(self, servers: Sequence[Server]) -> None:
        """What each server says of itself when it is asked (`GetModel`), and which of them do not answer."""
        plan = self.plan
        latency = plan.up.delay(0.5) + plan.down.delay(0.5)
        for index, server in enumerate(servers):
            if server.up:
                limits = server.info.limits
                self._route.told(
                    index,
                    latency=latency,
                    open_sessions=server.front.sessions,
                    max_sessions=limits.max_sessions,
                )
            else:
                self._route.ended(index, Status.UNAVAILABLE, self._setting.clock.now, opened=False)

    # ---- figures ----

    def measure_from_here(self) -> None:
        """What was counted so far belongs to the warm-up."""
        self._before, self.refusals = self._so_far(), 0

    @property
    def spent(self) -> Counts:
        """Counted since it began, or since the warm-up ended."""
        return self._so_far() - self._before

    def _so_far(self) -> Counts:
        counts = self.session.counts
        up, down = self.traffic
        return Counts(
            judged=counts.judged,
            accepted=counts.accepted,
            facts=counts.verified,
            steps=counts.steps,
            self_decoded=counts.self_decoded,
            stale=counts.stale,
            drafted=counts.drafted,
            sent=counts.sent,
            forwards=counts.forwards,
            drafting_ns=self.drafting_ns,
            reconnects=counts.reconnects,
            moves=counts.moves,
            bytes_up=up,
            bytes_down=down,
        )

    # ---- the end ----

    @property
    def refused(self) -> bool:
        """Whether it ended because every server was full, before anything came of it."""
        outcome = self.outcome
        full = isinstance(outcome, Failed) and outcome.status is Status.RESOURCE_EXHAUSTED
        return full and not self.times

    def room_at(self, otherwise: int) -> int:
        """When a server may be asked again (ns), as far as they said."""
        at = self._route.retry_at(self._setting.clock.now, ())
        return otherwise if at is None else at

    def check_so_far(self, pair: ProfiledPair) -> None:
        """What has been written is what the target alone writes, and all of it if the generation is done.

        Raises:
            LawBroken: it is not.
        """
        request, written = self.plan.request, self.session.log.completion
        room = min(request.max_new_tokens, pair.profile.context_length - len(request.prompt))
        plain = decode(pair, request.prompt, room, frozenset(request.stop_tokens))
        if isinstance(self.outcome, Done) and len(written) != len(plain):
            raise LawBroken(f"{self.describe()}: wrote {len(written)} tokens, the target alone {len(plain)}")
        if written != plain[: len(written)]:
            raise LawBroken(
                f"{self.describe()}: wrote {written[:20]}..., the target alone writes {plain[:20]}..."
            )
        text = (*request.prompt, *plain)
        for assistant in self.assistants:
            seen = tuple(assistant.copy.log)
            if seen != text[: len(seen)]:
                raise LawBroken(f"{self.describe()}: an assistant has seen {seen[:20]}...")
        if sum(self.sizes) != len(written):
            raise LawBroken(f"{self.describe()}: {sum(self.sizes)} tokens were counted")

    # ---- as a device ----

    def lost(self, number: int, status: Status, detail: str, retry_ms: int | None = None) -> None:
        """See `Device.lost`. A server that is full is counted."""
        if retry_ms is not None:
            self.refusals += 1
            self._setting.note(f"edge {self.index} refused for {retry_ms} ms")
        super().lost(number, status, detail, retry_ms)

    def _emit(self, emit: Emit) -> None:
        self.times.append(self._setting.clock.now)
        self.sizes.append(len(emit.tokens))

    def _check_bounds(self) -> None:
        if self.careful:
            super()._check_bounds()
