"""The scripts of the gallery, run as a reader would, with fewer draws; and what their texts say."""

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.slow  # `make docs` runs the scripts, too

EXAMPLES = Path(__file__).parents[1] / "examples"
FEWER = {
    "learning_curve": {"LABELS_A_DIGIT": [5, 20], "DRAWS": 2},
    "choosing_a_layer": {"LAYERS": ["pool1", "relu2", "pool3"]},
    "probabilities": {},
    "fine_tuning": {"LABELS_A_DIGIT": [20], "DRAWS": 1},
    "mxnet_to_pytorch": {},
    "looking_into_a_network": {},
    "features_in_2d": {},
    "next_label": {"DRAWS": 4, "ROUNDS": 6},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script in an empty folder, look at its pictures, and return its variables."""

    def run(name):
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        for constant, value in FEWER[name].items():
            text, found = re.subn(rf"^{constant} = .*$", f"{constant} = {value}", text, flags=re.M)
            assert found == 1
        script = tmp_path / f"{name}.py"
        script.write_text(text, encoding="utf-8")
        variables = runpy.run_path(str(script))
        assert [path.name for path in tmp_path.iterdir()] == [script.name]
        check_pictures(text)
        return variables

    before = plt.get_backend()
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    yield run
    plt.close("all")
    plt.switch_backend(before)


def check_pictures(text):
    """Nothing is cut off, and the picture of the gallery's index has a title."""
    figures = [plt.figure(number) for number in plt.get_fignums()]
    chosen = re.search(r"^# sphinx_gallery_thumbnail_number = (\d)$", text, re.M)
    thumbnail = figures[int(chosen[1]) - 1 if chosen else 0]
    assert any(ax.get_title() for ax in thumbnail.axes)
    for figure in figures:
        figure.canvas.draw()
        outer = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(outer.x0, outer.y0, width - outer.x1, height - outer.y1) > -0.02


@pytest.mark.parametrize("name", FEWER)
def test_a_page_has_a_title_and_cells_that_show_their_pictures(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    title, line, *_ = ast.get_docstring(ast.parse(text)).splitlines()
    assert line == "=" * len(title)
    for cell in re.split(r"^# %%$", text, flags=re.M):
        # Else the site would print what the last line returned below the picture.
        draws = "plots." in cell or "plt.subplots" in cell
        assert cell.rstrip().endswith("plt.show()") == draws
    rows = text.split('"""', 2)[2].splitlines()
    assert sum(bool(row.strip()) and not row.startswith("#") for row in rows) <= 80


def test_the_gallery_has_a_title():
    title, line, *_ = (EXAMPLES / "GALLERY_HEADER.rst").read_text().splitlines()
    assert line == "=" * len(title)


def test_learning_curve(run):
    scores = {name: found.mean(axis=1) for name, found in run("learning_curve")["scores"].items()}
    assert np.all(scores["repurposed, relu2"] > scores["repurposed, pool3"] + 0.05)
    assert np.all(scores["repurposed, pool3"] > scores["pixels"] + 0.2)
    assert np.all(scores["repurposed, relu2"] > [0.7, 0.85])


def test_choosing_a_layer(run):
    found = run("choosing_a_layer")
    assert found["search"].best_params_ == {"feature_layer_names": "relu2", "pooling": "max"}
    assert found["accuracies"]["found"] > found["accuracies"]["pool3"] + 0.1
    results = found["search"].cv_results_
    last = results["param_feature_layer_names"] == "pool3"
    assert np.ptp(results["mean_test_score"][last]) == 0  # pooled already
    assert results["mean_test_score"].argmax() not in np.flatnonzero(last)


def test_probabilities(run):
    found = run("probabilities")
    classes, truth, predicted = found["NEW"], found["truth"], found["predicted"]
    sureness = {name: rows.max(axis=1) for name, rows in predicted.items()}
    right = {name: classes[rows.argmax(axis=1)] == truth for name, rows in predicted.items()}
    too_sure = {name: sureness[name].mean() - right[name].mean() for name in predicted}
    for name in ("Lr", "Svm"):
        assert abs(too_sure[name]) < 0.04
    for name in ("Gp", "Bnn"):
        assert -0.15 < too_sure[name] < 0  # cautious
    assert too_sure["as it comes"] < -0.2
    assert too_sure["scaled, C=100"] > 0.05
    for name in ("Lr", "Gp", "scaled"):
        surer = sureness[name] > np.median(sureness[name])
        assert right[name][surer].mean() > 0.93 > right[name].mean()
    never_shown = found["groups"] == "0 to 4: never shown"
    grown = {
        part: values[never_shown].mean() - values[~never_shown].mean()
        for part, values in found["uncertainty"]._asdict().items()
    }
    assert grown["epistemic"] > grown["aleatoric"] > 0


def test_fine_tuning(run):
    pytest.importorskip("torch")
    found = run("fine_tuning")
    assert found["scores"]["fine-tuned"].mean() > found["scores"]["features"].mean() + 0.01
    held_out = found["tuned"].history_.validation_loss
    assert held_out.index(min(held_out)) == found["tuned"].history_.best_epoch > 0


def test_mxnet_to_pytorch(run):
    pytest.importorskip("torch")
    found = run("mxnet_to_pytorch")
    assert np.abs(found["difference"]).max() < 1e-4
    assert found["losses"][-1] < 0.2 < 1.5 < found["losses"][0]
    assert found["accuracies"][9] < found["reference"] - 0.1
    assert found["accuracies"][-1] > found["reference"] + 0.01


def test_mxnet_to_pytorch_says_what_it_needs(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="This example trains a network, which needs PyTorch"):
        run("mxnet_to_pytorch")


def test_looking_into_a_network(run):
    found = run("looking_into_a_network")
    assert found["handler"].layer_names[-1] == "relu3"
    assert found["source"].layer_names[-1] == "softmax"  # only the copy was cut
    maps = found["extracted"]["relu2"][0]
    picture = found["mosaic"](maps)
    assert picture.shape == (6 * 8 + 5, 6 * 8 + 5)
    assert np.array_equal(picture[9:17, 18:26], maps[8])  # second row, third column
    assert np.isnan(picture).sum() == picture.size - maps.size


def test_features_in_2d(run):
    pixels, early, middle, last = run("features_in_2d")["nearest"].values()
    assert middle > last + 0.05 > early + 0.05
    assert pixels < last


def test_next_label(run):
    scores = {name: found.mean(axis=1) for name, found in run("next_label")["scores"].items()}
    start = [found[0] for found in scores.values()]
    assert np.ptp(start) == 0  # of all ways the same
    for name in ("epistemic uncertainty", "close calls"):
        assert np.mean(scores[name][3:] - scores["at random"][3:]) > 0.02
    assert np.mean(scores["typical examples"][1:] - scores["at random"][1:]) > 0.04
    assert scores["typical examples"][1] > scores["epistemic uncertainty"][1]
