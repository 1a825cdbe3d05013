"""Whatever was computed before, a forward answers what a model that knows nothing would answer for the same prefix."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_client.drafter.candidates import NoiseRows, draws_from_all, rank, rank_all, top_tokens
from edge_client.drafter.chain_model import ChainModel
from edge_client.drafter.interface import Candidate
from edge_client.drafter.onnx_drafter import OnnxDrafter
from edge_client.drafter.runtime import open_session
from edge_client.drafter.slot_tree import SlotTree
from edge_client.drafter.tree_model import DEAD_SLACK, TreeModel
from scripts.pair.export import drafter_model, max_slots
from scripts.pair.shape import Shape
from shared.sampling import SamplingParams, draw
from tests.edge_client.tiny_onnx import TinyShape, write_tree_layout, write_usual_layout

CONTEXT = 96
VOCABULARY = 72
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)
PLAIN = SamplingParams(temperature=0.9, seed=12)
"""From the whole vocabulary: for this the drafter reads all logits, for the others the best few."""
WIDTH = 4
Paths = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Sessions:
    """One model, where possible in both layouts."""

    tree: ort.InferenceSession
    usual: ort.InferenceSession | None
    slots: int
    """Greatest number of keys that the tree layout attends to."""


def tiny_pair(folder: Path) -> Sessions:
    """A graph that gives logits only, with room beyond the context."""
    shape = TinyShape(vocabulary=VOCABULARY, context=CONTEXT)
    tree = write_tree_layout(folder / "tree", shape) / "model.onnx"
    usual = write_usual_layout(folder / "usual", shape) / "onnx" / "model.onnx"
    return Sessions(open_session(tree, "cpu", 1), open_session(usual, "cpu", 1), 2 * CONTEXT)


def exported_pair(folder: Path) -> Sessions:
    """What the product's exporter writes: the best tokens come out of the graph."""
    shape = Shape(
        layers=2,
        hidden=32,
        intermediate=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocabulary=VOCABULARY,
        max_positions=CONTEXT,
    )
    file = folder / "model.onnx"
    onnx.save(drafter_model(random_weights(shape), shape, "float32"), file)
    return Sessions(open_session(file, "cpu", 1), None, max_slots(shape))


def random_weights(shape: Shape) -> dict[str, np.ndarray]:
    """Under transformers' names; large enough that the logits depend on the whole prefix."""
    rng = np.random.default_rng(3)
    inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {
        "self_attn.q_proj": (inner, shape.hidden),
        "self_attn.k_proj": (kv, shape.hidden),
        "self_attn.v_proj": (kv, shape.hidden),
        "self_attn.o_proj": (shape.hidden, inner),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (shape.vocabulary, shape.hidden)}
    gains = {"model.norm.weight": np.full(shape.hidden, 3, np.float32)}
    for layer in range(shape.layers):
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in matrices.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            gains[f"model.layers.{layer}.{name}.weight"] = np.ones(shape.hidden, np.float32)
    drawn = {
        f"{name}.weight": rng.standard_normal(size).astype(np.float32) / size[-1] ** 0.5
        for name, size in sizes.items()
    }
    return drawn | gains


@pytest.fixture(scope="module", params=[tiny_pair, exported_pair], ids=["tiny", "exported"])
def sessions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return request.param(tmp_path_factory.mktemp("pair"))


def tree_drafter(sessions: Sessions, slots: int | None = None, first: int = 16) -> OnnxDrafter:
    return OnnxDrafter(TreeModel(sessions.tree, slots or sessions.slots, first), VOCABULARY, CONTEXT, "")


def chain_drafter(sessions: Sessions) -> OnnxDrafter:
    return OnnxDrafter(ChainModel(sessions.usual), VOCABULARY, CONTEXT, "")


LAYOUTS = {"tree": tree_drafter, "usual": chain_drafter}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def make(request: pytest.FixtureRequest, sessions: Sessions) -> Callable[[], OnnxDrafter]:
    if request.param is chain_drafter and sessions.usual is None:
        pytest.skip("the exporter writes our own layout only")
    return lambda: request.param(sessions)


