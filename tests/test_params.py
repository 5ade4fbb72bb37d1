"""MXNet's ``.params`` files: read as MXNet wrote them, written as MXNet reads, damage named."""

import importlib
import re
import struct
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest

from xfer.checkpoint.params import read_params, split_params, write_params

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
WRITTEN = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
READ = [*WRITTEN, "int16", "uint16", "uint32", "uint64"]
V2_FILES = ["cifar_resnet20_v1-0000", "cifar_resnet20_v2-0000", "newsgroups_cnn-0000"]


def file_bytes(arrays, names=()):
    """A file of arrays that are bytes already."""
    data = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays)
    data += struct.pack("<Q", len(names))
    return data + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def array_bytes(values, layout=V2, storage=0, shape=None, flag=None, device=(1, 0)):
    """An array in one of the layouts; `layout` None is the oldest."""
    values = np.asarray(values)
    shape = values.shape if shape is None else shape
    flag = READ.index(values.dtype.name) if flag is None else flag
    if layout is None:
        start = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        start = struct.pack("<I", layout)
        start += struct.pack("<i", storage) if layout != V1 else b""
        start += struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    return start + struct.pack("<iii", *device, flag) + values.tobytes()


def random_values(random, dtype, shape):
    """Any bits at all, so that infinities, NaN and the ends of each type are among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values = np.frombuffer(random.bytes(size), dtype=dtype).reshape(shape)
    return values.view("uint8") % 2 == 1 if dtype == "bool" else values


def random_arrays(random, minimum_dimensions=1):
    dtypes = random.choice(WRITTEN, size=random.randint(1, 9))
    shapes = [tuple(random.randint(0, 5, random.randint(minimum_dimensions, 5))) for _ in dtypes]
    prefix = random.choice(["arg:", "aux:", "", "größe_"])
    arrays = [random_values(random, *pair) for pair in zip(dtypes, shapes)]
    return {f"{prefix}{i}": values for i, values in enumerate(arrays)}


def assert_same(arrays, others):
    """Same names in the same order, same types, same bits."""
    assert list(arrays) == list(others)
    for name, values in arrays.items():
        assert values.dtype == others[name].dtype
        assert values.shape == others[name].shape
        assert values.tobytes() == others[name].tobytes()


def mxnet_arrays(mx, arrays):
    """MXNet's arrays of the same values; bits of NaN survive, as nothing is computed."""
    with mx.util.np_shape(True):
        return {name: mx.nd.array(a, dtype=a.dtype) for name, a in arrays.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net-0000.params"


# What MXNet writes is read, and what is written MXNet reads.


@pytest.mark.parametrize("seed", range(20))
def test_same_bytes_as_mxnet(mx, path, seed):
    arrays = random_arrays(np.random.RandomState(seed))
    mx.nd.save(str(path), mxnet_arrays(mx, arrays))
    written = path.read_bytes()
    assert_same(read_params(path), arrays)
    write_params(path, read_params(path))
    assert path.read_bytes() == written
    assert_same({name: a.asnumpy() for name, a in mx.nd.load(str(path)).items()}, arrays)


@pytest.mark.parametrize("seed", range(10))
def test_same_bytes_as_mxnet_with_scalars(mx, path, seed):
    random = np.random.RandomState(seed)
    arrays = {**random_arrays(random, 0), "scalar": random_values(random, "float32", ())}
    with mx.util.np_shape(True):
        mx.nd.save(str(path), mxnet_arrays(mx, arrays))
        written = path.read_bytes()
        assert_same(read_params(path), arrays)
        write_params(path, arrays)
        assert path.read_bytes() == written
        assert_same({name: a.asnumpy() for name, a in mx.nd.load(str(path)).items()}, arrays)


def test_lists_and_single_arrays(mx, path):
    first, second = mx.nd.arange(3), mx.nd.ones((2, 2))
    mx.nd.save(str(path), [first, second])
    assert_same(read_params(path), {"0": first.asnumpy(), "1": second.asnumpy()})
    mx.nd.save(str(path), first)
    assert_same(read_params(path), {"0": first.asnumpy()})


def test_nothing(mx, path):
    mx.nd.save(str(path), {})
    assert read_params(path) == {}
    written = path.read_bytes()
    write_params(path, {})
    assert path.read_bytes() == written


def test_gluon(mx, path):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Dense(3, in_units=2), mx.gluon.nn.BatchNorm(in_channels=3))
    net.initialize()
    net.save_parameters(str(path))
    learned = {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}
    assert_same(read_params(path), learned)
    arguments, statistics = split_params(read_params(path))
    assert_same(arguments, learned)
    assert statistics == {}


