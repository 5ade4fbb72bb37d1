"""
How layers separate new classes
===============================

The network that comes with xfer was trained on the digits 0 to 4. How well do its layers separate
the digits 5 to 9?
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import xfer
from xfer import plots

source = xfer.load_checkpoint(xfer.example.checkpoint())
images, digits = xfer.example.digits()
images, digits = images[digits >= 5], digits[digits >= 5]

# %%
# One pass through the network gives the features of several layers. Each map is reduced to its
# maximum, which says that a pattern is in the image, but not where. Pixels are the baseline.

extracted = source.extract(images, ["pool1", "relu2", "pool3"], pooling="max")
features = {
    "pixels": images.reshape(len(images), -1),
    "pool1, an early layer": extracted["pool1"],
    "relu2, in the middle": extracted["relu2"],
    "pool3, the last": extracted["pool3"],
}

# %%
# Each point is one of 300 images, on the first two principal components. They are computed without
# labels.

figure, panels = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
for ax, (name, matrix) in zip(panels.flat, features.items()):
    plots.features_2d(matrix[:300], digits[:300], ax=ax)
    ax.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
    ax.get_legend().remove()
figure.supxlabel("first component")
figure.supylabel("second component")
known = ax.get_legend_handles_labels()
figure.legend(*known, loc="outside right", title="digit", frameon=False)
plt.show()

# %%
# Two dimensions do not show everything. With all dimensions, how often does the nearest image, in
# five-fold cross-validation, show the same digit? In two dimensions ``pool3`` looks best; in all of
# them ``relu2`` is best. With hundreds of labels, pixels are better than they look;
# :ref:`sphx_glr_gallery_learning_curve.py` shows how they do with few.

nearest = {}
for name, matrix in features.items():
    scores = cross_val_score(KNeighborsClassifier(1), matrix, digits)
    nearest[name] = scores.mean()
    print(f"{name:22} {matrix.shape[1]:3} columns, nearest is alike: {nearest[name]:.2f}")
