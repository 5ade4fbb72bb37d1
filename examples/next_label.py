"""
Which example to label next
===========================

Somebody has to label the examples, a few at a time. A Gaussian process tells how much of its doubt
about an example a label would end: the epistemic part. Does it pay to label first where that is
largest?
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer
from xfer import plots
from xfer.meta import DirichletGaussianProcess

DRAWS = 10
ROUNDS = 7
LABELS_A_ROUND = 5

# %%
# Features of all images are computed once. What learns from them is the classifier of
# ``GpRepurposer``, which takes a matrix.

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
images, digits = images[digits >= 5], digits[digits >= 5]
features = source.extract(images, "relu2", pooling="max").matrix

# %%
# Three ways to choose
# --------------------
#
# Each gives the unlabelled examples a number; the five with the largest are labelled next. Beside
# the epistemic part and chance there is an old way that needs no uncertainty: the closer the two
# largest probabilities, the sooner.


def epistemic(classifier, rows, random):
    """Return what labels would tell."""
    return classifier.predict_uncertainty(features[rows]).epistemic


def close_call(classifier, rows, random):
    """Return how close the second label came to the first."""
    second, first = np.sort(classifier.predict_proba(features[rows]))[:, -2:].T
    return second - first


def chance(classifier, rows, random):
    """Return nothing that means anything."""
    return random.uniform(size=len(rows))


# %%
# Rounds of labels
# ----------------
#
# At first two examples of each digit are labelled. After that nobody sees to it that digits come in
# equal numbers. 400 images are kept apart for testing.


def label_in_rounds(choose, seed):
    """Return the accuracy after each round."""
    random = np.random.RandomState(seed)
    tested, rest = np.split(random.permutation(len(digits)), [400])
    few = np.concatenate([rest[digits[rest] == digit][:2] for digit in range(5, 10)])
    accuracies = []
    for _ in range(ROUNDS):
        classifier = DirichletGaussianProcess().fit(features[few], digits[few])
        accuracies.append(classifier.score(features[tested], digits[tested]))
        rows = np.setdiff1d(rest, few)
        order = np.argsort(choose(classifier, rows, random))
        few = np.concatenate([few, rows[order[-LABELS_A_ROUND:]]])
    return accuracies


ways = {"epistemic uncertainty": epistemic, "close calls": close_call, "at random": chance}
scores = {
    name: np.array([label_in_rounds(choose, seed) for seed in range(DRAWS)]).T
    for name, choose in ways.items()
}

# %%
# What comes of it
# ----------------
#
# It pays from the fourth round on: at random it takes 35 labels to get as far as 25 that were
# chosen. But the old way, for which any classifier will do, is as good here.

labels = 10 + LABELS_A_ROUND * np.arange(ROUNDS)
figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
for name, found in scores.items():
    print(f"{name:21}", *(f"{mean:.2f}" for mean in found.mean(axis=1)))
    plots.learning_curve(labels, found, name=name, ax=ax)
ax.set(title="Five labels a round: of which examples?", xlabel="labels")
plt.show()
