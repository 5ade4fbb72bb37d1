"""Recurrent networks against MXNet: the operator, and what its libraries of layers make."""

import itertools

import numpy as np
import pytest
from operator_checks import (
    check,
    check_operator,
    convert_all,
    one_operator,
    open_session,
    run_converted,
)

from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph

MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
KINDS = list(itertools.product(MODES, [False, True], [1, 2, 3]))


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def steps_first(mx, x):
    return mx.sym.swapaxes(x, dim1=0, dim2=1)


def recurrent(mx, states, **options):
    """A symbol over data (examples, steps, features); its states have the examples in front."""
    states = [steps_first(mx, state) for state in states]
    symbol = mx.sym.RNN(steps_first(mx, mx.sym.var("data")), mx.sym.var("p"), *states, **options)
    if not options.get("state_outputs"):
        return steps_first(mx, symbol)
    return mx.sym.Group([steps_first(mx, output) for output in symbol])


def options_of(kind, **others):
    mode, bidirectional, layers = kind
    return {"mode": mode, "bidirectional": bidirectional, "num_layers": layers, **others}


def number_of_states(kind):
    return 2 if kind[0] == "lstm" else 1


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_are_given(mx, kind):
    _, bidirectional, layers = kind
    names = ["h", "c"][: number_of_states(kind)]
    for state_outputs, steps in ((True, 4), (False, 1)):
        options = options_of(kind, state_size=3, p=0.5, state_outputs=state_outputs)
        symbol = recurrent(mx, map(mx.sym.var, names), **options)
        data = {"data": normal(3, steps, 5)}
        for name in names:
            data[name] = normal(3, layers * (1 + bidirectional), 3, seed=ord(name))
        check(mx, symbol, data)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_zeros(mx, kind):
    _, bidirectional, layers = kind
    shape = (layers * (1 + bidirectional), 0, 2)
    zeros = [mx.sym.zeros(shape=shape) for _ in range(number_of_states(kind))]
    symbol = mx.sym.RNN(
        steps_first(mx, mx.sym.var("data")),
        mx.sym.var("p"),
        *zeros,
        **options_of(kind, state_size=2, state_outputs=True),
    )
    # The last state of each layer does not have the examples in front: as many as there are.
    check(mx, steps_first(mx, symbol[0]), {"data": normal(3, 4, 1)})
    check(mx, symbol, {"data": normal(3, 4, 1)}, free_batch=False)


def test_states_that_were_saved(mx):
    data, states = {"data": normal(3, 4, 5)}, [mx.sym.var("h"), mx.sym.var("c")]
    symbol = mx.sym.RNN(
        steps_first(mx, mx.sym.var("data")),
        mx.sym.var("p"),
        *states,
        **options_of(("lstm", False, 2), state_size=2),
    )
    symbol = steps_first(mx, symbol)
    for h, c in ((0, 1), (1, 0), (1, 1)):
        saved = {"h": h * normal(2, 3, 2), "c": c * normal(2, 3, 2, seed=1)}
        check(mx, symbol, data, parameters=saved, free_batch=False)
    # One that is not zeros goes with so many examples.
    with pytest.raises(ValueError, match=r"must have shape \(2, n, 2\), got \(2, 3, 2\)"):
        check(mx, symbol, data, parameters=saved)


def test_zeros_that_were_saved_go_with_any_number_of_examples(mx):
    text = one_operator("RNN", ["data"], {"p": normal(24), "h": normal(1)}, **RELU)
    saved = {"p": normal(24), "h": np.zeros((1, 7, 3), np.float32)}
    builder, values = convert_all(
        MxGraph.from_json(text), saved, {"data": (np.float32, (4, BATCH, 3))}
    )
    assert next(reversed(values.values())).dims == (4, BATCH, 3)
    assert len(builder.nodes) == 2


RELU = {"mode": "rnn_relu", "state_size": 3, "num_layers": 1}


def test_numpy_name(mx):
    symbol = recurrent(mx, [mx.sym.var("h")], **RELU)
    renamed = mx.sym.load_json(symbol.tojson().replace('"op": "RNN"', '"op": "_npx_rnn"'))
    check(mx, renamed, {"data": normal(3, 4, 2), "h": normal(3, 1, 3)})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[2] < 3])
