"""`edge-client assist`: what it asks for, and what it says where that is not enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_server.app import ServeOptions, serving
from cloud_server.profiled import ProfiledWorker
from edge_client.assist import Assistant, AssistOptions, Helped
from edge_client.assist_command import assist
from edge_client.options import ClientOptions
from edge_client.policies import DraftOptions, Mode
from shared.errors import Status, UserError
from shared.session.edge_counts import EdgeCounts
from tests.edge_client.fake_cloud import PROFILE, FakeCloud, info, serve
from tests.edge_client.test_servers import OPEN, naming

DRAFTER = "profiled:acceptance=0.8,draft_ms=0.2,vocabulary_size=1000,context_length=2000"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"every": True, "share": Path("x")},
        {"every": True, "session_id": "s"},
        {"share": Path("x"), "secret_file": Path("y")},
    ],
)
def test_exactly_one_way_to_say_which(asked: dict[str, object]) -> None:
    with pytest.raises(UserError, match="say which session to draft for"):
        assist(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"session_id": "s"}, {"secret_file": Path("x")}])
def test_an_id_and_its_secret_go_together(asked: dict[str, object]) -> None:
    with pytest.raises(UserError, match="--session-id and --secret-file go together"):
        assist(**asked)  # type: ignore[arg-type]


def test_a_value_out_of_its_range_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    with pytest.raises(UserError, match="window must be at least 1"):
        assist(session_id="s", secret_file=tmp_path / "secret", window=0)


def test_it_drafts_or_it_is_none() -> None:
    with pytest.raises(UserError, match="does not draft"):
        Assistant(ClientOptions(), AssistOptions(DraftOptions(mode=Mode.CLOUD)))


async def test_a_server_of_an_older_version_takes_none() -> None:
    async with serve(FakeCloud(model=info(takes_attached=False))) as address:
        with pytest.raises(UserError, match="takes no assistants"):
            async with Assistant(ClientOptions(address, DRAFTER), AssistOptions()):
                pass


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"drafter": "none"}, "needs a drafter"),
        ({"drafter": "profiled:vocabulary_size=77"}, "has a vocabulary of 77"),
    ],
)
async def test_a_drafter_that_does_not_suit_is_told(options: dict[str, str], says: str) -> None:
    async with serving(ProfiledWorker(PROFILE), ServeOptions(listen="127.0.0.1:0")) as up:
        with pytest.raises(UserError, match=says):
            async with Assistant(ClientOptions(up.address, **options), AssistOptions()):
                pass


async def test_several_servers_want_several_assistants() -> None:
    with pytest.raises(UserError, match="each wants an assistant of its own"):
        async with Assistant(ClientOptions("127.0.0.1:1,127.0.0.1:2", DRAFTER), AssistOptions()):
            pass


async def test_a_name_that_stands_for_several_servers_is_none_to_give_a_secret_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        serve(FakeCloud(PROFILE), host="127.0.0.2") as first,
        serve(FakeCloud(PROFILE), int(first.rpartition(":")[2]), host="127.0.0.3"),
    ):
        naming(monkeypatch, ["127.0.0.2", "127.0.0.3"])
        name = f"pool.test:{first.rpartition(':')[2]}"
        with pytest.raises(UserError, match="stands for several servers"):
            async with Assistant(ClientOptions(name, DRAFTER, security=OPEN), AssistOptions()):
                pass


def test_what_came_of_it_for_people_and_programs() -> None:
    counts = EdgeCounts(sent=40, judged=10, accepted=8)
    helped = Helped("s1", counts, 20, "length", None, RuntimeError("out of memory"), 2_000_000)
    assert str(helped) == (
        "session s1 is over (length): 40 drafts sent, 8 of 10 judged tokens right; the drafter failed (out of memory)"
    )
    said = helped.to_json()
    assert (said["acceptance"], said["rtt_ms"], said["failed"]) == (0.8, 2.0, None)
    none = Helped("s1", EdgeCounts(), 0, "no such session", Status.NOT_FOUND, None, None)
    assert (none.acceptance, none.to_json()["failed"]) == (None, "NOT_FOUND")
