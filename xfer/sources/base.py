"""The contract of a source: a frozen network that turns data into features of its named layers."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xfer.sources.data import (
    Batch,
    Examples,
    IsExample,
    as_array,
    check_names,
    checked_input,
    count,
    is_raw_example,
    open_data,
    take,
    to_numpy,
)
from xfer.sources.table import Features, FeatureTable, check_poolings, pool, with_axis

if TYPE_CHECKING:
    import onnx

# The poolings that leave padding out.
_MASKED = {"masked_mean", "first_token"}


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Parameters
    ----------
    name : str
        Name used to request the layer.
    operator : str
        What it computes, in the framework's own word, such as ``"Convolution"``.
    shape : tuple of (int or None), or None
        Shape of its output for one example; None where it cannot be inferred without data.
    parameter_count : int
        Learned numbers that this layer owns: weights, biases, scales; not running statistics.
    """

    name: str
    operator: str
    shape: tuple[int | None, ...] | None
    parameter_count: int


class OnnxLayers(NamedTuple):
    """A network as an ONNX model up to some layers.

    For each layer: its name in the model, its output for the examples that were given, and the axis
    of the examples in the model's output with the rows of each of them, (0, 1) for most.
    """

    model: "onnx.ModelProto"
    names: list[str]
    arrays: list[np.ndarray]
    places: list[tuple[int, int]]


