"""A lab of its own for each test: an empty checkout, and a way to set the session's fields."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def set_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`set_session(**fields)` puts the session into an empty checkout and returns its root."""
    root = tmp_path / "checkout"
    root.mkdir()

    def set_fields(**fields: object) -> Path:
        monkeypatch.setenv("MATCHBOOK_SESSION", json.dumps({"root": str(root), **fields}))
        return root

    set_fields()
    return set_fields
