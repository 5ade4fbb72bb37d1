"""
Accuracy against the number of labels
=====================================

How many labels does a new task need? The network that comes with xfer was trained to read the
digits 0 to 4. Here it is repurposed to 5 to 9, with 2 to 50 labels of each.
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
# Three ways
# ----------
#
# The features are the largest values on the maps of ``relu2``, a layer in the middle; or those of
# ``pool3``, the last layer before the scores of 0 to 4. With ``cache``, a folder, each image passes
# through the network once, not for each of the fits. The third way has no network: logistic
# regression on the pixels.

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
# Drawing labels
# --------------
#
# Which examples happen to be labelled matters most where there are few of them. So each number of
# labels is tried on several draws. All images that were not drawn are tested on.


def draw(count, seed):
    """Return the rows of so many examples of each digit, and all other rows."""
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
# The picture
# -----------
#
# Lines are means over the draws, and bands a standard deviation each way. A linear classifier makes
# little of the pixels, for each digit is somewhere else on its canvas. Both layers have learned to
# find it there; the last one has kept what tells 0 to 4 apart, and ``relu2`` more of what other
# digits need.

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
for name, found in scores.items():
    plots.learning_curve(LABELS_A_DIGIT, found, name=name, ax=ax)
ax.axhline(0.2, color="black", linestyle=":", linewidth=1)
ax.text(LABELS_A_DIGIT[-1], 0.19, "chance", ha="right", va="top", fontsize=9)
ax.set(xlabel="labels of each digit", ylim=(0, 1))
ax.set_title("Digits 5 to 9, from a network for 0 to 4")
plt.show()
