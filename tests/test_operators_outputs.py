"""Ends of neural networks against MXNet."""

import numpy as np
import pytest
from operator_checks import check, convert_all

from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import OPERATORS
from xfer.checkpoint.symbol import MxGraph


def draw(*shape, seed=0):
    return np.random.RandomState(seed + sum(shape)).normal(size=shape).astype(np.float32)


def check_with_label(mx, symbol, data):
    """Compare outputs, of which MXNet wants a label and the conversion none."""
    label = symbol.list_arguments()[-1]
    shape = symbol.infer_shape(data=data.shape)[0][-1]
    check(mx, symbol, {"data": data, label: np.zeros(shape, np.float32)})
    builder, _ = converted(symbol, (BATCH, *data.shape[1:]))
    assert [tensor.name for tensor in builder.inputs] == ["data"]
    assert OPERATORS[MxGraph.from_json(symbol.tojson()).nodes[-1].operator].idle == (1,)


def converted(symbol, dims):
    return convert_all(MxGraph.from_json(symbol.tojson()), {}, {"data": (np.float32, dims)})


@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"axis": 1},
        {"axis": -2},
        {"temperature": 2.5},
        {"temperature": 0.1, "axis": 1},
        {"dtype": "float64"},
        {"dtype": "float32", "axis": 1},
        {"use_length": False},
    ],
)
def test_softmax(mx, name, how):
    for shape in [(3, 4, 2), (2, 3, 5, 1), (3, 1, 2)]:
        data = draw(*shape) * 10
        check(mx, getattr(mx.sym, name)(mx.sym.var("data"), **how), {"data": data})
        if name != "softmin" and "use_length" not in how:
            symbol = getattr(mx.sym.npx, name)(mx.sym.var("data").as_np_ndarray(), **how)
            check(mx, symbol.as_nd_ndarray(), {"data": data})


@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax"])
def test_softmax_of_large_and_infinite_scores(mx, name):
    data = np.array([[1e4, -1e4, 3, -np.inf], [1e4, 1e4, 0, 90], [-2e4, -2e4, -2e4, -2e4]], "f")
    if name == "softmin":
        data = -data
    for axis, scores in [(1, data[:, :, None]), (-1, data[:, None])]:
        check(mx, getattr(mx.sym, name)(mx.sym.var("data"), axis=axis), {"data": scores})


def test_softmax_across_examples(mx):
    symbol = mx.sym.softmax(mx.sym.var("data"), axis=0)
    check(mx, symbol, {"data": draw(4, 3)}, free_batch=False)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize(("axis", "shape"), [(-1, (3, 4)), (1, (3, 4, 2)), (2, (3, 4, 2))])
def test_softmax_of_a_part(mx, axis, shape, kind):
    lengths = np.delete(shape, axis)
    data = {
        "data": draw(*shape),
        "length": np.random.RandomState(1).randint(0, shape[axis] + 1, lengths).astype(kind),
    }
    data["length"].flat[0] = 0
    for temperature in (None, 0.5):
        symbol = mx.sym.softmax(
            mx.sym.var("data"),
            mx.sym.var("length"),
            axis=axis,
            temperature=temperature,
            use_length=True,
        )
        check(mx, symbol, data)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        (None, (3, 4)),
        ("instance", (3, 4)),
        ("instance", (3, 4, 2)),
        ("instance", (3, 4, 2, 5)),
        ("channel", (3, 4, 2)),
        ("channel", (3, 4, 2, 5)),
    ],
)
def test_softmax_activation(mx, mode, shape):
    how = {} if mode is None else {"mode": mode}
    check(mx, mx.sym.SoftmaxActivation(mx.sym.var("data"), **how), {"data": draw(*shape)})


SOFTMAX_OUTPUTS = [
    ((3, 4), {}),
    ((3, 4, 2), {}),
    ((3, 4, 2, 2, 3), {}),
    ((3, 4), {"multi_output": True}),
    ((3, 4, 2), {"multi_output": True}),
    ((3, 4, 2, 5), {"multi_output": True}),
    ((3, 4, 2), {"preserve_shape": True}),
    ((3, 4, 2, 5), {"preserve_shape": True}),
    ((3, 4, 2), {"multi_output": True, "preserve_shape": True}),
    ((3, 4), {"grad_scale": 2.0, "use_ignore": True, "normalization": "valid"}),
]


@pytest.mark.parametrize(("shape", "how"), SOFTMAX_OUTPUTS)
def test_softmax_output(mx, shape, how):
    # Not without attributes on four axes: MXNet built with MKL-DNN takes the last of them, which
    # is neither what is documented nor what it trains with.
    for operator in (mx.sym.SoftmaxOutput, mx.sym.Softmax):
        check_with_label(mx, operator(mx.sym.var("data"), name="out", **how), draw(*shape))


def test_softmax_output_of_one_score_for_each_example(mx):
    symbol = mx.sym.SoftmaxOutput(mx.sym.var("data"), name="out")
    check(mx, symbol, {"data": draw(5)}, free_batch=False)


def test_softmax_output_of_all_of_an_example(mx):
    symbol = mx.sym.SoftmaxOutput(mx.sym.var("data"), name="softmax")
    builder, _ = converted(symbol, (BATCH, 4, None, None))
    sums = next(node for node in builder.nodes if node.op_type == "ReduceSum")
    assert builder.initializers[sums.input[1]].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "name",
    ["LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput", "SVMOutput"],
)
def test_outputs_need_no_label(mx, name):
    for shape in [(3, 4), (3, 1), (3, 2, 2)]:
        data = mx.sym.var("data")
        check_with_label(mx, getattr(mx.sym, name)(data, name="out"), draw(*shape))
        if name != "SVMOutput":
            symbol = getattr(mx.sym.sparse, name)(data, name="out")
            check_with_label(mx, symbol, draw(*shape))


def doing_nothing(mx):
    data, sparse = mx.sym.var("data"), mx.sym.sparse
    names = ["BlockGrad", "stop_gradient", "MakeLoss", "make_loss", "identity", "Dropout"]
    yield from (getattr(mx.sym, name)(data) for name in names)
    yield from (sparse.make_loss(data), sparse.stop_gradient(data))
    yield mx.sym.IdentityAttachKLSparseReg(data)
    yield mx.sym.contrib.gradientmultiplier(data, scalar=3)
    yield mx.sym.MakeLoss(data, normalization="valid", valid_thresh=0.5, grad_scale=2)
    yield mx.sym.Dropout(data, p=0.9, axes=(1,))
    yield mx.sym.npx.dropout(data.as_np_ndarray(), p=0.9).as_nd_ndarray()
    yield mx.sym.np.copy(data.as_np_ndarray()).as_nd_ndarray()


def test_what_does_nothing(mx):
    for symbol in doing_nothing(mx):
        check(mx, symbol, {"data": draw(3, 4, 2)})
        assert not converted(symbol, (BATCH, 4, None))[0].nodes


def test_dropout_that_is_meant_for_inference_too(mx):
    symbol = mx.sym.Dropout(mx.sym.var("data"), mode="always", name="drop")
    with pytest.warns(UserWarning, match="'drop' drops nothing: mode='always' is ignored"):
        assert not converted(symbol, (BATCH, 4))[0].nodes