def test_rows_that_are_not_zero(mx, path):
    dense = np.zeros((5, 3, 2), np.float32)
    dense[[1, 4]] = np.arange(12).reshape(2, 3, 2)
    arrays = {"some": dense, "none": np.zeros((4, 2), np.float32), "all": dense[[1, 4]] + 1}
    sparse = {name: mx.nd.array(array).tostype("row_sparse") for name, array in arrays.items()}
    mx.nd.save(str(path), {**sparse, "dense": mx.nd.array(dense)})
    assert_same(read_params(path), {**arrays, "dense": dense})
    content = bytearray(path.read_bytes())
    at = content.index(np.array([1, 4], np.int64).tobytes())
    content[at : at + 8] = struct.pack("<q", -1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows of array 0 .*, whose shape is \(5, 3, 2\), found"):
        read_params(path)


def test_csr(mx, path):
    array = mx.nd.array([[0, 0], [1, 2]])
    mx.nd.save(str(path), {"dense": array, "sparse": array.tostype("csr")})
    at = 24 + len(array_bytes(array.asnumpy())) + 4
    where = f"{path}, byte {at}: expected array 1 (of 0 to 1) to be dense or row_sparse, found csr"
    with pytest.raises(ValueError, match=re.escape(where) + r'.*tostype\("default"\)'):
        read_params(path)
    everything = mx.nd.load(str(path))
    mx.nd.save(str(path), {name: a.tostype("default") for name, a in everything.items()})
    assert_same(read_params(path), {"dense": array.asnumpy(), "sparse": array.asnumpy()})


def test_a_pointer_to_a_large_file(path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    path.write_text(text)
    with pytest.raises(ValueError, match="is a Git LFS pointer, .*git lfs pull"):
        read_params(path)


@pytest.mark.parametrize("name", [*V2_FILES, "mnist_lenet-0010"])
def test_real_files(mx, shared, name, path):
    original = shared / "models" / f"{name}.params"
    arrays = read_params(original)
    assert_same(arrays, {k: v.asnumpy() for k, v in mx.nd.load(str(original)).items()})
    write_params(path, arrays)
    assert_same({k: v.asnumpy() for k, v in mx.nd.load(str(path)).items()}, arrays)


@pytest.mark.parametrize("name", V2_FILES)
def test_real_files_come_back_to_the_byte(shared, name, path):
    original = shared / "models" / f"{name}.params"
    write_params(path, read_params(original))
    assert path.read_bytes() == original.read_bytes()


def test_oldest_layout_of_a_real_file(shared):
    arguments, statistics = split_params(read_params(shared / "models/mnist_lenet-0010.params"))
    assert statistics == {}
    assert {a.dtype for a in arguments.values()} == {np.dtype("float32")}
    assert len(arguments) == 8
    assert arguments["fullyconnected1_bias"].shape == (10,)


# Every layout, written by hand.


@pytest.mark.parametrize("layout", [None, V1, V2, V3])
@pytest.mark.parametrize("dtype", READ)
def test_layouts_and_types(path, layout, dtype):
    random = np.random.RandomState(0)
    shapes = [(3,), (2, 3), (1, 2, 1, 3), (0,), (2, 0, 3), (1,) * 32]
    arrays = [random_values(random, dtype, shape) for shape in shapes]
    names = [f"arg:{i}".encode() for i in range(len(arrays))]
    path.write_bytes(file_bytes([array_bytes(a, layout) for a in arrays], names))
    assert_same(read_params(path), {f"arg:{i}": a for i, a in enumerate(arrays)})


@pytest.mark.parametrize("dtype", READ)
def test_scalars(path, dtype):
    scalar = random_values(np.random.RandomState(1), dtype, ())
    path.write_bytes(file_bytes([array_bytes(scalar, V3)]))
    assert_same(read_params(path), {"0": scalar})


@pytest.mark.parametrize("shape", [(5,), (), (0, 2), (1,) * 32])
def test_bfloat16_is_the_upper_half_of_float32(path, shape):
    bits = np.resize(np.array([0x3F80, 0xC049, 0x7F80, 0x7FC0, 0x0001], "uint16"), shape)
    path.write_bytes(file_bytes([array_bytes(bits, V3, flag=12)]))
    values = read_params(path)["0"]
    assert values.dtype == np.float32 and values.shape == shape
    expected = np.array([1, -3.140625, np.inf, np.nan, 2.0**-133], "float32")
    np.testing.assert_array_equal(values, np.resize(expected, shape))


def test_any_byte_but_zero_is_true(path):
    path.write_bytes(file_bytes([array_bytes(np.array([0, 1, 2, 255], "uint8"), flag=7)]))
    assert read_params(path)["0"].view("uint8").tolist() == [0, 1, 1, 1]


def test_arrays_of_a_gpu(path):
    path.write_bytes(file_bytes([array_bytes(np.float32([1, 2]), device=(2, 3))]))
    assert_same(read_params(path), {"0": np.float32([1, 2])})


# What is written.


def test_order_of_memory_and_of_bytes(path):
    values = np.arange(6, dtype="float32").reshape(2, 3)
    given = {"fortran": np.asfortranarray(values), "big": values.astype(">f4")}
    write_params(path, {**given, "rows": values[:, ::-1], "list": values.tolist()})
    read = read_params(path)
    assert_same(
        read,
        {"fortran": values, "big": values, "rows": values[:, ::-1], "list": values.astype(float)},
    )


@pytest.mark.parametrize("unfit", [np.zeros(2, "uint16"), ["a"], [None], [1j], [object()]])
def test_types_mxnet_lacks_are_refused(path, unfit):
    path.write_bytes(b"as it was")
    with pytest.raises(TypeError, match=r"'w' is an array of .*reads float32, .*, bool$"):
        write_params(path, {"ok": [1.0], "w": unfit})
    assert path.read_bytes() == b"as it was"
    assert list(path.parent.iterdir()) == [path]


def test_names_are_strings_of_utf8(path):
    with pytest.raises(TypeError, match="a name is a string, and 3 is a int"):
        write_params(path, {3: [1.0]})
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write_params(path, {"\ud800": [1.0]})
    assert not path.exists()


def test_more_dimensions_than_mxnet_has(path):
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("NumPy 1 has no such arrays")
    with pytest.raises(ValueError, match="'w' has 33 dimensions, more than 32"):
        write_params(path, {"w": np.ones((1,) * 33)})


def test_split():
    arrays = {"arg:w": 1, "aux:w": 2, "plain": 3, "my:arg:w": 4}
    assert split_params(arrays) == ({"w": 1, "plain": 3, "my:arg:w": 4}, {"w": 2})
    assert split_params({}) == ({}, {})
    for clash in ({"arg:w": 1, "w": 2}, {"w": 1, "arg:w": 2}):
        with pytest.raises(ValueError, match="'arg:w' and 'w' would both be named 'w'"):
            split_params(clash)


# What is wrong with a file is said: where, what was expected, what was found.

GOOD = array_bytes(np.float32([1, 2]))
DAMAGED = {
    "empty": (b"", 0, "the start of an MXNet .params file (8 bytes), found the end of the file"),
    "another kind": (b"PK\3\4" * 30, 0, "the start of an MXNet .params file, found b'PK"),
    "count": (
        struct.pack("<QQQ", 0x112, 0, 2**63) + GOOD,
        16,
        "a number of arrays that 40 bytes can hold, found 9223372036854775808",
    ),
    "layout": (
        file_bytes([struct.pack("<I", V3 + 1) + GOOD[4:]]),
        24,
        "the number of dimensions of array 0 (of 0 to 0), at most 32, found 4187224779",
    ),
    "storage": (
        file_bytes([array_bytes(np.float32([1]), storage=3)]),
        28,
        "the storage type of array 0 (of 0 to 0), 0 to 2, found 3",
    ),
    "sparse": (
        file_bytes([GOOD, array_bytes(np.float32([1]), storage=2)]),
        68,
        "array 1 (of 0 to 1) to be dense or row_sparse, found csr storage; save array.tostype",
    ),
    "dimensions": (
        file_bytes([array_bytes(np.float32([1]), shape=(1,) * 33)]),
        32,
        "the number of dimensions of array 0 (of 0 to 0), at most 32, found 33",
    ),
    "negative dimensions": (
        file_bytes([struct.pack("<Iii", V2, 0, -2) + GOOD]),
        32,
        "the number of dimensions of array 0 (of 0 to 0), at most 32, found -2",
    ),
    "negative size": (
        file_bytes([array_bytes(np.float32([1]), shape=(-2,))]),
        36,
        "a possible shape of array 0 (of 0 to 0), found (-2,)",
    ),
    "impossible": (
        file_bytes([array_bytes(np.float32([]), shape=(0, 2**62, 2**62))]),
        36,
        "a possible shape of array 0 (of 0 to 0), found (0, 4611686018427387904",
    ),
    "large": (
        file_bytes([array_bytes(np.float32([1]), shape=(2**40,))]),
        56,
        "the values of array 0 (of 0 to 0) (4398046511104 bytes), found the end",
    ),
    "type": (
        file_bytes([array_bytes(np.float32([1]), flag=13)]),
        52,
        "the type flag of array 0 (of 0 to 0), 0 to 12, found 13",
    ),
    "rows of a scalar": (
        file_bytes([struct.pack("<Ii2i3i2ifq", V3, 1, 0, 0, 1, 0, 0, 6, 0, 1.0, 0)]),
        64,
        "rows of array 0 (of 0 to 0), whose shape is (), found [0]",
    ),
    "rows that are one number": (
        file_bytes([struct.pack("<Iiiqiq3i2iffq", V3, 1, 1, 2, 1, 2, 1, 0, 0, 6, 0, 1, 1, 0)]),
        84,
        "rows of array 0 (of 0 to 0), whose shape is (2,), found [0]",
    ),
    "negative type": (
        file_bytes([array_bytes(np.float32([1]), flag=-1)]),
        52,
        "the type flag of array 0 (of 0 to 0), 0 to 12, found -1",
    ),
    "names": (
        file_bytes([GOOD, GOOD], [b"one"]),
        104,
        "names for all 2 arrays or for none, found 1 names",
    ),
    "long name": (
        file_bytes([GOOD])[:-8] + struct.pack("<QQ", 1, 2**64 - 1) + b"ab",
        80,
        "name 0 (18446744073709551615 bytes), found the end of the file after 2 bytes",
    ),
    "not UTF-8": (file_bytes([GOOD], [b"\xff"]), 80, r"name 0 in UTF-8, found b'\xff'"),
    "same name": (
        file_bytes([GOOD, GOOD], [b"w", b"w"]),
        129,
        "a unique name for each array, found 'w' again",
    ),
    "longer": (file_bytes([GOOD], [b"w"]) + b"more", 81, "the end of the file, found 4 more bytes"),
}
NO_VALUES = {
    "oldest": (struct.pack("<I", 0), 28),
    "V1": (struct.pack("<Ii", V1, 0), 32),
    "V2": (struct.pack("<Iii", V2, 0, 0), 36),
    "V2, scalar that MXNet cannot read back": (array_bytes(np.float32(1), V2), 36),
    "V3, unknown": (struct.pack("<Iii", V3, 0, -1), 36),
    "V3, size unknown": (array_bytes(np.float32([]), V3, shape=(2, -1)), 36),
}
for _name, (_array, _at) in NO_VALUES.items():
    _found = "the shape of array 0 (of 0 to 0), found none: it had no values when it was saved"
    DAMAGED[_name] = file_bytes([_array + bytes(20)]), _at, _found


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named(path, damage):
    data, at, message = DAMAGED[damage]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{path}, byte {at}: expected {message}")):
        read_params(path)


def test_an_error_is_short_however_long_the_name(path):
    path.write_bytes(file_bytes([GOOD], [b"\xff" * 1_000_000]))
    with pytest.raises(ValueError, match="name 0 in UTF-8, found") as damage:
        read_params(path)
    assert len(str(damage.value)) < 500


def test_no_such_file(path):
    with pytest.raises(FileNotFoundError, match=path.name):
        read_params(path)


def test_cut_at_every_byte(path):
    arrays = [GOOD, array_bytes(np.int8([[1, 2, 3]]), V1), array_bytes(np.float16([1]), None)]
    whole = file_bytes([*arrays, array_bytes(np.array(True), V3)], [b"w", "ö".encode(), b"", b"s"])
    path.write_bytes(whole)
    assert len(read_params(path)) == 4
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path)) + r", byte \d+: expected "):
            read_params(path)


