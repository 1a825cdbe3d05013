"""Gumbel noise as a pure function of (seed, position, token id): the randomness of every draw in the product.

The generator is Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2,
3"). Being counter-based it has no state, so that edge and cloud, today and after a reconnect, read the same
noise for the same token of the same position (design law 3: facts are pure). This map is part of the sampler
version; a change of any line of it is a change of every sampled text:

    key      word 0 = seed mod 2^32,          word 1 = seed div 2^32
    counter  word 0 = block = token id div 2, word 1 = 0,
             word 2 = position mod 2^32,      word 3 = position div 2^32
    lane     token id mod 2: an even id reads output words 0 and 1, an odd id words 2 and 3;
             the first word of the pair is the more significant half of a 64-bit word
    k        the top 52 bits of that word
    u        (k + 1/2) * 2^-52, exact in float64 and strictly inside (0, 1); with 53 bits it could round to 1
    g        -log(-log(u)), between -3.61 and 36.74

k is bit-identical wherever it is computed. g is float64 and as good as the library's logarithm: see
`GUMBEL_ULPS`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

ROUNDS: Final = 10
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
"""Philox's M0 and M1: multiply counter words 0 and 2."""
WEYL: Final = (0x9E3779B9, 0xBB67AE85)
"""Philox's key increments per round."""
WORD: Final = 0xFFFFFFFF
NOISE_BITS: Final = 52
MAX_SEED: Final = 2**64 - 1
MAX_POSITION: Final = 2**63 - 1
MAX_VOCABULARY: Final = 2**32
GUMBEL_ULPS: Final = 4
"""Two libraries' g differ by at most this many 2^-52 * max(1, |g|), if each logarithm is good to 1 ulp: an
error in the inner logarithm is relative, so that the outer one turns it into an absolute error of the same
size."""

_LOW: Final = np.uint64(WORD)
_HALF: Final = np.uint64(32)
_ONE: Final = np.uint64(1)
_DROPPED_BITS: Final = np.uint64(64 - NOISE_BITS)
_CROSSED_MULTIPLIERS: Final = np.array(MULTIPLIERS[::-1], dtype=np.uint64)
_KEY_STEPS: Final = np.outer(np.arange(ROUNDS, dtype=np.uint64), np.array(WEYL, dtype=np.uint64))
_BLOCKS_PER_PASS: Final = 16_384
"""Philox blocks worked on at once: four uint64 buffers of this length stay in a 1 MiB second-level cache."""


def philox4x32(counter: UInt32, key: UInt32) -> UInt32:
    """Philox-4x32-10 of each counter under its key, as in the published known-answer vectors.

    Args:
        counter: uint32 [..., 4].
        key: uint32 [..., 2]; leading axes broadcast against the counter's.

    Returns:
        uint32 [..., 4], the four output words.
    """
    c, k = np.moveaxis(counter.astype(np.uint64), -1, 0), np.moveaxis(key.astype(np.uint64), -1, 0)
    pairs = _philox((c[0], c[1], c[2], c[3]), (k[0], k[1]))
    words = (pairs[0] >> _HALF, pairs[0] & _LOW, pairs[1] >> _HALF, pairs[1] & _LOW)
    return np.stack(words, axis=-1).astype(np.uint32)


def uniform_bits(seed: int | UInt64, position: int | Int64, token_ids: Int64) -> UInt64:
    """The 52-bit integers k behind the noise.

    Args:
        seed: in [0, 2^64), or uint64 array.
        position: index of the token being drawn (the length of its prefix), in [0, 2^63), or int64 array.
        token_ids: int64 [...], each in [0, 2^32).

    All three broadcast: positions [n, 1] with ids [n, m] are n nodes.

    Returns:
        uint64, the broadcast shape.

    Raises:
        ValueError: an argument outside its range.
    """
    ids = np.ascontiguousarray(token_ids, dtype=np.int64).view(np.uint64)
    if ids.size and int(ids.max()) >= MAX_VOCABULARY:  # a negative id reads as a huge one
        raise ValueError("token ids must lie in [0, 2^32)")
    even, odd = _philox(*_counter_and_key(ids >> _ONE, seed, position))
    bits: UInt64 = np.where((ids & _ONE).astype(np.bool_), odd, even) >> _DROPPED_BITS
    return bits


def gumbel(seed: int | UInt64, position: int | Int64, token_ids: Int64) -> Float64:
    """Standard Gumbel noise of the given tokens; arguments and errors as `uniform_bits`. float64."""
    return _gumbel(uniform_bits(seed, position, token_ids))


def gumbel_row(seed: int, position: int, vocabulary_size: int) -> Float64:
    """The noise of every token of one position, at half of `gumbel`'s cost. float64 [vocabulary_size]."""
    row: Float64 = gumbel_rows(_seeds(seed).reshape(1), _positions(position).reshape(1), vocabulary_size)[0]
    return row


