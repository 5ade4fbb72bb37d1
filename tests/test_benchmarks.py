"""The page of benchmarks has a section for each benchmark, and the tool writes there."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HELPERS = {"newsgroups_data", "picture", "record", "sources"}


@pytest.fixture
def record(monkeypatch, tmp_path):
    """The tool, with a page and a benchmark of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tool = importlib.import_module("record")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text("# Page\n\n<!-- speed -->\nold\n<!-- end of speed -->\n\nend\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text(
        "import sys\nprint('two rounds\\n| a |\\n| --- |\\n| 1 |\\nratio: 5')\n"
        "sys.exit('--fail' in sys.argv)\n"
    )
    yield tool
    sys.modules.pop("record")


def test_each_benchmark_has_a_section():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    benchmarks = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS
    sections = re.findall(
        r"^<!-- (\w+) -->\n`python benchmarks/\1\.py.*?^<!-- end of \1 -->$", page, re.M | re.S
    )
    assert sorted(sections) == sorted(benchmarks)
    assert not re.search(r"(?<![\w./\]])[/~](home|root|tmp|work)/", page), "a path of some machine"


def test_what_a_benchmark_prints_replaces_its_section(record, tmp_path):
    record.main("speed", "7", f"--cache={tmp_path}")
    page = record.PAGE.read_text()
    command, rest = page.removeprefix("# Page\n\n<!-- speed -->\n").split("\n", 1)
    assert command.startswith("`python benchmarks/speed.py 7 --cache=FOLDER`, 20")
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in command
    table = "| a |\n| --- |\n| 1 |"
    assert rest == f"\ntwo rounds\n\n{table}\n\nratio: 5\n<!-- end of speed -->\n\nend\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["speed", "--fail"], "speed ended with 1; nothing was"), (["sped"], "no section <!-- sped")],
)
def test_a_failure_leaves_the_page(record, arguments, message):
    before = record.PAGE.read_text()
    with pytest.raises(SystemExit, match=message):
        record.main(*arguments)
    assert record.PAGE.read_text() == before


def test_the_picture_shows_every_draw_up_to_a_hundred_labels(record, tmp_path):
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
