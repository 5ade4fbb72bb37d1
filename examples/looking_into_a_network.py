"""
Inspecting a network
====================

List the layers of a network, see how they are connected, drop some, and look at what each layer
computes. You do not need the framework that the network comes from.
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer

# %%
# ``print`` shows the layers of a source as a table. Sizes that depend on the data are known once
# the network has seen some. Here it sees a seven, a digit that it was not trained on.

images, digits = xfer.example.digits()
seven = images[np.flatnonzero(digits == 7)[:1]]

source = xfer.load_checkpoint(xfer.example.checkpoint())
extracted = source.extract(seven, ["relu1", "pool1", "relu2", "pool2", "relu3"])
print(source)

# %%
# ``visualize_net`` draws the network if Graphviz is installed. Otherwise it shows a table of what
# each layer reads. ONNX files and PyTorch networks can be drawn as well. To explore a large
# network, open its ``-symbol.json`` in `Netron <https://netron.app>`_.

source.visualize_net()

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
# You can compute features with the remaining layers.

features, _ = handler.get_layer_output(images[:100], ["relu2", "relu3"])
for name, matrix in features.items():
    print(f"{name}: {matrix.shape[0]} images, {matrix.shape[1]} columns")

# %%
# What a layer sees
# -----------------
#
# ``extract`` keeps the shape of a layer's output: one map per filter for each image. The first maps
# of the seven show its strokes and edges. Later layers have more maps, and coarser ones.


def mosaic(maps):
    """Lay maps of shape (n, height, width) out in a square, a pixel apart."""
    side = int(np.ceil(np.sqrt(len(maps))))
    maps = np.pad(maps, [(0, side**2 - len(maps)), (0, 1), (0, 1)], constant_values=np.nan)
    return np.vstack([np.hstack(line) for line in np.split(maps, side)])[:-1, :-1]


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
