"""CPU seconds and memory from the start of Python to the first prediction of a saved classifier.

A server that starts, or a function in the cloud, pays this once. The file is either what
``save_repurposer`` writes, read with xfer, or what ``to_onnx`` writes, run by ONNX Runtime alone.
Each figure is the median of new processes, with all files in the system's cache. CPU seconds of one
thread change little if the machine does other work. Run with ``OMP_NUM_THREADS=1 python
benchmarks/start.py``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROUNDS, LABELS = 5, 100
WAYS = {
    ".xfer, with xfer": """
import xfer
model = xfer.load("classifier")
model.predict_proba(example)""",
    ".onnx, with ONNX Runtime": """
import onnxruntime
model = onnxruntime.InferenceSession("classifier.onnx")
model.run(["probabilities"], {"data": example})""",
}
CHILD = """
import json, re, time
import numpy as np
example = np.load("example.npy")
{}
seconds = time.process_time()
status = open("/proc/self/status").read()
print(json.dumps([seconds, int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1000]))
"""


def main():
    """Print a table."""
    from sources import FOLDER, cifar100, newsgroups

    import xfer

    posts, groups = newsgroups()
    images, labels, _, _ = cifar100()
    tasks = {"newsgroups_cnn": (posts, groups), "cifar_resnet20_v2": (images, labels)}
    print("| network | file | MB | CPU s to the first result | memory MB |")
    print("| --- " * 5 + "|")
    for network, (X, y) in tasks.items():
        rows = np.random.RandomState(0).permutation(len(y))[:LABELS]
        source = xfer.load_checkpoint(FOLDER / "models" / network, 0)
        X = X.astype(np.float32)
        repurposer = xfer.AutoRepurposer(source).fit(X[rows], y[rows])
        with tempfile.TemporaryDirectory() as folder:
            repurposer.save_repurposer("classifier", folder)
            repurposer.to_onnx(Path(folder) / "classifier.onnx")
            np.save(Path(folder) / "example.npy", X[-1:])
            rounds = [[measure(way, folder) for way in WAYS] for _ in range(ROUNDS)]
            for way, (seconds, memory) in zip(WAYS, np.median(rounds, axis=0)):
                size = (Path(folder) / f"classifier{way.split(',')[0]}").stat().st_size / 1e6
                cells = f"{size:.1f} | {seconds:.2f} | {memory:.0f}"
                print(f"| {network} | {way} | {cells} |", flush=True)


def measure(way, folder):
    """Return CPU seconds until the first prediction, and the most memory in MB."""
    code = CHILD.replace("{}", WAYS[way])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
