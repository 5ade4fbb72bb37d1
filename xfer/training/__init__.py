"""Training of the network itself; MXNet trains it and is imported only by a fit."""

from xfer.training.loop import History, TrainingDiverged

__all__ = ["History", "TrainingDiverged"]