def test_sequences_of_different_lengths(mx, kind):
    """As cuDNN computes them, and the documentation says; on a CPU MXNet ignores the lengths."""
    _, bidirectional, layers = kind
    states = layers * (1 + bidirectional)
    options = options_of(kind, state_size=3, state_outputs=True)
    names = ["h", "c"][: number_of_states(kind)]
    arrays = {name: normal(states, 3, 3, seed=ord(name)) for name in names}
    alone = mx.sym.RNN(*map(mx.sym.var, ["data", "p", *names]), **options)
    data = normal(4, 3, 2)
    shapes = {name: array.shape for name, array in arrays.items()}
    size = alone.infer_shape(data=data.shape, **shapes)[0][1]
    parameters = normal(*size)
    text = one_operator(
        "RNN",
        ["data", "p", *names, "lengths"],
        **options,
        use_sequence_length=True,
    )
    lengths = np.array([1, 4, 3], np.float32)
    graph = MxGraph.from_json(text)
    found = converted_outputs(
        graph, {"p": parameters}, {"data": data, **arrays, "lengths": lengths}
    )
    for row, length in enumerate([1, 4, 3]):
        given = {"data": data[:length, row : row + 1], "p": parameters}
        given.update((name, array[:, row : row + 1]) for name, array in arrays.items())
        executor = alone.bind(mx.cpu(), {k: mx.nd.array(v) for k, v in given.items()})
        output, *ends = [one.asnumpy() for one in executor.forward()]
        np.testing.assert_allclose(found[0][:length, row : row + 1], output, atol=1e-5)
        assert not found[0][length:, row].any()
        for one, other in zip(found[1:], ends):
            np.testing.assert_allclose(one[:, row : row + 1], other, atol=1e-5)


def converted_outputs(graph, parameters, data):
    builder, values = convert_all(
        graph, parameters, {k: (v.dtype, v.shape) for k, v in data.items()}
    )
    number = len(graph.nodes) - 1
    for place in range(sum(node == number for node, _ in values)):
        builder.add_output(f"out{place}", values[number, place])
    return open_session(builder).run(None, data)


def test_refused():
    data = {"data": normal(4, 2, 3), "p": normal(24), "h": normal(1, 2, 3)}
    for name, value in (
        ("projection_size", 2),
        ("lstm_state_clip_min", -1),
        ("lstm_state_clip_max", 1),
        ("mode", "sru"),
    ):
        text = one_operator("RNN", list(data), **{**RELU, name: value})
        with pytest.raises(Unsupported, match=f"operator RNN with {name}"):
            run_converted(text, data)


def test_parameters_that_are_computed(mx):
    x, p, h = normal(4, 2, 3), normal(24), normal(1, 2, 3)
    check_operator(mx, "RNN", x, p, h, free_batch=False, **RELU)


@pytest.mark.parametrize(
    ("size", "features", "message"),
    [
        (25, 3, "25 parameters do not make 1 layers of 3"),
        (15, 3, "15 parameters do not make 1 layers of 3"),
        (24, 4, r"it takes 3 features, not those of \(5, 2, 4\)"),
    ],
)
def test_sizes_that_do_not_go_together(size, features, message):
    text = one_operator("RNN", ["data", "h"], {"p": normal(size)}, **RELU)
    text = text.replace("[[0, 0, 0], [1, 0, 0], [2, 0, 0]]", "[[0, 0, 0], [2, 0, 0], [1, 0, 0]]")
    shapes = {"data": (np.float32, (5, 2, features)), "h": (np.float32, (1, 2, 3))}
    with pytest.raises(ValueError, match=message):
        convert_all(MxGraph.from_json(text), {"p": normal(size)}, shapes)


GLUON = [("LSTM", {}), ("GRU", {}), ("RNN", {"activation": "tanh"}), ("RNN", {})]


def exported(mx, net, data, folder):
    """The symbol and parameters that Gluon writes for a network."""
    net.hybridize()
    net(*map(mx.nd.array, data))
    net.export(str(folder / "net"))
    saved = mx.nd.load(str(folder / "net-0000.params"))
    arrays = {name.partition(":")[2]: array.asnumpy() for name, array in saved.items()}
    return mx.sym.load(str(folder / "net-symbol.json")), arrays


