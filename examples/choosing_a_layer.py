"""
Choosing a layer
================

A grid search finds the layer with the best features for a new task, and the best way to reduce its
maps to columns.
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
# A repurposer is a scikit-learn classifier; its layers and its pooling are parameters. The search
# uses fifty labelled examples, ten of each of the digits 5 to 9, with five-fold cross-validation.

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
# Points are means over the folds, bars one standard deviation.

figure, ax = plt.subplots(figsize=(7, 4.9), layout="constrained")
plots.layer_comparison(search, ax=ax)
ax.set_title("Which layer for the digits 5 to 9, from 50 labels?")
plt.show()

# %%
# Was it right?
# -------------
#
# With so few labels the spread is wide. All other images of these digits are a test set: compare
# the usual choice, the last layer before the outputs, with the one that the search found.

usual = xfer.LrRepurposer(source, "pool3", cache=cache).fit(images[few], digits[few])
accuracies = {
    "pool3": usual.score(images[others], digits[others]),
    "found": search.score(images[others], digits[others]),
}
for name, accuracy in accuracies.items():
    print(f"{name}: {accuracy:.2f} of {len(others)} images are right")

# %%
# Early layers have one map per pattern, with one value per position in the image. Flattened, they
# have many columns that each say little. The maximum of a map says that the pattern is somewhere.
# The last layer is pooled already, so all three poolings of it are the same. It keeps only what the
# network's own task needs, the digits 0 to 4.
#
# What it costs
# -------------
#
# Without ``cache``, every image passes through the network in each of the 75 fits. With it, that
# happens once per layer and pooling, and a second search computes no features at all. This network
# is so small that the cache saves no time; with a larger network it saves a lot.

fits = len(LAYERS) * len(POOLINGS) * FOLDS
print(f"{fits} fits on {len(few)} images: {fits * len(few):,} passes without the cache,")
print(f"{fits // FOLDS * len(few):,} with it; {cache.nbytes / 2**20:.1f} MiB are kept")
folder.cleanup()
