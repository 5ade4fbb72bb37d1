"""Fine-tuning: cost of an epoch, and one step compared with MXNet's.

An epoch of xfer against a hand-written PyTorch loop on the same module, and against MXNet's own
loop, on the same batches. Then one step from the same weights on the same batch with the same
optimizer, by xfer's trainer and by an MXNet Module.

Run with ``python benchmarks/fine_tuning.py`` on an idle machine.
"""

import os
import time
from contextlib import contextmanager

import numpy as np
import torch
from sources import FOLDER, cifar100, digits, module, newsgroups

import xfer
from xfer.training import loop

import mxnet as mx  # isort: skip

ROUNDS, EPOCHS, BATCH = 5, 2, 32
OPTIMIZERS = {
    "SGD": ("sgd", {"learning_rate": 0.01}),
    "momentum": ("sgd", {"learning_rate": 0.01, "momentum": 0.9}),
    "Adam": ("adam", {"learning_rate": 0.001}),
}


def main():
    """Print a table of epochs and one of single steps."""
    tasks = load()
    print("| ms per step | xfer | PyTorch loop | MXNet loop | xfer / PyTorch | MXNet / xfer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, task in tasks.items():
        for words, fixed in ((name, False), (f"{name}, only the last convolution trained", True)):
            rows = []
            for _ in range(ROUNDS):
                ways = (time_xfer, time_torch, time_mxnet)
                rows.append(
                    [1000 * way(*task, fixed_layers(task) if fixed else []) for way in ways]
                )
            ours, plain, old = np.transpose(rows)
            print(
                f"| {words} | {np.median(ours):.1f} | {np.median(plain):.1f} | "
                f"{np.median(old):.1f} | {ratio(ours, plain)} | {ratio(old, ours)} |",
                flush=True,
            )
    print()
    print(
        f"| largest relative difference of a parameter after one step | {' | '.join(OPTIMIZERS)} |"
    )
    print(f"| --- |{' --- |' * len(OPTIMIZERS)}")
    for name, task in tasks.items():
        task = (*task[:2], "reshape1", *task[3:]) if name == "newsgroups_cnn" else task
        errors = [compare_step(*task, *optimizer) for optimizer in OPTIMIZERS.values()]
        print(f"| {name} | {' | '.join(f'{error:.1e}' for error in errors)} |")


def ratio(some, others):
    """Return the median of paired ratios, with the least and the most."""
    found = some / others
    return f"{np.median(found):.2f} ({found.min():.2f} to {found.max():.2f})"


def load():
    """Return checkpoint, epoch, layer, inputs and class indices of each task."""
    posts, groups = newsgroups()
    images, labels, _, _ = cifar100()
    pixels, numbers = digits()
    tasks = {
        "newsgroups_cnn": (0, "dropout0", posts[:256], groups[:256]),
        "cifar_resnet20_v1": (0, "cifarresnetv10_pool0_fwd", images[:512], labels[:512]),
        "cifar_resnet20_v2": (0, "cifarresnetv20_pool0_fwd", images[:512], labels[:512]),
        "mnist_lenet": (10, "activation2", pixels[:512], numbers[:512]),
    }
    return {
        name: (name, epoch, layer, inputs.astype(np.float32), np.unique(y, return_inverse=True)[1])
        for name, (epoch, layer, inputs, y) in tasks.items()
    }


def fixed_layers(task):
    """Name the layers with parameters below the last convolution."""
    name, epoch, layer, *_ = task
    handler = xfer.ModelHandler(module(name, epoch))
    names = handler.layer_names[: handler.layer_names.index(layer)]
    last = [name for name in names if handler.get_layer_type(name) == "Convolution"][-1]
    below = names[: names.index(last)]
    return [name for name in below if handler.get_layer_parameters([name])]


def open_task(name, epoch):
    """Open a checkpoint, without MXNet."""
    return xfer.load_checkpoint(FOLDER / "models" / name, epoch)


def time_xfer(name, epoch, layer, inputs, targets, fixed):
    """Return the seconds per step of xfer, over all epochs of a fit except the first."""
    source, seconds, run_epoch = open_task(name, epoch), [], loop.Training._run_epoch

    def timed(self, *arguments):
        start = time.perf_counter()
        found = run_epoch(self, *arguments)
        seconds.append(time.perf_counter() - start)
        return found

    loop.Training._run_epoch = timed
    names = source.layer_names
    options = {"num_epochs": 1 + EPOCHS, "batch_size": BATCH}
    try:
        xfer.NeuralNetworkRandomFreezeRepurposer(
            source, None, fixed, (), len(names) - 1 - names.index(layer), **options
        ).fit(inputs, targets)
    finally:
        loop.Training._run_epoch = run_epoch
    return np.mean(seconds[1:]) / -(-len(inputs) // BATCH)


def time_torch(name, epoch, layer, inputs, targets, fixed):
    """Return the seconds per step of a loop written by hand."""
    source = open_task(name, epoch)
    body = source.to_torch([layer]).train()
    data = torch.utils.data.TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
    batches = torch.utils.data.DataLoader(data, BATCH, shuffle=True)
    names = {parameter for one in fixed for parameter in source.parameters_of(one)}
    for parameter, tensor in body.named_parameters():
        tensor.requires_grad_(parameter not in names)
    with torch.no_grad():
        width = body(next(iter(batches))[0]).flatten(1).shape[1]
    head = torch.nn.Linear(width, targets.max() + 1)
    trained = [one for one in [*body.parameters(), *head.parameters()] if one.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.001, fused=True)
    seconds = []
    for _ in range(1 + EPOCHS):
        start = time.perf_counter()
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(head(body(x).flatten(1)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return np.mean(seconds[1:]) / len(batches)


def time_mxnet(name, epoch, layer, inputs, targets, fixed):
    """Return the seconds per step of MXNet's own loop."""
    plain, batches = bind_mxnet(name, epoch, layer, inputs, targets, fixed)
    plain.init_optimizer(optimizer="adam", optimizer_params={"learning_rate": 0.001})
    seconds = []
    for _ in range(1 + EPOCHS):
        start = time.perf_counter()
        batches.reset()
        for batch in batches:
            plain.forward_backward(batch)
            plain.update()
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    return np.mean(seconds[1:]) / -(-len(inputs) // BATCH)


def bind_mxnet(name, epoch, layer, inputs, targets, fixed=()):
    """Return a Module of the network and a new last layer, and an iterator."""
    handler = xfer.ModelHandler(module(name, epoch))
    parameters = [n for n in handler.get_layer_parameters(list(fixed)) if n in handler.arg_params]
    symbol = handler.symbol.get_internals()[f"{layer}_output"]
    symbol = mx.sym.FullyConnected(symbol, num_hidden=int(targets.max()) + 1, name="scores")
    plain = mx.mod.Module(
        mx.sym.SoftmaxOutput(symbol, name="softmax"), fixed_param_names=parameters
    )
    batches = mx.io.NDArrayIter(inputs, targets, BATCH, shuffle=len(inputs) > BATCH)
    with subgraphs_off():
        plain.bind(batches.provide_data, batches.provide_label)
    arguments, statistics = (
        {name: mx.nd.array(array) for name, array in values.items()}
        for values in (handler.arg_params, handler.aux_params)
    )
    plain.init_params(mx.init.Xavier(), arguments, statistics, allow_missing=True, allow_extra=True)
    return plain, batches


def compare_step(name, epoch, layer, inputs, targets, optimizer, params):
    """Return how far a parameter is apart after one step on the same batch, relative to its norm.

    Without dropout, which is random in both.
    """
    inputs, targets = inputs[:BATCH], targets[:BATCH]
    targets = np.unique(targets, return_inverse=True)[1]
    plain, batches = bind_mxnet(name, epoch, layer, inputs, targets)
    old = dict(params)
    if optimizer == "adam":
        # MXNet adds epsilon before it corrects the bias of the second moment, PyTorch after.
        old["epsilon"] = 1e-8 * np.sqrt(1 - 0.999)
    plain.init_optimizer(optimizer=optimizer, optimizer_params=old)
    start = {name: array.asnumpy() for half in plain.get_params() for name, array in half.items()}
    batch = next(batches)
    plain.forward_backward(batch)
    plain.update()
    mx.nd.waitall()  # running statistics are still being written
    expected = {name: a.asnumpy() for half in plain.get_params() for name, a in half.items()}
    source = open_task(name, epoch)
    (found_layer,) = source.find_layers(layer)
    head = start["scores_weight"], start["scores_bias"]
    network = loop.Network(source, found_layer, "flatten", *head)
    loop.fix(network, set())
    for one in network.modules():
        if getattr(one, "kind", "") == "Dropout":
            one.eval()
    options = loop.TrainingOptions(optimizer=optimizer, optimizer_params=params)
    groups = {"new": network.scores.parameters(), "transferred": network.body.parameters()}
    step, _ = loop.make_optimizer(options, {key: [*group] for key, group in groups.items()})
    scores = network.score({source.input_names[0]: inputs})
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(targets)).backward()
    step.step()
    found = {f"scores_{n}": tensor for n, tensor in network.scores.state_dict().items()}
    found.update(network.body.state_dict())
    errors = []
    for name, tensor in found.items():
        size = expected[name]
        if name.endswith("running_mean"):  # it may be close to 0, and is as exact as the data
            size = np.sqrt(expected[name.replace("mean", "var")])
        if np.any(size):
            errors.append(np.linalg.norm(tensor.numpy() - expected[name]) / np.linalg.norm(size))
    return max(errors)


@contextmanager
def subgraphs_off():
    """Keep MXNet from the fusion that is wrong."""
    before = os.environ.get("MXNET_SUBGRAPH_BACKEND")
    os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"
    try:
        yield
    finally:
        os.environ.pop("MXNET_SUBGRAPH_BACKEND")
        if before is not None:
            os.environ["MXNET_SUBGRAPH_BACKEND"] = before


if __name__ == "__main__":
    main()
