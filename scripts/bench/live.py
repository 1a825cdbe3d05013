"""The live stream against the simulation of the same policies: does the product do what the machines can do?

A profiled pair stands in for the models on both sides, a delay proxy for the network. Its acceptances are a function
of the prefix, so a live session and a simulated one with the same seed draft, hit and miss at the same places; what
differs is only what the runtime costs: event loops, threads, gRPC, timers, the machine's other load.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from edge_client.app import Client, ClientOptions, DraftOptions, GenerateOptions, Mode, Shape
from edge_client.policies import policies_for
from scripts.bench.loop_thread import LoopThread
from scripts.bench.measure import Rounds, Side, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from scripts.processes import child, python
from scripts.wan.process import wan_process
from scripts.wan.profiles import WanProfile
from shared.messages import Limits
from shared.profiled import Profile, ProfiledPair, decode
from shared.session.edge import EdgePolicies
from shared.sim.predict import default_reconnect, predict, random_prompt

AIM: Final = Aim("within 10 %", least=0.9, most=1.1)
PROMPT_TOKENS: Final = 16
"""Of the simulation's prompts."""
LOOKAHEADS: Final = range(1, 13)
WARM_UP_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class World:
    """The profiled pair and the link, for both."""

    profile: Profile
    rtt_ms: float
    tokens: int

    @property
    def source(self) -> str:
        """The profile, as server and client are told it."""
        one = self.profile
        return f"profiled:acceptance={one.acceptance},step_ms={one.step_ms},draft_ms={one.draft_ms}"

    def policies(self, draft: DraftOptions) -> EdgePolicies:
        """What the client makes of `draft`, fresh."""
        shape = draft.shape_for()
        return policies_for(draft, shape, default_reconnect(), self.profile.context_length)

    def predict(self, draft: DraftOptions, seed: int) -> float:
        """TPOT in ms, in virtual time, with the client's own policies."""
        drafting = draft.shape_for() is not None
        patience_ms, adaptive_ms = (
            draft.patience_for(Limits().max_patience_us / 1000) if drafting else (0.0, 0.0)
        )
        return predict(
            self.profile,
            self.policies(draft),
            rtt_ms=self.rtt_ms,
            tokens=self.tokens,
            patience_us=round(patience_ms * 1000),
            adaptive_patience_us=round(adaptive_ms * 1000),
            seed=seed,
        ).tpot_ms

    def best_lookahead(self, rounds: int) -> int:
        """The block length with the least predicted TPOT."""
        return min(
            LOOKAHEADS,
            key=lambda n: sum(
                self.predict(DraftOptions(mode=Mode.SYNC, lookahead=n), seed) for seed in range(rounds)
            ),
        )


def measure_live(settings: BenchSettings) -> Section:
    """Milliseconds per token, live and predicted, of every way to use the link."""
    profile = Profile(settings.acceptance, settings.step_ms, settings.draft_ms)
    world = World(profile, settings.rtt_ms, settings.live_tokens)
    lookahead = world.best_lookahead(settings.live_rounds)
    arms = {
        "cloud alone": DraftOptions(mode=Mode.CLOUD),
        f"sync, lookahead {lookahead} (the best of {LOOKAHEADS[0]} to {LOOKAHEADS[-1]})": DraftOptions(
            mode=Mode.SYNC, lookahead=lookahead
        ),
        "stream, chain": DraftOptions(shape=Shape.CHAIN),
        "stream, tree": DraftOptions(shape=Shape.TREE),
    }
    same: list[bool] = []
    serve = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", world.source)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(child("profiled server", serve))
        proxy = stack.enter_context(wan_process(server.address, WanProfile(settings.rtt_ms)))
        loop = stack.enter_context(LoopThread())
        client = loop.enter(Client(ClientOptions(server=proxy.address, drafter=world.source)))
        rounds = _run(world, loop, client, arms, settings.live_rounds, same)
    different = len(same) - sum(same)
    windows = " / ".join(str(world.policies(draft).window.size()) for draft in arms.values())
    return Section(
        key="live",
        title="The live stream and the simulation of the same policies",
        unit="ms/token",
        ours="live",
        peer="predicted",
        ratio_of="live / predicted",
        settings=(
            (
                f"profiled pair: acceptance {profile.acceptance}, {profile.step_ms:g} ms per verify step, "
                f"{profile.draft_ms:g} ms per draft; RTT {settings.rtt_ms:g} ms by the delay proxy"
            ),
            f"{settings.live_tokens} tokens, {settings.live_rounds} prompts",
            f"windows, in the table's order: {windows}",
            "server and proxy in processes of their own, client here; no model, so no model threads",
        ),
        figures=tuple(
            Figure(
                name,
                rounds.spread(name),
                rounds.spread(_predicted(name)),
                rounds.ratio(name, _predicted(name)),
                AIM,
            )
            for name in arms
        ),
        notes=(f"texts equal to the target's own in {sum(same)} of {len(same)} generations",),
        failures=(f"{different} texts differ from what the target alone writes",) if different else (),
    )


def _run(
    world: World,
    loop: LoopThread,
    client: Client,
    arms: dict[str, DraftOptions],
    count: int,
    same: list[bool],
) -> Rounds:
    pair, size = ProfiledPair(world.profile), world.profile.vocabulary_size

    def live(draft: DraftOptions, tokens: int) -> Side:
        def turn(number: int) -> float:
            prompt = random_prompt(number, PROMPT_TOKENS, size)
            result = loop.call(client.generate(GenerateOptions(prompt, tokens, draft=draft)))
            same.append(list(result.tokens) == decode(pair, prompt, tokens))
            if result.stats.tpot_ms is None:
                raise AssertionError(f"{len(result.tokens)} tokens have no time between them")
            return result.stats.tpot_ms

        return turn

    def simulated(draft: DraftOptions) -> Side:
        return lambda number: world.predict(draft, number)

    for draft in arms.values():
        live(draft, WARM_UP_TOKENS)(0)
    sides: dict[str, Side] = {}
    for name, draft in arms.items():
        sides |= {name: live(draft, world.tokens), _predicted(name): simulated(draft)}
    return take_turns(sides, count, warm_up=False)


def _predicted(name: str) -> str:
    return f"{name}, predicted"
