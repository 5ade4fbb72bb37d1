"""Which layers of a network are worth trying, found from its structure."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xfer.sources.table import Features, pooled_shape

# More layers cost time and bring little: neighbours hold nearly the same.
_MOST = 12
# Wider layers cost more memory than they bring accuracy.
_WIDEST = 50_000
_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention"}
_LINEAR |= {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"}
_OF_ALL_POSITIONS = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
_POOLING = {"MaxPool", "AveragePool", "LpPool", *_OF_ALL_POSITIONS}
_JOINS = {"Add", "Sum", "Concat"}
# Operators whose output holds the values of their first input.
_COPIES = {"Flatten", "Reshape", "Dropout", "Identity", "Squeeze", "Unsqueeze", "Cast"}
_COPIES |= {"Transpose"}
_PROBABILITIES = {"Softmax", "LogSoftmax", "Sigmoid", "ArgMax"}
# By MXNet's names.
_PROBABILITIES |= {"SoftmaxOutput", "Softmax", "softmax", "log_softmax", "SoftmaxActivation"}
_PROBABILITIES |= {"LogisticRegressionOutput", "sigmoid", "argmax"}
_SIZES = {"Shape", "Size"}


class Ends(NamedTuple):
    """Where the blocks of a network end, in its order, and the layer that a practitioner takes.

    ``stages`` counts for each layer how often the maps were made smaller before it. ``scores`` are
    the class scores; "" if the last layer is itself features, as far as the network shows.
    """

    stages: dict[str, int]
    last: str
    scores: str = ""


class Candidates(NamedTuple):
    """Layers worth trying, in the network's order, and the one before the class scores.

    Parameters
    ----------
    pooling : dict of str to str
        The pooling of each layer.
    last : str
        The last layer before the class scores, one of these.
    """

    pooling: dict[str, str]
    last: str


def candidate_layers(
    source: Any, data: Any = None, names: Sequence[str] | None = None
) -> Candidates:
    """Find the layers of a source that are worth trying as features.

    These are the ends of blocks, what pooling leaves, the inputs of dense layers, and the class
    scores. In graphs only values count that all of the data pass through, so nothing inside a block
    is found. Where there is no graph, PyTorch blocks are found by their class, which occurs several
    times. If there are more than twelve, the ends of stages come first. Maps are reduced by
    ``"mean+max"``, tokens by ``"masked_mean"``.

    Parameters
    ----------
    source : SourceModel, or any object with ``layers`` and ``extract``
    data : array, dict or list, optional
        A few examples, for layers whose shape is not known. Layers that give no features of them,
        the same features as another layer, or more than 50,000 features are left out.
    names : list of str, optional
        Layers to take instead, all of them: then only their poolings are found.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        If no layer is left.
    """
    if data is not None:
        # After a first pass, more shapes are known, and with them more of the graph.
        _run_once(source, data)
    if names is not None:
        shapes = {name: _shape_of(source, name) for name in names}
        return Candidates({n: _pooling_of(source, n, shapes[n]) for n in names}, names[-1])
    ends = _ends(source)
    names = _thin_out(ends)
    pooling = _that_give_features(source, names, data)
    if not pooling:
        raise _nothing_found(source, names, data)
    before = names[: names.index(ends.last) + 1]
    last = [name for name in pooling if name in before][-1:] or [*pooling][-1:]
    _warn_if_too_early(source, ends.last, last[0], data)
    if data is not None and (last[0] not in before or [*pooling] == [ends.scores]):
        _warn_of_scores(last[0])
    return Candidates(pooling, last[0])


def default_layer(source: Any, data: Any = None) -> tuple[str, str]:
    """Find the last layer before the class scores, and the pooling that fits it.

    ``data`` are a few examples, for layers whose shape is not known.
    """
    if data is not None:
        _run_once(source, data)
    ends = _ends(source)
    names = [*ends.stages]
    before = names[: names.index(ends.last) + 1] if names else []
    for name in [*reversed(before), *names[len(before) :]]:
        for found in _that_give_features(source, [name], data).items():
            if name == names[-1] or _reads_all(source, *found, names[-1], data):
                _warn_if_too_early(source, ends.last, name, data)
                if name not in before or name == ends.scores:
                    _warn_of_scores(name)
                if data is not None and hasattr(source, "_default_layer"):
                    source._default_layer = name
                return found
    raise _nothing_found(source, names, data)


def _run_once(source: Any, data: Any) -> None:
    """Show a source the shapes of its layers; one that sees each pass follows it to the end."""
    name = [*getattr(source, "_whole", ()), source.layers[0].name][0]
    _extract(source, name, "flatten", data)


def _warn_of_scores(name: str) -> None:
    warnings.warn(
        f"no layer before {name!r} gives features that hold all that it reads, so {name!r} is "
        "taken. It may be the class scores, which are poor features for new classes; if so, name "
        "other layers as feature_layer_names",
        stacklevel=2,
    )


def _warn_if_too_early(source: Any, last: str, taken: str, data: Any) -> None:
    """Warn where the data do not fit the last layer before the scores, but an earlier one."""
    if data is None or last == taken:
        return
    try:
        source.extract(data, [last], progress=False)
    except ValueError as error:
        if "do not fit the network" in str(error):
            warnings.warn(
                f"{error}; so {taken!r} is the last layer that gives features. Do the data have "
                "the size that the network was trained with?",
                stacklevel=2,
            )


def _reads_all(source: Any, name: str, pooling: str, scores: str, data: Any) -> bool:
    """Return whether a layer depends on each of several inputs that the scores depend on."""
    if not isinstance(data, Mapping) or len(data) < 2:
        return True

    def change(other: Any, name: str, pooling: str) -> bool:
        first, second = (_extract(source, name, pooling, one) for one in (data, other))
        if first is None or second is None:
            return False
        return not np.array_equal(first.matrix, second.matrix)

    for key, values in data.items():
        other = {**data, key: np.asarray(values)[::-1]}
        if change(other, scores, "flatten") and not change(other, name, pooling):
            return False
    return True


def _ends(source: Any) -> Ends:
    """Return the ends of blocks; all layers of a source that does not know them."""
    find_ends = getattr(source, "_block_ends", None)
    ends = find_ends() if find_ends else None
    if ends is not None and ends.stages:
        return ends
    layers = [layer for layer in source.layers if layer.shape != ()]
    scores = [layer for layer in layers if layer.operator not in _PROBABILITIES] or layers
    names = [layer.name for layer in scores]
    last = names[max(len(names) - 2, 0)] if names else ""
    return Ends(dict.fromkeys(names, 0), last, names[-1] if len(names) > 1 else "")


def _nothing_found(source: Any, names: Sequence[str], data: Any) -> ValueError:
    if data is not None and names:
        # Most often the data do not fit the network, and the first layer says how.
        source.extract(data, [names[0]], progress=False)
    return ValueError(f"no layer of {source!r} gives features; name the layers yourself")


def graph_ends(
    nodes: Sequence[Any],
    parameters: Mapping[str, np.ndarray],
    inputs: Iterable[str],
    heads: Iterable[str],
    names: Collection[str],
) -> Ends:
    """Find the ends of blocks in a graph of ONNX operators; `names` are those of the layers."""
    graph = _Graph(nodes, parameters, inputs, names)
    # Where the end of the network has no conversion, the values that nothing reads are taken.
    given = [graph.scores(head) for head in heads if head in graph.makers]
    stages: dict[str, int] = {}
    work, worked = {}, 0
    for value, index in graph.cuts(given or graph.unread()):
        n_linear = graph.n_linear[index]
        is_new = n_linear > worked or graph.makers[value].op_type in _POOLING
        is_end = graph.is_joined_or_pooled(value) or (is_new and graph.is_read_whole(value))
        if is_end and graph.layer_of(value):
            stages[graph.layer_of(value)] = graph.n_smaller[index]
            work[graph.layer_of(value)] = worked = n_linear
    last = next(reversed(stages), "")
    scores = {name: head for head in given if (name := graph.layer_of(head))}
    found = ""
    ends = [name for name in stages if name not in scores]
    for name, head in scores.items():
        classifier = graph.classifier_of(head)
        before = [] if classifier is None else ends
        before = [one for one in before if work[one] < graph.n_linear[classifier or 0]]
        last = before[-1] if before else name
        found = "" if classifier is None else name
        stages[name] = stages.pop(name, graph.n_smaller[graph.places[head]])
    return Ends(stages, last, found)


class _Graph:
    """The values of a graph that depend on its inputs, and on what is learned."""

    def __init__(
        self,
        nodes: Sequence[Any],
        parameters: Mapping[str, np.ndarray],
        inputs: Iterable[str],
        names: Collection[str],
    ) -> None:
        weights = {n for n, a in parameters.items() if a.dtype.kind == "f" and a.size > 1}
        weights |= {n for n, a in parameters.items() if a.dtype.itemsize == 1 and a.size > 1}
        data = set(inputs)
        self.nodes, self.names = nodes, names
        self.makers: dict[str, Any] = {}
        self.places: dict[str, int] = {}
        #: The values that a node reads and that depend on the inputs; not sizes.
        self.reads: list[list[str]] = []
        self.readers: dict[str, list[Any]] = {}
        # Values that depend on parameters too, unlike masks; and on a product with parameters,
        # unlike embeddings.
        self.learned: set[str] = set()
        self.computed: set[str] = set()
        self.n_linear, self.n_smaller = [], []
        n_linear = n_smaller = 0
        for index, node in enumerate(nodes):
            found = [] if node.op_type in _SIZES else [n for n in node.input if n in data]
            self.reads.append(list(dict.fromkeys(found)))
            has_weights = not weights.isdisjoint(node.input)
            outputs = [name for name in node.output if name]
            if found:
                data.update(outputs)
                self.places.update(dict.fromkeys(outputs, index))
                self.makers.update(dict.fromkeys(outputs, node))
                is_linear = node.op_type in _LINEAR and has_weights
                n_linear += is_linear
                n_smaller += _makes_smaller(node)
                if has_weights or not self.learned.isdisjoint(found):
                    self.learned.update(outputs)
                if is_linear or not self.computed.isdisjoint(found):
                    self.computed.update(outputs)
            elif has_weights:
                weights.update(outputs)
            self.n_linear.append(n_linear)
            self.n_smaller.append(n_smaller)
        self.weights = weights
        for index, read in enumerate(self.reads):
            for name in dict.fromkeys(map(self.root, read)):
                self.readers.setdefault(name, []).append(nodes[index])

    def root(self, value: str) -> str:
        """Return the first value that holds the same numbers."""
        while value in self.makers and self.makers[value].op_type in _COPIES:
            before = self.makers[value].input[0]
            if before not in self.makers:
                break
            value = before
        return value

    def layer_of(self, value: str) -> str:
        """Return the first layer that holds the numbers of a value; "" if there is none."""
        root = self.root(value)
        same = (name for name in self.places if name in self.names and self.root(name) == root)
        return next(same, "")

    def scores(self, head: str) -> str:
        """Return what a softmax at the end is of, where it is of something computed."""
        value = self.root(head)
        while self.makers[value].op_type in _PROBABILITIES:
            before = self.root(self.makers[value].input[0])
            if before not in self.computed:
                break
            value = before
        return value

    def unread(self) -> list[str]:
        """Return the values that nothing reads."""
        return [name for name in self.makers if self.root(name) not in self.readers]

    def cuts(self, heads: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Yield the values, and their places, that all of the data pass through up to the heads."""
        needed = set(heads)
        for index in reversed(range(len(self.nodes))):
            if not needed.isdisjoint(self.nodes[index].output):
                needed.update(self.reads[index])
        left = Counter(name for index, read in self._needed(needed) for name in read)
        unread: set[str] = set()
        found: set[str] = set()
        for index, read in self._needed(needed):
            for name in read:
                left[name] -= 1
                if not left[name]:
                    unread.discard(name)
            unread.update(self.learned & needed & {*self.nodes[index].output})
            if len(unread) == 1 and unread <= {*self.nodes[index].output} & self.computed:
                value = self.root(next(iter(unread)))
                if value not in found:
                    found.add(value)
                    yield value, index

    def _needed(self, needed: set[str]) -> Iterator[tuple[int, list[str]]]:
        for index, node in enumerate(self.nodes):
            if self.reads[index] and not needed.isdisjoint(node.output):
                yield index, self.reads[index]

    def is_joined_or_pooled(self, value: str) -> bool:
        """Return whether branches end in a value, or pooling made it smaller."""
        node = self.makers[value]
        branches = self.learned.intersection(node.input)
        is_joined = node.op_type in _JOINS and len(branches) > 1
        return is_joined or (node.op_type in _POOLING and _makes_smaller(node))

    def is_read_whole(self, value: str) -> bool:
        """Return whether a layer reads a value that leaves no positions or fewer.

        What pooling with strides leaves is an end itself, and the values before it are not.
        """
        return any(
            _makes_smaller(node)
            if "Conv" in node.op_type
            else node.op_type in _OF_ALL_POSITIONS
            or (node.op_type in _LINEAR and not self.weights.isdisjoint(node.input))
            for node in self.readers.get(value, ())
        )

    def classifier_of(self, head: str) -> int | None:
        """Return the place of the linear layer that a head comes from, if nothing learned follows.

        Averages of maps may follow, as in fully convolutional networks.
        """
        value = head
        while value in self.makers:
            node, index = self.makers[value], self.places[value]
            has_weights = not self.weights.isdisjoint(node.input)
            if node.op_type in _LINEAR:
                return index if has_weights else None
            is_bias = node.op_type == "Add"
            is_max = node.op_type in ("MaxPool", "GlobalMaxPool")
            if len(self.reads[index]) != 1 or is_max or (has_weights and not is_bias):
                return None
            value = self.reads[index][0]
        return None


