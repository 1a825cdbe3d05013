"""What a user names, and the servers that it stands for."""

from __future__ import annotations

import socket

import pytest

from edge_client.addresses import Address, listed, resolve, split
from shared.errors import UserError

V4, V6 = socket.AF_INET, socket.AF_INET6


def records(monkeypatch: pytest.MonkeyPatch, *hosts: tuple[int, str]) -> None:
    def getaddrinfo(host: str, port: int, *, type: int):  # noqa: A002 - as in the standard library
        assert (host, port, type) == ("pool.test", 50051, socket.SOCK_STREAM)
        if not hosts:
            raise socket.gaierror("no such name")
        return [(family, type, 6, "", (one, port)) for family, one in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_list_with_commas_names_each_once_in_its_order():
    assert split(" b:2,a:1, b:2,,unix:/run/s ,dns:///c:3") == ("b:2", "a:1", "unix:/run/s", "dns:///c:3")


@pytest.mark.parametrize("servers", ["", ",", "a", "a:", ":1", "a:0", "a:65536", "a:b", "a:1,b"])
def test_a_list_that_is_none(servers: str):
    with pytest.raises(UserError, match="--server"):
        split(servers)


@pytest.mark.parametrize(
    "server", ["127.0.0.1:50051", "[::1]:50051", "localhost:50051", "unix:/run/s", "dns:///pool.test:50051"]
)
def test_what_is_no_name_of_several_is_not_looked_up(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert resolve(server) == (Address(server, server),)


def test_a_name_with_several_addresses_keeps_its_port_and_its_name(monkeypatch: pytest.MonkeyPatch):
    records(monkeypatch, (V4, "10.0.0.2"), (V4, "10.0.0.1"), (V4, "10.0.0.2"))
    found = resolve("pool.test:50051")
    assert [one.dial for one in found] == ["10.0.0.1:50051", "10.0.0.2:50051"]
    assert {one.named for one in found} == {"pool.test:50051"}
    assert {one.host for one in found} == {"pool.test"}


@pytest.mark.parametrize(
    ("hosts", "dialled"),
    [
        ([(V4, "10.0.0.1")], ["pool.test:50051"]),
        ([(V4, "10.0.0.1"), (V6, "fd00::1")], ["pool.test:50051"]),
        ([(V6, "fd00::1"), (V6, "fd00::2"), (V4, "10.0.0.1")], ["[fd00::1]:50051", "[fd00::2]:50051"]),
        (
            [(V6, "fd00::1"), (V6, "fd00::2"), (V4, "10.0.0.1"), (V4, "10.0.0.2")],
            ["10.0.0.1:50051", "10.0.0.2:50051"],
        ),
        ([], []),
    ],
)
def test_a_server_with_two_families_is_one_server(
    hosts: list[tuple[int, str]], dialled: list[str], monkeypatch: pytest.MonkeyPatch
):
    records(monkeypatch, *hosts)
    assert [one.dial for one in resolve("pool.test:50051")] == dialled


def test_one_that_is_dialled_by_its_name_has_no_other():
    assert Address("a:1", "a:1").host is None


def test_a_list_for_people():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")] == ["a", "a and b", "a, b or c"]
