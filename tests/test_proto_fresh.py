"""`shared/pb` is what `proto/` generates, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import gen_proto
from shared.pb.slipstream.v1 import slipstream_pb2, slipstream_pb2_grpc


def contents(folder: Path) -> dict[str, bytes]:
    """Files below `folder`, without what the interpreter leaves there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_checked_in_code_is_fresh(tmp_path: Path) -> None:
    gen_proto.generate(tmp_path)
    checked_in = contents(gen_proto.GENERATED)
    del checked_in["__init__.py"]  # written by hand
    fresh = contents(tmp_path)
    assert sorted(fresh) == sorted(checked_in), "run 'make proto'"
    stale = [name for name in fresh if fresh[name] != checked_in[name]]
    assert not stale, "run 'make proto'"


def test_a_changed_contract_changes_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the comparison can fail."""
    proto = tmp_path / "proto"
    for source in gen_proto.PROTO.rglob("*.proto"):
        copy = proto / source.relative_to(gen_proto.PROTO)
        copy.parent.mkdir(parents=True)
        copy.write_text(source.read_text().replace("bool more = 11;", "bool more = 99;"))
    monkeypatch.setattr(gen_proto, "PROTO", proto)
    gen_proto.generate(tmp_path / "out")
    name = "slipstream/v1/slipstream_pb2.py"
    assert contents(tmp_path / "out")[name] != contents(gen_proto.GENERATED)[name]


def test_a_broken_contract_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "broken.proto").write_text('syntax = "proto3"; message {')
    monkeypatch.setattr(gen_proto, "PROTO", tmp_path / "proto")
    with pytest.raises(gen_proto.GenerationError):
        gen_proto.generate(tmp_path / "out")


def test_files_import_one_another_without_a_path_trick() -> None:
    assert slipstream_pb2_grpc.slipstream_dot_v1_dot_slipstream__pb2 is slipstream_pb2
