"""The store of features: what it gives back is right, whatever happens to its file."""

import copy
import functools
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from xfer import cache as cache_module
from xfer.cache import FeatureCache, _seal, example_digests

WORDS = [f"text {i}" for i in range(200)]
SHAPE = (7, 3)
KEY = {"network": "f3a9", "layer": "pooled", "pooling": ["mean", "max"]}


def features_of(texts, shape=SHAPE):
    """Features that tell to which text they belong: nothing else gives these numbers."""
    return np.array([one_of(text, shape) for text in texts], np.float32).reshape(len(texts), *shape)


@functools.cache
def one_of(text, shape):
    return np.random.RandomState(zlib.crc32(text.encode())).normal(size=shape)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features.sqlite")


def keep(cache, texts, key=KEY, batch=32, shape=SHAPE):
    for i in range(0, len(texts), batch):
        some = texts[i : i + batch]
        cache.write(key, example_digests(some), features_of(some, shape))


def check(cache, texts, key=KEY):
    """Read; every row said to be there must be right."""
    found, rows = cache.read(key, example_digests(texts))
    assert found.shape == (len(texts),)
    assert found.dtype == bool
    if rows is None:
        assert not found.any()
    else:
        assert rows.dtype == np.float32
        expected = features_of([text for text, is_found in zip(texts, found) if is_found])
        np.testing.assert_array_equal(rows, expected)
    return found


def run(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, **options
    )


def sql(cache, statement, *values):
    """Change the file behind the cache's back."""
    connection = sqlite3.connect(cache.path)
    changed = connection.execute(statement, values).rowcount
    connection.commit()
    connection.close()
    return changed


def test_features_come_back_in_the_order_asked_for(cache):
    assert not check(cache, WORDS).any()
    assert not cache.path.exists()  # reading makes no file
    keep(cache, WORDS[:120])
    assert check(cache, WORDS).tolist() == [True] * 120 + [False] * 80
    assert check(cache, WORDS[119:20:-7] * 3).all()
    assert check(cache, []).tolist() == []
    other = {**KEY, "pooling": ["mean"]}
    assert cache.read(other, example_digests(WORDS))[1] is None
    assert cache.read(KEY, example_digests(["none"]))[1].shape == (0, *SHAPE)
    assert check(cache, WORDS, dict(reversed(KEY.items()))).sum() == 120
    keep(cache, WORDS[:50], other)
    assert check(cache, WORDS).sum() == 120


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4), (70_000,), (0,)])
def test_any_shape(cache, shape):
    values = features_of(WORDS[:9], shape)
    cache.write(KEY, example_digests(WORDS[:9]), values[::-1].astype(">f4")[::-1])
    found, rows = cache.read(KEY, example_digests(WORDS[:9]))
    assert found.all()
    np.testing.assert_array_equal(rows, values)
    rows[...] = 0  # the array belongs to the caller
    np.testing.assert_array_equal(cache.read(KEY, example_digests(WORDS[:9]))[1], values)


def test_bits_are_kept(cache):
    values = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    cache.write(KEY, example_digests(["x"]), values)
    assert cache.read(KEY, example_digests(["x"]))[1].tobytes() == values.tobytes()


def test_many_rows_in_random_order_beside_a_dict(cache):
    rng = np.random.RandomState(0)
    digests = example_digests([str(i) for i in range(3000)])
    values = rng.normal(size=(3000, 4)).astype(np.float32)
    held = set()
    for _ in range(40):
        some = rng.choice(3000, rng.randint(1, 900)).tolist()
        found, rows = FeatureCache(cache.path).read(KEY, [digests[i] for i in some])
        assert found.tolist() == [i in held for i in some]
        if held:
            np.testing.assert_array_equal(rows, values[some][found])
        new = [i for i in some if i not in held]
        cache.write(KEY, [digests[i] for i in new], values[new])
        held.update(new)


@pytest.mark.parametrize("kind", ["a folder", "a file", "home"])
def test_the_path_is_a_file_or_its_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    path, file = {
        "a folder": (tmp_path, "features.sqlite"),
        "a file": (str(tmp_path / "new" / "features.db"), "new/features.db"),
        "home": ("~/kept", "kept"),
    }[kind]
    cache = FeatureCache(path)
    keep(cache, WORDS)
    assert cache.path == tmp_path / file
    assert cache.path.is_file()


# Processes and threads.

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_cache import KEY, WORDS, FeatureCache, check, keep
print("ready", flush=True)
sys.stdin.readline()
cache = FeatureCache(sys.argv[2])
texts = WORDS[int(sys.argv[3]) : int(sys.argv[4])]
for i in range(0, len(texts), 2):
    check(cache, WORDS)
    keep(cache, texts[i : i + 2])
