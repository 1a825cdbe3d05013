"""A worker's process on the server's own host: `python -m cloud_server.fleet.process PARENT SOCKET SPEC`.

Started by `ProcessPlace`, by nobody else: it ends with its parent. SIGTERM asks it to go, which it does once its
sessions are elsewhere.
"""

from __future__ import annotations

from cloud_server.fleet import ties
from shared import interrupts

with interrupts.Silent():
    import logging
    import os
    import signal
    import sys

    import uvloop

    from cloud_server.fleet.serving import serve_worker
    from cloud_server.loading import WorkerSpec, make_workers
    from shared.errors import UserError


def main() -> None:
    """Exit code 2 and one line for what the user can mend."""
    parent, socket, spec, verbose = sys.argv[1:]
    ties.die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's business
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(
        level=logging.INFO if verbose == "verbose" else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    try:
        made = WorkerSpec.from_json(spec)
        (worker,) = make_workers(made)
        target = f"unix:{socket}"
        uvloop.run(serve_worker(worker, made.place, target, None, lambda _: None, until_stdin_ends=True))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
