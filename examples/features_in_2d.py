"""
What layers know of a new task
==============================

The network that comes with xfer has never seen the digits 5 to 9. How far apart do its layers put
them all the same?
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
# One pass through the network gives the features of several layers. Of each map, which is as large
# as the image or smaller, the largest value is taken: it says that there is a pattern, and not
# where. The pixels are there to compare.

extracted = source.extract(images, ["pool1", "relu2", "pool3"], pooling="max")
features = {
    "pixels": images.reshape(len(images), -1),
    "pool1, an early layer": extracted["pool1"],
    "relu2, in the middle": extracted["relu2"],
    "pool3, the last": extracted["pool3"],
}

# %%
# Each of 300 images is a point, drawn along the two directions in which features vary most. No
# label was used to find them.

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
# Two directions are not all. How often has the nearest image the same digit, all columns considered
# and four fifths of the images to choose from? In two directions ``pool3`` looks best, in all of
# them it is ``relu2``. The pixels do better than they look as well, as long as there are hundreds
# of labels; :ref:`sphx_glr_gallery_learning_curve.py` shows what they are worth with few.

nearest = {}
for name, matrix in features.items():
    scores = cross_val_score(KNeighborsClassifier(1), matrix, digits)
    nearest[name] = scores.mean()
    print(f"{name:22} {matrix.shape[1]:3} columns, nearest is alike: {nearest[name]:.2f}")