"""


def test_processes_make_and_write_one_file_at_once(cache):
    here = os.path.dirname(__file__)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    spans = [(0, 120), (80, 200), (60, 130), (0, 30)]
    writers = [run(WRITER, here, cache.path, *span, **pipes) for span in spans]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        check(cache, WORDS)
    assert [writer.communicate() for writer in writers] == [("", "")] * 4
    assert [writer.returncode for writer in writers] == [0] * 4
    assert check(cache, WORDS).all()


def test_threads_share_a_cache(cache):
    errors = []

    def work(start):
        try:
            for i in range(start, 200, 4):
                keep(cache, WORDS[i : i + 1])
                check(cache, WORDS)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert check(cache, WORDS).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_a_connection_of_its_own(cache):
    keep(cache, WORDS[:10])
    writer = threading.Thread(target=keep, args=(cache, WORDS[100:], KEY, 1))
    writer.start()
    children = []
    for start in range(10, 70, 10):
        child = os.fork()
        if not child:
            try:
                keep(cache, WORDS[start : start + 10], batch=1)
                os._exit(0 if check(cache, WORDS[: start + 10]).sum() >= 20 else 1)
            finally:
                os._exit(2)
        children.append(child)
    keep(cache, WORDS[70:100], batch=1)
    writer.join()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert check(cache, WORDS).all()
    assert sql(cache, "DELETE FROM features") == 200


ENDLESS = """
import sys, numpy as np
from xfer.cache import FeatureCache, example_digests
cache = FeatureCache(sys.argv[1])
for start in range(0, 100_000, 8):
    digests = example_digests([str(i) for i in range(start, start + 8)])
    found, _ = cache.read({"large": True}, digests)
    missing = [digests[i] for i in np.flatnonzero(~found)]
    cache.write({"large": True}, missing, np.full((len(missing), 20_000), start, np.float32))
    print(start, len(missing), flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_loses_nothing_it_had_written(cache):
    rng, done = random.Random(0), 0
    for _ in range(5):
        writer = run(ENDLESS, cache.path, stdout=subprocess.PIPE)
        lines = [writer.stdout.readline() for _ in range(done // 8 + rng.randint(1, 20))]
        time.sleep(0.01 * rng.random())
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines()
        counts = dict(map(int, line.split()) for line in lines)
        assert not any(counts[i] for i in range(0, done, 8))
        done = max(counts) + 8
        texts = [str(i) for i in range(done + 16)]
        found, rows = cache.read({"large": True}, example_digests(texts))
        assert found[:done].all()
        assert (rows == (np.flatnonzero(found) // 8 * 8)[:, None]).all()


# Damage.


def damage(path, rng):
    """Harm a file in one of the ways that disks, copies and people do."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "zero", "cut", "insert", "foreign", "grow", "swap words", "swap"])
    at = rng.randrange(len(content) + 1)
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
        content[at : at + 200] = rng.randbytes(len(content[at : at + 200]))
    elif kind == "grow":
        content += rng.randbytes(rng.randint(1, 10_000))
    else:
        step = 4 if kind == "swap words" else 2**14
        a, b = (step * rng.randrange(len(content) // step or 1) for _ in range(2))
        content[a : a + step], content[b : b + step] = content[b : b + step], content[a : a + step]
    path.write_bytes(content)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with a file, and the log of a process that was killed before it was merged."""
    folder = tmp_path_factory.mktemp("filled")
    cache = FeatureCache(folder)
    keep(cache, WORDS[:100])
    cache.write({"another": 1}, example_digests(WORDS), -features_of(WORDS))
    cache._close()
    keep(cache, WORDS[100:120])
    killed = tmp_path_factory.mktemp("killed") / "copy"
    shutil.copytree(folder, killed)
    assert len(os.listdir(killed)) == 3
    return killed


@pytest.mark.parametrize("seed", range(100))
def test_damage_gives_missing_rows_or_a_clear_message_and_never_wrong_rows(filled, tmp_path, seed):
    rng = random.Random(seed)
    shutil.copytree(filled, tmp_path / "features")
    if rng.random() < 0.8:  # merge the log, so that all is in the file
        check(FeatureCache(tmp_path / "features"), WORDS)
    paths = sorted(
        path for path in (tmp_path / "features").iterdir() if path.suffix != ".sqlite-shm"
    )
    for _ in range(rng.randint(1, 3)):
        damage(rng.choice(paths), rng)
    path, refused, kept = tmp_path / "features" / "features.sqlite", "", False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            cache = FeatureCache(path)
            for _ in range(5):  # what is recomputed may meet damage that was not seen yet
                found = check(cache, WORDS)
                keep(cache, [text for text, is_found in zip(WORDS, found) if not is_found])
            kept = check(cache, WORDS).all()
            check(FeatureCache(path), WORDS)
        except ValueError as error:
            refused = str(error)
    assert kept or refused or warned
    assert not refused or f"{path} is not a feature cache" in refused
    for warning in warned:
        assert f"{path} stores no more features" in str(warning.message)
        assert "if the file is damaged, delete it" in str(warning.message)


def test_a_damaged_file_is_said_once_and_work_goes_on(cache):
    keep(cache, WORDS)
    cache._close()
    content = bytearray(cache.path.read_bytes())
    content[2**14 + 2**12 :] = bytes(len(content) - 2**14 - 2**12)
    cache.path.write_bytes(content)
    with pytest.warns(UserWarning, match="stores no more features.* delete it"):
        assert not check(cache, WORDS).any()
    for _ in range(2):  # another warning would be an error
        keep(cache, WORDS)
        assert not check(cache, WORDS).any()
    cache.path.unlink()
    keep(FeatureCache(cache.path), WORDS)
    assert check(FeatureCache(cache.path), WORDS).all()


def test_every_flip_of_a_bit_in_a_row_is_seen_and_mended(cache):
    keep(cache, WORDS[:3])
    cache._close()
    content = cache.path.read_bytes()
    row = features_of(WORDS[:1]).tobytes()
    start = content.index(row)
    for bit in range(0, 8 * len(row), 3):
        harmed = bytearray(content)
        harmed[start + bit // 8] ^= 1 << bit % 8
        cache.path.write_bytes(harmed)
        opened = FeatureCache(cache.path)
        assert check(opened, WORDS[:3]).tolist() == [False, True, True]
        opened._close()
    keep(cache, WORDS[:1])
    assert check(cache, WORDS[:3]).all()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE features SET digest = randomblob(16) WHERE key_id = 1",
        "UPDATE features SET row = (SELECT max(row) FROM features)",
        "UPDATE features SET row = 'text'",
        "UPDATE features SET row = 7",
        "UPDATE features SET row = substr(row, 5)",
        "UPDATE features SET checksum = checksum + 1",
        "UPDATE features SET checksum = 'one'",
        "UPDATE features SET key_id = 7 * (3 - key_id)",
        "UPDATE keys SET id = 14 - 7 * id",
        "UPDATE keys SET id = 7 - id",
        "UPDATE keys SET key = id",
        "UPDATE keys SET shape = '[3, 7]'",
        "UPDATE keys SET shape = '['",
        "UPDATE keys SET shape = 3",
        "UPDATE keys SET seal = NULL",
        "UPDATE keys SET used = 'yesterday'",
        "DELETE FROM keys",
    ],
)
def test_rows_and_keys_that_were_changed_count_as_missing_and_are_replaced(cache, change):
    keep(cache, WORDS)
    cache.write({"another": 1}, example_digests(WORDS), -features_of(WORDS))
    assert sql(cache, change) > 0
    harmless = "used" in change
    assert check(cache, WORDS).sum() <= (200 if harmless else 1)
    keep(cache, WORDS)
    for _ in range(2):
        assert check(cache, WORDS).all()


# Size.


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_least_recently_used_keys_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_TOUCH_SECONDS", 0)
    cache = FeatureCache(tmp_path / "features.sqlite", max_bytes=8_000_000)
    values = np.random.RandomState(0).normal(size=(200, 2000)).astype(np.float32)  # 1.7 MB
    digests = example_digests(WORDS)

    def held(count):
        return [i for i in range(count) if cache.read({"index": i}, digests[:0])[1] is not None]

    for index in range(4):
        cache.write({"index": index}, digests, values)
    for index in (0, 3, 1):
        assert cache.read({"index": index}, digests)[0].all()
    cache.write({"index": 2}, digests[:1], values[:1])
    cache.write({"index": 4}, digests, values)
    assert held(5) == [1, 2, 3, 4]  # this reads, and so uses, 1 to 4 in this order
    assert cache.read({"index": 1}, digests)[0].all()
    cache.write({"index": 5}, digests, values)
    assert held(6) == [1, 3, 4, 5]
    for index in (1, 3, 4, 5):
        np.testing.assert_array_equal(cache.read({"index": index}, digests)[1], values)


def test_the_limit_holds_while_many_keys_are_written(tmp_path):
    cache = FeatureCache(tmp_path / "features.sqlite", max_bytes=300_000)
    for index in range(40):
        keep(cache, WORDS, {"index": index})
        assert cache.nbytes <= 300_000
        assert check(cache, WORDS, {"index": index}).all()
    assert check(cache, WORDS, {"index": 36}).all()
    cache._close()
    assert sizes(tmp_path) == {"features.sqlite": cache.nbytes}
    keep(FeatureCache(cache.path, max_bytes=150_000), ["one more"])
    assert cache.nbytes <= 150_000  # a lower limit makes the file smaller


def test_a_key_beyond_the_limit_is_kept_in_part_with_one_warning(tmp_path):
    cache = FeatureCache(tmp_path / "features.sqlite", max_bytes=150_000)
    keep(cache, WORDS[:10], {"other": 1})
    many = [str(i) for i in range(2000)]
    with pytest.warns(UserWarning, match="max_bytes is 150,000; give it a higher") as warned:
        keep(cache, many, batch=100)
    assert len(warned) == 1
    assert cache.nbytes <= 150_000
    found = check(cache, many)
    assert 100 < found.sum() < 2000
    assert found[: found.sum()].all()


def test_what_cannot_be_kept_costs_no_other_key(tmp_path):
    cache = FeatureCache(tmp_path / "features.sqlite", max_bytes=150_000)
    keep(cache, WORDS[:10], {"other": 1})
    with pytest.warns(UserWarning, match="max_bytes is 150,000"):
        keep(cache, [str(i) for i in range(2000)], batch=2000)
    assert check(cache, WORDS[:10], {"other": 1}).all()


FULL = """
import resource, sys, warnings, numpy as np
from xfer.cache import FeatureCache, example_digests
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
warnings.simplefilter("always")
cache = FeatureCache(sys.argv[1])
for i in range(40):
    cache.write({}, example_digests([str(i)]), np.full((1, 3000), i, np.float32))
found, rows = cache.read({}, example_digests([str(i) for i in range(40)]))
assert 1 < found.sum() < 25 and found[:found.sum()].all(), found
assert (rows == np.arange(found.sum())[:, None]).all()
"""


def test_a_disk_that_takes_no_more_is_warned_of_and_costs_no_features(tmp_path):
    pytest.importorskip("resource")
    process = run(FULL, tmp_path / "features.sqlite", stderr=subprocess.PIPE)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("stores no more features") == 1
    assert "disk I/O error" in said


def test_a_full_disk_stops_writing_and_not_reading(cache):
    keep(cache, WORDS[:20])
    cache._connection.execute("PRAGMA max_page_count = 1")
    with pytest.warns(UserWarning, match="database or disk is full"):
        keep(cache, [str(i) for i in range(2000)])
    keep(cache, WORDS)  # another warning would be an error
    assert check(cache, WORDS).sum() == 20


def test_clear_empties_the_file(cache):
    keep(cache, [str(i) for i in range(3000)])
    full = cache.nbytes
    other = FeatureCache(cache.path)
    cache.clear()
    assert cache.nbytes < full / 3
    assert not check(other, WORDS).any()
    keep(other, WORDS)
    assert check(cache, WORDS).all()
    cache._close()
    other._close()
    assert sizes(cache.path.parent) == {"features.sqlite": cache.nbytes}


def test_a_file_deleted_while_open_can_be_made_again(cache):
    keep(cache, WORDS[:50])
    for path in cache.path.parent.iterdir():
        path.unlink()
    keep(cache, WORDS[50:])
    check(cache, WORDS)
    other = FeatureCache(cache.path)
    assert not check(other, WORDS).any()
    keep(other, WORDS[:9])
    cache._close()
    assert check(cache, WORDS).sum() == check(other, WORDS).sum() == 9


# What is refused.


def test_what_is_not_a_cache_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "short").write_bytes(b"\0\0")
    for mode in ("delete", "wal"):
        connection = sqlite3.connect(tmp_path / mode)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE keys (id INTEGER)")
        connection.close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("thesis.tex", "short"):
        with pytest.raises(ValueError, match=f"{name} is not a feature cache"):
            FeatureCache(tmp_path / name)
    for name in ("delete", "wal"):
        with pytest.raises(ValueError, match=f"{name} is not a feature cache of this"):
            FeatureCache(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    cache = FeatureCache(tmp_path / "new")
    (tmp_path / "new").write_text("more work")
    with pytest.raises(ValueError, match="new is not a feature cache"):
        keep(cache, WORDS)
    assert (tmp_path / "new").read_text() == "more work"


def test_a_file_that_is_destroyed_while_it_is_open_is_given_up(cache):
    keep(cache, WORDS)
    # Nothing is left elsewhere: neither in the log nor in memory.
    cache._connection.executescript("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA shrink_memory")
    cache.path.write_bytes(b"other" * 2000)
    with pytest.warns(UserWarning, match="stores no more features: file is not a database"):
        assert not check(cache, WORDS).any()
    keep(cache, WORDS)
    assert cache.path.read_bytes() == b"other" * 2000


@pytest.mark.parametrize("shape", [b"[-1,-3]", b"[4611686018427387904]", b'"abc"', b"[" * 10**5])
def test_a_forged_shape_is_no_key(cache, shape):
    key = {"k": 1}
    digests = example_digests(WORDS)
    cache.write(key, digests, np.ones((len(WORDS), 3), np.float32))
    text = json.dumps(key)
    with cache._connection as file:
        file.execute("UPDATE keys SET shape = ?, seal = ?", [shape.decode(), _seal(text, shape)])
    assert not cache.read(key, digests)[0].any()


def test_a_cache_of_another_format_is_refused(cache):
    keep(cache, WORDS)
    cache._close()
    sql(cache, "PRAGMA user_version = 99")
    content = cache.path.read_bytes()
    with pytest.raises(ValueError, match="not a feature cache of this version of xfer"):
        FeatureCache(cache.path)
    assert cache.path.read_bytes() == content


def test_an_empty_file_becomes_a_cache(tmp_path):
    with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        cache = FeatureCache(file.name)
        keep(cache, WORDS)
        assert check(FeatureCache(file.name), WORDS).all()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    places = [
        tmp_path / "thesis.tex" / "features",
        Path("/proc/features.sqlite"),
        Path("/proc/x/y"),
    ]
    for place in places if os.path.isdir("/proc") else places[:1]:
        cache = FeatureCache(place)
        assert not check(cache, WORDS).any()
        with pytest.raises(OSError, match=f"cannot open or write {place}: "):
            keep(cache, WORDS)


READ_ONLY = """
import os, sys, numpy.random, numpy.testing
sys.path.insert(0, sys.argv[1])
from test_cache import WORDS, FeatureCache, check, keep
check(FeatureCache(sys.argv[2] + "-copy"), WORDS)  # imports all that it needs
if os.getuid() == 0:
    os.setuid(65534)
cache = FeatureCache(sys.argv[2])
assert check(cache, WORDS).all()
try:
    keep(cache, ["x"])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs permissions of POSIX")
def test_a_file_without_permission_to_write_can_be_read():
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder)
        keep(cache, WORDS)
        cache._close()
        cache.path.chmod(0o444)
        os.chmod(folder, 0o777)
        here = os.path.dirname(__file__)
        shutil.copy(cache.path, f"{cache.path}-copy")
        reader = run(READ_ONLY, here, cache.path, stdout=subprocess.PIPE)
        assert "cannot open or write" in reader.communicate()[0]
        assert reader.returncode == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5, "10 GB", True, None])
def test_limits_that_make_no_sense(tmp_path, limit):
    with pytest.raises(ValueError, match="max_bytes must be an integer >= 1, got"):
        FeatureCache(tmp_path, max_bytes=limit)


def test_arguments_that_do_not_fit(cache):
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.read({"layer": object()}, [])
    keep(cache, WORDS[:9])
    with pytest.raises(ValueError, match=r"shape \(3, 7\), but \(7, 3\) in the cache"):
        cache.write(KEY, example_digests(WORDS[:2]), features_of(WORDS[:2], (3, 7)))
    with pytest.raises(ValueError, match="3 digests came with features of shape"):
        cache.write(KEY, example_digests(WORDS[:3]), features_of(WORDS[:2]))
    cache.write({"new": 1}, [], np.zeros((0, 3), np.float32))
    assert cache.read({"new": 1}, [])[1] is None
    assert check(cache, WORDS).sum() == 9


def test_it_can_be_copied_pickled_and_described(cache):
    keep(cache, WORDS)
    small = FeatureCache(cache.path, max_bytes=2**20)
    for other in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert (other.path, other.max_bytes) == (cache.path, 2**20)
        assert check(other, WORDS).all()
    assert repr(small) == f"FeatureCache({str(cache.path)!r}, max_bytes=1048576)"
    assert cache.nbytes >= 200 * 84
