"""Arithmetic, comparisons, choice, functions of one number and casts against MXNet."""

import ctypes

import numpy as np
import pytest
from operator_checks import check, check_operator, one_operator, run_converted

from xfer.checkpoint.legacy import own_name
from xfer.checkpoint.operators import OPERATORS, Unsupported

KINDS = np.float32, np.int32, np.int64, np.uint8, np.int8
ARITHMETIC = "add sub mul div mod power maximum minimum hypot"
COMPARISONS = "equal not_equal greater greater_equal lesser lesser_equal"
ROUNDING = "round", "rint", "fix", "trunc", "floor", "ceil"
LOGIC = "logical_and logical_or logical_xor"
NUMPY = (
    "add subtract multiply true_divide mod power maximum minimum equal not_equal greater "
    "greater_equal less less_equal"
)


def operands(kind, *shapes, seed=0):
    """Numbers of either sign, some of them whole and some equal; none is zero in the last array."""
    random = np.random.RandomState(seed)
    arrays = [random.randint(-6, 7, size=shape) for shape in shapes]
    arrays[-1][arrays[-1] == 0] = 1
    if kind == np.float32:
        arrays = [array / 2 for array in arrays]
    return [(np.abs(a) if np.dtype(kind).kind in "ub" else a).astype(kind) for a in arrays]


def nonnegative(name, kind):
    """Whether what MXNet gives for negative numbers is an accident of the machine."""
    return "pow" in name and kind != np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_two_tensors_of_one_shape(mx, kind):
    ours = [f"elemwise_{name}" for name in ARITHMETIC.split()[:4]]
    names = f"{ARITHMETIC} {COMPARISONS} {LOGIC}".split()[4:]
    for name in [*ours, "_grad_add", *(f"_{name}" for name in names)]:
        a, b = operands(kind, (3, 4, 5), (3, 4, 5))
        check_operator(mx, name, a, np.abs(b) if nonnegative(name, kind) else b)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_two_tensors_that_broadcast(mx, kind):
    for name in f"{ARITHMETIC} {COMPARISONS} {LOGIC}".split():
        for one, other in [(3, 4, 5), (3, 1, 5)], [(3, 1, 1), (3, 2, 4)], [(2, 1), (2, 3)]:
            a, b = operands(kind, one, other)
            b = np.abs(b) if nonnegative(name, kind) else b
            check_operator(mx, f"broadcast_{name}", a, b)
            check_operator(mx, f"broadcast_{name}", a, parameters={"b": b[:1]})
            if other == (3, 1, 5):  # fewer dimensions, under a batch that stays free
                check_operator(mx, f"broadcast_{name}", a, parameters={"b": b[0, 0]})


@pytest.mark.parametrize("kind", [*KINDS, np.bool_])
def test_two_tensors_by_numpys_rules(mx, kind):
    for name in NUMPY.split():
        if kind == np.bool_ and name in ("subtract", "mod", "maximum", "minimum"):
            continue  # MXNet refuses these
        a, b = operands(kind, (3, 1, 5), (3, 4, 1))
        check_operator(mx, f"_npi_{name}", a, np.abs(b) if nonnegative(name, kind) else b)


def test_two_types_mix_in_numpys_operators(mx):
    for name in ("add", "multiply", "power"):
        for one, other in [np.float32, np.int32], [np.bool_, np.int32], [np.int64, np.float32]:
            a, b = operands(one, (3, 4))[0], np.abs(operands(other, (3, 4), seed=1)[0])
            check_operator(mx, f"_npi_{name}", a, b)
    for name in ("subtract", "true_divide", "mod"):
        check_operator(
            mx, f"_npi_{name}", operands(np.int32, (3, 4))[0], operands(np.float32, (3, 4))[0]
        )
        check_operator(
            mx, f"_npi_{name}", operands(np.float32, (3, 4))[0], operands(np.int32, (3, 4))[0]
        )