def _makes_smaller(node: Any) -> bool:
    """Return whether an operator gives fewer positions than it reads."""
    if node.op_type in ("MaxPool", "AveragePool", "LpPool") or node.op_type.endswith("Conv"):
        strides = [list(one.ints) for one in node.attribute if one.name == "strides"]
        return any(stride > 1 for stride in (strides or [[1]])[0])
    return node.op_type in _POOLING


def _thin_out(ends: Ends) -> list[str]:
    """Keep at most twelve: the scores, the last layer, the ends of stages, others evenly."""
    names = list(ends.stages)
    of_stages = {stage: name for name, stage in ends.stages.items()}.values()
    kept = list(dict.fromkeys([names[-1], ends.last, *[*of_stages][::-1]]))[:_MOST]
    others = [name for name in names if name not in kept]
    n = min(_MOST - len(kept), len(others))
    # From the middle of n equal parts.
    kept += [others[int((i + 0.5) * len(others) / n)] for i in range(n)]
    return [name for name in names if name in kept]


def _pooling_of(source: Any, name: str, shape: tuple[int | None, ...] | None) -> str:
    """Choose how to reduce a layer; layers without positions do not change by any pooling."""
    if shape is None:
        return "mean+max"
    if len(shape) < 2 or all(size == 1 for size in shape[1:]):
        return "flatten"
    channels = getattr(source, "_channels", None)
    axis = channels(name, shape) if channels else None
    if len(shape) == 2 and axis != "first":
        return "masked_mean"
    return "channels_last_mean+max" if axis == "last" else "mean+max"


