"""Who gets in, what is told to who does not, and what never leaves: TLS, client certificates, tokens, on real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import cloud_server.security as server_side
import edge_client.security as client_side
import shared.security as both_sides
from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.health import trouble
from cloud_server.profiled import ProfiledWorker
from cloud_server.security import UNKNOWN, WANTED, ServerSecurity, Tokens
from edge_client.app import Client, ClientOptions, ClientSecurity, GenerateOptions
from shared.errors import UserError
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.profiled import Profile, ProfiledPair, decode
from shared.security import ClientSecrets, read_client, read_tokens

CERTIFICATES = Path(__file__).parent / "certificates"
AUTHORITY, OTHER_AUTHORITY = CERTIFICATES / "authority.crt", CERTIFICATES / "other-authority.crt"
TOKEN, OTHER_TOKEN, WRONG_TOKEN = "a-token-of-the-test", "another-token-of-the-test", "a-token-of-nobody"
PROFILE = Profile(step_ms=1.0, vocabulary_size=1000)
DRAFTER = "profiled:draft_ms=0.2,vocabulary_size=1000"
PROMPT = (1, 2, 3)
ANSWER_WITHIN_S = 5.0

Make = Callable[[str], Path]


@pytest.fixture
def file_of(tmp_path: Path) -> Make:
    """A file with this content, for its owner only."""

    def make(content: str) -> Path:
        path = tmp_path / f"file-{len(list(tmp_path.iterdir()))}"
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)
        return path

    return make


def tls(name: str = "server") -> ServerSecurity:
    return ServerSecurity(tls_cert=CERTIFICATES / f"{name}.crt", tls_key=CERTIFICATES / f"{name}.key")


MUTUAL = replace(tls(), tls_client_ca=AUTHORITY)
TRUSTING = ClientSecurity(tls_ca=AUTHORITY)


def presenting(name: str) -> ClientSecurity:
    return replace(TRUSTING, tls_cert=CERTIFICATES / f"{name}.crt", tls_key=CERTIFICATES / f"{name}.key")


def server(security: ServerSecurity, worker: ProfiledWorker | None = None):
    options = ServeOptions(listen="127.0.0.1:0", security=security)
    return serving(worker if worker is not None else ProfiledWorker(PROFILE), options)


def client(up: Serving, security: ClientSecurity, **more: object) -> Client:
    fields: dict[str, object] = {"server": up.address, "drafter": DRAFTER, "security": security} | more
    return Client(ClientOptions(answer_within_s=ANSWER_WITHIN_S, **fields))  # type: ignore[arg-type]


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# ---- right ----


async def test_text_over_mutual_tls_with_a_token_is_the_targets_own(file_of: Make) -> None:
    security = replace(MUTUAL, token_file=file_of(f"# of the test\n\n{OTHER_TOKEN}\n{TOKEN}\n"))
    own = replace(presenting("client"), token_file=file_of(TOKEN))
    async with server(security) as up, client(up, own) as dialled:
        result = await dialled.generate(GenerateOptions(PROMPT, max_new_tokens=200))
    assert list(result.tokens) == decode(ProfiledPair(PROFILE), PROMPT, 200)
    assert result.stats.drafted > 0
    assert result.stats.steps < 200, "drafts were taken"


@pytest.mark.parametrize(
    ("served", "dialled"),
    [
        (tls(), TRUSTING),
        (tls(), replace(TRUSTING, tls_server_name="cloud.test")),
        (tls(), presenting("stranger")),  # nobody asked for it
        (MUTUAL, presenting("client")),
        (ServerSecurity(), ClientSecurity()),
    ],
)
async def test_two_sides_that_fit(served: ServerSecurity, dialled: ClientSecurity) -> None:
    async with server(served) as up, client(up, dialled) as opened:
        result = await opened.generate(GenerateOptions(PROMPT, max_new_tokens=5))
        assert list(result.tokens) == decode(ProfiledPair(PROFILE), PROMPT, 5)
        assert await asyncio.to_thread(trouble, up.address, dialled, 3.0) is None


async def test_the_systems_authorities_are_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    async with server(tls()) as up, client(up, ClientSecurity(tls=True)) as opened:
        assert opened.info.name == "profiled"
    monkeypatch.setenv("SSL_CERT_FILE", str(OTHER_AUTHORITY))
    async with server(tls()) as up:
        with pytest.raises(UserError, match="not by an authority that is trusted here"):
            await client(up, ClientSecurity(tls=True)).__aenter__()


async def test_a_token_alone_on_loopback(file_of: Make) -> None:
    served, dialled = ServerSecurity(token_file=file_of(TOKEN)), ClientSecurity(token_file=file_of(TOKEN))
    async with server(served) as up, client(up, dialled) as opened:
        assert opened.info.name == "profiled"


# ---- wrong ----


@pytest.mark.parametrize(
    ("served", "dialled", "found"),
    [
        pytest.param(tls(), ClientSecurity(), "speaks TLS: add --tls", id="plain to TLS"),
        pytest.param(MUTUAL, ClientSecurity(), "speaks TLS: add --tls", id="plain to mutual TLS"),
        pytest.param(
            ServerSecurity(), TRUSTING, "does not speak TLS: start it with --tls-cert", id="TLS to plain"
        ),
        pytest.param(
            tls(),
            ClientSecurity(tls_ca=OTHER_AUTHORITY),
            "not by an authority that is trusted here .*: give its authority's certificate with --tls-ca",
            id="unknown authority",
        ),
        pytest.param(
            tls(),
            replace(TRUSTING, tls_server_name="elsewhere.test"),
            "is not for elsewhere.test: dial the name that it is for, or .* --tls-server-name",
            id="wrong name",
        ),
        pytest.param(tls("expired"), TRUSTING, "has expired: ask", id="expired"),
        pytest.param(
            MUTUAL, TRUSTING, "wants a client certificate: give one with --tls-cert", id="no certificate"
        ),
        pytest.param(
            MUTUAL,
            presenting("stranger"),
            "does not accept the certificate of --tls-cert .*stranger.crt: give one of the authority",
            id="other authority's certificate",
        ),
    ],
)
async def test_a_handshake_that_fails_is_told_soon(
    served: ServerSecurity, dialled: ClientSecurity, found: str
) -> None:
    async with server(served) as up:
        began = time.monotonic()
        with pytest.raises(UserError, match=found) as failure:
            await client(up, dialled).__aenter__()
        assert time.monotonic() - began < ANSWER_WITHIN_S
        assert "\n" not in str(failure.value)
        assert await asyncio.to_thread(trouble, up.address, dialled, 3.0) is not None
        assert up.metrics.most_sessions == 0


async def test_a_port_without_tls_or_grpc_is_told_apart() -> None:
    """A web server with TLS, as it were: the handshake is right, the protocol behind it is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.crt", CERTIFICATES / "server.key")
    web = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with web:
        address = f"127.0.0.1:{web.sockets[0].getsockname()[1]}"
        options = ClientOptions(address, DRAFTER, security=TRUSTING)
        with pytest.raises(UserError, match="speaks TLS, but not gRPC"):
            await Client(options).__aenter__()


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (None, "wants a token: give one with --token-file"),
        (WRONG_TOKEN, "does not know the token of --token-file .*ask"),
    ],
)
async def test_a_missing_or_wrong_token_is_one_line(file_of: Make, own: str | None, found: str) -> None:
    security = replace(tls(), token_file=file_of(TOKEN))
    dialled = replace(TRUSTING, token_file=None if own is None else file_of(own))
    async with server(security) as up:
        with pytest.raises(UserError, match=found) as failure:
            await client(up, dialled).__aenter__()
    assert WRONG_TOKEN not in str(failure.value)