@pytest.mark.parametrize("kind", [*KINDS, np.bool_])
def test_a_tensor_and_a_number(mx, kind):
    names = ["plus", "minus", "rminus", "mul", "div", "rdiv", "mod", "rmod", "power", "rpower"]
    names += ["maximum", "minimum", "hypot", *COMPARISONS.split(), *LOGIC.split()]
    names = [f"_{name}_scalar" for name in names]
    names += ["_npi_add_scalar", "_npi_subtract_scalar", "_npi_rsubtract_scalar"]
    names += ["_npi_multiply_scalar", "_npi_mod_scalar", "_npi_rmod_scalar"]
    names += ["_npi_true_divide_scalar", "_npi_rtrue_divide_scalar"]
    names += ["_npi_power_scalar", "_npi_rpower_scalar"]
    names += [f"_npi_{name}_scalar" for name in NUMPY.split()[8:]]
    for name in names:
        (x,) = operands(kind, (3, 4, 3))
        if nonnegative(name, kind):
            x = np.abs(x)
        if kind == np.bool_:
            x[0] = "rdiv" in name or "rmod" in name  # no division by false
        check_operator(mx, name, x, scalar=2)
        check_operator(mx, name, x, scalar=1, is_int=True)
        check_operator(mx, name, x, scalar=2.5, is_int=False)
        if kind != np.uint8 and "power" not in name:
            check_operator(mx, name, x, scalar=-1.5, is_int=False)
            check_operator(
                mx, name, x, scalar=-3.7
            )  # cut off, where the tensor is of whole numbers
    check_operator(mx, "_power_scalar", np.abs(operands(kind, (3, 4))[0]), scalar=0.5, is_int=False)


def test_a_number_that_does_not_fit(mx):
    for kind, value in [np.int32, "inf"], [np.int32, "nan"], [np.int64, 1e20], [np.int8, 2**31]:
        with pytest.raises(Unsupported, match="scalar="):
            check_operator(mx, "_maximum_scalar", operands(kind, (3, 4))[0], scalar=value)
    check_operator(mx, "_maximum_scalar", operands(np.float32, (3, 4))[0], scalar="-inf")


def test_where_numbers_end(mx):
    ends = np.array([[0, -0.0, 1, -1], [np.inf, -np.inf, np.nan, 3e38]], np.float32)
    others = np.array([[0, 1, 0, 0], [2, 1, 1, 3e38]], np.float32)
    for name in f"{ARITHMETIC} {COMPARISONS}".split():
        if name in ("mod", "hypot"):
            continue  # by zero or of infinity, below; hypot overflows where MXNet's does not
        check_operator(mx, f"broadcast_{name}", ends, others)
        check_operator(mx, f"broadcast_{name}", others, ends)
    check_operator(mx, "_mod", ends[:1].repeat(2, 0), others)  # by zero: zero
    check_operator(mx, "_mod_scalar", ends[:1].repeat(2, 0), scalar=0)
    check_operator(mx, "_div_scalar", ends, scalar=0)
    # Tiny remainders on either side of zero.
    tiny = np.array([[1e-9, -1e-9, 7.3], [-7.3, 1e-30, -1e-30]], np.float32)
    check_operator(mx, "_mod", tiny, np.full((2, 3), 2.5, np.float32))
    check_operator(mx, "_mod", tiny, np.full((2, 3), -2.5, np.float32))
    check_operator(mx, "clip", ends, a_min=-1, a_max=1)
    for name in ("logical_not", "relu", "sigmoid", "tanh", "exp", "log", "sqrt", "abs", *ROUNDING):
        check_operator(mx, name, ends)
    for name in ("isnan", "isinf", "isposinf", "isneginf", "isfinite"):
        check_operator(mx, f"_npi_{name}", ends)


def test_whole_numbers_divided_by_zero_end_no_process():
    """MXNet gives what the machine happens to give, or dies of it."""
    zeros = np.zeros((2, 3), np.int32)
    for name in ("elemwise_div", "_mod"):
        assert convert_and_run(name, zeros + 5, zeros).shape == (2, 3)
    for name in ("_rdiv_scalar", "_rmod_scalar", "_div_scalar", "_mod_scalar"):
        assert convert_and_run(name, zeros, scalar=0).shape == (2, 3)


def convert_and_run(name, *inputs, **attributes):
    data = {f"x{place}": array for place, array in enumerate(inputs)}
    return run_converted(one_operator(name, data, **attributes), data)


def test_shapes_that_differ_are_refused():
    a, b = np.ones((3, 4), np.float32), np.ones((3, 1), np.float32)
    for name in ("elemwise_add", "_maximum", "add_n", "_equal"):
        for other in (b, b[0]):
            with pytest.raises(ValueError, match=r"\(3, 4\) and .* are to be equal"):
                convert_and_run(name, a, other)
    with pytest.raises(ValueError, match=r"\(3, 1\) and \(3, 4\) are to be equal"):
        convert_and_run("where", b, a, a)
    # A state of one row, for as many rows as there are.
    assert convert_and_run("elemwise_add", a, a[:1]).shape == (3, 4)


