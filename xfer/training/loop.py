"""The training loop: epochs, held-out examples, the best weights, divergence and interruption."""

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch.nn.functional import cross_entropy

from xfer._checks import check_number
from xfer._io import progress_bar
from xfer.sources.torch import TorchSource
from xfer.training.augment import augmented
from xfer.training.bottom import Bottom
from xfer.training.examples import Examples, Stream
from xfer.training.history import History, TrainingDiverged
from xfer.training.initial import start_at_random
from xfer.training.network import Network, fix, in_prediction
from xfer.training.options import SCHEDULES, TrainingOptions

# By default, the epochs that give so many steps, within these limits.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 400, 6, 30
# Varied images teach longer: in two draws of 10 of CIFAR-100 per class, 100 epochs gave 0.73 and 30
# gave 0.70. Without variation it was 0.71 and 0.70.
_MOST_WITH_IMAGES = 100
# The learning rate by default; the new layer comes first in the groups of the optimizer.
_RATE, _TRANSFORMER_RATE = 0.001, 0.0001
# Word vectors need more: a word is learned only from the examples that hold it. And if the source
# network has left them close to their random start, they are noise in later texts; so all vectors
# decay by this share in the first step, and less as the rate falls.
# Below 50 examples the source network's vectors are worth more as they are, above 150 they are not.
_WORD_FACTOR, _DECAY = 9.0, 0.02
# The most bytes of fixed layers' outputs that are kept instead of computed in every epoch.
_MOST_KEPT = 1 << 30
# MXNet's names of parameters of optimizers.
_RENAMED = {"learning_rate": "lr", "wd": "weight_decay", "epsilon": "eps", "gamma1": "alpha"}
# These need a function that computes the loss again, or other gradients.
_OTHERS = {"Optimizer", "LBFGS", "SparseAdam"}


def check_options(options: TrainingOptions) -> None:
    """Refuse a device that is not there, and an optimizer or its parameters that PyTorch lacks."""
    find_device(options.device)
    make_optimizer(options, {"new": [torch.zeros(1, requires_grad=True)]})


def prepare(
    network: Network,
    source: Any,
    fixed_layers: Sequence[str],
    random_layers: Sequence[str],
    random: RandomState,
) -> set[str]:
    """Fix some layers, and start others at random; return the names of parameters that are new."""
    found: list[set[str]] = []
    for option, layers in ("fixed_layers", fixed_layers), ("random_layers", random_layers):
        found.append(set())
        for layer in layers:
            own = source.parameters_of(layer)
            places = network.places_of(own)
            if own and not places:
                raise ValueError(f"{option} has layer {layer!r}, which num_layers_to_drop drops")
            found[-1] |= places
    if shared := found[0] & found[1]:
        raise ValueError(f"fixed_layers and random_layers share the parameter {min(shared)!r}")
    start_at_random(network, source, random_layers, random)
    fix(network, found[0])
    return {f"body.{name}" for name in found[1]}


