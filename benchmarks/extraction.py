"""Feature extraction against a plain MXNet forward loop: throughput, peak memory, right or wrong.

Run with ``python benchmarks/extraction.py``. Each figure is from a separate process. The two take
turns; quote the median of their pairwise ratios.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

TASKS = {
    "newsgroups_cnn, 6,642 posts": ("newsgroups_cnn", "dropout0", "newsgroups"),
    "cifar_resnet20_v1, 1,000 images": ("cifar_resnet20_v1", "cifarresnetv10_pool0_fwd", "cifar10"),
    "cifar_resnet20_v2, 1,000 images": ("cifar_resnet20_v2", "cifarresnetv20_pool0_fwd", "cifar10"),
}
WAYS = ("xfer, arrays", "xfer, iterator", "plain loop")
BATCH_SIZE, ROUNDS = 100, 3


def main():
    """Print the table."""
    print("| | examples/s | against the plain loop | peak memory MB | features are right |")
    print("| --- | --- | --- | --- | --- |")
    for task in TASKS:
        rounds = [{way: measure(task, way) for way in WAYS} for _ in range(ROUNDS)]
        for way in WAYS:
            speed = np.median([figures[way]["speed"] for figures in rounds])
            ratios = [figures[way]["speed"] / figures["plain loop"]["speed"] for figures in rounds]
            memory = np.median([figures[way]["memory"] for figures in rounds])
            right = "yes" if rounds[0][way]["error"] < 1e-4 else "NO"
            print(
                f"| {task}: {way} | {speed:,.0f} | {np.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) | {memory:.0f} | {right} |",
                flush=True,
            )


def measure(task, way):
    """Run one way in a separate process."""
    command = [sys.executable, __file__, task, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(task, way):
    """Measure one way; print examples per second, memory beyond the loaded model, largest error."""
    import mxnet as mx
    import sources

    import xfer

    name, layer, data = TASKS[task]
    module = sources.module(name, label_names=None)
    inputs, labels = getattr(sources, data)()
    inputs = inputs.astype(np.float32)
    labels = np.unique(labels, return_inverse=True)[1]
    iterator = mx.io.NDArrayIter(inputs, labels, BATCH_SIZE)
    before = peak_memory()
    start = time.perf_counter()
    if way == "plain loop":
        features = plain_loop(mx, module, layer, iterator)
    else:
        given = inputs if way == "xfer, arrays" else iterator
        source = xfer.open_source(module)
        features = source.extract(given, layer, batch_size=BATCH_SIZE).matrix
    seconds = time.perf_counter() - start
    memory = peak_memory() - before
    print(
        json.dumps(
            {
                "speed": len(inputs) / seconds,
                "memory": memory,
                "error": error(mx, module, layer, inputs[:BATCH_SIZE], features[:BATCH_SIZE]),
            }
        )
    )


def plain_loop(mx, module, layer, iterator):
    """Extract with plain MXNet: bind the inner layer for inference and collect batches."""
    inner = mx.mod.Module(module.symbol.get_internals()[layer + "_output"], label_names=None)
    inner.bind(iterator.provide_data, for_training=False)
    inner.set_params(module._arg_params, module._aux_params, allow_extra=True)
    outputs = []
    for batch in iterator:
        inner.forward(batch, is_train=False)
        output = inner.get_outputs()[0].asnumpy()
        outputs.append(output[: len(output) - batch.pad].reshape(len(output) - batch.pad, -1))
    return np.concatenate(outputs)


def error(mx, module, layer, inputs, features):
    """Return the largest difference from MXNet bound for training, as a share of the largest."""
    inner = mx.mod.Module(module.symbol.get_internals()[layer + "_output"], label_names=None)
    inner.bind([("data", inputs.shape)], for_training=True)
    inner.set_params(module._arg_params, module._aux_params, allow_extra=True)
    inner.forward(mx.io.DataBatch([mx.nd.array(inputs)]), is_train=False)
    right = inner.get_outputs()[0].asnumpy().reshape(len(inputs), -1)
    return float(np.abs(right - features).max() / np.abs(right).max())


def peak_memory():
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else main()
