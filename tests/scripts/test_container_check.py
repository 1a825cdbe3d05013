"""The images themselves: built, run and tried. Needs an engine that works, and some minutes."""

from __future__ import annotations

import pytest

from scripts.container.check import check
from scripts.container.engine import Engine, EngineError, find_engine
from scripts.container.images import base_image
from scripts.container.pip_settings import read_pip_settings
from shared.errors import UserError


@pytest.fixture
def engine() -> Engine:
    try:
        found = find_engine()
        found.ask("pull", base_image(), within_s=300.0)
    except (UserError, EngineError) as error:
        pytest.skip(f"no engine, or no registry: {error}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_images_keep_their_promises(engine: Engine) -> None:
    rows = list(check(engine, read_pip_settings()))
    assert rows
    assert [row for row in rows if not row.held] == []
