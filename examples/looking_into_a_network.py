"""
Looking into a network
======================

What layers a network has, how they hang together, what is left when some are dropped, and what each
of them makes of an image. None of it needs the framework that the network comes from.
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer
from xfer import plots

# %%
# The table of layers is what ``print`` shows of a source. Sizes that the network takes from its
# data are known once it has seen some: here a seven, a digit that it was not trained on.

images, digits = xfer.example.digits()
seven = images[np.flatnonzero(digits == 7)[:1]]

source = xfer.load_checkpoint(xfer.example.checkpoint())
extracted = source.extract(seven, ["relu1", "pool1", "relu2", "pool2", "relu3"])
print(source)

# %%
# ``plots.network`` draws the same with matplotlib. ``ModelHandler.visualize_net`` draws it as SVG,
# for notebooks, with more of each layer where the mouse rests.

plots.network(source)
plt.show()

# %%
# Dropping layers
# ---------------
#
# ``ModelHandler`` works on a copy. Without its last three layers the network ends in ``relu3``.

handler = xfer.ModelHandler(source)
handler.drop_layer_top(3)
print(handler.layer_names)
print(handler.get_layer_parameters(["conv3"]))

# %%
# What is left is a source of features like any other.

features, _ = handler.get_layer_output(images[:100], ["relu2", "relu3"])
for name, matrix in features.items():
    print(f"{name}: {matrix.shape[0]} images, {matrix.shape[1]} columns")

# %%
# What a layer sees
# -----------------
#
# ``extract`` keeps the shape of what a layer puts out: for each image a map for each of the layer's
# filters. Those of the seven show first where it has strokes and edges; further up they are more,
# and coarser.


def mosaic(maps):
    """Lay maps of shape (n, height, width) out in a square, a pixel apart."""
    side = int(np.ceil(np.sqrt(len(maps))))
    maps = np.pad(maps, [(0, side**2 - len(maps)), (0, 1), (0, 1)], constant_values=np.nan)
    return np.vstack([np.hstack(line) for line in np.split(maps, side)])[:-1, :-1]


# sphinx_gallery_thumbnail_number = 2
figure, panels = plt.subplots(2, 3, figsize=(9, 6.3), layout="constrained")
panels.flat[0].imshow(seven[0, 0], cmap="magma")
panels.flat[0].set_title("data")
for ax, (layer, maps) in zip(panels.flat[1:], extracted.items()):
    count, height, width = maps[0].shape
    ax.imshow(mosaic(maps[0]), cmap="magma", vmax=np.quantile(maps, 0.998))
    ax.set_title(f"{layer}: {count} of {height} x {width}")
for ax in panels.flat:
    ax.set_axis_off()
plt.show()
