"""The loop of training: epochs, what is held out, the best weights, and what came of each epoch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import log_softmax, softmax

from xfer._progress import progress_bar
from xfer.checkpoint.frozen import find_fixed_outputs, freeze_statistics, start_at

#: What is left of the learning rate when a share of the steps has been done.
SCHEDULES = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
# The logarithm of the smallest number there is: beyond it right answers have probability 0.
_MOST_LOSS = 745
# What fixed layers put out is kept, up to so many bytes, instead of computed in every epoch.
_MOST_KEPT = 1 << 30


class TrainingDiverged(ValueError):
    """Training came to scores that are no numbers.

    Attributes
    ----------
    network : Network
        As it was before: with the best weights.
    history : History
        Of the epochs before.
    """

    def __init__(self, message, network, history):
        super().__init__(message)
        self.network = network
        self.history = history


@dataclass
class History:
    """What came of the epochs.

    Parameters
    ----------
    learning_rate : list of float
        At the beginning of each epoch.
    loss, accuracy : list of float
        Mean log loss in nats and share of hits, taken while each epoch went on.
    validation_loss, validation_accuracy : list of float
        The same of the examples held out, at the start and after each epoch; empty if there are
        none.
    best_epoch : int
        After how many epochs the weights were kept; 0 is the start.
    """

    learning_rate: list = field(default_factory=list)
    loss: list = field(default_factory=list)
    accuracy: list = field(default_factory=list)
    validation_loss: list = field(default_factory=list)
    validation_accuracy: list = field(default_factory=list)
    best_epoch: int = 0

    def add(self, learning_rate, results, validation):
        """Take down an epoch: loss and accuracy, and those of what is held out or None."""
        self.learning_rate.append(learning_rate)
        self.loss.append(results[0])
        self.accuracy.append(results[1])
        if validation is not None:
            self.add_validation(validation)

    def add_validation(self, results):
        """Take down loss and accuracy of what is held out."""
        self.validation_loss.append(results[0])
        self.validation_accuracy.append(results[1])

    def _repr_html_(self):
        from xfer._html import table

        head = ["epoch", "learning rate", "loss, nats", "accuracy"]
        learned = zip(self.learning_rate, self.loss, self.accuracy)
        rows = [[f"{rate:.2g}", f"{loss:.3f}", f"{hit:.3f}"] for rate, loss, hit in learned]
        if self.validation_loss:
            head += ["held out: loss, nats", "held out: accuracy"]
            rows.insert(0, [""] * 3)  # what is held out is looked at before the first epoch too
            for row, loss, hit in zip(rows, self.validation_loss, self.validation_accuracy):
                row += [f"{loss:.3f}", f"{hit:.3f}"]
        start = 0 if self.validation_loss else 1
        numbered = [[str(epoch), *row] for epoch, row in enumerate(rows, start)]
        return table(f"History, kept: epoch {self.best_epoch}", head, numbered)


@dataclass(frozen=True)
class Examples:
    """What a network learns from.

    Parameters
    ----------
    inputs : dict of str to ndarray of shape (n, ...)
    targets : ndarray of shape (n,)
        Columns of the scores.
    weights : ndarray of shape (n_classes,)
        What an example of each class counts.
    """

    inputs: dict
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self):
        return len(self.targets)

    def take(self, index):
        """Return some of them (Examples)."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, targets=self.targets[index])

    def loss(self, scores):
        """Tell the mean log loss in nats, and the share of hits; scores have to be numbers."""
        if not np.isfinite(scores).all():
            raise FloatingPointError("the scores are NaN or infinite")
        log_probabilities = log_softmax(scores.astype(np.float64), axis=1)
        losses = -log_probabilities[np.arange(len(self)), self.targets]
        hits = scores.argmax(axis=1) == self.targets
        return float(np.average(losses, weights=self.weights[self.targets])), float(hits.mean())

    def gradient(self, scores):
        """Return the gradient of the loss, times the number of examples, by the scores."""
        gradient = softmax(scores, axis=1)
        gradient[np.arange(len(self)), self.targets] -= 1
        weights = self.weights[self.targets]
        return gradient * (weights / weights.mean())[:, None].astype(np.float32)


