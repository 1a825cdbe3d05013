"""What a verifier's KV cache did and holds, as plain numbers for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KvCounters:
    """A snapshot. Counts are since the start; a page that holds one token counts with all its bytes."""

    sessions: int = 0
    """Sessions that hold something now."""
    kept: int = 0
    """Caches of sessions that are over, held for as long as their memory is not needed."""
    used_bytes: int = 0
    """Of the sessions' pages."""
    kept_bytes: int = 0
    limit_bytes: int = 0
    """Of all pages."""
    hits: int = 0
    """Sessions that were given a beginning which another had computed."""
    reused_tokens: int = 0
    """Tokens that did not have to be computed for that reason."""
    evictions: int = 0
    """Sessions whose cache went for want of memory."""
    given_up: int = 0
    """Kept caches that went for want of memory."""