def test_cut_while_it_is_read(path, monkeypatch):
    path.write_bytes(file_bytes([GOOD]))
    real = np.empty
    monkeypatch.setattr(np, "empty", lambda *given: (path.write_bytes(b""), real(*given))[1])
    with pytest.raises(ValueError, match="expected the .* found the end of the file after 0 bytes"):
        read_params(path)


def test_mutations(path, monkeypatch):
    """Thousands of damaged files: an error that says where, or arrays; in little memory."""
    random = np.random.RandomState(7)
    arrays = [
        array_bytes(random_values(random, dtype, (3, 2)), layout)
        for dtype, layout in zip(["float32", "bool", "int64", "uint8"], [None, V1, V2, V3])
    ]
    bfloat16 = array_bytes(np.zeros((2, 2), "uint16"), flag=12)
    whole = file_bytes([*arrays, bfloat16], [f"arg:{i}".encode() for i in range(5)])
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "campaigns")
    mutate, rng, found = importlib.import_module("hostile").mutate, Random(7), set()
    where = re.compile(re.escape(str(path)) + r", byte \d+: expected (.+), found .+")
    tracemalloc.start()
    for _ in range(1500):
        path.write_bytes(mutate(whole, rng, []))
        tracemalloc.reset_peak()
        try:
            assert all(isinstance(values, np.ndarray) for values in read_params(path).values())
            found.add("arrays")
        except ValueError as damage:
            found.add(re.sub(r"\d+", "", where.fullmatch(str(damage))[1]))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()
    assert "arrays" in found and len(found) > 20


# What is read belongs to the reader.


def test_memory_is_that_of_the_arrays(path):
    arrays = {f"{i}": np.full((100, 1000), i, "float32") for i in range(20)}
    write_params(path, arrays)
    tracemalloc.start()
    read = read_params(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(a.nbytes for a in read.values()) + 100_000


def test_arrays_outlive_the_file(path):
    write_params(path, {"w": [1.0, 2.0]})
    values = read_params(path)["w"]
    path.write_bytes(b"")
    path.unlink()
    values += 1
    assert values.tolist() == [2.0, 3.0]
