"""The file that lets a second device in: for its owner's eyes, whole or not there, gone in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.share import ShareFile, read_secret, read_share
from edge_client.transport import Received
from shared.errors import UserError
from shared.messages import Commit, Limits, Opened, SessionNotice


def opened(session_id: str) -> Received:
    return Received(1, Opened(session_id, f"secret of {session_id}", 0, "m", Limits()))


def test_it_holds_what_was_opened_last_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "share"
    with ShareFile(path) as share:
        assert not path.exists()
        share.observe(0, Received(1, Commit(3, (1,))))
        assert not path.exists()
        for session_id in ("s1", "s2"):
            share.observe(0, opened(session_id))
            assert read_share(path) == SessionNotice(session_id, f"secret of {session_id}")
            assert path.stat().st_mode & 0o777 == 0o600
        assert [one.name for one in tmp_path.iterdir()] == ["share"]
    assert not path.exists()


def test_a_file_of_somebody_elses_is_left_alone_where_nothing_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "share"
    path.write_text("mine")
    with ShareFile(path):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "no/such/folder"])
def test_where_no_file_can_be_it_is_told_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--share"):
        ShareFile(tmp_path / name)


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "share"
    share = ShareFile(path)
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        share.observe(0, opened("s1"))
    assert [one.name for one in tmp_path.iterdir()] == ["share"]


@pytest.mark.parametrize(
    "content", ["", "secret", "[]", '{"session_id": 1, "secret": "x"}', '{"session_id": "s"}']
)
def test_what_is_no_such_file_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "share"
    with pytest.raises(UserError, match=r"cannot be read .*generate --share"):
        read_share(path)
    path.write_text(content)
    with pytest.raises(UserError, match="is not what edge-client generate --share FILE writes"):
        read_share(path)


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(UserError, match="cannot be read"):
        read_secret(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_secret(path)
    path.write_text("hush\n")
    path.chmod(0o644)
    secret, warning = read_secret(path)
    assert secret == "hush"
    assert warning is not None
    assert "chmod 600" in warning
    assert "hush" not in warning
    path.chmod(0o600)
    assert read_secret(path) == ("hush", None)
