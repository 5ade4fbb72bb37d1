"""The training loop: epochs, held-out examples, the best weights, divergence and interruption."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch.nn.functional import cross_entropy

from xfer._checks import check_number
from xfer._io import progress_bar
from xfer.training.augment import augmented
from xfer.training.bottom import Bottom
from xfer.training.examples import Examples, Stream
from xfer.training.history import History, TrainingDiverged
from xfer.training.initial import start_at_random
from xfer.training.network import Network, fix, in_prediction
from xfer.training.options import TrainingOptions

# Factor of the learning rate when a share of the steps has been done.
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
# By default, the epochs that give so many steps, within these limits.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 400, 6, 30
# The most bytes of fixed layers' outputs that are kept instead of computed in every epoch.
_MOST_KEPT = 1 << 30
# MXNet's names of parameters of optimizers.
_RENAMED = {"learning_rate": "lr", "wd": "weight_decay", "epsilon": "eps", "gamma1": "alpha"}
# These need a function that computes the loss again, or other gradients.
_OTHERS = {"Optimizer", "LBFGS", "SparseAdam"}


def train(
    network: Network,
    options: TrainingOptions,
    examples: Examples | Stream,
    held_out: Examples | None,
    new: set[str],
    class_weights: np.ndarray,
    random: RandomState,
    history: History,
) -> None:
    """Train a network in place and leave it with the best weights, in inference mode.

    Without held-out examples these are the last ones. `new` are parameters of the network's body
    that do not come from the source model.
    """
    home = next(
        chain(network.body.parameters(), network.body.buffers()), network.scores.bias
    ).device
    device = find_device(options.device)
    network.to(device)
    try:
        with _seeded(random.randint(1 << 31), device):
            given = network, options, examples, held_out, new, class_weights, random, history
            _Loop(*given, device).run()
    finally:
        network.to(home).eval()


def check_options(options: TrainingOptions) -> None:
    """Refuse a device that is not there, and an optimizer or its parameters that PyTorch lacks."""
    find_device(options.device)
    make_optimizer(options, [torch.zeros(1, requires_grad=True)], [])


def prepare(
    network: Network,
    source: Any,
    fixed_layers: Sequence[str],
    random_layers: Sequence[str],
    random: RandomState,
) -> set[str]:
    """Fix some layers, and start others at random; return the names of parameters that are new."""
    names = {*network.body.state_dict()}
    found = []
    for option, layers in ("fixed_layers", fixed_layers), ("random_layers", random_layers):
        owned = {layer: source.parameters_of(layer) for layer in layers}
        for layer, own in owned.items():
            if own and names.isdisjoint(own):
                raise ValueError(f"{option} has layer {layer!r}, which num_layers_to_drop drops")
        found.append({name for own in owned.values() for name in own})
    start_at_random(network, source, random_layers, random)
    fix(network, found[0])
    return {f"body.{name}" for name in found[1]}


class _Loop:
    def __init__(
        self,
        network: Network,
        options: TrainingOptions,
        examples: Examples | Stream,
        held_out: Examples | None,
        new: set[str],
        class_weights: np.ndarray,
        random: RandomState,
        history: History,
        device: torch.device,
    ) -> None:
        self.network, self.options, self.random = network, options, random
        self.examples, self.held_out, self.device = examples, held_out, device
        self.weights = torch.as_tensor(class_weights, dtype=torch.float32, device=device)
        self.history = history
        trained = {n: one for n, one in network.named_parameters() if one.requires_grad}
        names = [name for name in trained if name.startswith("body.") and name not in new]
        kept, rest = [trained.pop(name) for name in names], list(trained.values())
        optimizer, first = make_optimizer(options, rest, kept)
        steps = examples.steps(options.batch_size)
        few_enough = int(np.clip(_STEPS // steps, _FEWEST_EPOCHS, _MOST_EPOCHS))
        self.num_epochs = options.num_epochs or few_enough
        schedule, self.n_steps = _SCHEDULES[options.learning_rate_schedule], self.num_epochs * steps
        self.optimizer, self.first_rate = optimizer, first
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(min(step / self.n_steps, 1))
        )
        self.bottom: Bottom | None = None
        self.outputs: torch.Tensor | None = None

    def run(self) -> None:
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
                stacklevel=4,
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
            if self.options.variation is not None:
                inputs = augmented(self.options.variation, inputs, self.random)
            if self.bottom is not None and self.outputs is not None:
                self.bottom.put(self.outputs[batch.index])
            targets = torch.from_numpy(batch.targets).to(self.device)
            with self._precision():
                scores = self.network.score(inputs).float()
            loss = cross_entropy(scores, targets, self.weights)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            hits = (scores.argmax(1) == targets).float().mean()
            results.append((loss.item(), hits.item()))
            if not math.isfinite(results[-1][0]):
                raise FloatingPointError("the loss is NaN or infinite")
            bar.update()
        for name, tensor in self.network.state_dict(keep_vars=True).items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name.removeprefix('body.')!r} is NaN or infinite")
        loss, accuracy = np.mean(results, axis=0).tolist()
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        return loss, accuracy

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
        if bottom.last is None or self.options.variation is not None:
            return
        if bottom.bytes_per_example * len(examples) <= _MOST_KEPT:
            self.outputs = bottom.compute(examples.inputs(self.options.batch_size))
            self.bottom = bottom

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
    options: TrainingOptions, new: list[Any], transferred: list[Any]
) -> tuple[torch.optim.Optimizer, float]:
    """Make an optimizer of two groups of parameters; return it and the learning rate."""
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
    given: dict[str, Any] = {"lr": 0.001}
    given.update((_RENAMED.get(k, k), v) for k, v in (options.optimizer_params or {}).items())
    if name.lower() == "nag":
        given["nesterov"] = given.get("momentum", 0) > 0
    if {"beta1", "beta2"} & given.keys() and "betas" in accepted:
        given["betas"] = given.pop("beta1", 0.9), given.pop("beta2", 0.999)
    if "fused" in accepted and all(one.is_floating_point() for one in [*new, *transferred]):
        given.setdefault("fused", True)
    rate = given["lr"]
    check_number("learning_rate", rate, 0)
    groups = [{"params": new}, {"params": transferred, "lr": rate * options.transferred_rate}]
    try:
        return kind([one for one in groups if one["params"]], **given), rate
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} does not accept optimizer_params: {error}") from error


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators, which dropout uses, and put them back after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
