"""Repurpose pre-trained neural networks for new tasks with few labels."""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from xfer import _mxnet_numpy

__version__ = "0.1.0"

# Public names are resolved on first use, so that `import xfer` imports no framework and takes a
# few milliseconds. Editors and type checkers read the first list, `xfer` itself the second;
# tests/test_typing.py compares them.
if TYPE_CHECKING:
    from xfer import auto as auto
    from xfer import cache as cache
    from xfer import checkpoint as checkpoint
    from xfer import example as example
    from xfer import features as features
    from xfer import inputs as inputs
    from xfer import meta as meta
    from xfer import model_handler as model_handler
    from xfer import persistence as persistence
    from xfer import plots as plots
    from xfer import predictor as predictor
    from xfer import ranking as ranking
    from xfer import repurposers as repurposers
    from xfer import sources as sources
    from xfer import tables as tables
    from xfer import text as text
    from xfer import training as training
    from xfer.auto import AutoRepurposer as AutoRepurposer
    from xfer.cache import FeatureCache as FeatureCache
    from xfer.features import LayerFeatures as LayerFeatures
    from xfer.inputs import ImageInputs as ImageInputs
    from xfer.inputs import TextInputs as TextInputs
    from xfer.model_handler import ModelError as ModelError
    from xfer.model_handler import ModelHandler as ModelHandler
    from xfer.persistence import load as load
    from xfer.predictor import Predictor as Predictor
    from xfer.ranking import rank_layers as rank_layers
    from xfer.repurposers import BnnRepurposer as BnnRepurposer
    from xfer.repurposers import GpRepurposer as GpRepurposer
    from xfer.repurposers import LrRepurposer as LrRepurposer
    from xfer.repurposers import MetaModelRegressor as MetaModelRegressor
    from xfer.repurposers import MetaModelRepurposer as MetaModelRepurposer
    from xfer.repurposers import Repurposer as Repurposer
    from xfer.repurposers import SvmRepurposer as SvmRepurposer
    from xfer.sources import load_checkpoint as load_checkpoint
    from xfer.sources import open_source as open_source
    from xfer.tables import image_folder as image_folder
    from xfer.text import Corpus as Corpus
    from xfer.text import Vocabulary as Vocabulary
    from xfer.training.history import TrainingDiverged as TrainingDiverged
    from xfer.training.repurposers import (
        NeuralNetworkFineTuneRepurposer as NeuralNetworkFineTuneRepurposer,
    )
    from xfer.training.repurposers import (
        NeuralNetworkRandomFreezeRepurposer as NeuralNetworkRandomFreezeRepurposer,
    )
    from xfer.training.repurposers import NeuralNetworkRepurposer as NeuralNetworkRepurposer
else:
    _MODULES = (
        "auto",
        "cache",
        "checkpoint",
        "example",
        "features",
        "inputs",
        "meta",
        "model_handler",
        "persistence",
        "plots",
        "predictor",
        "ranking",
        "repurposers",
        "sources",
        "tables",
        "text",
        "training",
    )
    _PUBLIC = {
        "AutoRepurposer": "auto",
        "BnnRepurposer": "repurposers",
        "Corpus": "text",
        "FeatureCache": "cache",
        "GpRepurposer": "repurposers",
        "ImageInputs": "inputs",
        "LayerFeatures": "features",
        "LrRepurposer": "repurposers",
        "MetaModelRegressor": "repurposers",
        "MetaModelRepurposer": "repurposers",
        "ModelError": "model_handler",
        "ModelHandler": "model_handler",
        "NeuralNetworkFineTuneRepurposer": "training.repurposers",
        "NeuralNetworkRandomFreezeRepurposer": "training.repurposers",
        "NeuralNetworkRepurposer": "training.repurposers",
        "Predictor": "predictor",
        "Repurposer": "repurposers",
        "SvmRepurposer": "repurposers",
        "TextInputs": "inputs",
        "TrainingDiverged": "training.history",
        "Vocabulary": "text",
        "image_folder": "tables",
        "load": "persistence",
        "load_checkpoint": "sources",
        "open_source": "sources",
        "rank_layers": "ranking",
    }
    __all__ = list(_PUBLIC)

    # Not seen by type checkers, which would otherwise accept any name.
    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"xfer.{name}")
        if name not in _PUBLIC:
            raise AttributeError(f"module 'xfer' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"xfer.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PUBLIC, *_MODULES})


def _check_for_other_projects(folder: str) -> None:
    """Refuse files of xfer-ml among ours, and warn of distributions that can replace ours.

    ``xfer`` on the package index is a Git plugin, and ``xfer-ml`` is an earlier library. Both have
    a folder ``xfer/`` like this one, so pip mixes their files with ours.
    """
    repair = "pip uninstall -y xfer xfer-ml xfer-learn && pip install xfer-learn"
    for name in ("model_handler/__init__.py", "lr_repurposer.py"):
        if os.path.exists(os.path.join(folder, name)):
            raise ImportError(
                f"{os.path.join(folder, name)} belongs to xfer-ml, which has the import name xfer "
                f"too: the two cannot be installed together. To repair: {repair}"
            )
    packages = os.path.dirname(folder)
    if packages.endswith("-packages"):  # site-packages, or Debian's dist-packages
        others = [name for name in os.listdir(packages) if name.startswith(("xfer-", "xfer_ml-"))]
        if others:
            warnings.warn(
                f"{', '.join(sorted(others))} in {packages}: another distribution has the import "
                "name xfer too, and its files replace those of xfer-learn or are replaced. To "
                f"repair: {repair}",
                stacklevel=3,
            )


_check_for_other_projects(os.path.dirname(__file__))
_mxnet_numpy.install()
