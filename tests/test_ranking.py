"""Layers ranked by how well they separate the classes."""

import numpy as np
import pytest
import source_cases

import xfer
from xfer.meta import h_score, logme

LABELS = np.array(["a", "b", "c"])[np.arange(21) % 3]


@pytest.fixture(scope="module")
def ranking():
    images, digits = xfer.example.digits()
    new = digits >= 5
    return xfer.rank_layers(
        xfer.load_checkpoint(xfer.example.checkpoint()), images[new][:50], digits[new][:50]
    )


@pytest.mark.parametrize("case", source_cases.CASES)
def test_scores_are_those_of_the_features(case, tmp_path):
    made = case(tmp_path)
    source = xfer.open_source(made.model)
    found = xfer.rank_layers(source, source_cases.IMAGES, LABELS)
    assert {row.layer for row in found} == {made.relu, made.scores}
    assert [row.h_score for row in found] == sorted((row.h_score for row in found), reverse=True)
    for row in found:
        matrix = source.extract(source_cases.IMAGES, row.layer, pooling=row.pooling).matrix
        assert row.n_features == matrix.shape[1]
        assert row.h_score == pytest.approx(h_score(matrix, LABELS))
        assert row.logme == pytest.approx(logme(matrix, LABELS))


def test_only_the_given_layers():
    source = source_cases.OwnSource()
    found = xfer.rank_layers(source, source_cases.IMAGES, LABELS, {"relu1": "max"})
    assert [(row.layer, row.pooling, row.n_features) for row in found] == [("relu1", "max", 4)]


def test_it_reads_as_a_table(ranking):
    pandas = pytest.importorskip("pandas")
    head, *lines = str(ranking).splitlines()
    assert head.split() == ["layer", "pooling", "n_features", "h_score", "logme"]
    assert [line.split()[0] for line in lines] == [row.layer for row in ranking]
    assert "<td" in ranking._repr_html_() and ranking[0].layer in ranking._repr_html_()
    frame = pandas.DataFrame(ranking)
    assert list(frame.columns) == head.split()
    assert frame["layer"].tolist() == [row.layer for row in ranking]


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        xfer.rank_layers(source_cases.OwnSource(), source_cases.IMAGES, LABELS[:5])
