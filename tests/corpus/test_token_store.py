"""The token store: killed at every byte, killed by the system, and told what is wrong with it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from matchbook.corpus import token_store
from matchbook.corpus.token_store import TokenStoreError, TokenStoreWriter, read_token_store

KEY = {"tokens": "ab12", "teacher": "cd34", "softcap": 30.0, "k": 3}
DTYPE = np.dtype([("ids", "<u2", (3,)), ("logits", "<f4", (3,)), ("log_rest", "<f4")])


def make_rows(start, stop):
    rows = np.zeros(stop - start, DTYPE)
    numbers = np.arange(start, stop)
    rows["ids"] = numbers[:, None] + np.arange(3)
    rows["logits"] = numbers[:, None] / 7
    rows["log_rest"] = -numbers
    return rows


def write(folder, total, step=4, key=KEY):
    with TokenStoreWriter(folder, key, DTYPE) as store:
        while store.rows < total:
            store.append(make_rows(store.rows, min(total, store.rows + step)))


def read(folder, rows, key=KEY, dtype=DTYPE):
    return read_token_store(folder, key, dtype, rows)


def assert_holds(folder, total):
    np.testing.assert_array_equal(read(folder, total), make_rows(0, total))


def test_what_was_appended_is_read_mapped(tmp_path):
    write(tmp_path / "store", 10)
    assert_holds(tmp_path / "store", 10)
    rows = read(tmp_path / "store", 7)
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, make_rows(0, 7))
    assert (tmp_path / "store" / "rows").stat().st_size == 10 * DTYPE.itemsize
    write(tmp_path / "store", 15)  # goes on where it was
    assert_holds(tmp_path / "store", 15)


def test_an_empty_store(tmp_path):
    write(tmp_path, 0)
    assert len(read(tmp_path, 0)) == 0
    with pytest.raises(TokenStoreError, match="expected 1 rows, found 0: it is unfinished"):
        read(tmp_path, 1)


def test_killed_at_every_byte_of_an_append(tmp_path):
    whole, before = tmp_path / "whole", tmp_path / "before"
    write(before, 4)
    write(whole, 8)
    data, lines = ((whole / name).read_bytes() for name in ("rows", "chunks"))
    old = {name: (before / name).stat().st_size for name in ("rows", "chunks")}
    states = [(size, old["chunks"]) for size in range(old["rows"], len(data))]
    states += [(len(data), size) for size in range(old["chunks"], len(lines))]
    for data_bytes, line_bytes in states:
        folder = tmp_path / f"{data_bytes}-{line_bytes}"
        shutil.copytree(before, folder)
        (folder / "rows").write_bytes(data[:data_bytes])
        (folder / "chunks").write_bytes(lines[:line_bytes])
        assert_holds(folder, 4)
        with pytest.raises(TokenStoreError, match="expected 8 rows, found 4: it is unfinished"):
            read(folder, 8)
        write(folder, 12)
        assert_holds(folder, 12)


WRITER = """
import importlib.util, pathlib, sys
import numpy as np
spec = importlib.util.spec_from_file_location("token_store", sys.argv[1])
token_store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(token_store)
dtype = np.dtype([("number", "<i8"), ("many", "<f4", (500,))])
with token_store.TokenStoreWriter(pathlib.Path(sys.argv[2]), {}, dtype) as store:
    while store.rows < int(sys.argv[3]):
        rows = np.zeros(50, dtype)
        rows["number"] = np.arange(store.rows, store.rows + 50)
        rows["many"] = rows["number"][:, None]
        store.append(rows)
