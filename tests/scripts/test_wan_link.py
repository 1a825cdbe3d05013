"""Links by each enforcer that this machine allows: delayed, lossy, held, cut, and gone without a trace."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.processes import ROOT, ChildError, child, python
from scripts.wan.choose import Choice, Enforcer, obstacle
from scripts.wan.link import RunningLink, emulated_link
from scripts.wan.process import EmulatorProcess
from scripts.wan.profiles import WanProfile
from shared.link import Schedule
from tests.scripts.wan_bench import echo_server, trips_over

NO_TUN = obstacle(Enforcer.TUN)
needs_tun = pytest.mark.skipif(NO_TUN is not None, reason=f"tun: {NO_TUN}")
EACH = [pytest.param(Enforcer.TUN, marks=needs_tun), Enforcer.PROXY]
TUN_WITHOUT_ROOT = """
from scripts.wan import tun
from scripts.wan.profiles import WanProfile
def refuse():
    raise PermissionError
tun.make_ends = refuse
tun.serve_tun(WanProfile(20.0), 0, 0)
"""
NETEM_WITHOUT_NETEM = """
from scripts.wan import netem
from scripts.wan.profiles import WanProfile
netem.qdisc = lambda *_: "true"
netem.serve_netem(WanProfile(0.0), 0)
"""


def until(condition, deadline_s=20.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def held_by(process: Path) -> set[str]:
    """Network namespaces that a process lives in or holds."""
    places = [process / "ns/net"]
    with contextlib.suppress(OSError):
        places += (process / "fd").iterdir()
    found = set()
    for place in places:
        with contextlib.suppress(OSError):
            found.add(str(place.readlink()))
    return {name for name in found if name.startswith("net:")}


def holders(wanted: set[str]) -> set[Path]:
    """Processes that keep one of these namespaces in existence."""
    return {process for process in Path("/proc").glob("[0-9]*") if held_by(process) & wanted}


@pytest.mark.parametrize("enforcer", EACH)
def test_a_round_trip_takes_what_the_profile_says(enforcer):
    with echo_server() as server, emulated_link(WanProfile(40.0), enforcer) as link:
        assert link.choice.enforcer is enforcer
        seen = trips_over(link, server)
        assert min(seen["trips_ms"]) >= 40.0
        assert min(seen["trips_ms"]) < 48.0
        traffic = link.traffic()
        assert (traffic.bytes_up, traffic.bytes_down, traffic.connections) == (160, 160, 1)


@needs_tun
def test_the_handshake_is_delayed_and_the_edge_sees_nothing_but_the_link():
    with echo_server() as server, emulated_link(WanProfile(40.0), Enforcer.TUN) as link:
        seen = trips_over(link, server)
        assert 40.0 <= seen["connect_ms"] < 500.0
        assert sorted(seen["devices"]) == ["lo", "wan0"]
        packets = link.traffic().packets_up
        assert packets is not None
        assert packets.bytes > 160


@pytest.mark.parametrize("enforcer", EACH)
def test_no_network_costs_little(enforcer):
    """Negative control of the delay, too: the bound of the tests above is the profile's doing."""
    with echo_server() as server, emulated_link(WanProfile(0.0), enforcer) as link:
        assert min(trips_over(link, server, 100)["trips_ms"]) < 5.0


@needs_tun
def test_lost_packets_are_lost_and_tcp_mends_it():
    profile = WanProfile(4.0, loss_percent=15.0)
    with echo_server() as server, emulated_link(profile, Enforcer.TUN, seed=3) as link:
        seen = trips_over(link, server, 10)
        traffic = link.traffic()
        assert traffic.packets_up is not None
        assert traffic.packets_up.lost > 0
        assert max(seen["trips_ms"]) > 100.0  # a time-out
        assert traffic.bytes_up == 320


@needs_tun
def test_an_outage_swallows_packets():
    profile = WanProfile(2.0, outage=Schedule(1000.0, 999_000.0, offset_s=0.0))
    with emulated_link(profile, Enforcer.TUN) as link:
        host, port = link.edge_address("127.0.0.1:1").split(":")
        code = (
            "import socket,sys; s=socket.socket(); s.settimeout(0.3)\n"
            f"try: s.connect(({host!r},{port}))\nexcept TimeoutError: sys.exit(7)"
        )
        done = subprocess.run(link.edge_command([sys.executable, "-c", code]), timeout=60, check=False)
        assert done.returncode == 7
        packets = link.traffic().packets_up
        assert packets is not None
        assert (packets.delivered, packets.lost > 0) == (0, True)


@pytest.mark.parametrize("enforcer", EACH)
def test_a_hold_is_a_wait(enforcer):
    with echo_server() as server, emulated_link(WanProfile(2.0), enforcer) as link:
        trips_over(link, server, 1)
        begun = time.monotonic()
        link.hold(0.8)
        trips_over(link, server, 1)
        assert time.monotonic() - begun >= 0.8


