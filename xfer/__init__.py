"""Repurpose pre-trained neural networks for new tasks with few labels."""

import importlib

from xfer import _compat

_compat.install()

# The public names and the modules they live in. They are resolved on first use, so that
# `import xfer` imports no framework and costs next to nothing.
_PUBLIC = {
    "Vocabulary": "text",
    "Corpus": "text",
    "open_source": "sources",
    "load_checkpoint": "sources",
    "FeatureCache": "cache",
    "LayerFeatures": "features",
    "Repurposer": "repurposers",
    "MetaModelRepurposer": "repurposers",
    "MetaModelRegressor": "repurposers",
    "LrRepurposer": "repurposers",
    "SvmRepurposer": "repurposers",
    "GpRepurposer": "repurposers",
    "BnnRepurposer": "repurposers",
    "ModelError": "model_handler",
    "ModelHandler": "model_handler",
    "NeuralNetworkRepurposer": "neural_network",
    "NeuralNetworkFineTuneRepurposer": "fine_tuning",
    "NeuralNetworkRandomFreezeRepurposer": "fine_tuning",
    "TrainingDiverged": "training",
    "load": "persistence",
}

_MODULES = ("cache", "checkpoint", "example", "meta", "plots", "sources", "text")

__version__ = "0.1.0"
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"xfer.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"xfer.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC, *_MODULES})