@dataclass(frozen=True)
class Trainer:
    """How a network is trained.

    Parameters
    ----------
    num_epochs, batch_size : int
    optimizer : str
        As MXNet knows it.
    optimizer_params : dict
        With the ``learning_rate`` that the first step has.
    schedule : callable
        See ``SCHEDULES``.
    patience : int
        Stop after so many epochs in which what is held out got no better.
    augment : callable or None
        Makes other inputs of those of a batch, with a generator.
    random : numpy.random.RandomState
    contexts : list of mxnet.Context or None
        The devices that share each batch; by default the first CPU.
    open_network : callable
        Makes a source of a Network.
    progress : bool or None
    """

    num_epochs: int
    batch_size: int
    optimizer: str
    optimizer_params: dict
    schedule: Callable
    patience: int
    augment: Callable | None
    random: np.random.RandomState
    contexts: list | None
    open_network: Callable
    progress: bool | None

    def run(self, network, examples, held_out, stages, rates):
        """Train a network.

        Parameters
        ----------
        network : Network
            With one output, the scores.
        examples : Examples
        held_out : Examples or None
            What tells which epoch was best.
        stages : dict of int to set of str
            Parameters that are fixed, by the epoch from which on it is these.
        rates : dict of str to float
            What the learning rate of some parameters is multiplied by.

        Returns
        -------
        network : Network
            With the weights of the best epoch; of the last where nothing is held out.
        history : History

        Raises
        ------
        TrainingDiverged
            If scores become NaN, infinite, or so large that right answers get the probability 0.
        """
        from xfer.sources.mxnet_training import seeded

        size = min(self.batch_size, len(examples))
        steps = -(-len(examples) // size)
        total = self.num_epochs * steps
        order = _endless_order(len(examples), size, self.random)
        history, best = History(), network
        bar = progress_bar(None, self.progress, total, "training")
        with bar, seeded(self.random.randint(1 << 31)):
            for epoch in range(self.num_epochs):
                if epoch in stages:
                    fixed = stages[epoch]
                    part, seen, unseen = self._leave_out_fixed(network, fixed, examples, held_out)
                    module = self._module(part, seen, size, fixed, rates, epoch * steps, total)
                if epoch == 0 and held_out is not None:
                    history.add_validation(unseen.loss(module.scores(unseen.inputs)))
                try:
                    results = self._run_epoch(module, seen, order, steps, bar)
                    # Where nothing is held out, a batch tells whether these weights give numbers.
                    looked_at = seen.take(slice(size)) if held_out is None else unseen
                    found = looked_at.loss(module.scores(looked_at.inputs))
                    if found[0] > _MOST_LOSS:
                        raise FloatingPointError(f"the log loss is {found[0]:.3g} nats")
                    network = _with_values(network, module.network())
                except FloatingPointError as error:
                    raise TrainingDiverged(
                        f"training diverged in epoch {epoch + 1}: {error}; the weights of epoch "
                        f"{history.best_epoch} are kept. Try a smaller learning rate than "
                        f"{self.optimizer_params['learning_rate']:g}",
                        best,
                        history,
                    ) from None
                found = None if held_out is None else found
                history.add(self._rate(epoch * steps, total), results, found)
                if held_out is None or np.argmin(history.validation_loss) == epoch + 1:
                    best, history.best_epoch = network, epoch + 1
                elif epoch + 1 - history.best_epoch >= self.patience:
                    break
        return best, history

    def _run_epoch(self, module, examples, order, steps, bar):
        """Return the mean log loss and the share of hits of the batches."""
        results = []
        for _ in range(steps):
            batch = examples.take(next(order))

            def learn(scores, batch=batch):
                results.append(batch.loss(scores))
                return batch.gradient(scores)

            module.step(self._augmented(batch.inputs), learn)
            bar.update()
        loss, accuracy = np.mean(results, axis=0).tolist()
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        return loss, accuracy

    def _augmented(self, inputs):
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
            raise ValueError(f"augment must keep shapes: it made {shapes} of {expected}")
        return {name: found[name] for name in inputs}

    def _rate(self, done, total):
        return self.optimizer_params["learning_rate"] * self.schedule(done / total)

    def _module(self, part, examples, size, fixed, rates, done, total):
        from xfer.sources.mxnet_training import TrainingModule

        shapes = {name: (size, *array.shape[1:]) for name, array in examples.inputs.items()}
        return TrainingModule(
            part,
            shapes,
            contexts=self.contexts,
            fixed=fixed,
            rates=rates,
            optimizer=self.optimizer,
            optimizer_params=self.optimizer_params,
            rate=lambda step: self._rate(done + step, total),
        )

    def _leave_out_fixed(self, network, fixed, *sets):
        """Compute what does not change once, and leave the rest of the network to be trained."""
        graph = freeze_statistics(network.graph, fixed)
        network = network.with_graph(graph)
        taken = {*network.parameters, *network.input_names}
        entries = find_fixed_outputs(graph, fixed, network.input_names)
        if self.augment is not None or not entries or taken & entries.keys():
            return network, *sets
        source, names = self.open_network(network), list(entries)
        try:
            first = source.extract(_rows(sets[0].inputs, slice(1)), names, progress=False)
        except ValueError:  # a layer that has no row for each example
            return network, *sets
        count = sum(len(examples) for examples in sets if examples is not None)
        if first.matrix.nbytes * count > _MOST_KEPT:
            return network, *sets
        part = network.with_graph(start_at(graph, entries))
        part = replace(part, input_names=[*part.input_names, *names])
        return part, *(_compute(source, examples, part.input_names) for examples in sets)


def _compute(source, examples, names):
    if examples is None:
        return None
    layers = [name for name in names if name not in examples.inputs]
    features = source.extract(examples.inputs, layers, progress=False)
    return replace(examples, inputs={n: examples.inputs.get(n, features.get(n)) for n in names})


def _rows(inputs, index):
    return {name: array[index] for name, array in inputs.items()}


def _with_values(network, part):
    """Return a network with the values that a part of it has."""
    arguments, statistics = (
        {**network.arguments, **part.arguments},
        {**network.statistics, **part.statistics},
    )
    return replace(network, arguments=arguments, statistics=statistics)


def _endless_order(count, size, random):
    """Yield batches of rows: all rows in a random order, then again in another."""
    rows = np.empty(0, dtype=int)
    while True:
        while len(rows) < size:
            rows = np.concatenate([rows, random.permutation(count)])
        yield rows[:size]
        rows = rows[size:]
