"""The text-transfer task, before and after repurposing, over 10 draws of 100 and of 1,000 labels.

Run with ``python benchmarks/newsgroups.py``.
"""

import numpy as np
from posteriors import measures
from sources import module, newsgroups

import xfer

DRAWS, SIZES = 10, (100, 1000)
KINDS = (xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer)


def main():
    """Print mean and spread of every figure."""
    ids, names = newsgroups()
    source = xfer.open_source(module("newsgroups_cnn"))
    features = source.extract(ids, ["dropout0", "softmax"], progress=True)
    numbers = np.unique(names, return_inverse=True)[1]
    as_it_is = features["softmax"].argmax(axis=1) == numbers
    print(f"{len(names):,} posts, {DRAWS} draws of labels, all others to test on")
    print(f"the network as it is: accuracy {as_it_is.mean():.3f}\n")
    print("| labels | | accuracy | log loss | ECE |\n" + "| --- " * 5 + "|")
    for size in SIZES:
        for kind in KINDS:
            rows = [run(kind, features["dropout0"], numbers, size, seed) for seed in range(DRAWS)]
            means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
            cells = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads))
            print(f"| {size:,} | {kind.__name__} | {cells} |", flush=True)


def run(kind, features, numbers, size, seed):
    """Return accuracy, log loss and calibration error of one draw."""
    order = np.random.RandomState(seed).permutation(len(numbers))
    train, test = order[:size], order[size:]
    # The features are computed already, so the classifier is fitted on them directly.
    model = kind(None, None)._meta_model().fit(features[train], numbers[train])
    return measures(model.predict_proba(features[test]), numbers[test])


if __name__ == "__main__":
    main()