"""


def test_killed_by_the_system_and_resumed(tmp_path):
    dtype = np.dtype([("number", "<i8"), ("many", "<f4", (500,))])
    folder, total = tmp_path / "store", 100_000_000
    chance, previous = random.Random(0), 0
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, token_store.__file__, str(folder), str(total)]
        child = subprocess.Popen(command)
        data = folder / "rows"
        goal = previous * dtype.itemsize + chance.randrange(1, 3_000_000)
        while not data.exists() or data.stat().st_size < goal:
            assert child.poll() is None, "the writer failed"
            time.sleep(0.0005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        with TokenStoreWriter(folder, {}, dtype) as store:
            found = store.rows
        assert found >= previous
        assert found >= goal // dtype.itemsize - 50  # no more is lost than one append
        rows = read_token_store(folder, {}, dtype, found)
        np.testing.assert_array_equal(rows["number"], np.arange(found))
        np.testing.assert_array_equal(rows["many"][:, 499], np.arange(found))
        previous = found


def test_damage_is_told(tmp_path):
    write(tmp_path / "store", 12)

    def damaged(name, change):
        folder = tmp_path / f"damaged{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tmp_path / "store", folder)
        content = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(change(content))
        return folder

    def flip(place):
        def change(content):
            content[place] ^= 1
            return content

        return change

    for place in range(0, 12 * DTYPE.itemsize, 7):
        row = place // DTYPE.itemsize // 4 * 4
        folder = damaged("rows", flip(place))
        for use in (read, write):
            with pytest.raises(TokenStoreError, match=f"damaged: rows {row} to {row + 4} differ"):
                use(folder, 12)
    size = 12 * DTYPE.itemsize
    folder = damaged("rows", lambda content: content[:-1])
    with pytest.raises(TokenStoreError, match=f"expected {size} bytes of rows, found {size - 1}"):
        read(folder, 8)
    folder = damaged("rows", lambda _: b"")
    with pytest.raises(TokenStoreError, match="bytes of rows, found 0: delete it"):
        read(folder, 12)
    lines = len((tmp_path / "store" / "chunks").read_bytes())
    for place in range(lines - 1):  # without the last line's end, that line is unfinished
        with pytest.raises(TokenStoreError, match=r"damaged"):
            read(damaged("chunks", flip(place)), 12)
    for change in (lambda _: b"", lambda content: content[: len(content) // 2]):
        with pytest.raises(TokenStoreError, match="damaged: its header cannot be read"):
            read(damaged("header", change), 12)


def test_a_foreign_store_is_told(tmp_path):
    write(tmp_path / "store", 4)
    with pytest.raises(TokenStoreError, match="expected a token store, found none: make it"):
        read(tmp_path / "elsewhere", 4)
    for name, value in (("teacher", "ee"), ("softcap", None), ("k", 4), ("tokens", "")):
        expected = rf"something else: key {name}: expected {value}, found {KEY[name]}: use another"
        for use in (read, write):
            with pytest.raises(TokenStoreError, match=expected):
                use(tmp_path / "store", 4, key=KEY | {name: value})
    with pytest.raises(TokenStoreError, match="row: expected"):
        read(tmp_path / "store", 4, dtype=np.dtype([("ids", "<u4", (3,))]))
    with pytest.raises(TokenStoreError, match="key more: expected 1, found None"):
        read(tmp_path / "store", 4, key=KEY | {"more": 1})
    assert_holds(tmp_path / "store", 4)


def test_two_writers_are_told_and_a_reader_may_look_on(tmp_path):
    with TokenStoreWriter(tmp_path, KEY, DTYPE) as store:
        store.append(make_rows(0, 4))
        with pytest.raises(TokenStoreError, match="another process appends"):
            TokenStoreWriter(tmp_path, KEY, DTYPE)
        assert_holds(tmp_path, 4)
        store.append(make_rows(4, 6))
    write(tmp_path, 8)
    assert_holds(tmp_path, 8)


def test_rows_of_another_type_are_told(tmp_path):
    with TokenStoreWriter(tmp_path, KEY, DTYPE) as store:
        for rows in (np.zeros(3), np.zeros((2, 2), DTYPE)):
            with pytest.raises(TokenStoreError, match=r"rows: expected \[n\] of"):
                store.append(rows)
        store.append(make_rows(0, 0))
        assert store.rows == 0
    assert Path(tmp_path / "chunks").read_bytes() == b""
    assert os.path.getsize(tmp_path / "rows") == 0
