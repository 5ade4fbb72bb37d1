"""Training of the network itself, on PyTorch, which only a fit imports."""

from xfer.training.history import History, TrainingDiverged

__all__ = ["History", "TrainingDiverged"]