@pytest.mark.parametrize(
    ("metadata", "detail"),
    [
        ((), WANTED),
        ((("authorization", f"Bearer {WRONG_TOKEN}"),), UNKNOWN),
        ((("authorization", TOKEN),), WANTED),
        ((("authorization", f"Basic {TOKEN}"),), WANTED),
        ((("authorization", "Bearer "),), UNKNOWN),
        ((("authorization", f"Bearer {TOKEN[:-1]}"),), UNKNOWN),
        ((("authorization", f"Bearer {TOKEN}x"),), UNKNOWN),
        ((("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")), WANTED),
        ((("authorization", f"Bearer {TOKEN}"),), None),
        ((("authorization", f"Bearer {OTHER_TOKEN}"),), None),
    ],
)
async def test_every_call_but_health_needs_a_token(
    file_of: Make, metadata: tuple[tuple[str, str], ...], detail: str | None
) -> None:
    security = ServerSecurity(token_file=file_of(f"{TOKEN}\n{OTHER_TOKEN}\n"))
    async with server(security) as up, grpc.aio.insecure_channel(up.address) as channel:
        stub = pb_grpc.SlipstreamStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asking = reflection_pb2.ServerReflectionRequest(list_services="")
        if detail is None:
            assert (await stub.GetModel(pb.GetModelRequest(), metadata=metadata)).name == "profiled"
            async with asyncio.timeout(10):
                stream = stub.Decode(metadata=metadata)
                await stream.write(pb.EdgeMessage())
                assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT, (
                    "it came as far as the service"
                )
                assert (
                    await reflection.ServerReflectionInfo(iter([asking]), metadata=metadata).read()
                ).IsInitialized()
            return
        refused: list[grpc.aio.AioRpcError] = []
        for call in (
            stub.GetModel(pb.GetModelRequest(), metadata=metadata),
            stub.Decode(metadata=metadata).read(),
            reflection.ServerReflectionInfo(iter([asking]), metadata=metadata).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await asyncio.wait_for(call, 10)
            refused.append(failure.value)
        assert [(error.code(), error.details()) for error in refused] == [
            (grpc.StatusCode.UNAUTHENTICATED, detail)
        ] * 3
        assert up.engine._last_stream == 0, "the service never heard of it"
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_token_is_looked_at_once_a_stream(file_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str | None] = []
    refusal = Tokens.refusal
    monkeypatch.setattr(Tokens, "refusal", lambda *args: looked.append(None) or refusal(*args))
    security = ServerSecurity(token_file=file_of(TOKEN))
    async with server(security) as up, client(up, ClientSecurity(token_file=file_of(TOKEN))) as opened:
        calls = len(looked)  # each GetModel is one
        assert calls >= 1
        await opened.generate(GenerateOptions(PROMPT, max_new_tokens=100))
        assert len(looked) == calls + 1


@pytest.mark.parametrize("presented", [TOKEN, OTHER_TOKEN, WRONG_TOKEN, "x"])
def test_all_tokens_are_compared_in_constant_time(presented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    constant = server_side.hmac.compare_digest
    monkeypatch.setattr(
        server_side.hmac, "compare_digest", lambda *pair: compared.append(pair) or constant(*pair)
    )
    tokens = Tokens((TOKEN, OTHER_TOKEN, "a-third-token-of-the-test"))
    let_in = tokens.refusal([("authorization", f"Bearer {presented}")]) is None
    assert let_in is (presented in (TOKEN, OTHER_TOKEN))
    assert len(compared) == 3, "also after the right one was found"
    assert {len(side) for pair in compared for side in pair} == {32}, "digests: lengths say nothing"


# ---- plain text beyond loopback ----


async def test_nothing_goes_to_another_machine_in_plain_text(
    file_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine is played by this one: no connection may come, though somebody listens."""
    token, heard = ClientSecurity(token_file=file_of(TOKEN)), asyncio.Event()
    connections = 0

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        heard.set()
        await hang_up(reader, writer)

    listening = await asyncio.start_server(hear, "127.0.0.1", 0)
    address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    def dial(security: ClientSecurity):
        return Client(ClientOptions(address, DRAFTER, answer_within_s=0.2, security=security)).__aenter__()

    async with listening:
        monkeypatch.setattr(client_side, "is_loopback", lambda host: False)
        for security, found in (
            (ClientSecurity(), "is another machine and the connection is not encrypted: add --tls"),
            (token, "a token is not sent to .* in plain text"),
            (replace(token, insecure_beyond_loopback=True), "a token is not sent to .* in plain text"),
        ):
            with pytest.raises(UserError, match=found):
                await dial(security)
        # Connections are taken in their order: when this one is heard, all before it have been.
        _, own = await asyncio.open_connection(*address.split(":"))
        await asyncio.wait_for(heard.wait(), 10)
        own.close()
        assert connections == 1
        heard.clear()
        # Controls: what is allowed does connect, here in vain.
        with pytest.raises(UserError, match="no server answers"):
            await dial(ClientSecurity(insecure_beyond_loopback=True))
        assert heard.is_set()
        heard.clear()
        monkeypatch.undo()
        with pytest.raises(UserError, match="no server answers"):
            await dial(token)
        assert heard.is_set()


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("192.0.2.1", False),
        ("[2001:db8::1]", False),
        ("here-and-there", False),
        ("only-here", True),
    ],
)
def test_what_is_this_machine(host: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"here-and-there": ["127.0.0.1", "192.0.2.1"], "only-here": ["127.0.0.1", "::1"]}
    names["localhost"] = ["127.0.0.1"]
    monkeypatch.setattr(
        both_sides.socket,
        "getaddrinfo",
        lambda name, *_, **__: [(2, 1, 6, "", (address, 0)) for address in names[name]],
    )
    assert both_sides.is_loopback(host) is local
    listen = f"{host}:50051"
    for security in (ServerSecurity(), tls(), ServerSecurity(token_file=AUTHORITY)):
        if local:
            server_side.check(security, listen, host)
        else:
            with pytest.raises(UserError, match="would let other machines connect without") as refusal:
                server_side.check(security, listen, host)
            assert ("TLS (" in str(refusal.value)) is (security.tls_cert is None)
            assert ("a token (" in str(refusal.value)) is (security.token_file is None)
            server_side.check(replace(security, insecure_beyond_loopback=True), listen, host)
    server_side.check(replace(tls(), token_file=AUTHORITY), listen, host)


async def test_a_server_for_others_needs_tls_and_a_token(file_of: Make) -> None:
    """In the API too, not only on the command line."""
    anywhere = ServeOptions(listen="0.0.0.0:0")
    with pytest.raises(UserError, match="would let other machines connect"):
        await serving(ProfiledWorker(PROFILE), anywhere).__aenter__()
    safe = replace(tls(), token_file=file_of(TOKEN))
    for security in (safe, ServerSecurity(insecure_beyond_loopback=True)):
        async with serving(ProfiledWorker(PROFILE), replace(anywhere, security=security)) as up:
            assert re.fullmatch(r"0\.0\.0\.0:\d+", up.address)


# ---- files, and what is never shown ----


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "holds no token"),
        ("# nothing\n\n", "holds no token"),
        ("short-secret", "line 1 has 12 characters, at least 16"),
        (f"{TOKEN}\n#\nshort-secret\n", "line 3 has 12 characters"),
        ("a secret with spaces in it", "line 1 has characters that cannot be sent"),
        ("a-sécret-with-an-accent", "line 1 has characters that cannot be sent"),
    ],
)
def test_a_token_file_that_is_none(file_of: Make, content: str, found: str) -> None:
    with pytest.raises(UserError, match=found) as failure:
        read_tokens(file_of(content))
    assert "secret" not in str(failure.value)


def test_a_client_has_one_token(file_of: Make) -> None:
    with pytest.raises(UserError, match="holds 2 tokens"):
        read_client(ClientSecurity(token_file=file_of(f"{TOKEN}\n{OTHER_TOKEN}")))


async def test_secrets_are_in_no_log_and_no_repr(file_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    security = replace(tls(), token_file=file_of(TOKEN))
    right, wrong = (replace(TRUSTING, token_file=file_of(own)) for own in (TOKEN, WRONG_TOKEN))
    options = ClientOptions(security=presenting("client"))
    secrets = read_client(replace(presenting("client"), token_file=file_of(TOKEN)))
    assert secrets.token == TOKEN
    async with server(security) as up:
        with pytest.raises(UserError):
            await client(up, wrong).__aenter__()
        async with client(up, right) as opened:
            await opened.generate(GenerateOptions(PROMPT, max_new_tokens=5))
            inside = (opened, opened._connections, *opened._connections._transports.values())
            shown = [repr(one) for one in (secrets, right, options, security, *inside)]
    shown += [repr(Tokens((TOKEN,))), repr(ServeOptions(security=security)), caplog.text]
    key = (CERTIFICATES / "client.key").read_text(encoding="utf-8").splitlines()[1]
    assert key.encode() in (secrets.key or b"")
    for text in shown:
        assert not any(secret in text for secret in (TOKEN, WRONG_TOKEN, key))
    assert repr(ClientSecrets(token="seen")) == repr(ClientSecrets(token="other"))


def test_an_encrypted_key_asks_for_nothing(file_of: Make) -> None:
    """OpenSSL would ask for the passphrase on the terminal."""
    key = file_of("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(UserError, match="encrypted: give a key without a passphrase"):
        both_sides.read_pair(CERTIFICATES / "server.crt", key)


async def test_a_peer_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for security in (ClientSecurity(), TRUSTING):
            began = time.monotonic()
            with pytest.raises(UserError, match=r"no server answers at .*, though something listens there"):
                await Client(
                    ClientOptions(address, DRAFTER, answer_within_s=0.3, security=security)
                ).__aenter__()
            assert time.monotonic() - began < 10