class Training:
    """Trains a network in place and leaves it with the best weights, in inference mode.

    Without held-out examples these are the last ones. `source` is what the network is a copy of,
    and `new` are parameters of the network's body that do not come from it.
    """

    def __init__(
        self,
        network: Network,
        source: Any,
        options: TrainingOptions,
        examples: Examples | Stream,
        held_out: Examples | None,
        new: set[str],
        class_weights: np.ndarray,
        random: RandomState,
        history: History,
    ) -> None:
        self.network, self.options, self.random = network, options, random
        self.examples, self.held_out = examples, held_out
        self.device = find_device(options.device)
        mine = source.module.parameters() if isinstance(source, TorchSource) else ()
        self.originals = [(one, one.grad) for one in mine]
        self.weights = torch.as_tensor(class_weights, dtype=torch.float32, device=self.device)
        self.history = history
        tables = network.word_tables()
        groups: dict[str, list[Any]] = {"new": [], "words": [], "transferred": []}
        for name, one in network.named_parameters():
            is_word = any(one is table for table in tables)
            is_new = name in new or not name.startswith("body.")
            if one.requires_grad:
                groups["new" if is_new else "words" if is_word else "transferred"].append(one)
        self.words = groups["words"]
        rate = _TRANSFORMER_RATE if network.is_transformer() else _RATE
        n = len(examples) if isinstance(examples, Examples) else math.inf
        self.word_share = min(max(n / 100 - 0.5, 0.0), 1.0)
        optimizer, first = make_optimizer(options, groups, rate, self.word_share)
        self.variation = options.variation(network.source, self.word_share)
        steps = examples.steps(options.batch_size)
        most = _MOST_WITH_IMAGES if options.augment == "images" else _MOST_EPOCHS
        few_enough = int(np.clip(_STEPS // steps, _FEWEST_EPOCHS, most))
        self.num_epochs = options.num_epochs or few_enough
        schedule, self.n_steps = SCHEDULES[options.learning_rate_schedule], self.num_epochs * steps
        self.optimizer, self.first_rate = optimizer, first
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(min(step / self.n_steps, 1))
        )
        # Masks may hold infinity, and layers that are left out anything.
        tensors = chain(network.named_parameters(), network.named_buffers())
        self.finite = [(name, one) for name, one in tensors if torch.isfinite(one).all()]
        self.bottom: Bottom | None = None
        self.outputs: torch.Tensor | None = None

    def run(self) -> None:
        """Train on the device, and bring the network back to where it was."""
        body = self.network.body
        home = next(chain(body.parameters(), body.buffers()), self.network.scores.bias).device
        self.network.to(self.device).arrange(torch.channels_last)
        try:
            with _seeded(self.random.randint(1 << 31), self.device), torch.enable_grad():
                self._run_epochs()
        finally:
            self.network.to(home).eval().arrange(torch.contiguous_format)

    def _run_epochs(self) -> None:
        """Train until the last epoch, the end of patience, divergence or an interruption."""
        history, options = self.history, self.options
        best = self._snapshot()
        epoch = 0
        bar = progress_bar(None, options.progress, self.n_steps, "training")
        try:
            with bar:
                self._keep_bottom()
                if self.held_out is not None:
                    self._validate(self.held_out)
                epochs = self.examples.epochs(options.batch_size, self.random)
                for epoch, batches in zip(range(1, self.num_epochs + 1), epochs):
                    rate = self.optimizer.param_groups[0]["lr"]
                    loss, accuracy = self._run_epoch(batches, bar)
                    if self.held_out is not None:
                        self._validate(self.held_out)
                    history.learning_rate.append(rate)
                    history.loss.append(loss)
                    history.accuracy.append(accuracy)
                    if self.held_out is None or np.argmin(history.validation_loss) == epoch:
                        best, history.best_epoch = self._snapshot(), epoch
                    elif epoch - history.best_epoch >= options.patience:
                        break
        except FloatingPointError as error:
            kept = f"the weights of epoch {history.best_epoch} are kept"
            advice = f"Try a smaller learning rate than {self.first_rate:g}"
            failed = f"training diverged in epoch {epoch}: {error}"
            raise TrainingDiverged(f"{failed}; {kept}. {advice}") from None
        except KeyboardInterrupt:
            warnings.warn(
                f"training was interrupted in epoch {epoch}; the weights of epoch "
                f"{history.best_epoch} are kept",
                stacklevel=5,
            )
        finally:
            if self.bottom is not None:
                self.bottom.remove()
            for tensor, value in best:
                tensor.detach().copy_(value)

    def _run_epoch(self, batches: Iterator[Any], bar: Any) -> tuple[float, float]:
        """Learn from each batch; return the mean log loss and accuracy of the batches."""
        results = []
        for batch in batches:
            inputs = batch.inputs
            if self.variation is not None:
                inputs = augmented(self.variation, inputs, self.random)
            if self.bottom is not None and self.outputs is not None:
                self.bottom.put(self.outputs[batch.index])
            targets = torch.from_numpy(batch.targets).to(self.device)
            with self._precision():
                scores = self.network.score(inputs).float()
            loss = cross_entropy(scores, targets, self.weights)
            self.optimizer.zero_grad()
            loss.backward()
            self._check_copy()
            self.optimizer.step()
            self._shrink_words()
            self.scheduler.step()
            hits = (scores.argmax(1) == targets).float().mean()
            results.append((loss.item(), hits.item()))
            if not math.isfinite(results[-1][0]):
                raise FloatingPointError("the loss is NaN or infinite")
            bar.update()
        for name, tensor in self.finite:
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name.removeprefix('body.')!r} is NaN or infinite")
        loss, accuracy = np.mean(results, axis=0).tolist()
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        return loss, accuracy

    def _check_copy(self) -> None:
        """Raise ValueError if gradients have reached the user's own module."""
        reached = [(one, grad) for one, grad in self.originals if one.grad is not grad]
        for one, grad in reached:
            one.grad = grad
        if reached:
            raise ValueError(
                "the network's forward uses the original by a function that was made in it, such "
                "as a lambda in __init__, so a copy cannot be trained: make it a method"
            )

    def _validate(self, held_out: Examples) -> None:
        """Note the log loss and accuracy of held-out examples."""
        scores = score_all(self.network, held_out, self.options.batch_size, self.bottom)
        if not np.isfinite(scores).all():
            raise FloatingPointError("the scores are NaN or infinite")
        targets = torch.from_numpy(held_out.targets)
        loss = cross_entropy(torch.from_numpy(scores), targets, self.weights.cpu())
        self.history.validation_loss.append(loss.item())
        hits = scores.argmax(axis=1) == held_out.targets
        self.history.validation_accuracy.append(float(hits.mean()))

    def _keep_bottom(self) -> None:
        """Compute what fixed layers at the bottom give, where the examples stay as they are."""
        examples = self.examples
        all_change = all(one.requires_grad for one in self.network.parameters())
        if all_change or not isinstance(examples, Examples):
            return
        batch = next(examples.inputs(self.options.batch_size))
        bottom = Bottom(self.network, batch)
        if bottom.last is None or self.variation is not None:
            return
        if bottom.bytes_per_example * len(examples) <= _MOST_KEPT:
            prepared = examples.prepared()  # texts then have one length
            self.outputs = bottom.compute(prepared.inputs, self.options.batch_size)
            if self.outputs is not None:
                self.examples, self.bottom = prepared, bottom

    def _shrink_words(self) -> None:
        """Let word vectors decay, so that those that no labelled example holds end as nothing."""
        rate = self.scheduler.get_last_lr()[0] * self.options.transferred_rate / _RATE
        decay = _DECAY * self.word_share * min(rate, 1)
        with torch.no_grad():
            for table in self.words if decay else ():
                table.mul_(1 - decay)

    def _precision(self) -> Any:
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _snapshot(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return tensors that training changes, each with a copy of its value."""
        parameters = [one for one in self.network.parameters() if one.requires_grad]
        return [(one, one.detach().clone()) for one in [*parameters, *self.network.buffers()]]


def score_all(
    network: Network, examples: Examples, batch_size: int, bottom: Bottom | None = None
) -> np.ndarray:
    """Return the scores of all examples as in prediction, of shape (n, n_classes)."""
    if bottom is not None:
        bottom.remove()
    with in_prediction(network):
        found = [network.score(inputs).float().cpu() for inputs in examples.inputs(batch_size)]
    return torch.cat(found).numpy()


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU of NVIDIA's if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"device {name!r} cannot be used: {reason}") from error
    return device


def make_optimizer(
    options: TrainingOptions,
    groups: Mapping[str, list[Any]],
    rate: float = _RATE,
    word_share: float = 0.0,
) -> tuple[torch.optim.Optimizer, float]:
    """Make an optimizer of groups of parameters; return it and the learning rate.

    The groups are "new", "transferred" and "words", which `word_share` from 0 to 1 tells how far to
    train like the others or faster; `rate` is the default of the learning rate.
    """
    kinds = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name not in _OTHERS
    }
    name = options.optimizer
    known = {**kinds, "nag": torch.optim.SGD}
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"optimizer must be one of {', '.join(sorted(known))}, got {name!r}")
    kind, accepted = known[name.lower()], inspect.signature(known[name.lower()]).parameters
    given: dict[str, Any] = {"lr": rate}
    given.update((_RENAMED.get(k, k), v) for k, v in (options.optimizer_params or {}).items())
    if name.lower() == "nag":
        given["nesterov"] = given.get("momentum", 0) > 0
    if {"beta1", "beta2"} & given.keys() and "betas" in accepted:
        given["betas"] = given.pop("beta1", 0.9), given.pop("beta2", 0.999)
    if "fused" in accepted and kind is not torch.optim.SGD:  # which takes sparse gradients, too
        given.setdefault("fused", True)
    rate, of_old = given["lr"], options.transferred_rate
    check_number("the learning_rate in optimizer_params", rate, 0)
    factors = {"new": 1.0, "transferred": of_old, "words": (1 + _WORD_FACTOR * word_share) * of_old}
    parts = [{"params": groups[key], "lr": rate * factors[key]} for key in groups if groups[key]]
    try:
        return kind(parts, **given), rate
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} does not accept optimizer_params: {error}") from error


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators, which dropout uses, and put them back after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
