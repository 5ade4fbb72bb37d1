"""Write a saved repurposer of each kind with the versions that are installed here.

Run ``python tests/data/make.py`` after a change of the format; the tests load every file in every
environment.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

import xfer

import mxnet as mx  # isort: skip

HERE = Path(__file__).parent


def main():
    """Write the files, and what they predict."""
    sys.path.insert(0, str(HERE.parent))
    from conftest import bound_module, convolutional_symbol

    random = np.random.RandomState(3)
    labels = np.resize(["autos", "guns", "hockey"], 30)
    images = random.normal(size=(30, 2, 6, 6)) + np.resize([0, 2, 4], 30)[:, None, None, None]
    asked = np.random.RandomState(0).normal(size=(7, 2, 6, 6)).astype(np.float32)
    module = bound_module(mx, convolutional_symbol(mx), {"data": (8, 2, 6, 6)})
    versions = f"numpy{version('numpy')}-sklearn{version('scikit-learn')}-skops{version('skops')}"
    kinds = xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer
    repurposers = [kind(module, ["relu1", "fc1"], pooling="mean") for kind in kinds]
    repurposers.append(xfer.NeuralNetworkFineTuneRepurposer(module, "dropout0", num_epochs=3))
    for repurposer in repurposers:
        repurposer.fit(images, labels)
        path = repurposer.save_repurposer(f"{type(repurposer).__name__}-{versions}", HERE)
        np.save(path.with_suffix(".npy"), repurposer.predict_proba(asked))
        print(path)


if __name__ == "__main__":
    main()
