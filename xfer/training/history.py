"""What a training reports."""

from dataclasses import dataclass, field


class TrainingDiverged(ValueError):
    """Raised when the loss becomes NaN or infinite; the best weights before that are kept."""


@dataclass
class History:
    """Results of the epochs of a training.

    Attributes
    ----------
    learning_rate : list of float
        The learning rate at the beginning of each epoch.
    loss, accuracy : list of float
        Log loss (in nats) and accuracy of each epoch, averaged over its batches.
    validation_loss, validation_accuracy : list of float
        Those of the held-out examples, at the start and after each epoch; empty if there are none.
    best_epoch : int
        The epoch whose weights were kept; 0 is the start.
    """

    learning_rate: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def _repr_html_(self) -> str:
        from xfer._html import table

        head = ["epoch", "learning rate", "loss, nats", "accuracy"]
        epochs = enumerate(zip(self.learning_rate, self.loss, self.accuracy), 1)
        rows = [
            [f"{i}", f"{rate:.2g}", f"{loss:.3f}", f"{hits:.3f}"]
            for i, (rate, loss, hits) in epochs
        ]
        if self.validation_loss:  # held-out examples are also scored before the first epoch
            head += ["held out: loss, nats", "held out: accuracy"]
            rows.insert(0, ["0", "", "", ""])
            for row, loss, hits in zip(rows, self.validation_loss, self.validation_accuracy):
                row += [f"{loss:.3f}", f"{hits:.3f}"]
        return table(f"History, kept: epoch {self.best_epoch}", head, rows)