def _is_usable(shape: tuple[int | None, ...] | None, pooling: str) -> bool:
    """Return whether a layer may have at least two features, and not too many."""
    if shape is None or None in shape:
        return True
    sizes = pooled_shape(shape, pooling)
    return 1 < np.prod(sizes, dtype=float) <= _WIDEST


def _that_give_features(source: Any, names: Sequence[str], data: Any) -> dict[str, str]:
    """Return the pooling of the layers that give features of some examples, each only once."""
    if data is None:
        shapes = {layer.name: layer.shape for layer in source.layers}
        poolings = {name: _pooling_of(source, name, shapes.get(name)) for name in names}
        return {n: how for n, how in poolings.items() if _is_usable(shapes.get(n), how)}
    found: dict[str, str] = {}
    seen: list[np.ndarray] = []
    for name in names:
        shape = _shape_of(source, name)
        if shape is None:
            features = _extract(source, name, "flatten", data)
            # Tokens cannot be flattened, but the table of layers shows their shape by now.
            shape = _shape_of(source, name) if features is None else features.shapes[name]
        how = _pooling_of(source, name, shape)
        for way in [how, "channels_last_mean"] if how == "masked_mean" else [how]:
            features = _extract(source, name, way, data)
            if features is not None:
                break
        else:
            continue
        matrix = features.matrix
        if 1 < matrix.shape[1] <= _WIDEST and not any(map(partial(np.array_equal, matrix), seen)):
            found[name] = way
            seen.append(matrix)
    return found


def _shape_of(source: Any, name: str) -> tuple[int | None, ...] | None:
    return next((layer.shape for layer in source.layers if layer.name == name), None)


def _extract(source: Any, name: str, pooling: str, data: Any) -> Features | None:
    """Return the features of a layer; None if it gives none of these data."""
    try:
        return source.extract(data, [name], pooling={name: pooling}, progress=False)
    except (ValueError, RuntimeError):
        return None