class Reference:
    """What the model says after a prefix, computed from nothing with the whole prefix in one forward."""

    def __init__(self, sessions: Sessions) -> None:
        self._session = sessions.usual or sessions.tree
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix not in self._known:
            ids, size = np.array([prefix], np.int64), len(prefix)
            every = {
                "input_ids": ids,
                "position_ids": np.arange(size, dtype=np.int64)[None],
                "attention_mask": np.ones_like(ids),
                "attention_bias": np.zeros((1, 1, size, size), np.float32),
                "seqlens_k": np.array([size - 1], np.int32),
                "total_sequence_length": np.array(size, np.int32),
            }
            slots = 0 if "attention_mask" in (names := self._input_names()) else size
            past = [port for port in self._session.get_inputs() if port.name.startswith("past")]
            feeds = {name: value for name, value in every.items() if name in names}
            feeds |= {p.name: np.zeros((1, p.shape[1], slots, p.shape[3]), np.float32) for p in past}
            self._known[prefix] = self._session.run(["logits"], feeds)[0][0, -1]
        return self._known[prefix]

    def _input_names(self) -> set[str]:
        return {port.name for port in self._session.get_inputs()}

    def check(
        self, answers: list[list[Candidate]], prefixes: Sequence[tuple[int, ...]], params: SamplingParams
    ) -> None:
        """Costs agree in order and for each token; two tokens of equal cost may come in either order."""
        assert len(answers) == len(prefixes)
        for prefix, answer in zip(prefixes, answers, strict=True):
            expected = self._expected(self.logits(prefix)[None], params, len(prefix))
            costs = {candidate.token: candidate.cost for candidate in expected}
            assert [c.cost for c in answer] == pytest.approx(
                [c.cost for c in expected[: len(answer)]], abs=2e-4
            )
            assert [c.cost for c in answer] == pytest.approx([costs[c.token] for c in answer], abs=2e-4)
            assert len(answer) == WIDTH

    def _expected(self, logits: np.ndarray, params: SamplingParams, position: int) -> list[Candidate]:
        if draws_from_all(params, VOCABULARY):
            return rank_all(logits, params, [position], 8, NoiseRows(VOCABULARY))[0]
        return rank(top_tokens(logits, 32), params, [position], 32)[0]


def forward(
    drafter: OnnxDrafter,
    log: Sequence[int],
    length: int,
    paths: Paths,
    params: SamplingParams,
    reference: Reference,
) -> None:
    answers = drafter.forward(log, length, paths, params, WIDTH)
    reference.check(answers, [(*log[:length], *path) for path in paths], params)


def random_tokens(rng: random.Random, count: int, alphabet: int = VOCABULARY) -> list[int]:
    return [rng.randrange(alphabet) for _ in range(count)]


def random_paths(rng: random.Random, count: int, depth: int) -> list[tuple[int, ...]]:
    """Paths over three tokens, so that many share a beginning, some end within another and some come twice."""
    return [tuple(random_tokens(rng, rng.randint(0, depth), 3)) for _ in range(count)]


def storm(drafter: OnnxDrafter, reference: Reference, seed: int, steps: int = 150, many: int = 6) -> None:
    """A session as a network makes it: trees hang off the log, part of one is committed, or something else is."""
    rng = random.Random(seed)
    log = random_tokens(rng, 5)
    for _ in range(steps):
        paths = random_paths(rng, rng.randint(1, many), 4)
        forward(drafter, log, len(log), paths, rng.choice([GREEDY, SAMPLED, PLAIN]), reference)
        match rng.randrange(5):
            case 0 | 1:
                log.extend(rng.choice(paths))
            case 2:
                log.extend(random_tokens(rng, rng.randint(1, 3)))
            case 3 if len(log) > 30:
                log = log[: rng.randint(1, len(log))] + random_tokens(rng, 2)
        if len(log) > CONTEXT - 8:
            log = log[: rng.randint(1, 20)]


def test_every_cut_point(make: Callable[[], OnnxDrafter], sessions: Sessions) -> None:
    rng, reference, drafter = random.Random(1), Reference(sessions), make()
    log = random_tokens(rng, 40)
    drafted = [(), (1,), (1, 2), (1, 2, 3)]
    forward(drafter, log, len(log), drafted, GREEDY, reference)
    for length in [*range(len(log), 0, -1), *range(1, len(log) + 1)]:
        forward(drafter, log, length, [(), (7, 8)], GREEDY, reference)
        forward(drafter, log, len(log), [()], GREEDY, reference)
        forward(drafter, list(log[:length]), length, [(5,)], SAMPLED, reference)


