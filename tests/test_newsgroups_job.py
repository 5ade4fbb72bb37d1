"""The job that must always work: a text network of MXNet, repurposed with 100 labelled posts."""

import json

import numpy as np
import pytest
from sklearn.datasets import fetch_20newsgroups

import xfer

GROUPS = [
    "alt.atheism",
    "comp.sys.mac.hardware",
    "rec.autos",
    "rec.sport.hockey",
    "sci.electronics",
    "soc.religion.christian",
    "talk.politics.guns",
]


@pytest.fixture
def posts(shared, monkeypatch):
    """A corpus of the seven groups that the network was not trained on, and its vocabulary."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(shared / "data" / "scikit_learn_data"))
    found = fetch_20newsgroups(subset="all", categories=GROUPS, random_state=0)
    words = json.loads((shared / "models" / "newsgroups_cnn-words.json").read_text())
    vocabulary = xfer.Vocabulary.from_words(words)
    return xfer.Corpus(found.data, found.target, vocabulary, fix_length=300)


def test_a_module_repurposed_with_100_posts(mx, shared, posts, tmp_path):
    module = mx.mod.Module.load(str(shared / "models" / "newsgroups_cnn"), 0)
    x_train, x_test, y_train, y_test = posts.split_train_test(100, random_state=0)
    x_test, y_test = x_test[:2000], y_test[:2000]
    train_iter = mx.io.NDArrayIter(x_train, y_train, batch_size=100)
    test_iter = mx.io.NDArrayIter(x_test, y_test, batch_size=100)
    scores = xfer.open_source(module).extract(test_iter, "softmax").matrix
    assert (scores.argmax(axis=1) == y_test).mean() < 0.15  # its outputs are other groups

    repurposer = xfer.LrRepurposer(module, ["dropout0"])
    repurposer.repurpose(train_iter)
    labels = repurposer.predict_label(test_iter)
    assert (labels == y_test).mean() > 0.53
    probabilities = repurposer.predict_probability(test_iter)
    np.testing.assert_array_equal(repurposer.classes_[probabilities.argmax(axis=1)], labels)
    repurposer.save_repurposer("newsgroups", tmp_path)
    again = xfer.load("newsgroups", tmp_path)  # the network is in the file
    few = x_test[:100]
    np.testing.assert_array_equal(again.predict_proba(few), repurposer.predict_proba(few))


def test_the_checkpoint_gives_the_same_without_mxnet(shared, posts):
    source = xfer.load_checkpoint(shared / "models" / "newsgroups_cnn", 0)
    x_train, x_test, y_train, y_test = posts.split_train_test(100, random_state=0)
    repurposer = xfer.LrRepurposer(source, "dropout0").fit(x_train, y_train)
    assert repurposer.score(x_test[:2000], y_test[:2000]) > 0.53
