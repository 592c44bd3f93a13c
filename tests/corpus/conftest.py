"""A small corpus of real text, so that few tests have to walk the whole environment."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from matchbook import corpus


@pytest.fixture(scope="session")
def real_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a megabyte of the standard library."""
    folder = tmp_path_factory.mktemp("library")
    for package in ("asyncio", "email", "json", "logging", "importlib", "xml/dom"):
        shutil.copytree(Path(sysconfig.get_path("stdlib")) / package, folder / package)
    return folder


@pytest.fixture(scope="session")
def real_text(real_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder of `.txt` files."""
    folder = tmp_path_factory.mktemp("real") / "text"
    folder.mkdir()
    for path in real_library.rglob("*.py"):
        name = ".".join(path.relative_to(real_library).parts)
        (folder / name).with_suffix(".txt").write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def real_texts(real_text: Path) -> tuple[str, ...]:
    return corpus.load(real_text).train