@pytest.mark.parametrize(("name", "options"), GLUON)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gluon_layer(mx, tmp_path, name, options, bidirectional):
    for layers, saved_as in ((1, "float32"), (2, "float16")):
        layer = getattr(mx.gluon.rnn, name)
        net = mx.gluon.nn.HybridSequential()
        net.add(
            mx.gluon.nn.Embedding(9, 5),
            layer(4, layers, layout="NTC", bidirectional=bidirectional, dropout=0.5, **options),
            mx.gluon.nn.Dense(3),
        )
        net.initialize(mx.init.Normal(0.5))
        data = np.random.RandomState(0).randint(0, 9, (3, 6)).astype(np.float32)
        symbol, arrays = exported(mx, net, [data], tmp_path)
        half = {key: array.astype(saved_as).astype(np.float32) for key, array in arrays.items()}
        check(mx, symbol, {"data": data}, parameters=half)


def test_gluon_layer_with_states(mx, tmp_path):
    for name, states in (("LSTM", 2), ("GRU", 1)):
        net = getattr(mx.gluon.rnn, name)(4, 2)
        net.initialize(mx.init.Normal(0.5))
        data = normal(5, 3, 2)
        net.hybridize()
        net(mx.nd.array(data), net.begin_state(3))
        net.export(str(tmp_path / name))
        symbol = mx.sym.load(str(tmp_path / f"{name}-symbol.json"))
        given = {"data0": data, **{f"data{k + 1}": normal(2, 3, 4, seed=k) for k in range(states)}}
        assert len(symbol.list_outputs()) == 1 + states
        check(mx, symbol, given, free_batch=False)


@pytest.mark.parametrize("with_lengths", [False, True])
def test_gluon_cells(mx, tmp_path, with_lengths):
    rnn = mx.gluon.rnn

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.stack = rnn.HybridSequentialRNNCell()
                self.stack.add(rnn.RNNCell(5))
                self.stack.add(rnn.DropoutCell(0.5))
                self.stack.add(rnn.ResidualCell(rnn.GRUCell(5)))
                # Apart, since what has two directions cannot go step by step with the rest.
                self.both = rnn.BidirectionalCell(rnn.LSTMCell(3), rnn.GRUCell(2))

        def hybrid_forward(self, F, x, lengths=None):
            options = {"layout": "NTC", "merge_outputs": True, "valid_length": lengths}
            middle, _ = self.stack.unroll(4, x, **options)
            outputs, states = self.both.unroll(4, middle, **options)
            return F.concat(F.flatten(outputs), *states, dim=1)

    net = Net()
    net.initialize(mx.init.Normal(0.5))
    data = {"data": normal(3, 4, 2)}
    if with_lengths:
        data = {"data0": data["data"], "data1": np.array([1, 4, 2], np.float32)}
    symbol, arrays = exported(mx, net, data.values(), tmp_path)
    check(mx, symbol, data, parameters=arrays)


def legacy_cells(mx):
    for mode in MODES:
        yield mx.rnn.FusedRNNCell(4, 2, mode, bidirectional=True, dropout=0.3, prefix="f_")
        yield mx.rnn.FusedRNNCell(4, 1, mode, prefix="f_")
        yield mx.rnn.FusedRNNCell(4, 2, mode, bidirectional=True, prefix="f_").unfuse()
    stack = mx.rnn.SequentialRNNCell()
    for cell in (
        mx.rnn.RNNCell(3, prefix="r_"),
        mx.rnn.DropoutCell(0.5, "d_"),
        mx.rnn.LSTMCell(4, prefix="l_", forget_bias=2.0),
        mx.rnn.ResidualCell(mx.rnn.GRUCell(4, prefix="g_")),
        mx.rnn.BidirectionalCell(mx.rnn.GRUCell(2, "a_"), mx.rnn.LSTMCell(2, "b_")),
    ):
        stack.add(cell)
    yield stack


@pytest.mark.filterwarnings("ignore:NTC layout detected")
def test_legacy_cells(mx):
    ids = mx.sym.Embedding(mx.sym.var("data"), input_dim=7, output_dim=3)
    data = {"data": np.random.RandomState(0).randint(0, 7, (3, 5)).astype(np.float32)}
    for cell in legacy_cells(mx):
        merged, _ = cell.unroll(5, ids, layout="NTC", merge_outputs=True)
        check(mx, merged, data)
        last = cell.unroll(5, ids, layout="NTC", merge_outputs=False)[0][-1]
        check(mx, mx.sym.FullyConnected(last, num_hidden=2), data)
