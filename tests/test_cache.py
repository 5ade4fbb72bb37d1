"""The store of features: what it gives back is right, whatever happens to its files."""

import functools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from xfer.cache import FeatureCache, store

WORDS = [f"text {i}" for i in range(200)]
SHAPE = (7, 3)
KEY = {"network": "f3a9", "layer": "pooled", "pooling": ["mean", "max"]}


def features_of(texts, shape=SHAPE):
    """Features that tell to which text they belong: nothing else gives these numbers."""
    return np.array([one_of(text, shape) for text in texts], np.float32).reshape(-1, *shape)


@functools.cache
def one_of(text, shape):
    return np.random.RandomState(zlib.crc32(text.encode())).normal(size=shape)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def keep(cache, texts, key=KEY, batch=32):
    with cache.entry(key) as entry:
        for i in range(0, len(texts), batch):
            batch_of = texts[i : i + batch]
            entry.append(cache.digests(batch_of), features_of(batch_of))


def check(cache, texts, key=KEY, entry=None):
    """Read; every row said to be there is right, and no other row is touched."""
    out = np.full((len(texts), np.prod(SHAPE)), -1, np.float32)
    found = (entry or cache.entry(key)).read(cache.digests(texts), out)
    expected = features_of(texts).reshape(out.shape)
    np.testing.assert_array_equal(out, np.where(found[:, None], expected, -1))
    return found


def files_of(cache, ending=""):
    return sorted(path for path in cache.path.rglob("*" + ending) if path.is_file())


def run(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, **options
    )


def test_features_come_back_in_the_order_asked_for(cache):
    assert not check(cache, WORDS).any()
    assert not cache.path.exists()  # reading makes no folder
    keep(cache, WORDS[:120])
    assert check(cache, WORDS).tolist() == [True] * 120 + [False] * 80
    assert check(cache, WORDS[119:20:-7] * 3).all()
    assert check(cache, []).tolist() == []
    other = {**KEY, "pooling": ["mean"]}
    assert not check(cache, WORDS, other).any()
    assert cache.entry(dict(reversed(KEY.items()))).shape == SHAPE
    assert cache.entry(other).shape is None


def test_it_writes_into_columns_of_a_larger_matrix(cache):
    keep(cache, WORDS)
    matrix = np.zeros((50, 30), np.float32)
    assert cache.entry(KEY).read(cache.digests(WORDS[:50]), matrix[:, 4:25]).all()
    np.testing.assert_array_equal(matrix[:, 4:25], features_of(WORDS[:50]).reshape(50, 21))
    assert not matrix[:, :4].any() and not matrix[:, 25:].any()
    shaped = np.zeros((50, *SHAPE), np.float32)
    assert cache.entry(KEY).read(cache.digests(WORDS[:50]), shaped).all()
    np.testing.assert_array_equal(shaped, features_of(WORDS[:50]))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4), (70_000,)])
def test_any_shape(cache, shape):
    values = features_of(WORDS[:9], shape)
    with cache.entry(KEY) as entry:
        entry.append(cache.digests(WORDS[:9]), values[::-1][::-1].astype(">f4"))
        out = np.zeros_like(values)
        assert entry.read(cache.digests(WORDS[:9]), out).all()
    np.testing.assert_array_equal(out, values)
    assert cache.entry(KEY).shape == shape


def test_bits_are_kept(cache):
    values = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    with cache.entry(KEY) as entry:
        entry.append(cache.digests(["x"]), values)
    out = np.zeros_like(values)
    cache.entry(KEY).read(cache.digests(["x"]), out)
    assert out.tobytes() == values.tobytes()


def test_an_open_entry_sees_what_others_add(cache):
    reader = cache.entry(KEY)
    for stop in (10, 11, 90, 200):
        keep(cache, WORDS[:stop])
        assert check(cache, WORDS, entry=reader).sum() == stop


def test_one_segment_serves_many_short_runs_and_each_writer_has_its_own(cache):
    for i in range(20):
        keep(cache, WORDS[i : i + 1])
    assert len(files_of(cache, ".rows")) == 1
    with cache.entry(KEY) as first, cache.entry(KEY) as second:
        first.append(cache.digests(WORDS[20:30]), features_of(WORDS[20:30]))
        second.append(cache.digests(WORDS[30:40]), features_of(WORDS[30:40]))
        first.append(cache.digests(WORDS[40:50]), features_of(WORDS[40:50]))
    assert len(files_of(cache, ".rows")) == 2
    assert check(cache, WORDS).sum() == 50


