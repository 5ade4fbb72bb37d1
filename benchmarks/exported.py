"""One call of an exported ONNX file against ``predict_proba`` of the repurposer it was made of.

Both compute the network and the classifier, on one example and on batches. The file runs in a plain
session of ONNX Runtime with one thread. Run with ``python benchmarks/exported.py`` on an idle
machine.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from sources import FOLDER, cifar100, newsgroups

import xfer

ROUNDS, LABELS, BATCH = 15, 100, 64
HEADS = {
    "LrRepurposer": xfer.LrRepurposer,
    "SvmRepurposer": xfer.SvmRepurposer,
    "GpRepurposer": xfer.GpRepurposer,
    "BnnRepurposer": xfer.BnnRepurposer,
    "AutoRepurposer": xfer.AutoRepurposer,
}


def main():
    """Print a table."""
    print(
        "| network, classifier | MB | ms, 1 example | predict_proba | times as fast | "
        f"ms, {BATCH} examples | predict_proba | times as fast | largest difference |"
    )
    print("| --- " * 9 + "|")
    posts, groups = newsgroups()
    images, labels, _, _ = cifar100()
    tasks = {
        "newsgroups_cnn": ("dropout0", posts.astype(np.float32), groups),
        "cifar_resnet20_v2": ("cifarresnetv20_pool0_fwd", images.astype(np.float32), labels),
    }
    for network, (layer, X, y) in tasks.items():
        rows = np.random.RandomState(0).permutation(len(y))[:LABELS]
        source = xfer.load_checkpoint(FOLDER / "models" / network, 0)
        for name, kind in HEADS.items():
            repurposer = kind(source) if name == "AutoRepurposer" else kind(source, layer)
            row = measure(repurposer.fit(X[rows], y[rows]), X[-BATCH:])
            print(f"| {network}, {name} | {row} |", flush=True)


def measure(repurposer, X):
    """Return the cells of one row."""
    with tempfile.TemporaryDirectory() as folder:
        path = repurposer.to_onnx(Path(folder) / "classifier.onnx")
        size = path.stat().st_size / 1e6
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options)
    name, cells = session.get_inputs()[0].name, [f"{size:.1f}"]
    for n in (1, len(X)):
        part, times = X[:n], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            found = session.run(None, {name: part})[1]
            middle = time.perf_counter()
            expected = repurposer.predict_proba(part)
            times.append((middle - start, time.perf_counter() - middle))
        ours, theirs = 1000 * np.transpose(times)
        cells += [f"{np.median(ours):.2f}", f"{np.median(theirs):.2f}"]
        cells.append(f"{np.median(theirs / ours):.2f}")
    difference = np.abs(found - expected).max()
    return " | ".join([*cells, f"{difference:.0e}"])


if __name__ == "__main__":
    main()
