"""Features of PyTorch networks: xfer against the loops that people write.

Run with ``python benchmarks/torch_extraction.py``, and with ``--device cuda`` where there is a GPU;
with ``--autocast`` all ways compute in bfloat16. Each figure comes from a process of its own; the
ways take turns, and the median of their pairwise ratios is what to quote.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch import nn

# Images, their size, the widths of the stages, whether the stem halves twice, the examples.
TASKS = {
    "ResNet-20, 32 x 32": (2048, 32, (16, 32, 64), 3, False),
    "ResNet-18, 224 x 224": (256, 224, (64, 128, 256, 512), 2, True),
}
BATCH_SIZE, ROUNDS = 32, 5
# Stage whose maps are wanted: there is one more after it, which need not be computed.
LAYER = "stages.1"


class Block(nn.Module):
    """Two convolutions and a way past them."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.past = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x):
        """Compute the maps."""
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner + self.past(x))


class ResNet(nn.Module):
    """A residual network (He et al. 2016) with random weights."""

    def __init__(self, widths, blocks, large):
        super().__init__()
        first = widths[0]
        stem = [nn.Conv2d(3, first, 7 if large else 3, 2 if large else 1, 3 if large else 1)]
        stem += [nn.BatchNorm2d(first), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, *([nn.MaxPool2d(3, 2, 1)] if large else []))
        pairs = zip([first, *widths], widths)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    Block(before, after, 1 if before == after else 2),
                    *(Block(after, after, 1) for _ in range(blocks - 1)),
                )
                for before, after in pairs
            )
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x):
        """Compute the scores."""
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def with_xfer(net, images, options):
    """Use the library."""
    from xfer.sources.torch import TorchSource

    source = TorchSource(net, autocast=torch.bfloat16 if options.autocast else None)
    return source.extract(images, LAYER, batch_size=BATCH_SIZE).matrix


def by_hand(net, images, options):
    """Collect what a hook on the layer sees; batches are pinned for a GPU."""
    kept, outputs = {}, []
    cuda = options.device == "cuda"
    hook = net.get_submodule(LAYER).register_forward_hook(
        lambda module, inputs, output: kept.update(maps=output.detach())
    )
    with torch.no_grad(), torch.autocast(options.device, torch.bfloat16, options.autocast):
        for start in range(0, len(images), BATCH_SIZE):
            batch = torch.from_numpy(images[start : start + BATCH_SIZE])
            batch = batch.pin_memory().to("cuda", non_blocking=True) if cuda else batch
            net(batch)
            outputs.append(kept["maps"].flatten(1).float().cpu())
    hook.remove()
    return torch.cat(outputs).numpy()


def with_fx(net, images, options):
    """Cut a traced graph after the layer, as torchvision's create_feature_extractor does."""
    graph = torch.fx.symbolic_trace(net).graph
    wanted = None
    for node in graph.nodes:
        if node.op == "call_module" and node.target.startswith(LAYER + "."):
            wanted = node
    for node in reversed(list(graph.nodes)):
        if node.op == "output":
            graph.erase_node(node)
            break
    with graph.inserting_after(wanted):
        graph.output(wanted)
    graph.eliminate_dead_code()
    cut, outputs = torch.fx.GraphModule(net, graph), []
    with torch.no_grad(), torch.autocast(options.device, torch.bfloat16, options.autocast):
        for start in range(0, len(images), BATCH_SIZE):
            batch = torch.from_numpy(images[start : start + BATCH_SIZE]).to(options.device)
            outputs.append(cut(batch).flatten(1).float().cpu())
    return torch.cat(outputs).numpy()


def as_thingsvision(net, images, options):
    """Collect copies of what a hook sees from a DataLoader, and stack them in the end."""
    kept, outputs = {}, []
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(images)), BATCH_SIZE
    )
    net.get_submodule(LAYER).register_forward_hook(
        lambda module, inputs, output: kept.update(maps=output.detach().clone())
    )
    with torch.no_grad(), torch.autocast(options.device, torch.bfloat16, options.autocast):
        for (batch,) in loader:
            net(batch.to(options.device))
            outputs.append(kept["maps"].flatten(1).float().cpu().numpy())
    return np.vstack(outputs)


WAYS = {
    "xfer": with_xfer,
    "hooks by hand": by_hand,
    "fx graph": with_fx,
    "thingsvision style": as_thingsvision,
}


def main(options):
    """Print the table."""
    where = torch.cuda.get_device_name() if options.device == "cuda" else "2 CPU cores"
    print(f"{where}, batches of {BATCH_SIZE}, maps of `{LAYER}`\n")
    print("| | images/s | xfer against it | memory MB |\n| --- | --- | --- | --- |")
    for task in TASKS:
        rounds = [{way: measure(task, way, options) for way in WAYS} for _ in range(ROUNDS)]
        for way in WAYS:
            speed = np.median([figures[way]["speed"] for figures in rounds])
            ratios = [figures["xfer"]["speed"] / figures[way]["speed"] for figures in rounds]
            memory = np.median([figures[way]["memory"] for figures in rounds])
            assert rounds[0][way]["sum"] == rounds[0]["xfer"]["sum"] or options.device == "cuda"
            print(
                f"| {task}: {way} | {speed:,.0f} | {np.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) | {memory:.0f} |",
                flush=True,
            )


def measure(task, way, options):
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--way", way, "--device", options.device]
    command += ["--autocast"] if options.autocast else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(options):
    """Measure one way; print images a second, memory beyond network and data, and a checksum."""
    n_images, size, widths, blocks, large = TASKS[options.task]
    torch.manual_seed(0)
    net = ResNet(widths, blocks, large).eval().to(options.device)
    images = np.random.RandomState(0).rand(n_images, 3, size, size).astype(np.float32)
    WAYS[options.way](net, images[:BATCH_SIZE], options)
    before = peak_memory()
    start = time.perf_counter()
    features = WAYS[options.way](net, images, options)
    seconds = time.perf_counter() - start
    figures = {
        "speed": n_images / seconds,
        "memory": peak_memory() - before,
        "sum": round(float(features.sum(dtype=np.float64)), 1),
    }
    print(json.dumps(figures))


def peak_memory():
    """Return the most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--task")
    parser.add_argument("--way")
    given = parser.parse_args()
    child(given) if given.way else main(given)
