"""A session's keys and values as bytes, to take them along to another worker.

All integers are little-endian and unsigned; keys and values are as the machine has them, which is little-endian too
wherever torch runs.

    8 bytes   magic
    4         version of this format
    8         length of all of it, checksum included
    2 + n     model fingerprint, UTF-8
    2 + n     name of the dtype, UTF-8
    5 x 4     layers, key/value heads, key size, value size (elements), tokens
    4 each    the tokens' ids
    ...       keys [layers, heads, tokens, key size], then values
    32        SHA-256 of everything before it

A state says nothing about sampling, drafts or the end of the text: keys and values depend on the tokens alone. The
checksum is against accidents: whoever may send states to a worker decides what that worker says.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cloud_server.worker import StateError

Bytes = npt.NDArray[np.uint8]

MAGIC: Final = b"SLIPSTKV"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIQ")
COUNTS: Final = struct.Struct("<5I")
CHECKSUM_BYTES: Final = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class StateKind:
    """What a state must be of to be of use to a worker."""

    model_fingerprint: str
    dtype: str
    item_bytes: int
    """Of one element."""
    layers: int
    heads: int
    """Key/value heads."""
    key_dim: int
    value_dim: int

    @property
    def _row_bytes(self) -> tuple[int, int]:
        """Of one token's keys, and of its values."""
        rows = self.layers * self.heads * self.item_bytes
        return rows * self.key_dim, rows * self.value_dim


@dataclass(frozen=True, slots=True)
class KvState:
    """The keys and values of a beginning of a log."""

    tokens: Sequence[int]
    """At least one."""
    keys: Bytes
    """[layers, heads, tokens, key size], as flat bytes."""
    values: Bytes


def pack_state(kind: StateKind, state: KvState) -> bytes:
    """The state in this format.

    Raises:
        ValueError: keys or values are not of that kind.
    """
    count = len(state.tokens)
    sizes = tuple(count * each for each in kind._row_bytes)  # noqa: SLF001 - of this module
    if (state.keys.nbytes, state.values.nbytes) != sizes:
        raise ValueError(f"{count} tokens need {sizes} bytes, not {state.keys.nbytes, state.values.nbytes}")
    parts: list[bytes | memoryview] = [
        *map(_text, (kind.model_fingerprint, kind.dtype)),
        COUNTS.pack(kind.layers, kind.heads, kind.key_dim, kind.value_dim, count),
        np.asarray(state.tokens, dtype="<u4").tobytes(),
        state.keys.data,
        state.values.data,
    ]
    total = HEAD.size + sum(map(len, parts)) + CHECKSUM_BYTES
    parts.insert(0, HEAD.pack(MAGIC, VERSION, total))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def unpack_state(kind: StateKind, data: bytes) -> KvState:
    """What `pack_state` made, with keys and values as views of `data`.

    Raises:
        StateError: it is damaged, of another format, or of another kind.
    """
    if len(data) < HEAD.size + CHECKSUM_BYTES or not data.startswith(MAGIC):
        raise StateError(f"{len(data)} bytes that are no session's state")
    _, version, total = HEAD.unpack_from(data)
    if version != VERSION:
        raise StateError(f"the state is of format version {version}, this worker reads {VERSION}")
    if total != len(data):
        raise StateError(f"the state is {len(data)} bytes long and says that it is {total}")
    body = memoryview(data)[:-CHECKSUM_BYTES]
    if hashlib.sha256(body).digest() != data[-CHECKSUM_BYTES:]:
        raise StateError("the state is damaged: its checksum is wrong")
    try:
        return _read(kind, body)
    except (
        struct.error,
        UnicodeDecodeError,
        ValueError,
    ) as error:  # its writer's fault: the checksum is right
        raise StateError(f"the state contradicts itself: {error}") from error


def _read(kind: StateKind, body: memoryview) -> KvState:
    at = HEAD.size
    found = []
    for _ in range(2):
        (length,) = struct.unpack_from("<H", body, at)
        found.append(str(body[at + 2 : at + 2 + length], "utf-8"))
        at += 2 + length
    *shape, count = COUNTS.unpack_from(body, at)
    at += COUNTS.size
    if found[0] != kind.model_fingerprint:
        raise StateError(
            f"the state is of model {found[0][:12]}, this worker's is {kind.model_fingerprint[:12]}"
        )
    mine = (kind.dtype, kind.layers, kind.heads, kind.key_dim, kind.value_dim)
    if (found[1], *shape) != mine:
        raise StateError(f"the state's keys and values are {(found[1], *shape)}, this worker's are {mine}")
    sizes = [4 * count, *(count * each for each in kind._row_bytes)]  # noqa: SLF001 - of this module
    if not count or at + sum(sizes) != len(body):
        raise ValueError(f"{count} tokens in {len(body) - at} bytes")
    tokens, keys, values = np.split(np.frombuffer(body, dtype=np.uint8, offset=at), np.cumsum(sizes[:2]))
    return KvState(tokens.view("<u4").tolist(), keys, values)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<H", len(data)) + data
