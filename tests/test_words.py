"""Words as features."""

import numpy as np

from xfer.meta.words import WordWeights, count_words

TEXTS = ["the cat sat", "the dog sat on the dog", "the bird"]


def test_weights_by_hand():
    weights = WordWeights().fit(count_words(TEXTS)).transform(count_words(["dog dog sat fish the"]))
    # dog is in one of three texts, sat in two, the in all; fish, in none, counts in the length.
    dog, sat, fish = (1 + np.log(2)) * np.log(4 / 2), np.log(4 / 3), np.log(4 / 1)
    expected = np.array([dog, sat]) / np.linalg.norm([dog, sat, fish])
    found = weights.toarray()[0]
    np.testing.assert_allclose(np.sort(found[found > 0]), np.sort(expected))


def test_ids_are_counted_like_words():
    ids = np.array([[5, 6, 7, 0, 0], [5, 8, 7, 9, 8]])
    counts = count_words(ids)
    assert counts[1, 8] == 2
    assert counts[0, 0] == 2
    weights = WordWeights().fit(counts).transform(counts)
    assert (weights.getnnz(axis=1) > 0).all()
    np.testing.assert_allclose(np.square(weights.toarray()).sum(axis=1), 1)


def test_padding_weighs_nothing():
    ids = np.array([[5, 0, 0], [6, 0, 0], [7, 0, 0]])
    model = WordWeights().fit(count_words(ids))
    padding = np.searchsorted(model.columns_, 0)
    assert (model.transform(count_words(ids)).toarray()[:, padding] == 0).all()


def test_a_text_without_words():
    model = WordWeights().fit(count_words([*TEXTS, ""]))
    assert model.transform(count_words(["", "unseen"])).toarray().sum() == 0
