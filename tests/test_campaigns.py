"""The campaigns of docs/reliability.md, in small."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("polars")  # once, where all is installed
FOLDER = Path(__file__).parents[1] / "campaigns"
SLOW = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and LD_PRELOAD")
@pytest.mark.parametrize(
    ("name", "options", "tried"),
    [
        ("crash", ["--count", 1, "--only", "save"], 1),
        pytest.param("many", ["--seconds", 1, "--only", "threads", "fork"], 1, marks=SLOW),
        pytest.param("hostile", ["--count", 100], 100, marks=SLOW),
        pytest.param("networks", ["--count", 60], 60, marks=SLOW),
    ],
)
def test_a_campaign_in_small(name, options, tried):
    if name == "networks":
        pytest.importorskip("mxnet")
    command = [sys.executable, FOLDER / f"{name}.py", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert rows
    for row in rows:
        _, count, *_, failed, _ = row.strip("| ").split(" | ")
        assert int(count.replace(",", "")) >= tried
        assert failed == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="campaigns need Linux")
@pytest.mark.parametrize("kind", ["params", "symbol.json", "xfer", "onnx", "json", "pkl"])
def test_files_that_reached_new_code_when_fuzzing(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    hostile = importlib.import_module("hostile")
    form = next(one for suffix, one in hostile.FORMATS.items() if suffix.strip(".-") == kind)()
    if kind == "symbol.json":
        form.seeds(tmp_path)  # puts parameters beside
    path, files = tmp_path / f"mutated{form.suffix}", list((FOLDER / "corpus" / kind).iterdir())
    assert files
    for file in files:
        path.write_bytes(file.read_bytes())
        assert hostile.attempt(form, path) in (None, ""), file
