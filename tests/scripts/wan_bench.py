"""What the tests of emulated links share: an echo server, and one line of Python at the edge's end."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading

EDGE = """
import json, socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
begun = time.perf_counter()
sock = socket.create_connection((host, int(port)), timeout=30)
connect_ms = (time.perf_counter() - begun) * 1000
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
trips = []
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    sock.sendall(b"x" * 32)
    got = b""
    while len(got) < 32:
        got += sock.recv(32)
    trips.append((time.perf_counter() - begun) * 1000)
print(json.dumps({"connect_ms": connect_ms, "trips_ms": trips, "devices": [n for _, n in socket.if_nameindex()]}))
"""


@contextlib.contextmanager
def echo_server():
    """HOST:PORT of a server in this process that sends everything back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener,), daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listener):
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(sock,), daemon=True).start()


def _echo(sock):
    with sock, contextlib.suppress(ConnectionError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(4096):
            sock.sendall(data)


def trips_over(link, server, count=5):
    """What `EDGE` says, run at the edge's end."""
    command = link.edge_command([sys.executable, "-c", EDGE, link.edge_address(server), str(count)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)
