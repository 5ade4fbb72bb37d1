"""The page of benchmarks says what the result files hold, and these what was printed."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIELDS = {"command", "date", "machine", "versions", "printed"}

PRINTED = """\
two rounds
| | speed | right |
| --- | --- | --- |
| xfer | 1,759 | yes |
| plain loop | 355 | NO |
ratio: 5

a line apart
"""


@pytest.fixture
def tools(monkeypatch):
    """The modules ``record`` and ``page``, which are not installed."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("record"), importlib.import_module("page")
    for name in ("record", "page"):
        sys.modules.pop(name)


def test_the_page_is_what_the_results_make(tools):
    _, page = tools
    written = page.PAGE.read_text(encoding="utf-8")
    assert page.page() == written, "run: python benchmarks/page.py"


def test_each_benchmark_has_a_result_and_each_result_a_place(tools):
    record, page = tools
    results = sorted(path.stem for path in RESULTS.glob("*.json"))
    places = re.findall(r"^\{\{ (\w+) \}\}$", page.TEMPLATE.read_text(encoding="utf-8"), re.M)
    assert record.benchmarks() == results
    assert sorted(places) == sorted([*results, "machine"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_is_whole_and_names_no_machine_of_ours(path):
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert set(result) == FIELDS
    assert re.fullmatch(rf"python benchmarks/{path.stem}\.py( [\w=-]+)*", result["command"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", result["date"])
    assert {"Python", "NumPy"} <= set(result["versions"])
    tables = [block for block in result["printed"] if "text" not in block]
    assert tables
    for table in tables:
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert not re.search(r"(?<![\w./])[/~]\w+/", text), "a path of some machine"


def test_what_was_printed_comes_back_on_the_page(tools):
    record, page = tools
    printed = record.parse(PRINTED.splitlines())
    assert printed == [
        {"text": "two rounds"},
        {
            "columns": ["", "speed", "right"],
            "rows": [["xfer", "1,759", "yes"], ["plain loop", "355", "NO"]],
        },
        {"text": "ratio: 5"},
        {"text": "a line apart"},
    ]
    result = {"command": "c", "date": "d", "machine": "m", "versions": {}, "printed": printed}
    assert json.loads(record.dump(result)) == result
    lines = page.section(result, "m").splitlines()
    assert lines[:3] == ["`c`, d.", "", "two rounds"]
    assert "| --- | ---: | --- |" in lines
    assert page.section(result, "another machine").startswith("`c`, d, on m.\n")
    assert record.parse("\n".join(lines[2:]).splitlines()) == printed


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (["| a | b |", "| 1 | 2 |"], "a table needs columns, a line of --- and rows"),
        (["| a | b |", "| --- | --- |"], "a table needs columns, a line of --- and rows"),
        (["| a | b |", "| --- | --- |", "| 1 |"], "a row has 1 cells for 2 columns"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(tools, table, message):
    record, _ = tools
    with pytest.raises(ValueError, match=message):
        record.parse(table)


def test_a_run_is_recorded_as_it_was(tools, tmp_path, monkeypatch, capsys):
    record, _ = tools
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    prints = f"import sys; print('of', sys.argv[1:]); print({PRINTED!r})"
    (tmp_path / "speed.py").write_text(prints, encoding="utf-8")
    record.main(["speed", "7", f"--cache={tmp_path}"])
    assert capsys.readouterr().out.startswith(f"of ['7', '--cache={tmp_path}']\ntwo rounds\n")
    result = json.loads((tmp_path / "results" / "speed.json").read_text(encoding="utf-8"))
    assert set(result) == FIELDS
    assert result["command"] == "python benchmarks/speed.py 7 --cache=FOLDER"
    assert result["printed"][1:] == record.parse(PRINTED.splitlines())
    assert result["versions"]["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.match(r"\d+ cores of .+ \(\w+\), \d+ GiB, \w+", result["machine"])


def test_what_fails_is_not_recorded(tools, tmp_path, monkeypatch):
    record, _ = tools
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    (tmp_path / "speed.py").write_text("print('half'); raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(SystemExit, match="speed ended with 3; nothing was written"):
        record.main(["speed"])
    with pytest.raises(SystemExit, match="name a benchmark first, got 'sped': one of speed"):
        record.main(["sped"])
    with pytest.raises(SystemExit, match="name a benchmark first, got ''"):
        record.main([])
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


def test_the_picture_shows_every_draw_up_to_a_hundred_labels(tools, tmp_path):
    pytest.importorskip("matplotlib")
    picture = importlib.import_module("picture")
    for task, (_, ways) in picture.PANELS.items():
        found = picture.read(picture.FOLDER / f"{task}.json")
        sizes = [5, 10, 25, 100] if task == "newsgroups" else [5, 10, 20, 50, 100]
        for way in ways:
            assert {size: len(scores) for size, scores in found[way].items()} == dict.fromkeys(
                sizes, 5
            )
    picture.main(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 50_000
