"""What the options about workers mean together, and what they must not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cloud_server.fleet.dialling import secrets_for
from cloud_server.fleet.plan import FleetPlan, make_places, plan
from cloud_server.fleet.thread import ThreadPlace
from cloud_server.loading import WorkerSpec
from shared.errors import UserError
from shared.security import ClientSecurity

CERTIFICATES = Path(__file__).resolve().parents[2] / "e2e" / "certificates"
SPEC = WorkerSpec("profiled")


def planned(**given: Any) -> FleetPlan:
    options: dict[str, Any] = {
        "workers": None,
        "kind": None,
        "devices": None,
        "cluster": None,
        "worker_options": "",
        "security": ClientSecurity(),
        "deadline_s": 5.0,
        "verbose": False,
    }
    return plan(given.pop("spec", SPEC), **(options | given))


@pytest.mark.parametrize(
    ("given", "workers", "processes", "remote", "ray"),
    [
        ({}, 1, False, (), 0),
        ({"workers": 3}, 3, False, (), 0),
        ({"workers": 3, "kind": "process"}, 3, True, (), 0),
        ({"devices": "cuda:0,cuda:1"}, 2, True, (), 0),
        ({"devices": "cuda:0, cuda:1", "workers": 4}, 4, True, (), 0),
        ({"devices": "cpu,cpu"}, 2, False, (), 0),
        ({"cluster": "a:1,b:2"}, 0, False, ("a:1", "b:2"), 0),
        ({"cluster": "a:1", "workers": 1}, 1, False, ("a:1",), 0),
        ({"cluster": "ray"}, 0, False, (), 1),
        ({"cluster": "ray:5", "workers": 2, "kind": "process"}, 2, True, (), 5),
    ],
)
def test_defaults(
    given: dict[str, Any], workers: int, processes: bool, remote: tuple[str, ...], ray: int
) -> None:
    got = planned(**given)
    assert (got.workers, got.processes, got.remote, got.ray) == (workers, processes, remote, ray)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sp_degree": 2}, "--sp-degree 2 with 1 worker: "),
        ({"workers": 2, "cluster": "a:1", "sp_degree": 4}, "--sp-degree 4 with 3 workers: "),
        ({"workers": 0}, "--workers 0 without --cluster"),
        ({"devices": "cuda:0,", "workers": 1}, "--devices cuda:0,"),
        ({"devices": "cuda:0,cuda:1", "workers": 1}, "2 devices for 1 workers"),
        ({"devices": "cuda:0,cuda:1", "kind": "thread"}, "share one copy"),
        ({"devices": "cpu", "spec": WorkerSpec("profiled", device="cpu")}, "one of them"),
        ({"cluster": "ray:0"}, "ray, ray:N"),
        ({"cluster": "ray:x"}, "ray, ray:N"),
        ({"cluster": "ray,a:1"}, "ray, ray:N"),
        ({"worker_options": "--dtype float32"}, "without --cluster ray"),
    ],
)
def test_what_makes_no_sense_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        planned(**given)


def test_devices_are_taken_in_turn_and_cores_are_shared() -> None:
    specs = planned(devices="cuda:0,cuda:1", workers=3).specs()
    assert [spec.device for spec in specs] == ["cuda:0", "cuda:1", "cuda:0"]
    each = {spec.threads for spec in specs}
    assert each == {max(1, len(os.sched_getaffinity(0)) // 3)}
    assert planned(workers=2, spec=WorkerSpec("profiled", threads=7)).specs()[0].threads == 7
    assert planned().specs() == [SPEC]


def test_a_spec_survives_a_command_line() -> None:
    spec = WorkerSpec("a 'b' \"c\"", "cuda:1", None, 1.5, 100, 3)
    assert WorkerSpec.from_json(spec.to_json()) == spec


def test_threads_are_places_with_workers_of_their_own() -> None:
    places = make_places(planned(workers=3))
    assert all(isinstance(place, ThreadPlace) for place in places)
    assert len({place.name for place in places}) == 3


def test_ray_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install '\.\[cluster\]'"):
        make_places(planned(cluster="ray:2"))


@pytest.mark.parametrize(
    ("address", "security", "words"),
    [
        ("nowhere", ClientSecurity(), "--cluster nowhere: expected HOST:PORT"),
        ("192.0.2.1:5", ClientSecurity(), "not encrypted.*--cluster-tls-ca"),
        ("127.0.0.1:5", ClientSecurity(tls_ca=Path("/no/such")), "--cluster-tls-ca /no/such"),
        ("127.0.0.1:5", ClientSecurity(tls_cert=Path("x")), "--cluster-tls-cert without --cluster-tls-key"),
        ("127.0.0.1:5", ClientSecurity(token_file=Path("/no/such")), "--cluster-token-file /no/such"),
    ],
)
def test_addresses_and_secrets_are_judged_at_once(address: str, security: ClientSecurity, words: str) -> None:
    with pytest.raises(UserError, match=words):
        secrets_for((address,), security)


def test_a_token_is_not_sent_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-the-test\n")
    token = ClientSecurity(token_file=tmp_path / "token", insecure_beyond_loopback=True)
    with pytest.raises(UserError, match="a token is not sent in plain text"):
        secrets_for(("192.0.2.1:5",), token)
    assert secrets_for(("127.0.0.1:5",), token).token == "a-token-of-the-test"
    assert secrets_for(("192.0.2.1:5",), ClientSecurity(insecure_beyond_loopback=True)).roots is None
    secure = ClientSecurity(tls_ca=CERTIFICATES / "authority.crt")
    assert secrets_for(("192.0.2.1:5",), secure).roots is not None
