"""
Calibrated probabilities
========================

If probabilities are calibrated, 80% of the answers with a probability of 80% are right. Then you
can leave the unsure answers to a person. Here a network for the digits 0 to 4 is repurposed to 5 to
9, with ten labels per digit.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xfer
from xfer import plots

DRAWS = 3
NEW = np.arange(5, 10)

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
unseen, images, digits = images[digits < 5], images[digits >= 5], digits[digits >= 5]

# %%
# Classifiers on the same features
# --------------------------------
#
# Compare four repurposers with scikit-learn's logistic regression in three variants: with default
# settings, on scaled features, and on scaled features with hardly any penalty.


def logistic(*steps, C=1.0):
    """Return logistic regression on the same features, after other steps."""
    classifier = make_pipeline(*steps, LogisticRegression(C=C, max_iter=5000))
    return xfer.MetaModelRepurposer(source, "relu2", classifier, pooling="max")


ours = {
    "Lr": xfer.LrRepurposer(source, "relu2", pooling="max"),
    "Svm": xfer.SvmRepurposer(source, "relu2", pooling="max"),
    "Gp": xfer.GpRepurposer(source, "relu2", pooling="max"),
    "Bnn": xfer.BnnRepurposer(source, "relu2", pooling="max"),
}
others = {
    "as it comes": logistic(),
    "scaled": logistic(StandardScaler()),
    "scaled, C=100": logistic(StandardScaler(), C=100),
}

truth = []
predicted = {name: [] for name in ours | others}
for seed in range(DRAWS):
    order = np.random.RandomState(seed).permutation(len(digits))
    few = np.concatenate([order[digits[order] == digit][:10] for digit in NEW])
    tested = np.setdiff1d(order, few)
    truth.extend(digits[tested])
    for name, classifier in (ours | others).items():
        classifier.fit(images[few], digits[few])
        predicted[name].extend(classifier.predict_proba(images[tested]))
predicted = {name: np.array(rows) for name, rows in predicted.items()}
truth = np.array(truth)

# %%
# Reliability
# -----------
#
# On the diagonal, a classifier is right as often as it says. Above it, the classifier is too
# cautious, below it overconfident. ``LrRepurposer`` and ``SvmRepurposer`` calibrate their
# probabilities on held-out examples. ``GpRepurposer`` and ``BnnRepurposer`` average over a
# posterior and tend to be cautious. With scikit-learn, calibration depends on scaling and penalty,
# and can be good. The log loss, in nats, measures accuracy and calibration together; lower is
# better.

figure, panels = plt.subplots(1, 2, figsize=(10, 6), layout="constrained")
for ax, classifiers in zip(panels, (ours, others)):
    for name in classifiers:
        plots.reliability(truth, predicted[name], NEW, bins=8, name=name, ax=ax)
        right = NEW[predicted[name].argmax(axis=1)] == truth
        loss = log_loss(truth, predicted[name], labels=NEW)
        print(f"{name:13} accuracy {right.mean():.2f}, log loss {loss:.2f}")
panels[0].set_title("repurposers")
panels[1].set_title("scikit-learn's logistic regression")
plt.show()

# %%
# Answering only when sure
# ------------------------
#
# If you leave the less sure half to a person, few of the other answers are wrong. Only the order of
# the probabilities matters for this, and it is nearly the same for all classifiers.

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
counts = np.arange(1, len(truth) + 1)
for name, colour in {"Lr": "#0072B2", "Gp": "#D55E00", "scaled": "#009E73"}.items():
    surest_first = np.argsort(-predicted[name].max(axis=1))
    right = (NEW[predicted[name].argmax(axis=1)] == truth)[surest_first]
    accuracy = right.cumsum() / counts
    ax.plot(counts[100:] / len(truth), accuracy[100:], color=colour, label=name)
    half = accuracy[len(truth) // 2]
    print(f"{name:6} of all {accuracy[-1]:.2f} are right, of the surer half {half:.2f}")
ax.set(xlabel="share of the images that is answered", xlim=(0, 1))
ax.set_ylabel("accuracy of the answers")
ax.set_title("The fewer are answered, the more are right")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# One hard digit
# --------------
#
# This is the image of the last draw that the Gaussian process is least sure of.

process = ours["Gp"]
probabilities = process.predict_proba(images[tested])
hardest = probabilities.max(axis=1).argmin()
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
left.imshow(images[tested][hardest, 0], cmap="gray_r")
left.set(title=f"a {digits[tested][hardest]}", xticks=[], yticks=[])
plots.class_probabilities(probabilities[hardest], process.classes_, ax=right)
plt.show()

# %%
# Digits that were never seen
# ---------------------------
#
# For a digit from 0 to 4, every answer is wrong. A Gaussian process splits its uncertainty into an
# aleatoric part, because classes look alike, and an epistemic part, because it was fitted on
# nothing similar. Both are larger on digits that it never saw, and the epistemic part grows more.

uncertainty = process.predict_uncertainty(np.concatenate([images[tested], unseen]))
groups = np.repeat(["5 to 9", "0 to 4: never shown"], [len(tested), len(unseen)])
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
plots.uncertainty_split(uncertainty, groups, ax=ax)
ax.set_title("What the Gaussian process does not know")
plt.show()