def test_many_rows_in_random_order_beside_a_dict(cache):
    rng = np.random.RandomState(0)
    texts = [str(i) for i in range(3000)]
    digests = cache.digests(texts)
    values = rng.normal(size=(3000, 4)).astype(np.float32)
    held = set()
    with cache.entry(KEY) as entry:
        for _ in range(60):
            some = rng.choice(3000, rng.randint(1, 200)).tolist()
            out = np.zeros((len(some), 4), np.float32)
            found = entry.read([digests[i] for i in some], out)
            assert found.tolist() == [i in held for i in some]
            np.testing.assert_array_equal(out[found], values[some][found])
            new = [i for i in some if i not in held]
            entry.append([digests[i] for i in new], values[new])
            held.update(new)
        assert len(entry._table._index._runs) < 10


WRITER = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from test_cache import KEY, WORDS, FeatureCache, check, features_of
cache = FeatureCache(sys.argv[2])
texts = WORDS[int(sys.argv[3]) : int(sys.argv[4])]
print("ready", flush=True)
sys.stdin.readline()
with cache.entry(KEY) as entry:
    for i in range(0, len(texts), 2):
        check(cache, WORDS, entry=entry)
        entry.append(cache.digests(texts[i : i + 2]), features_of(texts[i : i + 2]))