class SourceModel(ABC):
    """A frozen network with named layers.

    Your own source gives ``layers`` and ``input_names``, and computes one batch in ``_forward``.
    Reading and checking the data, pooling and filling the matrix happen here, for every framework.

    Attributes
    ----------
    batch_size : int
        Examples per batch when the data are arrays or lists: 32 unless you set another number.
    inputs : Inputs or None
        Makes the network's inputs of a list of raw examples; None if data are ready inputs.
    padding_id : int or None
        The word id that pads short sequences; None where there is none or it is not known.
    cache_key : str or None
        Your name for what xfer cannot know about the network or its inputs.
    """

    batch_size: int = 32
    inputs: Any = None
    padding_id: int | None = None
    # What to do about features that depend on the other examples.
    _advice = ""
    # The layer that was taken for some data where none was named.
    _default_layer: str | None = None
    cache_key: str | None = None
    # Of each input: dtype, shape of an example, smallest and largest number, whether all are whole.
    _seen_inputs: Mapping[str, tuple[Any, ...]] = MappingProxyType({})

    @property
    @abstractmethod
    def layers(self) -> list[Layer]:
        """Every layer, each after those that it depends on."""

    @property
    @abstractmethod
    def input_names(self) -> list[str]:
        """Names of the network's inputs."""

    @abstractmethod
    def _forward(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...]
    ) -> Sequence[np.ndarray]:
        """Compute one batch in inference mode: an array of shape (n, ...) for each layer."""

    def _inputs_of(self, layers: Sequence[Layer]) -> list[str]:
        """Return the names of the inputs that these layers depend on; by default, all."""
        return self.input_names

    @property
    def layer_names(self) -> list[str]:
        """Names of ``layers``."""
        return [layer.name for layer in self.layers]

    def find_layers(self, names: str | Iterable[str]) -> tuple[Layer, ...]:
        """Look layers up by name.

        Parameters
        ----------
        names : str or list of str

        Returns
        -------
        tuple of Layer

        Raises
        ------
        TypeError
            If a name is not a string.
        ValueError
            If there is no name, a name occurs twice, or there is no such layer; the message lists
            the nearest names.
        """
        return self._look_up(names)

    def _look_up(self, names: str | Iterable[str]) -> tuple[Layer, ...]:
        """Look layers up by name; their shapes may be left out where they take long to infer."""
        return find_layers(names, self._find_layer)

    def _find_layer(self, name: str) -> Layer:
        return find_layer(name, self.layers)

    def extract(
        self,
        data: Any,
        layer_names: str | Iterable[str],
        *,
        pooling: str | Mapping[str, str] = "flatten",
        batch_size: int | None = None,
        progress: bool | None = None,
        cache: Any = None,
        watch: Callable[[Examples], None] | None = None,
    ) -> Features:
        """Run data through the network and collect the outputs of named layers.

        Parameters
        ----------
        data : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            The examples: an array for a network with one input, a dict by name for several, or a
            list of raw examples (texts, images) where the source has ``inputs``. Or batches: an
            MXNet iterator, which is reset, read once, and reset again; a DataLoader of PyTorch or
            Gluon; a generator or list of batches, each an array, a tuple of the inputs and maybe
            labels, or a dict of inputs and maybe ``"labels"``.
        layer_names : str or list of str
            The layers, in the order of the columns.
        pooling : str or dict of str to str, default="flatten"
            How to reduce a layer's output, for all layers or by name. For maps: ``"mean"``,
            ``"max"`` or ``"mean+max"`` over each channel's positions. If the network does not show
            which axis holds the channels, it is an example's first; if it is the last, use
            ``"channels_last_mean"`` and so on. For tokens of shape (tokens, features):
            ``"first_token"``, or ``"masked_mean"`` over the tokens that are not padding.
            ``"flatten"`` keeps everything. Layers without positions do not change.
        batch_size : int, optional
            Examples per batch for arrays and lists; iterables bring their own.
        progress : bool, optional
            Whether to show a bar; by default only in an interactive session.
        cache : xfer.FeatureCache, optional
            Keeps features by example, so that each is computed once.
        watch : callable, optional
            Called with the examples of each batch: a dict of arrays, or a list of raw examples.

        Returns
        -------
        Features
            In the order of the data, without the padding of a last batch.

        Raises
        ------
        ValueError
            If a layer is unknown; if the data are empty or do not fit the network; if the data or
            the features hold NaN or infinity; or if a layer's features of an example depend on the
            other examples in a batch.
        """
        layers = self._look_up(layer_names)
        names = [layer.name for layer in layers]
        poolings = check_poolings(pooling, names)
        data = open_data(data)
        batches = data.batches(
            self.input_names,
            self._inputs_of(layers),
            self._is_example,
            batch_size=self.batch_size if batch_size is None else batch_size,
            progress=progress,
        )
        keys = None if cache is None else _cache_keys(self, layers, poolings)
        table = FeatureTable(names, data.n_examples, None if cache is None else cache.path.parent)
        labels = []
        for batch in batches:
            labels.append(batch.labels)
            if isinstance(batch.examples, dict):
                table.see(batch.examples)
            if watch is not None:
                watch(take(batch.examples, slice(batch.n_examples)))
            if keys is None:
                outputs = self._compute(batch.examples, layers, poolings)
            else:
                outputs = self._read_or_compute(batch, layers, poolings, cache, keys)
            table.append(outputs, batch.n_examples)
        return table.finish(data.join_labels(labels))

    def prepare(self, examples: Examples, needed: Sequence[str]) -> dict[str, np.ndarray]:
        """Make the network's inputs of a batch; a dict of inputs is returned as it is."""
        if isinstance(examples, dict):
            return examples
        found = self.inputs(examples)
        if not isinstance(found, Mapping):
            if len(needed) > 1:
                raise ValueError(
                    f"inputs must return a dict with an array for each of {', '.join(needed)}; "
                    f"it returned {type(found).__name__}"
                )
            found = {needed[0]: found}
        check_names(found, self.input_names, needed)
        inputs = {name: _stack(values, name) for name, values in found.items()}
        for name, array in inputs.items():
            if len(array) != len(examples):
                raise ValueError(
                    f"inputs gave {len(array)} rows of {name!r} for {len(examples)} examples: it "
                    "is called with a list of examples and returns one row for each"
                )
        return {name: checked_input(array, name) for name, array in inputs.items()}

    def sample_inputs(self, n: int) -> dict[str, np.ndarray]:
        """Return random examples like the first ones that the network has seen.

        Raises
        ------
        ValueError
            If it has seen none since it was opened.
        """
        if not self._seen_inputs:
            raise ValueError(
                "the network has seen no data since it was opened, so it is unknown what they look "
                "like: give X, a few examples"
            )
        random, found = np.random.default_rng(0), {}
        for name, (dtype, shape, low, high, are_whole) in self._seen_inputs.items():
            numbers = random.uniform(low, high + are_whole, (n, *shape))
            found[name] = (np.floor(numbers) if are_whole else numbers).astype(dtype)
        return found

    @property
    def _is_example(self) -> IsExample:
        """The test that tells a raw example from a batch; None if data are ready inputs."""
        if self.inputs is None:
            return None
        return getattr(self.inputs, "is_example", is_raw_example)

    def _compute(
        self, examples: Examples, layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        """Compute the pooled features of one batch."""
        needed = () if isinstance(examples, dict) else self._inputs_of(layers)
        inputs = self.prepare(examples, needed)
        outputs = self._pooled(inputs, layers, poolings)
        self._check_same_features(examples, inputs, outputs, layers, poolings)
        if not self._seen_inputs:
            self._seen_inputs = {
                name: (array.dtype, array.shape[1:], *_range_of(array))
                for name, array in inputs.items()
                if array.size
            }
        return outputs

    def _pooled(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        outputs = self._forward(inputs, layers)
        mask = self._mask(inputs, poolings)
        names = [layer.name for layer in layers]
        for name, output in zip(names, outputs):
            check_rows(name, np.shape(output), inputs)
        return [
            pool(output, with_axis(pooling, name, output.shape, self._channels), name, mask)
            for output, pooling, name in zip(outputs, poolings, names)
        ]

    def _check_same_features(
        self,
        examples: Examples,
        inputs: dict[str, np.ndarray],
        outputs: Sequence[np.ndarray],
        layers: tuple[Layer, ...],
        poolings: Sequence[str],
    ) -> None:
        """Compute some examples again in another batch; refuse layers that give other features."""
        checked = vars(self).setdefault("_checked", {})
        asked = tuple(layer.name for layer in layers), tuple(poolings)
        # Equal examples cannot show whether a layer mixes them: then look again at a later batch.
        differ = any((array[0] != array[-1]).any() for array in inputs.values())
        if checked.get(asked, -1) >= differ:
            return
        # Another batch size: the first axis can have the right length by chance. Another order too,
        # and not just reversed: a network that reverses its batch would pass that.
        index = np.array([-1] + [0] * (3 if count(inputs) == 3 else 2))
        few = {name: array[index] for name, array in inputs.items()}
        if not isinstance(examples, dict):
            with suppress(Exception):  # an open file, which can be read only once
                found = self.prepare(take(examples, index), self._inputs_of(layers))
                few = found if all(array.size for array in found.values()) else few
        try:
            again = self._pooled(few, layers, poolings)
        except ValueError as error:
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(
                f"layers {names} cannot be computed for another batch of the same examples: {error}"
            ) from error
        for layer, output, other in zip(layers, outputs, again):
            if output.dtype.kind not in "fiub":
                raise ValueError(f"layer {layer.name!r} gives {output.dtype}, not numbers")
            # Rounding depends on the batch size: by a share of each column's largest value, and by
            # little of the layer's, unless that is computed with few digits.
            floats = output.astype(np.result_type(output, np.float32), copy=False)
            sizes = np.where(np.isfinite(floats), floats, 0)
            np.abs(sizes, out=sizes)
            share = self._tolerance if self._tolerance > 0.01 else self._tolerance / 100
            bound = self._tolerance * sizes.max(axis=0) + share * sizes.max(initial=0)
            if other.shape[1:] != output.shape[1:] or not _close(output[index], other, bound):
                raise ValueError(
                    f"layer {layer.name!r} gives an example different features in another batch; "
                    "features must not depend on the other examples or on random numbers"
                    + (", nor may the inputs made of it" if self.inputs else "")
                    + self._advice
                )
        checked[asked] = differ

    def _read_or_compute(
        self,
        batch: Batch,
        layers: tuple[Layer, ...],
        poolings: Sequence[str],
        cache: Any,
        keys: list[dict[str, Any]],
    ) -> list[np.ndarray]:
        """Read a batch's features from a cache, and compute those that it lacks."""
        from xfer.cache import example_digests

        examples = take(batch.examples, slice(batch.n_examples))
        digests, shapes = example_digests(examples), None
        if isinstance(examples, dict):
            # Larger maps give more features, so the shape of an example is part of the key.
            shapes = {name: list(array.shape[1:]) for name, array in examples.items()}
        keys = [{**key, "shapes": shapes} for key in keys]
        kept = [cache.read(key, digests) for key in keys]
        complete = np.logical_and.reduce([found for found, _ in kept])
        missing = np.flatnonzero(~complete)
        if not len(missing):
            return [rows for _, rows in kept]
        outputs = []
        computed = self._compute(take(examples, missing), layers, poolings)
        for key, (found, rows), values in zip(keys, kept, computed):
            with np.errstate(over="ignore"):
                values = values[: len(missing)].astype(np.float32, copy=False)
            cache.write(key, [digests[i] for i in missing], values)
            output = np.empty((len(digests), *values.shape[1:]), np.float32)
            output[missing] = values
            if complete.any():
                output[complete] = rows[complete[found]]
            outputs.append(output)
        return outputs

    @property
    def _tolerance(self) -> float:
        """How far features may differ between batches, as a share of the layer's largest value."""
        return 0.01

    def _mask(self, inputs: Mapping[str, np.ndarray], poolings: Sequence[str]) -> np.ndarray | None:
        """Return an array (n, tokens) that is 0 where a token is padding, if that is known."""
        for name, array in inputs.items():
            if name == "attention_mask" or name.endswith("key_padding_mask"):
                return _kept(array, name)
            if name.endswith("padding_mask") and not _MASKED.isdisjoint(poolings):
                raise ValueError(
                    f"the input {name!r} may mark padding or tokens: wrap the network so that it "
                    "takes an attention_mask, which is 1 for tokens"
                )
        if self.padding_id is None:
            return None
        matrices = {name: array for name, array in inputs.items() if array.ndim == 2}
        ids = [array for name, array in matrices.items() if name in self._id_inputs()]
        ids = ids or list(matrices.values())
        if len(ids) == 1:
            return ids[0] != self.padding_id
        if ids and not _MASKED.isdisjoint(poolings):
            raise ValueError(
                f"several inputs may hold the word ids ({', '.join(matrices)}), so the padding is "
                "unknown: also give the input attention_mask, of shape (n, tokens)"
            )
        return None

    def _channels(self, name: str, shape: tuple) -> str | None:
        """Tell the axis of an example that holds the channels: "first", "last" or None."""
        return "first"

    def _id_sizes(self) -> Iterable[tuple[str, int]]:
        """Return the inputs that are known to hold ids, each with the size of a table of them."""
        return ()

    def _id_inputs(self) -> Collection[str]:
        """Return the names of the inputs that are known to hold word ids."""
        return of_words(self._id_sizes())

    def _fingerprints(self, layers: Sequence[Layer]) -> list[Any]:
        """Return for each layer what decides its values, as JSON can hold it."""
        return [self.fingerprint([layer.name]) for layer in layers]  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict) -> "SourceModel":
        # Nobody changes the network, so copies can share it.
        return self

    def __repr__(self) -> str:
        inputs = ", ".join(self.input_names)
        return f"{type(self).__name__}({len(self.layers)} layers, inputs: {inputs})"

    def __str__(self) -> str:
        """Lay the layers out as a table."""
        rows, notes = self._table()
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([repr(self), *lines, *notes])

    def _repr_html_(self) -> str:
        from xfer._html import table

        (head, *rows), notes = self._table()
        return table(repr(self), head, rows, notes)

    def _table(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Return the rows of the table of layers, headings first, and notes below it."""
        from xfer.sources.candidates import candidate_layers

        marks = dict[str, str]()
        with suppress(ValueError):  # a network of which no layer gives features
            found = candidate_layers(self)
            marks = dict.fromkeys(found.pooling, "good")
            marks[self._default_layer or found.last] = "default"
        rows: list[tuple[str, ...]] = [
            ("layer", "operator", "output shape", "parameters", "features")
        ]
        for layer in self.layers:
            shape = "?" if layer.shape is None else str(layer.shape).replace("None", "?")
            count = f"{layer.parameter_count:,}"
            rows.append((layer.name, layer.operator, shape, count, marks.get(layer.name, "")))
        notes = ["?: known once the network has run on an example"] * any("?" in r[2] for r in rows)
        return rows, [
            *notes,
            "default: taken for features if you name no layer; good: worth trying",
        ]


def _cache_keys(
    source: SourceModel, layers: Sequence[Layer], poolings: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each layer what decides its features beside the example, as JSON can hold it."""
    if not hasattr(source, "fingerprint"):
        raise ValueError(
            f"features of a {type(source).__name__} cannot be cached: it has no method "
            "fingerprint(layer_names) that tells one network from another"
        )
    shared = {
        "source": type(source).__name__,
        "padding_id": source.padding_id,
        "inputs": None if source.inputs is None else source.inputs.identity(),
    }
    return [
        {**shared, "network": network, "layer": layer.name, "pooling": pooling}
        for layer, pooling, network in zip(layers, poolings, source._fingerprints(layers))
    ]


def find_layers(names: str | Iterable[str], find_one: Any) -> tuple[Layer, ...]:
    """Look up the layers of a list of names, each of which may occur once."""
    if not isinstance(names, Iterable):
        raise TypeError(f"feature_layer_names must be a name or a list of names, got {names!r}")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("feature_layer_names must name at least one layer")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a layer name must be a string, got {type(name).__name__}: {name!r}")
    layers = tuple(find_one(name) for name in names)
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError(f"feature_layer_names must not repeat a layer, got {names}")
    return layers


def find_layer(name: str, layers: Sequence[Layer]) -> Layer:
    """Find the layer of a name; the error lists the nearest names."""
    found = [layer for layer in layers if layer.name == name]
    if len(found) == 1:
        return found[0]
    names = [layer.name for layer in layers]
    calls = [one for one in names if one.rpartition(":")[0] == name]
    if found or calls:
        raise ValueError(
            f"the network has {len(found or calls)} layers named {name!r}: "
            + (f"ask for one of {', '.join(calls)}" if calls else "rename them")
        )
    # Of many layers, the nearest are of more use than the first.
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4 if len(names) <= 12 else 0.0)
    names = names if len(names) <= 12 else [*names[:12], f"... ({len(names)} in all)"]
    hint = f"nearest: {', '.join(near)}" if near else f"layers: {', '.join(names)}"
    raise ValueError(f"the network has no layer {name!r}; {hint}")


def _kept(mask: np.ndarray, name: str) -> np.ndarray:
    """Return a network's mask as one of shape (n, tokens) that is 0 where a token is padding."""
    if mask.ndim > 2 and mask[0].size == mask.shape[-1]:
        mask = mask.reshape(len(mask), -1)
    if name != "attention_mask":
        return mask == 0  # of PyTorch's transformers, which mark the padding
    # Masks that are added to scores are 0 where a token counts, and very negative elsewhere.
    is_added = mask.dtype.kind == "f" and mask.max(initial=0) == 0
    return mask > -1 if is_added or (mask < 0).any() else mask


def check_rows(name: str, shape: Sequence[int], inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse a layer's output that has not one row for each example."""
    n = len(next(iter(inputs.values())))
    if not shape or shape[0] != n:
        raise ValueError(
            f"layer {name!r} has output shape {tuple(shape)} for a batch of {n} examples of shape "
            f"{example_shapes(inputs)}; features need one row for each example on the first axis"
        )


def examples_first(output: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Move the axis of the examples to the front; each example has `count` rows of it."""
    if output.ndim <= axis:
        return output
    output = np.moveaxis(output, axis, 0) if axis else output
    return output if count == 1 else output.reshape(-1, count, *output.shape[1:])


def _range_of(array: np.ndarray) -> tuple[float, float, bool]:
    """Return the smallest and the largest number, and whether all are whole."""
    return float(array.min()), float(array.max()), bool((array == np.floor(array)).all())


def _close(found: np.ndarray, other: np.ndarray, bound: np.ndarray) -> bool:
    """Return whether all numbers are that close; NaN and infinity are close to themselves."""
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(np.subtract(found, other, dtype=np.float64)) <= bound
    return bool((near | (found == other) | ((found != found) & (other != other))).all())


def of_words(tables: Iterable[tuple[str, int]]) -> set[str]:
    """Return the inputs of much the largest embedding, that of words; of all if none is."""
    found = list(tables)
    largest = max((size for _, size in found), default=0)
    words = {name for name, size in found if size == largest}
    others = {name for name, size in found if name not in words and 10 * size > largest}
    return words | others


def example_shapes(inputs: Mapping[str, np.ndarray]) -> Any:
    """Return the shape of one example; a dict of shapes where there are several inputs."""
    shapes = {name: array.shape[1:] for name, array in inputs.items()}
    return next(iter(shapes.values())) if len(shapes) == 1 else shapes


def channels_advice(inputs: Mapping[str, np.ndarray]) -> str:
    """Say what to do about pictures with their channels last, for an error."""
    last = any(a.ndim == 4 and a.shape[3] in (1, 3, 4) and a.shape[1] > 4 for a in inputs.values())
    return "; if it wants channels first, use X.transpose(0, 3, 1, 2)" if last else ""


def _stack(values: Any, name: str) -> np.ndarray:
    """Return what `inputs` made as one array, stacking a list of the examples' arrays."""
    if isinstance(values, (list, tuple)):
        try:
            return as_array(np.stack([to_numpy(value) for value in values]), name)
        except ValueError as error:
            raise ValueError(
                f"inputs must give arrays of one shape and of numbers for {name!r}: {error}"
            ) from error
    return as_array(values, name)
