"""
Choosing a layer
================

Each layer of a network offers other features. Which ones fit a new task is found out by a grid
search: over the layers, and over the ways to reduce their maps to columns.
"""

import tempfile
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

import xfer
from xfer import plots

LAYERS = ["pool1", "relu2", "pool2", "relu3", "pool3"]
POOLINGS = ["flatten", "mean", "max"]
FOLDS = 5

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
order = np.random.RandomState(0).permutation(len(digits))
few = np.concatenate([order[digits[order] == digit][:10] for digit in range(5, 10)])
others = np.setdiff1d(np.flatnonzero(digits >= 5), few)

# %%
# The search
# ----------
#
# A repurposer is a scikit-learn classifier, and its layers and pooling are parameters like others.
# Fifty labelled examples, ten of each of the digits 5 to 9, are all that the search sees: it learns
# from four fifths of them and scores on the last fifth, five times.

folder = tempfile.TemporaryDirectory()
cache = xfer.FeatureCache(folder.name)
start = time.perf_counter()
search = GridSearchCV(
    xfer.LrRepurposer(source, "pool3", cache=cache),
    {"feature_layer_names": LAYERS, "pooling": POOLINGS},
    cv=FOLDS,
).fit(images[few], digits[few])
print(f"{time.perf_counter() - start:.1f} s; the best: {search.best_params_}")

# %%
# Points are means over the folds, and bars their spread.

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
plots.layer_comparison(search, ax=ax)
ax.set_title("Which layer for the digits 5 to 9, from 50 labels?")
plt.show()

# %%
# Was it right?
# -------------
#
# With so few labels the spread is wide. Here all other images of these digits tell: the last layer
# before the outputs, which is the usual choice, against the one that was found.

usual = xfer.LrRepurposer(source, "pool3", cache=cache).fit(images[few], digits[few])
accuracies = {
    "pool3": usual.score(images[others], digits[others]),
    "found": search.score(images[others], digits[others]),
}
for name, accuracy in accuracies.items():
    print(f"{name}: {accuracy:.2f} of {len(others)} images are right")

# %%
# Early layers have a map for each pattern, and a place on it for each place in the image. Flattened
# they are many columns, each of which says little; the largest value on a map says that there is
# such a pattern somewhere. The last layer is pooled already, so that there all three are the same.
# It has kept what its own task needed, and the task here is another.
#
# What it costs
# -------------
#
# Without ``cache`` every image passes through the network in each of the 75 fits, to be learned
# from or to be scored. With it that happens once for each layer and pooling, and a second search
# finds all features there. A network as small as this one is as fast as reading what was kept; with
# a larger one it is the network that takes the time.

fits = len(LAYERS) * len(POOLINGS) * FOLDS
print(f"{fits} fits on {len(few)} images: {fits * len(few):,} passes without the cache,")
print(f"{fits // FOLDS * len(few):,} with it; {cache.nbytes / 2**20:.1f} MiB are kept")
folder.cleanup()