def test_add_n(mx):
    for kind in (np.float32, np.int32, np.uint8):
        for number in (1, 2, 3, 5):
            inputs = [operands(kind, (3, 4), seed=seed)[0] for seed in range(number)]
            check_operator(mx, "add_n", *inputs, num_args=number)


def test_where(mx):
    for kind in (np.float32, np.int32, np.uint8):
        for shape in (3, 4, 2), (3, 1), (3,):
            condition, x, y = operands(np.float32, shape, shape, shape)
            x, y = x.astype(kind), y.astype(kind)
            check_operator(mx, "where", condition, x, y)
            check_operator(mx, "where", (condition > 0).astype(np.int32), x, y)
            check_operator(mx, "where", condition.reshape(3, -1)[:, 0], x, y)
    condition, x, y = operands(np.float32, (3, 4, 1), (3, 1, 2), (3, 4, 1))
    for kind in (np.float32, np.int32, np.bool_):
        x, y = x.astype(kind), y.astype(kind)
        for given in (condition, condition > 0):
            check_operator(mx, "_npi_where", given, x, y)
            check_operator(mx, "_npi_where", given, x, parameters={"y": y[:1]})
            check_operator(mx, "_npi_where_lscalar", given, x, scalar=2.5)
            check_operator(mx, "_npi_where_rscalar", given, x, scalar=-2.5)
    for given in (np.maximum(condition, 0), condition > 0):
        check_operator(mx, "_npi_where_scalar2", given, x=1.5, y=-2)


def test_clip(mx):
    for kind in KINDS:
        (x,) = operands(kind, (3, 4, 5))
        for low, high in [-1, 2], [0, 1.5], [-2.5, 1.5], [1, 1], ["-inf", 2], [1, 1e30], [0, 6]:
            check_operator(mx, "clip", x, a_min=low, a_max=high)


ONE = (
    "abs sign negative square relu floor ceil round rint trunc fix exp expm1 sin cos tan arctan "
    "sinh cosh tanh arcsinh degrees radians sigmoid softsign erf cbrt hard_sigmoid smooth_l1 "
    "logical_not _contrib_div_sqrt_dim _contrib_round_ste _contrib_sign_ste "
    "_npi_abs _npi_sign _npi_negative _npi_square _npi_floor _npi_ceil _npi_rint _npi_trunc "
    "_npi_fix _npi_exp _npi_expm1 _npi_sin _npi_cos _npi_tan _npi_arctan _npi_sinh _npi_cosh "
    "_npi_tanh _npi_arcsinh _npi_degrees _npi_radians _npi_cbrt _npi_logical_not _npi_around "
    "_npi_isnan _npi_isinf _npi_isposinf _npi_isneginf _npi_isfinite"
)
POSITIVE = (
    "sqrt rsqrt log log2 log10 log1p reciprocal rcbrt "
    "_npi_sqrt _npi_log _npi_log2 _npi_log10 _npi_log1p _npi_reciprocal"
)
BOUNDED = "arcsin arccos arctanh log1p _npi_arcsin _npi_arccos _npi_arctanh _npi_log1p"


def test_functions_of_one_number(mx):
    x = np.random.RandomState(0).normal(size=(3, 4, 5), scale=3).astype(np.float32)
    halves = np.arange(-20, 20).reshape(2, 4, 5).astype(np.float32) / 4
    for name in ONE.split():
        check_operator(mx, name, x)
        check_operator(mx, name, halves)
    for name in POSITIVE.split():
        check_operator(mx, name, np.abs(x) + 0.01)
        check_operator(mx, name, np.abs(halves) + 1e4)
    for name in BOUNDED.split():
        check_operator(mx, name, np.tanh(x / 2))
    for name in ("arccosh", "_npi_arccosh"):
        check_operator(mx, name, np.abs(x) + 1)
    # What is not defined gives what MXNet gives.
    for name in f"{POSITIVE} {BOUNDED} arccosh".split():
        check_operator(mx, name, x.round() + 0)  # which makes negative zeros positive


