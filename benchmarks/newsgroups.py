"""The text-transfer task: accuracy before and after repurposing over 10 draws of 100 labels.

Run with ``python benchmarks/newsgroups.py``.
"""

import numpy as np
from sklearn.metrics import log_loss
from sources import module, newsgroups

import xfer
from xfer.repurposers import LrRepurposer, SvmRepurposer

DRAWS, LABELS = 10, 100


def main():
    """Print mean and spread of every figure."""
    ids, names = newsgroups()
    source = xfer.open_source(module("newsgroups_cnn"))
    features = source.extract(ids, ["dropout0", "softmax"], progress=True)
    numbers = np.unique(names, return_inverse=True)[1]
    as_it_is = features["softmax"].argmax(axis=1) == numbers
    figures = {}
    for seed in range(DRAWS):
        order = np.random.RandomState(seed).permutation(len(names))
        train, test = order[:LABELS], order[LABELS:]
        figures.setdefault("the network as it is", []).append((as_it_is[test].mean(), np.nan))
        for kind in (LrRepurposer, SvmRepurposer):
            # The features are at hand, so the classifier is fitted on them without its network.
            model = kind(None, None)._meta_model().fit(features["dropout0"][train], names[train])
            probabilities = model.predict_proba(features["dropout0"][test])
            predicted = model.classes_[probabilities.argmax(axis=1)]
            figures.setdefault(kind.__name__, []).append(
                ((predicted == names[test]).mean(), log_loss(names[test], probabilities))
            )
    print(f"{len(names):,} posts, {LABELS} labels, {DRAWS} draws: mean ± standard deviation\n")
    print("| | accuracy | log loss |\n| --- | --- | --- |")
    for name, rows in figures.items():
        means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads)]
        print(f"| {name} | {cells[0]} | {cells[1] if np.isfinite(means[1]) else ''} |")


if __name__ == "__main__":
    main()