@pytest.mark.parametrize("enforcer", EACH)
def test_a_cut_resets_who_is_connected(enforcer):
    code = (
        "import socket,sys; h,p=sys.argv[1].split(':'); s=socket.create_connection((h,int(p)))\n"
        "s.sendall(b'x'); s.recv(1)\n"
        "print('up',flush=True)\ntry: s.recv(1)\nexcept ConnectionResetError: sys.exit(7)"
    )
    with echo_server() as server, emulated_link(WanProfile(2.0), enforcer) as link:
        command = link.edge_command([sys.executable, "-c", code, link.edge_address(server)])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            assert link.cut() == 1
            assert process.wait(20) == 7
        assert link.cut() == 0


@pytest.mark.parametrize("enforcer", EACH)
def test_a_server_that_is_not_there_resets_who_dials(enforcer):
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        emulated_link(WanProfile(2.0), enforcer) as link,
        pytest.raises(subprocess.CalledProcessError) as error,
    ):
        trips_over(link, dead, 1)
    assert "ConnectionResetError" in error.value.stderr


@needs_tun
def test_several_links_stand_side_by_side():
    with (
        echo_server() as server,
        emulated_link(WanProfile(30.0), Enforcer.TUN) as slow,
        emulated_link(WanProfile(10.0), Enforcer.TUN) as fast,
    ):
        assert slow.edge_address(server).partition(":")[0] == fast.edge_address(server).partition(":")[0]
        assert min(trips_over(slow, server)["trips_ms"]) >= 30.0
        assert 10.0 <= min(trips_over(fast, server)["trips_ms"]) < 30.0


@needs_tun
def test_the_hosts_own_network_is_left_as_it_is():
    def state() -> list[str]:
        files = ["/proc/net/route", "/proc/sys/net/ipv4/ip_forward", "/proc/net/if_inet6"]
        return [
            *(Path(file).read_text() for file in files if Path(file).exists()),
            str(socket.if_nameindex()),
        ]

    before = state()
    with emulated_link(WanProfile(2.0), Enforcer.TUN):
        assert state() == before
    assert state() == before


@needs_tun
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_who_made_the_link(end):
    code = (
        "import time\n"
        "from scripts.wan.link import Enforcer, emulated_link\n"
        "from scripts.wan.profiles import WanProfile\n"
        "with emulated_link(WanProfile(2.0), Enforcer.TUN) as link:\n"
        "    print(*link.edge_command(['x'])[:-1], flush=True)\n"
        "    time.sleep(600)\n"
    )
    own = held_by(Path("/proc/self"))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            place = Path(parent.stdout.readline().split()[-1])
            emulator = Path(*place.parts[:3])
            made = held_by(emulator) - own
            assert len(made) == 2  # negative control: there is something to clean up
            assert holders(made) == {emulator}
        finally:
            parent.send_signal(end)
            parent.wait(20)
    # Namespaces without a name live through who holds them alone; no mount may hold them either. (Not their numbers
    # are looked for: the next emulator of a test that runs beside this one gets the same.)
    until(lambda: not (emulator / "exe").exists())
    assert "net:[" not in Path("/proc/self/mountinfo").read_text()
    assert not [device for device in Path("/sys/class/net").iterdir() if device.name.startswith("wan")]


@needs_tun
def test_a_link_within_a_user_namespace():
    """As it is made without root; whoever ends it ends the process that lives in there, too."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(echo_server())
        try:
            process = stack.enter_context(child("link", python("-c", TUN_WITHOUT_ROOT)))
        except ChildError as error:
            if "PermissionError" in str(error):
                pytest.skip("this kernel gives user namespaces to nobody")
            raise
        link = RunningLink(Choice(Enforcer.TUN, "", ""), EmulatorProcess(process))
        seen = trips_over(link, server)
        assert 20.0 <= min(seen["trips_ms"]) < 40.0
        assert sorted(seen["devices"]) == ["lo", "wan0"]
        emulator = Path(f"/proc/{process.pid}")
        made = held_by(emulator) - held_by(Path("/proc/self"))
        inside = holders(made) - {emulator}
        assert len(inside) == 1
    until(lambda: not any((one / "exe").exists() for one in inside))


@needs_tun
def test_the_netem_enforcers_path_without_netem():
    """Its namespaces, addresses and routes work; the commands that delay are tested by their words."""
    with echo_server() as server, child("path", python("-c", NETEM_WITHOUT_NETEM)) as process:
        # its verbs come on descriptor 0, as always
        link = RunningLink(Choice(Enforcer.NETEM, "", ""), EmulatorProcess(process))
        seen = trips_over(link, server)
        assert len(seen["trips_ms"]) == 5
        assert link.traffic().bytes_up == 160


def test_a_command_runs_over_a_link_and_its_exit_code_comes_back():
    code = "import sys; print('dialled', sys.argv[1]); sys.exit(5)"
    with echo_server() as server:
        done = subprocess.run(
            python("-m", "scripts.wan", "run", "--rtt-ms", "5", "--server", server, "--")
            + python("-c", code, "{server}"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 5
    assert done.stdout.startswith("dialled ")
    assert "the link is enforced by" in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["true"], "no word of the command contains {server}"),
        (["no-such-program", "{server}"], "there is no program no-such-program"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(command, message):
    done = subprocess.run(
        python("-m", "scripts.wan", "run", "--rtt-ms", "5", "--server", "127.0.0.1:1", "--", *command),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
