"""DSI as its propositions assume it: a drafter that stops in the middle of a forward as soon as its branch is dead.

The product's drafter cannot: a forward that has begun ends, and only then the next one begins. Proposition 1 of DSI
(Timor et al. 2024, arXiv 2405.14105) counts no such rest, so it is checked on an edge that has none; all else, pool,
sessions and policies, is the product's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_client.policies import DraftOptions, Pace, Shape, Sizing, policies_for
from scripts.reproduce.texts import PROMPT_TOKENS
from shared.link import LinkProfile
from shared.messages import CloudMessage, Limits
from shared.policy.expansion import Candidate
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Forward, Request
from shared.sim.clock import MILLISECOND
from shared.sim.edge import Edge, EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import default_reconnect, model_info, pool_of, random_prompt
from shared.sim.setting import Faults, Setting
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world import World

ENDLESS = 4096
"""Nodes in flight: DSI has no window."""
WARM_UP_TOKENS = 8
WARM_UP_SEED = 1 << 20
CHAIN = DraftOptions(shape=Shape.CHAIN, sizing=Sizing.FIXED, window=ENDLESS, pace=Pace.AT_ONCE)
"""Drafts a chain without end, and sends every token at once: lookahead 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    forward: Forward
    results: list[list[Candidate]]


class InterruptibleEdge(Edge):
    """Its drafter stops when nothing that it computes can come true any more."""

    _running: _Running | None = None

    def receive(self, number: int, message: CloudMessage) -> None:
        """A message has arrived."""
        super().receive(number, message)
        if self._running is not None and not self._alive(self._running.forward):
            self._end(self._running)

    def _forward(self, forward: Forward) -> None:
        drafter = self.plan.drafter
        if drafter is None:
            raise AssertionError("a forward without a drafter")
        self._running = running = _Running(forward, drafter.forward(forward))
        duration_ms = drafter.profile.forward_ms(len(forward.paths))
        self._setting.clock.after(round(duration_ms * MILLISECOND), lambda: self._end(running))

    def _end(self, running: _Running) -> None:
        if running is self._running and not self.vanished:
            self._running = None
            self._perform(self.session.drafted(running.results, self._setting.clock.now))

    def _alive(self, forward: Forward) -> bool:
        log = self.session.log.tokens
        for path in forward.paths:
            prefix = [*forward.log[: forward.log_length], *path]
            if len(prefix) >= len(log) and prefix[: len(log)] == log:
                return True
        return False


def text_ms(
    pair: Profile, draft: DraftOptions, servers: int, tokens: int, seed: int, *, interruptible: bool = False
) -> tuple[float, ...]:
    """When each token of a session is there (ms from the request), with `servers` targets as its SP, no network.

    The pool has served a short text before, so that it knows how long a step takes: a fresh one would begin as many
    steps at once as it has targets, whatever there is to verify.
    """
    facts = ProfiledPair(pair)
    limits = Limits(max_live_nodes=ENDLESS, max_depth=ENDLESS, max_nodes_per_message=1024)
    make_pool = pool_of(servers)
    info = replace(model_info(pair, limits), sp_degree=make_pool().sp_degree)
    plans = [
        _plan(facts, draft, seed + WARM_UP_SEED, WARM_UP_TOKENS),
        # The last steps of the short text may still be out when it has ended.
        replace(_plan(facts, draft, seed, tokens), after=0, start_ms=2 * pair.step_ms),
    ]
    world = World(facts, info, make_pool, plans, seed=seed, fleet=FleetPlan((WorkerPlan(),) * servers))
    if interruptible:
        setting = Setting(seed, Faults(), through_codec=False, clock=world.clock, trace=world.trace)
        world.edges[1] = InterruptibleEdge(setting, 1, plans[1], info, world.servers, lambda _: None)
    world.run()
    edge = world.edges[1]
    return tuple((at - edge.started) / MILLISECOND for at, count in edge.emitted for _ in range(count))


def _plan(facts: ProfiledPair, draft: DraftOptions, seed: int, tokens: int) -> EdgePlan:
    pair = facts.profile
    prompt = random_prompt(seed, PROMPT_TOKENS, pair.vocabulary_size)
    return EdgePlan(
        Request(prompt, tokens, SamplingParams()),
        policies_for(draft, draft.shape_for(), default_reconnect(), pair.context_length),
        SyntheticDrafter(facts),
        up=LinkProfile(),
        down=LinkProfile(),
    )
