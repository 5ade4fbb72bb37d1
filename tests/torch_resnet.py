"""Residual networks in PyTorch, one of them with the parameters of an MXNet checkpoint."""

import torch
from torch import nn

from xfer.checkpoint.params import read_params


class Block(nn.Module):
    """Two convolutions, added to what came in, which is halved in size where the stride is 2."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.downsample = nn.Identity()
        if channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        residual = self.downsample(x)
        x = self.body(x)
        x += residual
        return self.relu(x)


class ResNet(nn.Module):
    """Stages of blocks; images (n, 3, height, width) to class scores."""

    def __init__(self, stem, channels, blocks, classes):
        super().__init__()
        self.stem = stem
        self.stages, before = nn.ModuleList(), channels[0]
        for number, after in enumerate(channels):
            strides = [1 if number == 0 else 2] + [1] * (blocks - 1)
            widths = [before] + [after] * (blocks - 1)
            stage = [Block(width, after, stride) for width, stride in zip(widths, strides)]
            self.stages.append(nn.Sequential(*stage))
            before = after
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)

    def forward(self, images):
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.pool(x).flatten(1))


def cifar_resnet20(folder):
    """Read ``cifar_resnet20_v1`` of MXNet's model zoo from a folder of checkpoints."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    network = ResNet(stem, [16, 32, 64], 3, 10)
    arrays = read_params(folder / "cifar_resnet20_v1-0000.params")
    arrays = {name.partition(":")[2]: torch.from_numpy(values) for name, values in arrays.items()}

    def load(module, name):
        kinds = {"weight": "gamma", "bias": "beta"} if "batchnorm" in name else {}
        for key, tensor in module.state_dict().items():
            if key != "num_batches_tracked":
                tensor.copy_(arrays[f"cifarresnetv10_{name}_{kinds.get(key, key)}"])

    load(network.stem[0], "conv0")
    load(network.stem[1], "batchnorm0")
    load(network.classifier, "dense0")
    for number, stage in enumerate(network.stages, 1):
        # Both frameworks number the layers of a stage as they were made.
        for kind, name in ((nn.Conv2d, "conv"), (nn.BatchNorm2d, "batchnorm")):
            found = [module for module in stage.modules() if isinstance(module, kind)]
            for place, module in enumerate(found):
                load(module, f"stage{number}_{name}{place}")
    return network.eval()


def resnet18(classes=10):
    """Make a network of the shape of ResNet-18, with random parameters."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return ResNet(stem, [64, 128, 256, 512], 2, classes)