def gumbel_rows(seeds: UInt64, positions: UInt64 | Int64, vocabulary_size: int) -> Float64:
    """`gumbel_row` of n (seed, position) pairs. seeds [n], positions [n] -> float64 [n, vocabulary_size]."""
    if not 1 <= vocabulary_size <= MAX_VOCABULARY:
        raise ValueError(f"vocabulary_size must lie in [1, 2^32], not {vocabulary_size}")
    blocks = np.arange((vocabulary_size + 1) // 2, dtype=np.uint64)
    rows = np.empty((len(seeds), vocabulary_size))
    per_pass = max(1, _BLOCKS_PER_PASS // len(blocks))
    scratch = np.empty((2, 2, per_pass, len(blocks)), np.uint64)
    for start in range(0, len(seeds), per_pass):
        part = slice(start, start + per_pass)
        pass_scratch = scratch[:, :, : len(seeds) - start]
        pairs = _philox(*_counter_and_key(blocks, seeds[part, None], positions[part, None]), pass_scratch)
        np.right_shift(pairs, _DROPPED_BITS, out=pairs)
        noise = _gumbel(pairs, pass_scratch[1].view(np.float64))
        rows[part, 0::2] = noise[0]
        rows[part, 1::2] = noise[1, :, : vocabulary_size // 2]
    return rows


def _counter_and_key(
    blocks: UInt64, seed: int | UInt64, position: int | UInt64 | Int64
) -> tuple[tuple[UInt64, UInt64, UInt64, UInt64], tuple[UInt64, UInt64]]:
    """The map in the header, up to the lane."""
    seeds, positions = _seeds(seed), _positions(position)
    counter = (blocks, np.zeros((), np.uint64), positions & _LOW, positions >> _HALF)
    return counter, (seeds & _LOW, seeds >> _HALF)


def _philox(
    counter: tuple[UInt64, UInt64, UInt64, UInt64], key: tuple[UInt64, UInt64], scratch: UInt64 | None = None
) -> UInt64:
    """Ten rounds; words are 32-bit values in uint64 and broadcast.

    The state is kept packed as a = word 0 << 32 | word 1 and b = word 2 << 32 | word 3, stacked. So a round
    is five vector operations: the 64-bit product already is the pair (high word, low word) that Philox wants,
    and the word that meets the key has only to be shifted up. The first two rounds are written out because
    much of them depends on the row alone, or on the block alone, and need not be done for each element.

    Args:
        scratch: uint64 [2, 2, *broadcast shape] to work in; the first half is returned, the second left over.

    Returns:
        uint64 [2, *broadcast shape], the two packed pairs.
    """
    shape = np.broadcast_shapes(*(word.shape for word in counter), *(word.shape for word in key))
    halves = np.empty((2, 2, *shape), np.uint64) if scratch is None else scratch
    state: UInt64 = halves[0]
    products: UInt64 = halves[1]
    keys = _key_schedule(key, len(shape))
    key_0, key_1 = keys[:, 0], keys[:, 1]
    a, b = state[0, ...], state[1, ...]  # the ellipsis keeps a view of a scalar shape writable
    row = counter[2] * MULTIPLIERS[1] ^ (counter[1] ^ key_0[0]) << _HALF
    np.bitwise_xor(counter[0] * MULTIPLIERS[0], (counter[3] ^ key_1[0]) << _HALF, out=b)
    np.right_shift(b, _HALF, out=a)
    np.multiply(a, MULTIPLIERS[1], out=a)
    np.bitwise_xor(a, (row ^ key_0[1]) << _HALF, out=a)
    np.bitwise_xor(b, key_1[1], out=b)
    np.left_shift(b, _HALF, out=b)
    np.bitwise_xor(b, (row >> _HALF) * MULTIPLIERS[0], out=b)
    multipliers = _CROSSED_MULTIPLIERS.reshape(2, *(1,) * len(shape))
    crossed = state[::-1]
    for r in range(2, ROUNDS):
        np.right_shift(crossed, _HALF, out=products)
        np.multiply(products, multipliers, out=products)
        np.bitwise_xor(state, keys[r], out=state)
        np.left_shift(state, _HALF, out=state)
        np.bitwise_xor(state, products, out=state)
    return state


def _key_schedule(key: tuple[UInt64, UInt64], dimensions: int) -> UInt64:
    """Both key words of each round: uint64 [ROUNDS, 2, *key shape padded to that many dimensions]."""
    shape = (1,) * (dimensions - key[0].ndim) + key[0].shape
    steps = _KEY_STEPS.reshape(ROUNDS, 2, *(1,) * dimensions)
    words: UInt64 = np.stack([word.reshape(shape) for word in key])
    schedule: UInt64 = words + steps & _LOW
    return schedule


def _gumbel(bits: UInt64, out: Float64 | None = None) -> Float64:
    u = np.empty(bits.shape) if out is None else out
    np.copyto(u, bits)
    u += 0.5
    u *= 2.0**-NOISE_BITS
    for _ in range(2):
        np.log(u, out=u)
        np.negative(u, out=u)
    return u


def _seeds(seed: int | UInt64) -> UInt64:
    if isinstance(seed, int) and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in [0, 2^64), not {seed}")
    return np.asarray(seed, dtype=np.uint64)


def _positions(position: int | UInt64 | Int64) -> UInt64:
    if isinstance(position, int) and not 0 <= position <= MAX_POSITION:
        raise ValueError(f"position must lie in [0, 2^63), not {position}")
    positions = np.asarray(position).astype(np.uint64)
    if positions.size and int(positions.max()) > MAX_POSITION:
        raise ValueError("positions must lie in [0, 2^63)")
    return positions