def test_functions_of_one_whole_number(mx):
    for kind in (np.int32, np.int64, np.uint8, np.int8):
        (x,) = operands(kind, (3, 4))
        for name in ONE.split():
            if "hard_sigmoid" in name or "div_sqrt" in name or "smooth" in name:
                continue
            if kind == np.uint8 and name.endswith("tan"):
                continue  # negative results, which no uint8 holds
            if name == "erf":
                continue  # ONNX Runtime's is a digit below one where MXNet's is one
            if name != "_npi_around":
                check_operator(mx, name, x)
        for name in POSITIVE.split():
            check_operator(mx, name, np.abs(x) + 1)


def test_small_numbers_keep_their_digits(mx):
    small = np.logspace(-9, -1, 20).astype(np.float32).reshape(2, 10)
    for name in ("expm1", "log1p", "sinh", "tanh", "arctanh", "arcsinh", "erf"):
        # Against their own size, not against one.
        for sign in (1, -1):
            found = convert_and_run(name, sign * small)
            expected = getattr(mx.nd, name)(mx.nd.array(sign * small)).asnumpy()
            assert np.allclose(found, expected, rtol=3e-6, atol=0), name
    large = np.array([[-1e4, -200, -90, -30, -1], [1, 10, 30, 88, 1000]], np.float32)
    check_operator(mx, "expm1", large)
    check_operator(mx, "log1p", np.abs(large))


def test_rounding_at_its_edges(mx):
    edges = [0.49999997, 0.5, 1.5, 2.5, 8388607.5, 8388609, 16777217, 1e30]
    x = np.array([edges, [-edge for edge in edges]], np.float32)
    for name in (*ROUNDING, "_npi_rint", "_npi_around"):
        check_operator(mx, name, x)
    for decimals in (-1, 1, 2):
        check_operator(mx, "_npi_around", x[:, :5] * 1.37, decimals=decimals)


def test_attributes_of_functions(mx):
    (x,) = operands(np.float32, (3, 4))
    check_operator(mx, "hard_sigmoid", x, alpha=0.1, beta=0.3)
    for scalar in (0.5, 2, 3):
        check_operator(mx, "smooth_l1", x / 4, scalar=scalar)
    with pytest.raises(Unsupported, match="scalar=0"):
        convert_and_run("smooth_l1", x, scalar=0)


def test_cast(mx):
    x = np.array([[-2.7, 2.7, 0.3, -0.3], [0, 1, -0.0, 100.9]], np.float32)
    for kind in ("float16", "float32", "float64", "int8", "int32", "int64", "bool"):
        if kind != "float16":
            check_operator(mx, "Cast", x, dtype=kind)
        for given in (np.int32, np.int64, np.int8, np.bool_):
            check_operator(mx, "Cast", x.astype(given), dtype=kind)
    check_operator(mx, "Cast", np.abs(x) * 9, dtype="uint8")  # wraps around
    check_operator(mx, "amp_cast", x, dtype="float32")
    check_operator(mx, "amp_cast", x.astype(np.int32), dtype="float16")
    with pytest.raises(Unsupported, match="dtype='int32'"):
        convert_and_run("amp_cast", x, dtype="int32")
    with pytest.raises(Unsupported, match="dtype='complex64'"):
        convert_and_run("Cast", x, dtype="complex64")


def test_amp_multicast(mx):
    # MXNet has no kernel on a CPU for inputs of different types.
    both = mx.sym.amp_multicast(mx.sym.var("a"), mx.sym.var("b"), num_outputs=2)
    a, b = operands(np.float32, (3, 4), (3, 2))
    check(mx, mx.sym.Group([both[0] + 1, both[1] * 2]), {"a": a, "b": b})


@pytest.mark.parametrize("module", ["arithmetic", "maths", "reductions", "products"])
def test_every_name_is_one_of_mxnets_and_every_alias_has_the_same_conversion(mx, module):
    known = set(mx.operator.get_all_registered_operators())
    ours = {
        name: entry.convert
        for name, entry in OPERATORS.items()
        if entry.convert.__module__ == f"xfer.checkpoint.operators.{module}"
    }
    assert ours and set(ours) <= known, set(ours) - known
    by_handle = {}
    for name in known:
        handle = ctypes.c_void_p()
        mx.base.check_call(mx.base._LIB.NNGetOpHandle(name.encode(), ctypes.byref(handle)))
        by_handle.setdefault(handle.value, set()).add(name)
    for names in by_handle.values():
        # Graphs are read with the operators' own names.
        names = {own_name(name) for name in names}
        converts = {OPERATORS[name].convert if name in OPERATORS else None for name in names}
        if converts & set(ours.values()):
            assert len(converts) == 1, names
