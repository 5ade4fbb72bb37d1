"""
Which example to label next
===========================

If you label a few examples at a time, which should be next? The epistemic uncertainty of a Gaussian
process is the part that more labels would reduce. Does it help to label the examples with the most
epistemic uncertainty first? Or is it better to label typical examples, as ``next_to_label`` of
``AutoRepurposer`` and ``MixtureClassifier`` does while labels are few?
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer
from xfer import plots
from xfer.meta import DirichletGaussianProcess, MixtureClassifier

DRAWS = 8
ROUNDS = 7
LABELS_A_ROUND = 5

# %%
# The features of all images are computed once. The classifier is ``DirichletGaussianProcess``,
# which ``GpRepurposer`` uses too. It takes a matrix of features.

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
images, digits = images[digits >= 5], digits[digits >= 5]
features = source.extract(images, "relu2", pooling="max").matrix

# %%
# Four ways to choose
# -------------------
#
# Each way scores the unlabelled examples; the five with the highest scores are labelled next. The
# score is the epistemic uncertainty, a random number, or (margin sampling) the negative difference
# between the two largest probabilities. The fourth way is ``next_to_label``: typical examples of
# groups without a label.


def epistemic(classifier, few, rows, random):
    """Score by the uncertainty that labels would reduce."""
    return classifier.predict_uncertainty(features[rows]).epistemic


def close_call(classifier, few, rows, random):
    """Score by the negative margin between the two largest probabilities."""
    second, first = np.sort(classifier.predict_proba(features[rows]))[:, -2:].T
    return second - first


def chance(classifier, few, rows, random):
    """Score at random."""
    return random.uniform(size=len(rows))


def typical(classifier, few, rows, random):
    """Score the examples that the mixture asks for by 1, the others by 0."""
    mixture = MixtureClassifier().fit(features[few], digits[few])
    return np.isin(np.arange(len(rows)), mixture.next_to_label(features[rows], LABELS_A_ROUND))


# %%
# Rounds of labels
# ----------------
#
# At first, two examples of each digit are labelled. After that, the numbers of examples per digit
# may differ. 400 images are for testing.


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
        order = np.argsort(choose(classifier, few, rows, random))
        few = np.concatenate([few, rows[order[-LABELS_A_ROUND:]]])
    return accuracies


ways = {"epistemic uncertainty": epistemic, "close calls": close_call}
ways |= {"typical examples": typical, "at random": chance}
scores = {
    name: np.array([label_in_rounds(choose, seed) for seed in range(DRAWS)]).T
    for name, choose in ways.items()
}

# %%
# Result
# ------
#
# Typical examples help from the first round on: 20 of them are as good as 35 random ones.
# Uncertainty helps from 25 labels on, and with 35 to 40 labels all three ways are about level.
# Margin sampling, which works with any classifier, is as good as the epistemic uncertainty here.

labels = 10 + LABELS_A_ROUND * np.arange(ROUNDS)
figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
for name, found in scores.items():
    print(f"{name:21}", *(f"{mean:.2f}" for mean in found.mean(axis=1)))
    plots.learning_curve(labels, found, name=name, ax=ax)
ax.set(title="Five labels a round: of which examples?", xlabel="labels")
plt.show()
