"""The training loop: epochs, held-out examples, the best weights, and divergence."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
from numpy.random import RandomState
from scipy.special import log_softmax, softmax

from xfer._checks import check_integer, check_number
from xfer._io import progress_bar
from xfer.checkpoint.network import Network
from xfer.sources.checkpoint import CheckpointSource
from xfer.training.frozen import find_fixed_outputs, find_stages, freeze_statistics, start_at

#: Factor of the learning rate when a share of the steps has been done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
# By default, the epochs that give so many steps, within these limits.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 400, 6, 30
# The most bytes of fixed layers' outputs that are kept instead of computed in every epoch.
_MOST_KEPT = 1 << 30


class TrainingDiverged(ValueError):
    """Raised when scores become NaN or infinite; `network` has the best weights before that."""

    network: Network
    history: "History"


@dataclass
class History:
    """Results of the epochs of a training.

    The learning rate is that at the beginning of an epoch, loss (in nats) and accuracy are averaged
    over its batches, and those of the held-out examples, if any, are also given for the start. The
    weights were kept after the ``best_epoch``; 0 is the start.
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


@dataclass(frozen=True)
class Examples:
    """Inputs by name, the index of each example's class, and the weight of each class."""

    inputs: dict[str, np.ndarray]
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Any) -> "Examples":
        """Pick some of the examples."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, targets=self.targets[index])

    def split(self, fraction: float, random: RandomState) -> tuple["Examples", "Examples | None"]:
        """Hold out a fraction of the examples of each class, but never the last one."""
        if not fraction:
            return self, None
        counts = np.bincount(self.targets)[self.targets]
        order = random.permutation(len(self))
        order = order[np.argsort(self.targets[order], kind="stable")]
        first = np.searchsorted(self.targets[order], self.targets)
        rank = np.argsort(order) - first
        share = np.where(rank < counts - 1, (rank + random.uniform(size=len(rank))) / counts, 1)
        n_held_out = min(round(fraction * len(self)), (share < 1).sum())
        if not n_held_out:
            raise ValueError(
                f"validation_fraction={fraction} leaves none of {len(self)} examples to hold out; "
                "training needs at least one per class"
            )
        order = np.argsort(share)
        held_out = self.take(np.sort(order[:n_held_out]))
        return self.take(np.sort(order[n_held_out:])), held_out

    def loss(self, scores: np.ndarray) -> tuple[float, float]:
        """Return the mean log loss in nats and the accuracy; FloatingPointError for NaN scores."""
        if not np.isfinite(scores).all():
            raise FloatingPointError("the scores are NaN or infinite")
        log_probabilities = log_softmax(scores.astype(np.float64), axis=1)
        losses = -log_probabilities[np.arange(len(self)), self.targets]
        hits = scores.argmax(axis=1) == self.targets
        return float(np.average(losses, weights=self.weights[self.targets])), float(hits.mean())

    def gradient(self, scores: np.ndarray) -> np.ndarray:
        """Return the gradient of the loss by the scores, times the number of examples."""
        gradient = softmax(scores, axis=1)
        gradient[np.arange(len(self)), self.targets] -= 1
        weights = self.weights[self.targets]
        return gradient * (weights / weights.mean())[:, None].astype(np.float32)


@dataclass(kw_only=True)
class Trainer:
    """The options of a training, which are explained where users give them, and the loop."""

    batch_size: int = 32
    num_epochs: int | None = None
    optimizer: str = "adam"
    optimizer_params: Mapping[str, Any] | None = None
    learning_rate_schedule: str = "cosine"
    transferred_rate: float = 1.0
    unfreeze_epochs: int = 0
    validation_fraction: float = 0.0
    patience: int = 10
    class_weight: Mapping[Any, float] | str | None = None
    augment: Callable[[Any, RandomState], Any] | None = None
    random_state: int = 0
    context_function: Callable[[int], Any] | None = None
    num_devices: int = 1
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size)
        if self.num_epochs is not None:
            check_integer("num_epochs", self.num_epochs)
        check_number("transferred_rate", self.transferred_rate, 0)
        check_integer("unfreeze_epochs", self.unfreeze_epochs, 0)
        check_number("validation_fraction", self.validation_fraction, 0, below=1)
        check_integer("patience", self.patience)
        schedules, schedule = ", ".join(SCHEDULES), self.learning_rate_schedule
        if schedule not in [*SCHEDULES]:
            raise ValueError(f"learning_rate_schedule must be one of {schedules}, got {schedule!r}")
        if self.augment is not None and not callable(self.augment):
            raise TypeError(f"augment must be callable, got {type(self.augment).__name__}")
        given = self.optimizer_params or {}
        if not isinstance(given, Mapping):
            raise TypeError(f"optimizer_params must be a dict or None, got {type(given).__name__}")
        if "lr_scheduler" in given:
            advice = f"give learning_rate_schedule, one of {schedules}"
            raise ValueError(f"optimizer_params may not have an lr_scheduler: {advice}")
        params = self._optimizer_params = {"learning_rate": 0.001, **given}
        self._first_rate = params["learning_rate"]
        check_number("the learning_rate in optimizer_params", self._first_rate, 0)
        try:
            from xfer.training.mxnet import check_optimizer
        except ImportError as error:
            advice = f"pip install 'xfer-learn[mxnet]', on Python 3.11 ({error})"
            reason = "training a network needs MXNet, which prediction does not"
            raise ImportError(f"{reason}: {advice}") from error
        check_optimizer(self.optimizer, params)
        self.random = RandomState(self.random_state)

    def run(
        self,
        source: CheckpointSource,
        network: Network,
        examples: Examples,
        held_out: Examples | None,
        fixed: set[str],
        transferred: set[str],
    ) -> tuple[Network, History]:
        """Train a network with one output, the scores; return it with the best weights.

        Without held-out examples these are the last ones. `source` is what the network was made
        from, with the `transferred` parameters; those that are `fixed` are not trained.
        """
        from xfer.training.mxnet import TrainingModule, make_contexts, seeded

        contexts = source.contexts
        if self.context_function is not None or self.num_devices > 1:
            contexts = make_contexts(self.context_function, self.num_devices)
        size = min(self.batch_size, len(examples))
        steps = -(-len(examples) // size)
        few_enough = int(np.clip(_STEPS // steps, _FEWEST_EPOCHS, _MOST_EPOCHS))
        num_epochs = self.num_epochs or few_enough
        schedule = SCHEDULES[self.learning_rate_schedule]

        def rate(epoch: int, step: int = 0) -> float:
            return self._first_rate * schedule((epoch * steps + step) / (num_epochs * steps))

        # Without end: all examples in a random order, then all in another.
        order = chain.from_iterable(self.random.permutation(len(examples)) for _ in count())
        batches = (np.fromiter(islice(order, size), int) for _ in count())
        stages = find_stages(network, fixed, transferred, self.unfreeze_epochs)
        options: dict[str, Any] = {"optimizer": self.optimizer, "contexts": contexts}
        options["optimizer_params"] = self._optimizer_params
        options["rates"] = dict.fromkeys(transferred, self.transferred_rate)
        history, best = History(), network
        bar = progress_bar(None, self.progress, num_epochs * steps, "training")
        with bar, seeded(self.random.randint(1 << 31)):
            for epoch in range(num_epochs):
                if epoch in stages:
                    fixed = stages[epoch]
                    parts = network, fixed, examples, held_out
                    part, seen, unseen = self._without_fixed(source, *parts)
                    shapes = {name: (size, *a.shape[1:]) for name, a in seen.inputs.items()}
                    now = {"fixed": fixed, "rate": partial(rate, epoch), **options}
                    module = TrainingModule(part, shapes, **now)
                    # Where nothing is held out, one batch shows whether the weights are sound.
                    validation = unseen or seen.take(slice(size))
                if epoch == 0 and held_out is not None:
                    loss, accuracy = validation.loss(module.scores(validation.inputs))
                    history.validation_loss.append(loss)
                    history.validation_accuracy.append(accuracy)
                try:
                    results = self._run_epoch(module, seen, islice(batches, steps), bar)
                    loss, accuracy = validation.loss(module.scores(validation.inputs))
                    trained = module.network()
                except FloatingPointError as error:
                    kept = f"the weights of epoch {history.best_epoch} are kept"
                    advice = f"Try a smaller learning rate than {self._first_rate:g}"
                    failed = f"training diverged in epoch {epoch + 1}: {error}"
                    diverged = TrainingDiverged(f"{failed}; {kept}. {advice}")
                    diverged.network, diverged.history = best, history
                    raise diverged from None
                arguments = network.arguments | trained.arguments
                auxiliary = network.auxiliary | trained.auxiliary
                network = replace(network, arguments=arguments, auxiliary=auxiliary)
                history.learning_rate.append(rate(epoch))
                history.loss.append(results[0])
                history.accuracy.append(results[1])
                if held_out is not None:
                    history.validation_loss.append(loss)
                    history.validation_accuracy.append(accuracy)
                if held_out is None or np.argmin(history.validation_loss) == epoch + 1:
                    best, history.best_epoch = network, epoch + 1
                elif epoch + 1 - history.best_epoch >= self.patience:
                    break
        return best, history

    def _run_epoch(
        self, module: Any, examples: Examples, batches: Iterable[np.ndarray], bar: Any
    ) -> tuple[float, float]:
        """Return the mean log loss and accuracy of the batches."""
        results = []
        for index in batches:
            batch = examples.take(index)
            scores = module.forward(self._augmented(batch.inputs))
            results.append(batch.loss(scores))
            module.learn(batch.gradient(scores))
            bar.update()
        loss, accuracy = np.mean(results, axis=0).tolist()
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        return loss, accuracy

    def _augmented(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        if self.augment is None:
            return inputs
        several = len(inputs) > 1
        given = inputs if several else next(iter(inputs.values()))
        found = self.augment(given, self.random)
        found = found if several else dict.fromkeys(inputs, found)
        if not isinstance(found, Mapping) or found.keys() != inputs.keys():
            names = ", ".join(map(repr, inputs))
            raise ValueError(f"augment must return a dict with {names}, got {type(found).__name__}")
        shapes = {name: np.shape(found[name]) for name in inputs}
        expected = {name: array.shape for name, array in inputs.items()}
        if shapes != expected:
            raise ValueError(f"augment must not change shapes: it returned {shapes} for {expected}")
        return {name: found[name] for name in inputs}

    def _without_fixed(
        self,
        source: CheckpointSource,
        network: Network,
        fixed: set[str],
        examples: Examples,
        held_out: Examples | None,
    ) -> tuple[Network, Examples, Examples | None]:
        """Compute the outputs of fixed layers once, and leave the rest of the network to train."""
        network = network.with_graph(freeze_statistics(network.graph, fixed))
        whole = network, examples, held_out
        entries = find_fixed_outputs(network.graph, fixed, network.input_names)
        taken = {*network.parameters, *network.input_names}
        if self.augment is not None or not entries or taken & entries.keys():
            return whole
        source, names = source.with_network(network), list(entries)
        try:
            first = source.extract(examples.take(slice(1)).inputs, names, progress=False)
        except ValueError:  # a layer that has no row for each example
            return whole
        if first.matrix.nbytes * (len(examples) + len(held_out or ())) > _MOST_KEPT:
            return whole
        part = network.with_graph(start_at(network.graph, entries))
        part = replace(part, input_names=[*part.input_names, *names])
        seen = _with_outputs(source, examples, part.input_names)
        unseen = None if held_out is None else _with_outputs(source, held_out, part.input_names)
        return part, seen, unseen


def _with_outputs(source: CheckpointSource, examples: Examples, names: list[str]) -> Examples:
    """Replace the inputs by inputs and layers of these names."""
    layers = [name for name in names if name not in examples.inputs]
    known = {**source.extract(examples.inputs, layers, progress=False), **examples.inputs}
    return replace(examples, inputs={name: known[name] for name in names})
