"""Pictures of what comes out; the only importer of matplotlib.

Every function takes the Axes to draw on, or makes a figure, and returns the Axes.
"""

from xfer.plots.calibration import reliability, uncertainty_split
from xfer.plots.graph import network
from xfer.plots.layers import features_2d, layer_comparison
from xfer.plots.learning import learning_curve, training_curves
from xfer.plots.predictions import class_probabilities, confusion_matrix

__all__ = [
    "class_probabilities",
    "confusion_matrix",
    "features_2d",
    "layer_comparison",
    "learning_curve",
    "network",
    "reliability",
    "training_curves",
    "uncertainty_split",
]
