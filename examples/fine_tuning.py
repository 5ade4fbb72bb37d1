"""
Fine-tuning against features
============================

You can fit a classifier on the features of a frozen network, or train the network further on the
few labels. Training needs PyTorch: ``pip install 'xfer-learn[torch]'``.
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer
from xfer import plots

LABELS_A_DIGIT = [5, 10, 20]
DRAWS = 3

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
images, digits = images[digits >= 5], digits[digits >= 5]

# %%
# Training
# --------
#
# For the digits 5 to 9, the best features of this network are the maxima of the maps of ``relu2``:
# see :ref:`sphx_glr_gallery_choosing_a_layer.py`. So the network is cut above ``relu2``, and a new
# last layer reads these maxima. It starts as logistic regression; then all layers are trained.
# ``validation_fraction`` holds out a fifth of the labels, and the weights of the best epoch are
# kept. Epoch 0 is the logistic regression.


def draw(count, seed):
    """Return the rows of ``count`` examples per digit, and all other rows."""
    order = np.random.RandomState(seed).permutation(len(digits))
    few = np.concatenate([order[digits[order] == digit][:count] for digit in range(5, 10)])
    return few, np.setdiff1d(order, few)


few, others = draw(20, seed=0)
tuned = xfer.NeuralNetworkFineTuneRepurposer(
    source,
    "relu2",
    pooling="max",
    validation_fraction=0.2,
).fit(images[few], digits[few])
accuracy = tuned.score(images[others], digits[others])
print(f"accuracy on {len(others)} other images: {accuracy:.2f}")

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
plots.training_curves(tuned.history_, ax=ax)
plt.show()

# %%
# Which is better?
# ----------------
#
# With few labels, all of them are better used for training, so nothing is held out here. Training
# starts from the classifier on features, except for its calibration.

ways = {
    "fine-tuned": xfer.NeuralNetworkFineTuneRepurposer(source, "relu2", pooling="max"),
    "features": xfer.LrRepurposer(source, "relu2", pooling="max"),
}
scores = {name: np.zeros((len(LABELS_A_DIGIT), DRAWS)) for name in ways}
for row, count in enumerate(LABELS_A_DIGIT):
    for seed in range(DRAWS):
        few, others = draw(count, seed)
        for name, repurposer in ways.items():
            repurposer.fit(images[few], digits[few])
            scores[name][row, seed] = repurposer.score(images[others], digits[others])

# sphinx_gallery_thumbnail_number = 2
figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
for name, found in scores.items():
    print(f"{name:10}", *(f"{mean:.2f}" for mean in found.mean(axis=1)))
    plots.learning_curve(LABELS_A_DIGIT, found, name=name, ax=ax)
ax.set_title("Training the network, or a classifier on it")
ax.set_xlabel("labels of each digit")
plt.show()
