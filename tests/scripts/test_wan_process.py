"""Child processes: up in time or a clear word, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.processes import ROOT, ChildError, child, python
from scripts.wan.process import wan_process
from scripts.wan.profiles import PROFILES, WanProfile

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(own.pid, flush=True)
print("listening on 127.0.0.1:1", flush=True)
time.sleep(600)
"""


def gone(pid: int, deadline_s: float = 10.0) -> bool:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True  # ended, and nobody has asked for its exit code
        time.sleep(0.01)
    return False


def test_the_proxy_process_obeys_its_verbs():
    with wan_process("127.0.0.1:1", PROFILES["leo"]) as wan:
        assert wan.address.startswith("127.0.0.1:")
        wan.hold(0.5)
        assert wan.cut() == 0
        assert wan.traffic().bytes_up == 0
        with pytest.raises(ChildError, match="is none of: reach"):
            wan._ask("explode")
        pid = wan.process.pid
    assert gone(pid)


def test_the_proxy_process_ends_with_its_input():
    with wan_process("127.0.0.1:1", WanProfile(1.0)) as wan:
        wan.process._stdin.close()
        wan.process._process.wait(timeout=10)
        assert wan.process._process.returncode == 0


def test_a_wrong_server_is_named():
    with (
        pytest.raises(ChildError, match=r"server nowhere: expected HOST:PORT"),
        wan_process("nowhere", WanProfile(1.0)),
    ):
        pass


def test_a_child_that_says_nothing_is_given_up_and_killed():
    with (
        pytest.raises(ChildError, match="sleeper says nothing for"),
        child("sleeper", python("-c", "import time; time.sleep(600)"), ready_s=0.3, grace_s=0.1),
    ):
        pass


def test_a_child_that_ignores_the_request_is_killed_with_its_own_children():
    with child("stubborn", python("-c", STUBBORN), ready_s=None, grace_s=0.2) as stubborn:
        grandchild = int(stubborn.line(30))
        stubborn.wait_ready(30)
    assert gone(stubborn.pid)
    assert gone(grandchild)


def test_an_error_in_the_block_stops_the_child():
    with pytest.raises(ZeroDivisionError), child("child", python("-c", STUBBORN), grace_s=0.1) as running:
        _ = 1 / 0
    assert gone(running.pid)


def test_only_the_main_thread_starts_children():
    errors: list[BaseException] = []

    def start() -> None:
        try:
            with child("child", python("-c", "")):
                pass
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's signal at the parent's death is Linux's own"
)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_survives_its_parent(end):
    parent_code = (
        "import time\n"
        "from scripts.processes import child, python\n"
        "code = 'import time; print(\"listening on a:1\", flush=True); time.sleep(600)'\n"
        "with child('inner', python('-c', code)) as c:\n"
        "    print(c.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(end)
        parent.wait(timeout=30)
    assert gone(pid)
