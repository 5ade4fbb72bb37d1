"""Many rows from Parquet to Parquet: a plain loop, the same with Predictor, and Ray with workers.

Run with ``python benchmarks/scale.py``. The network is the small one that comes with xfer, the rows
are its pictures of 16 x 16 bytes with noise. Each figure is from a process of its own, in which
ONNX Runtime and BLAS have one thread; the ways take turns. Ray may use 4 logical CPUs, so that two
workers leave some for reading and writing; how many cores there are is up to the machine. Memory
is that of all processes, without what they share, which is the object store of at most 400 MB.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WAYS = ("plain loop", "Predictor in a loop", "Ray, 1 worker", "Ray, 2 workers")
SIZES = {100_000: 3, 1_000_000: 1}  # rounds of each number of rows
BATCH_SIZE, FILE_ROWS, STORE_BYTES = 1024, 25_000, 400_000_000


def main():
    """Print the table."""
    print(f"Load average before the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs.\n")
    print("| rows | | rows/s | against the plain loop | start s | peak memory MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        for n_rows, n_rounds in SIZES.items():
            write_rows(Path(folder), n_rows)
            rounds = [{way: measure(folder, n_rows, way) for way in WAYS} for _ in range(n_rounds)]
            for way in WAYS:
                speeds, starts, peaks = np.transpose([found[way] for found in rounds])
                ratios = speeds / [found["plain loop"][0] for found in rounds]
                spread = f" ({ratios.min():.2f} to {ratios.max():.2f})" if n_rounds > 1 else ""
                print(
                    f"| {n_rows:,} | {way} | {np.median(speeds):,.0f} | {np.median(ratios):.2f}"
                    f"{spread} | {np.median(starts):.0f} | {peaks.max():.0f} |",
                    flush=True,
                )


def save_model(folder):
    """Save a repurposer of the example task."""
    import xfer

    images, digits = xfer.example.digits()
    images, digits = (255 * images[digits >= 5]).astype(np.uint8), digits[digits >= 5]
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[:200], digits[:200])
    repurposer.save_repurposer("model", folder)


def write_rows(folder, n_rows):
    """Write pictures to several files."""
    import pyarrow
    import pyarrow.parquet

    import xfer

    random = np.random.RandomState(0)
    images = xfer.example.digits()[0]
    (folder / str(n_rows)).mkdir()
    for start in range(0, n_rows, FILE_ROWS):
        some = images[random.randint(len(images), size=FILE_ROWS)]
        pixels = (255 * some).astype(np.uint8) ^ random.randint(4, size=some.shape, dtype=np.uint8)
        columns = {
            "id": np.arange(start, start + FILE_ROWS),
            "pixels": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(pixels),
        }
        path = folder / str(n_rows) / f"{start:08}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)


def measure(folder, n_rows, way):
    """Run one way in a process of its own: rows per second, seconds of the start, peak memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, folder, str(n_rows), way],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def child(folder, n_rows, way):
    """Measure one way; print what `measure` returns."""
    folder, n_rows = Path(folder), int(n_rows)
    out = Path(tempfile.mkdtemp(dir=folder))
    start = time.time()
    with PeakMemory() as memory:
        run = with_ray if way.startswith("Ray") else in_a_loop
        first_batch = run(folder / "model.xfer", folder / str(n_rows), out, way)
    end = time.time()
    check(out, n_rows)
    print(json.dumps([n_rows / (end - first_batch), first_batch - start, memory.peak / 1e6]))


def in_a_loop(model, data, out, way):
    """Predict batch by batch in this process; return when the first batch began."""
    import pyarrow.parquet

    import xfer

    repurposer = xfer.load(model)
    predictor = xfer.Predictor(repurposer, "pixels")
    first_batch = time.time()
    for path in sorted(data.iterdir()):
        writer = None
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH_SIZE):
            found = plain(repurposer, batch) if way == "plain loop" else predictor(batch)
            found = found.drop_columns(["pixels"])
            writer = writer or pyarrow.parquet.ParquetWriter(out / path.name, found.schema)
            writer.write_batch(found)
        writer.close()
    return first_batch


def plain(repurposer, batch):
    """Predict a batch as one would by hand; the features are computed once."""
    import pyarrow

    probabilities = repurposer.predict_proba(batch["pixels"].to_numpy_ndarray())
    best = probabilities.argmax(axis=1)
    found = {"label": repurposer.classes_[best], "probability": probabilities.max(axis=1)}
    for name, values in found.items():
        batch = batch.append_column(name, pyarrow.array(values))
    return batch


def with_ray(model, data, out, way):
    """Predict with Ray Data; return when the first worker began its first batch."""
    import ray

    import xfer

    class Timed(xfer.Predictor):
        def __call__(self, batch):
            began = out / f"began-{os.getpid()}"
            if not began.exists():
                self._open()
                began.touch()
            return super().__call__(batch)

    ray.init("local", num_cpus=4, object_store_memory=STORE_BYTES, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 2_000_000  # else a few blocks hold all rows
    rows = ray.data.read_parquet(str(data))
    found = rows.map_batches(
        Timed,
        fn_constructor_args=(model, "pixels"),
        batch_size=BATCH_SIZE,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=int(way.split()[1])),
    )
    found.drop_columns(["pixels"]).write_parquet(str(out))
    return min(path.stat().st_mtime for path in out.glob("began-*"))


def check(out, n_rows):
    """Refuse a result that is not complete."""
    import pyarrow.parquet

    paths = out.rglob("*.parquet")
    found = [pyarrow.parquet.read_table(path, columns=["id", "label"]) for path in paths]
    ids = np.sort(np.concatenate([table["id"].to_numpy() for table in found]))
    assert (ids == np.arange(n_rows)).all()


class PeakMemory:
    """The most memory that this process and those that it started have had, every half second."""

    peak = 0

    def __enter__(self):
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stopped.set()
        self._thread.join()

    def _watch(self):
        import psutil

        this = psutil.Process()
        while not self._stopped.wait(0.5):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    memory = process.memory_info()
                    total += memory.rss - memory.shared
                except psutil.NoSuchProcess:
                    pass
            self.peak = max(self.peak, total)


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else main()