"""


def test_processes_write_one_entry_at_once(cache):
    here = os.path.dirname(__file__)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    spans = [(0, 120), (80, 200), (60, 130)]
    writers = [run(WRITER, here, cache.path, *span, **pipes) for span in spans]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    reader = cache.entry(KEY)
    while any(writer.poll() is None for writer in writers):
        check(cache, WORDS, entry=reader)
    assert [writer.communicate()[0] for writer in writers] == [""] * 3
    assert [writer.returncode for writer in writers] == [0] * 3
    assert check(cache, WORDS).all() and check(cache, WORDS, entry=reader).all()


ENDLESS = """
import sys, numpy as np
from xfer.cache import FeatureCache
cache = FeatureCache(sys.argv[1])
with cache.entry({"large": True}) as entry:
    for start in range(0, 100_000, 8):
        digests = cache.digests([str(i) for i in range(start, start + 8)])
        found = entry.read(digests, np.empty((8, 20_000), np.float32))
        missing = [digests[i] for i in np.flatnonzero(~found)]
        entry.append(missing, np.full((len(missing), 20_000), start, np.float32))
        print(start, len(missing), flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_loses_nothing_it_had_written(cache):
    rng, done = random.Random(0), 0
    for _ in range(4):
        writer = run(ENDLESS, cache.path, stdout=subprocess.PIPE)
        lines = [writer.stdout.readline() for _ in range(done // 8 + rng.randint(1, 20))]
        time.sleep(0.003 * rng.random())
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines()
        counts = dict(map(int, line.split()) for line in lines)
        assert not any(counts[i] for i in range(0, done, 8))
        done = max(counts) + 8
        texts = [str(i) for i in range(done + 16)]
        out = np.full((len(texts), 20_000), -1, np.float32)
        found = cache.entry({"large": True}).read(cache.digests(texts), out)
        assert found[:done].all()
        assert (out[found] == (np.flatnonzero(found) // 8 * 8)[:, None]).all()
        (rows,) = files_of(cache, ".rows")
        for path in (rows, rows.with_suffix(".digests")):
            with path.open("ab") as file:
                file.write(b"torn off")


def damage(path, rng):
    """Harm a file in one of the ways that disks, copies and people do."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "zero", "cut", "insert", "foreign", "grow", "delete", "swap words"])
    at = rng.randrange(len(content) + 1)
    if kind == "delete":
        return path.unlink()
    if kind == "flip":
        for _ in range(rng.choice([1, 2, 100])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = rng.randbytes(rng.randint(1, 40))
    elif kind == "foreign":
        content[at : at + 200] = rng.randbytes(200)
    elif kind == "grow":
        content += rng.randbytes(rng.randint(1, 10_000))
    else:
        a, b = (4 * rng.randrange(len(content) // 4 or 1) for _ in range(2))
        content[a : a + 4], content[b : b + 4] = content[b : b + 4], content[a : a + 4]
    return path.write_bytes(content)


def entry_files(cache):
    """The files of all entries, in an order that does not depend on the names of segments."""
    paths = [path for path in files_of(cache) if path.parent != cache.path]
    return sorted(paths, key=lambda path: (path.parent, path.suffix, path.stat().st_size))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two segments of one entry, and one of another with features of the same shape."""
    cache = FeatureCache(tmp_path_factory.mktemp("filled"))
    with cache.entry(KEY) as entry:
        entry.append(cache.digests(WORDS[:50]), features_of(WORDS[:50]))
        keep(cache, WORDS[40:100])
    with cache.entry({"another": 1}) as entry:
        entry.append(cache.digests(WORDS), -features_of(WORDS))
    return cache.path


@pytest.mark.parametrize("seed", range(150))
def test_damaged_files_give_missing_rows_and_never_wrong_ones(filled, tmp_path, seed):
    rng = random.Random(seed)
    shutil.copytree(filled, tmp_path / "features")
    cache = FeatureCache(tmp_path / "features")
    opened = cache.entry(KEY)
    if rng.random() < 0.5:
        assert check(cache, WORDS, entry=opened).sum() == 100
    for _ in range(rng.randint(1, 3)):
        damage(rng.choice(entry_files(cache)), rng)
    check(cache, WORDS, entry=opened)
    found = check(cache, WORDS)
    missing = [text for text, is_found in zip(WORDS, found) if not is_found]
    keep(cache, missing)
    assert check(cache, WORDS).all()
    check(cache, WORDS, entry=opened)


@pytest.mark.parametrize("ending", [".rows", ".digests"])
def test_a_file_cut_anywhere(filled, tmp_path, ending):
    shutil.copytree(filled, tmp_path / "features")
    cache = FeatureCache(tmp_path / "features")
    paths = [path for path in cache.entry(KEY)._folder.iterdir() if path.suffix == ending]
    path = max(paths, key=lambda path: path.stat().st_size)
    size, record = path.stat().st_size, path.stat().st_size // 60
    opened = cache.entry(KEY)
    check(cache, WORDS, entry=opened)
    for kept in range(59, -1, -3):
        for cut in (kept * record + 1, kept * record):
            os.truncate(path, cut)
            assert check(cache, WORDS).sum() == 50 + max(kept - 10, 0)
            check(cache, WORDS, entry=opened)
    assert size == 60 * record
    keep(cache, WORDS)
    assert check(cache, WORDS).all()


def test_swapped_files_give_no_wrong_rows(filled, tmp_path):
    for number, ending in enumerate([".rows", ".digests", ".json"]):
        shutil.copytree(filled, tmp_path / str(number))
        cache = FeatureCache(tmp_path / str(number))
        paths = [path for path in entry_files(cache) if path.suffix == ending]
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, contents[1:] + contents[:1]):
            path.write_bytes(content)
        assert check(cache, WORDS).sum() <= 50
        keep(cache, WORDS)
        assert check(cache, WORDS).all()
    (other,) = {path.parent for path in entry_files(cache)} - {cache.entry(KEY)._folder}
    shutil.rmtree(cache.entry(KEY)._folder)
    shutil.copytree(other, cache.entry(KEY)._folder)
    assert not check(cache, WORDS).any()


def test_a_row_that_went_bad_is_found_in_its_new_place_ever_after(cache):
    keep(cache, WORDS[:10])
    (path,) = files_of(cache, ".rows")
    content = bytearray(path.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)
    assert check(cache, WORDS[:10]).tolist() == [False] + [True] * 9
    keep(cache, WORDS[:1])
    for _ in range(2):
        assert check(cache, WORDS[:10]).all()


def test_every_single_flip_and_swap_in_a_row_is_seen(cache):
    keep(cache, WORDS[:2])
    (path,) = files_of(cache, ".rows")
    content = path.read_bytes()
    words = len(content) // 8
    for bit in range(len(content) * 4):
        harmed = bytearray(content)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        assert check(cache, WORDS[:2]).tolist() == [False, True]
    for first in range(words - 2):
        for second in range(first):
            signs = bytearray(content)
            signs[4 * first + 3] ^= 0x80
            signs[4 * second + 3] ^= 0x80
            path.write_bytes(signs)
            assert check(cache, WORDS[:2]).tolist() == [False, True]


def test_foreign_bytes_do_not_make_a_file_grow(cache):
    keep(cache, WORDS[:10])
    with files_of(cache, ".digests")[0].open("ab") as file:
        file.write(os.urandom(2**20))
    keep(cache, WORDS[10:20])
    assert check(cache, WORDS).sum() == 20
    assert cache.nbytes < 2**20 + 10_000


def test_a_damaged_description_is_written_anew(cache):
    keep(cache, WORDS[:20])
    path = cache.entry(KEY)._folder / "entry.json"
    described = json.loads(path.read_text())
    assert described["key"] == KEY and described["shape"] == list(SHAPE)
    for wrong in (b"", b"{}", b"[" * 100_000, b'{"shape": 3}', b"\xff", b'{"shape": [1]}'):
        path.write_bytes(wrong)
        assert cache.entry(KEY).shape is None
        keep(cache, WORDS[20:40])
        assert json.loads(path.read_text()) == described
        assert check(cache, WORDS[:40]).all()
    path.write_text(json.dumps({**described, "shape": [3, 7]}))
    assert cache.entry(KEY).shape is None


def test_least_recently_used_entries_go(tmp_path):
    size = 60 * (21 * 4 + 24) + 1000  # 60 rows and the description
    cache = FeatureCache(tmp_path / "features", max_bytes=4 * size)

    def left(count):
        return [n for n in range(count) if cache.entry({"number": n})._folder.exists()]

    for number in range(4):
        keep(cache, WORDS[:60], {"number": number})
    for number in (0, 3, 1, 2):
        time.sleep(0.02)  # the clock of a file system ticks slowly
        assert check(cache, WORDS[:1], {"number": number}).all()
    with cache.entry({"number": 3}) as written:
        written.append(cache.digests(WORDS[60:61]), features_of(WORDS[60:61]))
        os.utime(written._folder / "entry.json", (0, 0))
        keep(cache, WORDS[:60], {"number": 4})
        assert check(cache, WORDS[:60], {"number": 4}).all()
    assert left(5) == [1, 2, 3, 4]  # 0 was not used for longest, but for 3, which is being written
    for number in (5, 6):
        time.sleep(0.02)
        keep(cache, WORDS[:60], {"number": number})
    assert left(7) == [2, 4, 5, 6]
    assert cache.nbytes <= cache.max_bytes


def test_the_limit_holds_while_many_entries_are_written(tmp_path):
    cache = FeatureCache(tmp_path / "features", max_bytes=100_000)
    for number in range(40):
        keep(cache, WORDS[:100], {"number": number})
        assert cache.nbytes <= 100_000
        assert check(cache, WORDS[:100], {"number": number}).all()


def test_an_entry_beyond_the_limit_is_kept_in_part_with_one_warning(tmp_path):
    cache = FeatureCache(tmp_path / "features", max_bytes=10_000)
    keep(cache, WORDS[:10], {"other": 1})
    with pytest.warns(UserWarning, match=r"max_bytes is 10,000; give .* a higher") as warned:
        keep(cache, WORDS, batch=8)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert cache.nbytes <= 10_000
    with pytest.warns(UserWarning, match="max_bytes is 10,000"):
        keep(cache, WORDS, {"small": 1}, batch=200)
    assert cache.entry(KEY).shape == SHAPE  # nothing went for what could not be kept
    found = check(cache, WORDS)
    assert 60 < found.sum() < 100 and found[: found.sum()].all()


FULL = """
import resource, sys, warnings, numpy as np
from xfer.cache import FeatureCache
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
warnings.simplefilter("always")
cache = FeatureCache(sys.argv[1])
with cache.entry({}) as entry:
    for i in range(20):
        entry.append(cache.digests([str(i)]), np.full((1, 3000), i, np.float32))
out = np.zeros((20, 3000), np.float32)
found = cache.entry({}).read(cache.digests([str(i) for i in range(20)]), out)
assert found.tolist() == [True] * 8 + [False] * 12, found
assert (out[:, 0] == np.arange(20) * found).all()
"""


def test_a_full_disk_is_warned_of_and_costs_no_features(tmp_path):
    pytest.importorskip("resource")
    process = run(FULL, tmp_path / "features", stderr=subprocess.PIPE)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("the disk of") == 1 and "is full: File too large" in said


def test_what_is_no_cache_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files and no xfer-feature-cache.json"):
        FeatureCache(tmp_path)
    with pytest.raises(ValueError, match=r"thesis\.tex is no folder"):
        FeatureCache(tmp_path / "thesis.tex")
    cache = FeatureCache(tmp_path / "new")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.tex").write_text("more work")
    with pytest.raises(ValueError, match="it is no feature cache"):
        keep(cache, WORDS)
    assert os.listdir(tmp_path / "new") == ["thesis.tex"]


def test_a_cache_of_another_format_is_refused(cache):
    keep(cache, WORDS)
    marker = cache.path / "xfer-feature-cache.json"
    marker.write_text('{"format": 2}')
    with pytest.raises(ValueError, match="has format 2, this xfer knows 1"):
        FeatureCache(cache.path)
    marker.write_text("{")
    assert check(FeatureCache(cache.path), WORDS).all()


def test_a_folder_that_cannot_be_written(tmp_path):
    cache = FeatureCache("/proc/xfer-features")
    if not os.path.isdir("/proc"):
        pytest.skip("needs a folder that not even root can write to")
    with pytest.raises(OSError, match="cannot write to the feature cache in /proc/xfer-features"):
        keep(cache, WORDS)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "10 GB", True, None])
def test_limits_that_make_no_sense(tmp_path, limit):
    with pytest.raises(ValueError, match="max_bytes must be a positive integer, got"):
        FeatureCache(tmp_path, max_bytes=limit)


def test_arguments_that_do_not_fit(cache):
    with pytest.raises(TypeError, match="key must be a dict, got str"):
        cache.entry("layer")
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.entry({"layer": object()})
    keep(cache, WORDS[:9])
    entry = cache.entry(KEY)
    with pytest.raises(ValueError, match=r"shape \(3, 7\), those in the cache \(7, 3\)"):
        entry.append(cache.digests(WORDS[:2]), features_of(WORDS[:2], (3, 7)))
    with pytest.raises(ValueError, match="3 digests came with features of shape"):
        entry.append(cache.digests(WORDS[:3]), features_of(WORDS[:2]))
    with pytest.raises(ValueError, match=r"out must be float32 of shape \(2, 21\)"):
        entry.read(cache.digests(WORDS[:2]), np.zeros((2, 20), np.float32))
    with pytest.raises(ValueError, match="got float64"):
        entry.read(cache.digests(WORDS[:2]), np.zeros((2, 21)))
    with pytest.raises(ValueError, match="a digest must have 16 bytes"):
        entry.read([b"short"], np.zeros((1, 21), np.float32))
    assert check(cache, WORDS).sum() == 9


def test_clear_deletes_features_and_nothing_else(cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("years of work")
    keep(cache, WORDS)
    (cache.path / ("0" * 32)).symlink_to(outside)
    (cache.path / "notes.txt").write_text("mine")
    opened = cache.entry(KEY)
    opened.append(cache.digests(["x"]), features_of(["x"]))
    cache.clear()
    assert cache.nbytes == 0
    assert not check(cache, WORDS).any()
    assert (outside / "thesis.tex").exists() and (cache.path / "notes.txt").exists()
    opened.append(cache.digests(["y"]), features_of(["y"]))
    assert check(cache, ["y"]).all()


def test_it_can_be_pickled_and_described(cache):
    keep(cache, WORDS)
    copy = pickle.loads(pickle.dumps(FeatureCache(cache.path, max_bytes=2**20)))
    assert (copy.path, copy.max_bytes) == (cache.path, 2**20)
    assert check(copy, WORDS).all()
    assert repr(copy) == f"FeatureCache({str(cache.path)!r}: 1 entry, 0.0 of 1.0 MiB)"
    assert cache.nbytes == sum(path.stat().st_size for path in entry_files(cache))
    assert "0 entries" in repr(FeatureCache(cache.path / "none"))


def test_large_arrays_are_files_that_vanish(cache, monkeypatch):
    small = cache.allocate((10, 10))
    assert small.flags.owndata and not cache.path.exists()
    monkeypatch.setattr(store, "_IN_MEMORY", 1000)
    large = cache.allocate((100, 50))
    assert type(large) is np.ndarray and isinstance(large.base, np.memmap)
    assert (large.shape, large.dtype) == ((100, 50), np.float32)
    large[:] = 3
    assert os.listdir(cache.path) == ["xfer-feature-cache.json"]
    assert large.sum() == 15_000
    with pytest.raises(OSError, match="cannot write to the feature cache"):
        cache.allocate((2**44, 2**10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_writes_to_a_segment_of_its_own(cache):
    with cache.entry(KEY) as entry:
        entry.append(cache.digests(WORDS[:10]), features_of(WORDS[:10]))
        child = os.fork()
        some = slice(10, 30) if child else slice(30, 50)
        entry.append(cache.digests(WORDS[some]), features_of(WORDS[some]))
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    assert check(cache, WORDS).sum() == 50
