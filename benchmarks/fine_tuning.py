"""Cost of an epoch of fine-tuning, against a plain MXNet training loop on the same batches.

Run with ``python benchmarks/fine_tuning.py`` on an idle machine.
"""

import time

import numpy as np
from sources import cifar100, module, newsgroups

import xfer
from xfer import training

import mxnet as mx  # isort: skip

ROUNDS, EPOCHS, BATCH = 5, 3, 32


def main():
    """Print a row for each network and way."""
    images, labels, _, _ = cifar100()
    posts, groups = newsgroups()
    print("| | ms a step, xfer | ms a step, plain MXNet | ratio (least to most of the rounds) |")
    print("| --- | --- | --- | --- |")
    tasks = {
        "cifar_resnet20_v1": (images[:512], labels[:512], "cifarresnetv10_pool0_fwd"),
        "newsgroups_cnn": (posts[:256], groups[:256], "dropout0"),
    }
    for name, (inputs, names, layer) in tasks.items():
        source = module(name, label_names=None if "resnet" in name else ["softmax_label"])
        targets = np.unique(names, return_inverse=True)[1]
        fixed = fixed_layers(source, layer)
        for words, layers in ((name, []), (f"{name}, all but the last convolution fixed", fixed)):
            pairs = []
            for _ in range(ROUNDS):
                ours = time_ours(source, layer, layers, inputs, names)
                pairs.append((ours, time_plain(source, layer, layers, inputs, targets)))
            ours, plain = 1000 * np.median(pairs, axis=0)
            ratios = [mine / theirs for mine, theirs in pairs]
            print(
                f"| {words} | {ours:.1f} | {plain:.1f} | {np.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) |",
                flush=True,
            )


def fixed_layers(source, layer):
    """Name the layers with parameters, but for the last convolution, what follows, and layers."""
    handler = xfer.ModelHandler(source)
    names = handler.layer_names[: handler.layer_names.index(layer)]
    last = [name for name in names if handler.get_layer_type(name) == "Convolution"][-1]
    names = names[: names.index(last)]
    return [name for name in names if handler.get_layer_parameters([name])]


def time_ours(source, layer, fixed, inputs, names):
    """Return the seconds per step, over all epochs of a fit except the first."""
    seconds, run_epoch = [], training.Trainer._run_epoch

    def timed(self, *arguments):
        start = time.perf_counter()
        found = run_epoch(self, *arguments)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
        return found

    training.Trainer._run_epoch = timed
    try:
        above = number_above(source, layer)
        xfer.NeuralNetworkRandomFreezeRepurposer(
            source, None, fixed, num_layers_to_drop=above, num_epochs=1 + EPOCHS, batch_size=BATCH
        ).fit(inputs, names)
    finally:
        training.Trainer._run_epoch = run_epoch
    return np.mean(seconds[1:]) / (len(inputs) // BATCH)


def number_above(source, layer):
    """Count the layers above one in a chain."""
    names = xfer.ModelHandler(source).layer_names
    return len(names) - 1 - names.index(layer)


def time_plain(source, layer, fixed, inputs, targets):
    """Return the seconds per step of MXNet's own loop."""
    handler = xfer.ModelHandler(source)
    parameters = [n for n in handler.get_layer_parameters(fixed) if n in handler.arg_params]
    symbol = handler.symbol.get_internals()[f"{layer}_output"]
    symbol = mx.sym.FullyConnected(symbol, num_hidden=targets.max() + 1, name="scores")
    plain = mx.mod.Module(
        mx.sym.SoftmaxOutput(symbol, name="softmax"), fixed_param_names=parameters
    )
    batches = mx.io.NDArrayIter(inputs.astype(np.float32), targets, BATCH, shuffle=True)
    plain.bind(batches.provide_data, batches.provide_label)
    arguments, statistics = (
        {name: mx.nd.array(array) for name, array in values.items()}
        for values in (handler.arg_params, handler.aux_params)
    )
    plain.init_params(mx.init.Xavier(), arguments, statistics, allow_missing=True, allow_extra=True)
    plain.init_optimizer(optimizer="adam", optimizer_params={"learning_rate": 0.001})
    metric, seconds = mx.metric.create(["acc", "ce"]), []
    for _ in range(1 + EPOCHS):
        start = time.perf_counter()
        batches.reset()
        metric.reset()
        for batch in batches:
            plain.forward_backward(batch)
            plain.update()
            plain.update_metric(metric, batch.label)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    return np.mean(seconds[1:]) / (len(inputs) // BATCH)


if __name__ == "__main__":
    main()
