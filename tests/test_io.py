"""Files are written whole or not at all, and nothing is left behind."""

import os
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from xfer import _io
from xfer._io import atomic_write


@pytest.fixture(autouse=True)
def forget():
    _io._remove_unfinished.cache_clear()


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(_io.flock is None, reason="needs locks of files")
def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path):
    script = """
import os, sys
from xfer._io import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", script, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, busy = (subprocess.Popen(command, **pipes) for _ in range(2))
    for process in (killed, busy):
        process.stdout.readline()
    assert len(os.listdir(tmp_path)) == 2
    killed.kill()
    killed.wait()
    others = ["a.txt.part", "a.txt.00000000.part.txt", "b.txt.00000000.part"]
    for name in others:
        (tmp_path / name).touch()
    with atomic_write(path) as file:
        file.write(b"new")
    assert len(os.listdir(tmp_path)) == len(others) + 2  # and what the other process writes
    busy.communicate(b"")
    assert path.read_bytes() == b"half"
    assert sorted(os.listdir(tmp_path)) == sorted(["a.txt", *others])
    for process in (killed, busy):
        process.stdout.close()
        process.stdin.close()


def test_a_bar_leaves_an_empty_line(capsys):
    for _ in _io.progress_bar(range(3), True, 3):
        time.sleep(0.6)  # a bar appears after a second
    shown = capsys.readouterr().err
    assert "features:" in shown
    assert "\n" not in shown and shown.endswith("\r")
    assert not shown.split("\r")[-2].strip(), "the bar was not overwritten"


def test_bars_are_off_where_nobody_looks_or_tqdm_is_told(monkeypatch):
    assert _io.progress_bar(range(3), None, 3).disable
    assert not _io.progress_bar(range(3), True, 3).disable
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    assert not _io.progress_bar(range(3), None, 3).disable
    code = "from xfer import _io; print(_io.progress_bar(range(3), True, 3).disable)"
    told = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
    if tuple(map(int, version("tqdm").split(".")[:2])) >= (4, 66):
        assert done.stdout == "True\n", done.stderr
