"""
Accuracy against the number of labels
=====================================

How many labels does a new task need? The network that comes with xfer reads the digits 0 to 4.
Here it is repurposed to 5 to 9, with 2 to 50 labels per digit.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression

import xfer
from xfer import plots

LABELS_A_DIGIT = [2, 5, 10, 20, 50]
DRAWS = 10

source = xfer.load_checkpoint(xfer.example.checkpoint())
print(source)

# %%
# Three classifiers
# -----------------
#
# The first two use features: the maxima of the maps of ``relu2``, a layer in the middle, and
# ``pool3``, the last layer before the scores. With ``cache``, each image passes through the network
# only once, not once per fit. The third is logistic regression on the pixels, without a network.

images, digits = xfer.example.digits()
images, digits = images[digits >= 5], digits[digits >= 5]
pixels = images.reshape(len(images), -1)

folder = tempfile.TemporaryDirectory()
ways = {
    "repurposed, relu2": (
        xfer.LrRepurposer(source, "relu2", pooling="max", cache=folder.name),
        images,
    ),
    "repurposed, pool3": (xfer.LrRepurposer(source, "pool3", cache=folder.name), images),
    "pixels": (LogisticRegression(max_iter=1000), pixels),
}

# %%
# Random draws
# ------------
#
# With few labels, it matters which examples are labelled. So the script tries several random draws
# for each number of labels. All other images are for testing.


def draw(count, seed):
    """Return the rows of ``count`` examples per digit, and all other rows."""
    order = np.random.RandomState(seed).permutation(len(digits))
    few = np.concatenate([order[digits[order] == digit][:count] for digit in range(5, 10)])
    return few, np.setdiff1d(order, few)


scores = {name: np.zeros((len(LABELS_A_DIGIT), DRAWS)) for name in ways}
for row, count in enumerate(LABELS_A_DIGIT):
    for seed in range(DRAWS):
        few, others = draw(count, seed)
        for name, (classifier, data) in ways.items():
            classifier.fit(data[few], digits[few])
            scores[name][row, seed] = classifier.score(data[others], digits[others])
folder.cleanup()

for name, found in scores.items():
    print(f"{name:17}", *(f"{mean:.2f}" for mean in found.mean(axis=1)))

# %%
# The learning curves
# -------------------
#
# Lines are means over the draws, bands one standard deviation. Pixels are of little use to a linear
# classifier, because the digits are at different places. The maxima of both layers do not depend on
# the place. The last layer has features that separate 0 to 4; ``relu2`` has more features that are
# useful for other digits.

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
for name, found in scores.items():
    plots.learning_curve(LABELS_A_DIGIT, found, name=name, ax=ax)
ax.axhline(0.2, color="black", linestyle=":", linewidth=1)
ax.text(LABELS_A_DIGIT[-1], 0.19, "chance", ha="right", va="top", fontsize=9)
ax.set(xlabel="labels of each digit", ylim=(0, 1))
ax.set_title("Digits 5 to 9, from a network for 0 to 4")
plt.show()
