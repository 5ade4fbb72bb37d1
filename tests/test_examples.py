"""The examples and the pages, run as a reader would."""

import importlib.util
import re
import runpy
from pathlib import Path

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
        assert accuracy["AutoRepurposer"] > accuracy[name] + 0.01
        assert loss["AutoRepurposer"] < loss[name] - 0.05
    known, new = re.search(r"in nats: ([\d.]+) on .* 9, ([\d.]+) on 0 to 4", printed).groups()
    assert float(known) < float(new)
    assert (tmp_path / "demo.png").stat().st_size > 20_000


@pytest.mark.slow
def test_text_transfer(newsgroups, capsys):
    pytest.importorskip("torch")
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    found = runpy.run_path(str(ROOT / "examples" / "text_transfer.py"))
    assert found["before"] < 0.15
    assert found["after"] > 0.5
    assert found["best"] > 0.78
    assert found["accuracies"].pop("AutoRepurposer") == pytest.approx(found["best"], abs=0.001)
    assert found["losses"]["AutoRepurposer"] < 0.65
    assert list(found["accuracies"]) == [
        "LrRepurposer",
        "SvmRepurposer",
        "GpRepurposer",
        "BnnRepurposer",
    ]
    assert min(found["accuracies"].values()) > 0.5
    assert max(found["losses"].values()) < 1.4
    of_text = dict(zip(found["groups"], found["auto"].predict_proba(found["text"])[0]))
    assert max(of_text, key=of_text.get) == "sci.electronics"
    least, total, epistemic, *novelties = found["told_apart"].values()
    assert least < total < epistemic < min(novelties) + 0.02
    assert found["same"]
    assert len(plt.get_fignums()) == 5
    plt.close("all")
    assert f"accuracy after repurposing: {found['after']:.3f}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_image_transfer(capsys):
    pytest.importorskip("torch")
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    found = runpy.run_path(str(ROOT / "examples" / "image_transfer.py"))
    assert found["as_it_is"] > 0.98
    accuracy = found["found"]["accuracy"]
    assert accuracy["pixels"] + 0.5 < accuracy["LrRepurposer"] < accuracy["AutoRepurposer"]
    assert accuracy["AutoRepurposer"] + 0.01 < accuracy["AutoRepurposer, with unlabelled digits"]
    assert found["found"]["log loss"]["AutoRepurposer"] < 0.5
    assert found["told_apart"] > 0.85
    plt.close("all")
    assert "on 5 (flatten)" in capsys.readouterr().out


@pytest.mark.slow
def test_features_or_fine_tuning(mx, shared, tmp_path, monkeypatch, capsys):
    example = load_example("features_or_fine_tuning")
    monkeypatch.setitem(example.LABELS_A_CLASS, "resnet20_v2", (2, 20))
    arguments = ["resnet20_v2", "--draws=1", "--most=2", f"--results={tmp_path / 'results'}"]
    arguments.append(f"--picture={tmp_path / 'picture.png'}")
    example.main(arguments)
    first = capsys.readouterr().out
    assert first.startswith("| CIFAR-100, ResNet-20 v2 | 2 |\n| --- | --- |\n")
    rows = dict(re.findall(r"^\| ([^|]+) \| (0\.\d{3}) ± 0\.\d{3}, [^|]+ s \|$", first, re.M))
    accuracies = {way: float(accuracy) for way, accuracy in rows.items()}
    assert tuple(accuracies) == example.WAYS["resnet20_v2"]
    without = max(accuracies.pop("from scratch"), accuracies.pop("pixels"))
    assert min(accuracies.values()) > without
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    # What is there is not computed again.
    monkeypatch.setattr(example, "load", None)
    example.main(arguments)
    assert capsys.readouterr().out == first
    with pytest.raises(SystemExit):
        example.main(["newsgroup"])
    assert "newsgroup is none of newsgroups, resnet20_v1" in capsys.readouterr().err