def test_tree_equals_chains(sessions: Sessions) -> None:
    rng, reference = random.Random(2), Reference(sessions)
    for _ in range(30):
        drafter = tree_drafter(sessions)
        log = random_tokens(rng, rng.randint(1, 30))
        paths = random_paths(rng, 12, 5)
        forward(drafter, log, len(log), paths, rng.choice([GREEDY, SAMPLED, PLAIN]), reference)
        together = drafter.forward(log, len(log), paths, SAMPLED, WIDTH)
        for path, answer in zip(paths, together, strict=True):
            alone = tree_drafter(sessions).forward(log, len(log), [path], SAMPLED, WIDTH)[0]
            assert [c.token for c in alone] == [c.token for c in answer]
            assert [c.cost for c in alone] == pytest.approx([c.cost for c in answer], abs=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_rollback_storm(make: Callable[[], OnnxDrafter], sessions: Sessions, seed: int) -> None:
    storm(make(), Reference(sessions), seed)


@pytest.mark.parametrize("room", [0, 7])
def test_storm_in_a_buffer_that_is_always_full(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    moves: list[int] = []

    def counted(tree: SlotTree) -> tuple[int, list[int]]:
        first, sources = COMPACT(tree)
        moves.append(len(sources))
        return first, sources

    monkeypatch.setattr(SlotTree, "compact", counted)
    storm(tree_drafter(sessions, min(CONTEXT + room, sessions.slots)), Reference(sessions), 5, many=12)
    assert sum(moves) > 0


def test_dead_slots_do_not_pile_up(sessions: Sessions) -> None:
    """Wide trees of which one branch survives: the slots in use stay within a bound of the log's length."""
    drafter, log = tree_drafter(sessions), [1]
    model = drafter._model
    assert isinstance(model, TreeModel)
    while len(log) < CONTEXT - 2:
        drafter.forward(log, len(log), [(token,) for token in range(8)], GREEDY, WIDTH)
        log.append(3)
        assert model._tree.used <= len(log) + DEAD_SLACK + 8


def test_the_last_positions_of_the_context(sessions: Sessions) -> None:
    reference, log = Reference(sessions), random_tokens(random.Random(3), CONTEXT)
    drafter = tree_drafter(sessions, CONTEXT)
    for length in range(CONTEXT - 6, CONTEXT + 1):
        room = CONTEXT - length
        paths = [tuple([1] * depth) for depth in range(room + 1)] + [tuple([2] * room)]
        forward(drafter, log, length, paths, GREEDY, reference)
        forward(drafter, log, length, [()], GREEDY, reference)


def test_a_path_beyond_the_context_has_no_candidates(make: Callable[[], OnnxDrafter]) -> None:
    log = random_tokens(random.Random(4), CONTEXT + 2)
    full, beyond = make().forward(log, CONTEXT, [(), (1,)], GREEDY, WIDTH)
    assert len(full) == WIDTH
    assert beyond == []
    assert make().forward(log, CONTEXT + 1, [()], GREEDY, WIDTH) == [[]]


def test_long_prompts_come_in_chunks(
    make: Callable[[], OnnxDrafter], sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.drafter.tree_model.CHUNK", 8)
    monkeypatch.setattr("edge_client.drafter.chain_model.CHUNK", 8)
    reference = Reference(sessions)
    for length in (7, 8, 9, 16, 17, 60):
        log = random_tokens(random.Random(length), length)
        forward(make(), log, length, [(), (3,), (3, 4), (5,)], GREEDY, reference)


def test_two_logs_in_turn(make: Callable[[], OnnxDrafter], sessions: Sessions) -> None:
    rng, reference, drafter = random.Random(5), Reference(sessions), make()
    shared = random_tokens(rng, 12)
    logs = [shared + random_tokens(rng, 3), shared + random_tokens(rng, 8), random_tokens(rng, 4)]
    for _ in range(12):
        for log in logs:
            forward(drafter, log, len(log), [(), (1, 2)], GREEDY, reference)
            log.extend(random_tokens(rng, rng.randint(0, 3)))


def test_a_forward_that_failed_leaves_nothing_behind(
    make: Callable[[], OnnxDrafter], sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, drafter, log = Reference(sessions), make(), random_tokens(random.Random(9), 20)
    forward(drafter, log, 10, [(1,)], GREEDY, reference)
    with monkeypatch.context() as broken:
        broken.setattr(drafter._model, "_session", BrokenSession())
        with pytest.raises(RuntimeError, match="out of memory"):
            drafter.forward(log, 20, [(1,), (2, 3)], GREEDY, WIDTH)
    forward(drafter, log, 20, [(1,), (2, 3)], GREEDY, reference)


class BrokenSession:
    def run(self, *args: object) -> None:
        raise RuntimeError("out of memory")

    run_with_iobinding = run


def test_work_is_in_proportion_to_new_tokens(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that forgets its cache is still right; only this sees it."""
    rows: list[int] = []
    run = TreeModel._run

    def counted(model: TreeModel, first: int, again: list[int]) -> None:
        rows.append(model._tree.used - first + len(again))
        run(model, first, again)

    monkeypatch.setattr(TreeModel, "_run", counted)
    drafter, log = tree_drafter(sessions), random_tokens(random.Random(6), 30)
    for paths in ([()], [(1,), (2,)], [(1, 3), (2, 4)], [(1, 3)]):
        drafter.forward(log, len(log), paths, GREEDY, WIDTH)
    log += [1, 3]  # what was drafted is committed
    drafter.forward(log, len(log), [(5,)], GREEDY, WIDTH)
    drafter.forward(log, len(log), [(5, 6)], GREEDY, WIDTH)
    log += [9]  # what nobody drafted
    drafter.forward(log, len(log), [()], GREEDY, WIDTH)
    assert rows == [30, 2, 2, 1, 1, 1, 1]


def wrong_positions(tree: SlotTree, parent: int | None, token: int) -> int:
    slot = ADD(tree, parent, token)
    tree.positions[slot] = slot
    return slot


def stale_slots(tree: SlotTree) -> tuple[int, list[int]]:
    first, _ = COMPACT(tree)
    return first, []


def a_cut_that_hides_nothing(tree: SlotTree, length: int) -> None:
    del tree.trunk[length:]


ADD, COMPACT = SlotTree.add, SlotTree.compact


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("SlotTree.add", wrong_positions),
        ("SlotTree.compact", stale_slots),
        ("SlotTree.cut", a_cut_that_hides_nothing),
        ("HIDDEN", 0.0),  # siblings see each other
    ],
)
def test_the_storm_sees_a_mutant(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, name: str, mutant: object
) -> None:
    monkeypatch.setattr(f"edge_client.drafter.slot_tree.{name}", mutant)
    with pytest.raises(AssertionError):
        storm(tree_drafter(sessions, CONTEXT), Reference(sessions), 5, many=12)


def test_a_chain_mutant_is_seen(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache that is one token short, or long, after an acceptance."""
    if sessions.usual is None:
        pytest.skip("the exporter writes our own layout only")
    common = ChainModel._common_length
    monkeypatch.setattr(ChainModel, "_common_length", lambda *args: common(*args) + 1)
    with pytest.raises(AssertionError):
        storm(chain_drafter(sessions), Reference(sessions), 0)


@pytest.mark.parametrize("params", [SAMPLED, PLAIN], ids=["filtered", "plain"])
def test_the_drafter_draws_with_the_targets_noise(
    make: Callable[[], OnnxDrafter], sessions: Sessions, params: SamplingParams
) -> None:
    """When drafter and target are one model, the first candidate is what the target draws: the position is right."""
    reference, drafter, log = Reference(sessions), make(), random_tokens(random.Random(8), 10)
    for _ in range(40):
        first = drafter.forward(log, len(log), [()], params, 1)[0][0].token
        assert first == draw(reference.logits(tuple(log)), params, len(log)).token
        log.append(first)


def test_arguments_out_of_range(make: Callable[[], OnnxDrafter]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make().forward([], 0, [()], GREEDY, 1)
    with pytest.raises(ValueError, match="at least 1"):
        make().forward([1], 1, [()], GREEDY, 0)
    assert make().forward([1], 1, [], GREEDY, 1) == []
