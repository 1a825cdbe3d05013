"""The co-located baseline's server: `python -m scripts.bench_capacity.colocated_server`, then PROFILE LOOKAHEAD
BATCHING SESSIONS.

The product's server in all but the source of its guesses; prints `listening on HOST:PORT` and serves until SIGTERM.
"""

from __future__ import annotations

import os
import sys

import uvloop

from cloud_server.app import ServeOptions, serve
from cloud_server.profiled import ProfiledWorker
from scripts.bench_capacity.colocated import budget, colocated, policies
from scripts.bench_capacity.setting import Batching
from shared.messages import Limits
from shared.profiled import parse_profile


def main(source: str, lookahead: int, batching: Batching, sessions: int) -> None:
    """Serve."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    pair = parse_profile(source)
    options = ServeOptions(
        listen="127.0.0.1:0",
        limits=Limits(max_sessions=sessions),
        policies=policies(pair, lookahead),
        budget=lambda: budget(lookahead),
        drain_s=1.0,
    )
    worker = ProfiledWorker(colocated(pair, lookahead, batching))
    uvloop.run(serve(worker, options, lambda address: print(f"listening on {address}", flush=True)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Batching(sys.argv[3]), int(sys.argv[4]))
