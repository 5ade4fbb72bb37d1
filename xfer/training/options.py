"""The options of a training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.random import RandomState

from xfer._checks import check_integer, check_number
from xfer.training.augment import AUGMENTATIONS

#: Factor of the learning rate when a share of the steps has been done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


@dataclass(kw_only=True)
class TrainingOptions:
    """The options, which are explained where users give them, checked as far as they can be."""

    pooling: str = "flatten"
    batch_size: int = 32
    num_epochs: int | None = None
    optimizer: str = "adam"
    optimizer_params: Mapping[str, Any] | None = None
    learning_rate_schedule: str = "cosine"
    transferred_rate: float = 1.0
    validation_fraction: float = 0.0
    patience: int = 10
    class_weight: Mapping[Any, float] | str | None = None
    augment: Callable[[Any, RandomState], Any] | str | None = None
    device: str = "auto"
    random_state: int = 0
    context_function: Callable[[int], Any] | None = None
    num_devices: int = 1
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size)
        if self.num_epochs is not None:
            check_integer("num_epochs", self.num_epochs)
        check_number("transferred_rate", self.transferred_rate, 0)
        check_number("validation_fraction", self.validation_fraction, 0, below=1)
        check_integer("patience", self.patience)
        schedules, schedule = ", ".join(SCHEDULES), self.learning_rate_schedule
        if schedule not in [*SCHEDULES]:
            raise ValueError(f"learning_rate_schedule must be one of {schedules}, got {schedule!r}")
        given = self.optimizer_params or {}
        if not isinstance(given, Mapping):
            raise TypeError(f"optimizer_params must be a dict or None, got {type(given).__name__}")
        if "lr_scheduler" in given:
            advice = f"give learning_rate_schedule, one of {schedules}"
            raise ValueError(f"optimizer_params may not have an lr_scheduler: {advice}")
        if isinstance(self.augment, str) and self.augment not in AUGMENTATIONS:
            known = ", ".join(map(repr, AUGMENTATIONS))
            raise ValueError(f"augment must be a function or {known}, got {self.augment!r}")
        if not isinstance(self.augment, (str, type(None))) and not callable(self.augment):
            raise TypeError(f"augment must be callable, got {type(self.augment).__name__}")

    def variation(self, source: Any, word_share: float) -> Callable[[Any, RandomState], Any] | None:
        """Return the function that varies a batch, if any."""
        if isinstance(self.augment, str):
            return AUGMENTATIONS[self.augment](source, word_share)
        return self.augment
