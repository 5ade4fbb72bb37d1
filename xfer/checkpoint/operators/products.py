"""Matrix products, and products along any axes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor
from xfer.checkpoint.operators.reductions import checked_axes, one_dimensional
from xfer.checkpoint.operators.registry import Call, operator


@operator("dot", "_sparse_dot")
def dot(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Sum over the last axis of one and the first of the other, or as the attributes say."""
    if max(a.rank, b.rank) <= 2:
        return one_dimensional(op, batch_dot(op, a, b))
    # Transposing rotates the axes by one; those that are not summed over keep their order.
    a_axis = 0 if op.flag("transpose_a", False) else a.rank - 1
    b_axis = b.rank - 1 if op.flag("transpose_b", False) else 0
    return one_dimensional(op, _tensordot(op, a, b, [a_axis], [b_axis]))


@operator("_np_dot")
def numpy_dot(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Sum over the last axis of one and the last but one of the other; multiply scalars."""
    if not a.rank or not b.rank:
        return op("Mul", a, b)
    if b.rank <= 2:
        return op("MatMul", a, b)
    return _tensordot(op, a, b, [a.rank - 1], [b.rank - 2])


operator("_npi_matmul")(lambda op, a, b: op("MatMul", a, b))


operator("_npi_tensordot")(
    lambda op, a, b: _tensordot(op, a, b, op.ints("a_axes_summed"), op.ints("b_axes_summed"))
)


@operator("_npi_tensordot_int_axes")
def tensordot_of_ends(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Sum over the last axes of one and the first of the other."""
    count = op.int("axes")
    return _tensordot(op, a, b, range(a.rank - count, a.rank), range(count))


def _tensordot(
    op: Call, a: Tensor, b: Tensor, a_axes: Iterable[int], b_axes: Iterable[int]
) -> Tensor:
    a_axes, b_axes = checked_axes(a_axes, a.rank), checked_axes(b_axes, b.rank)
    a_free = [axis for axis in range(a.rank) if axis not in a_axes]
    b_free = [axis for axis in range(b.rank) if axis not in b_axes]
    rows, columns = [a.shape[axis] for axis in a_free], [b.shape[axis] for axis in b_free]
    summed = [a.shape[axis] for axis in a_axes]
    if summed != [b.shape[axis] for axis in b_axes]:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not go together along these axes")
    left = op.reshape(_permuted(op, a, [*a_free, *a_axes]), (math.prod(rows), math.prod(summed)))
    right = _permuted(op, b, [*b_axes, *b_free])
    right = op.reshape(right, (math.prod(summed), math.prod(columns)))
    return op.reshape(op("MatMul", left, right), (*rows, *columns))


def _permuted(op: Call, x: Tensor, order: Sequence[int]) -> Tensor:
    return x if list(order) == sorted(order) else op("Transpose", x, perm=order)


operator("_npi_einsum")(lambda op, *inputs: op("Einsum", *inputs, equation=op.text("subscripts")))


@operator("batch_dot", "_npx_batch_dot")
def batch_dot(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Multiply the matrices of two stacks, any of them transposed."""
    a = _transposed(op, a) if op.flag("transpose_a", False) else a
    b = _transposed(op, b) if op.flag("transpose_b", False) else b
    return op("MatMul", a, b)


def _transposed(op: Call, x: Tensor) -> Tensor:
    """Transpose matrices; vectors stay as they are."""
    return _with_axis_moved(op, x, x.rank - 2, x.rank - 1) if x.rank > 1 else x


def _with_axis_moved(op: Call, x: Tensor, source: int, target: int) -> Tensor:
    order = [axis for axis in range(x.rank) if axis != source]
    order.insert(target, source)
    return _permuted(op, x, order)


@operator("linalg_gemm2", "_linalg_gemm2", "linalg_gemm", "_linalg_gemm")
def gemm(op: Call, *matrices: Tensor) -> Tensor:
    """Multiply matrices and a factor, and add a multiple of a third matrix if there is one."""
    rank = matrices[0].rank
    (axis,) = checked_axes((op.int("axis", -2),), rank)  # of the rows
    a, b, *c = (_with_axis_moved(op, x, axis, rank - 2) for x in matrices)
    found = _scaled(op, batch_dot(op, a, b), "alpha")
    if c:
        found = op("Add", found, _scaled(op, c[0], "beta"))
    return _with_axis_moved(op, found, rank - 2, axis)


@operator("linalg_syrk", "_linalg_syrk")
def syrk(op: Call, a: Tensor) -> Tensor:
    """Multiply matrices, their own transposes and a factor."""
    pair = a, _transposed(op, a)
    product = op("MatMul", *(pair[::-1] if op.flag("transpose", False) else pair))
    return _scaled(op, product, "alpha")


def _scaled(op: Call, x: Tensor, name: str) -> Tensor:
    factor = op.float(name, 1.0)
    return x if factor == 1 else op("Mul", x, op.constant(factor))


# The order of the axes of (length, n, heads, d), as matrices and transposed.
_FIRST, _LAST = (1, 2, 0, 3), (1, 2, 3, 0)

# Self-attention has queries, keys and values in one tensor of shape (length, n, heads * 3 * d), and
# attention from a decoder to an encoder has the queries apart.
operator("_contrib_interleaved_matmul_selfatt_qk")(
    lambda op, joined: _scores(op, _heads(op, joined, 3, 0), _heads(op, joined, 3, 1, _LAST))
)
operator("_contrib_interleaved_matmul_selfatt_valatt")(
    lambda op, joined, attention: _weighed(op, _heads(op, joined, 3, 2), attention)
)
operator("_contrib_interleaved_matmul_encdec_qk")(
    lambda op, queries, joined: _scores(
        op, _heads(op, queries, 1, 0), _heads(op, joined, 2, 0, _LAST)
    )
)
operator("_contrib_interleaved_matmul_encdec_valatt")(
    lambda op, joined, attention: _weighed(op, _heads(op, joined, 2, 1), attention)
)


def _heads(
    op: Call, joined: Tensor, count: int, index: int, order: tuple[int, ...] = _FIRST
) -> Tensor:
    """Return one of several tensors interleaved in one of shape (length, n, width)."""
    heads = op.int("heads")
    length, rows, width = joined.shape
    if width % (heads * count):
        raise ValueError(f"a width of {width} is not a multiple of {count} times {heads} heads")
    size = width // (heads * count)
    parts = op.reshape(joined, (length, rows, heads, count, size))
    part = op("Gather", parts, op.constant(index, np.int64), axis=3)
    return op("Transpose", part, perm=order)


def _scores(op: Call, queries: Tensor, keys: Tensor) -> Tensor:
    rows, heads, length, size = queries.shape
    queries = op("Mul", queries, op.constant(1 / math.sqrt(size)))
    return op.reshape(op("MatMul", queries, keys), (rows * heads, length, keys.shape[3]))


def _weighed(op: Call, values: Tensor, attention: Tensor) -> Tensor:
    rows, heads, _, size = values.shape
    queries, keys = attention.shape[1:]
    attention = op.reshape(attention, (rows, heads, queries, keys))
    found = op("Transpose", op("MatMul", attention, values), perm=(2, 0, 1, 3))
    return op.reshape(found, (queries, rows, heads * size))
