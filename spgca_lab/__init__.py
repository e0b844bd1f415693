"""SPA/GCA Lab: attention-based regularisation for transfer learning, to run, see and question."""

import importlib
from typing import Any

from spgca_lab import penalties
from spgca_lab.attention import (
    Attention,
    AttentionError,
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.backbones import Backbone, list_backbones, load_backbone, table3
from spgca_lab.datasets import ImageSet, center_crop, exhibits, load_dataset, random_crop_flip
from spgca_lab.events import Done, Evaluation, HandOver, Snapshot, Step
from spgca_lab.features import FeatureTaps, TapError
from spgca_lab.launch import RunFailed, RunHandle, launch
from spgca_lab.methods import METHODS
from spgca_lab.paths import data_dir
from spgca_lab.protocol import Penalty, Setup, StepState
from spgca_lab.queues import Queue, launch_all
from spgca_lab.recipe import Recipe, RecipeError
from spgca_lab.runs import Run, RunBusy, RunError, RunStore
from spgca_lab.training import TrainingError, fit

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Attention",
    "AttentionError",
    "Backbone",
    "ChannelAttention",
    "Done",
    "Evaluation",
    "FeatureTaps",
    "GlobalChannelAttention",
    "HandOver",
    "ImageSet",
    "Penalty",
    "Queue",
    "Recipe",
    "RecipeError",
    "Run",
    "RunBusy",
    "RunError",
    "RunFailed",
    "RunHandle",
    "RunStore",
    "SelfPixelAttention",
    "Setup",
    "Snapshot",
    "SpatialAttention",
    "Step",
    "StepState",
    "TapError",
    "TrainingError",
    "center_crop",
    "data_dir",
    "exhibits",
    "fit",
    "launch",
    "launch_all",
    "list_backbones",
    "load_backbone",
    "load_dataset",
    "penalties",
    "random_crop_flip",
    "table3",
]

# Drawing and widgets cost a second to import and training needs neither, so they load on first use.
_ON_DEMAND = ("paper", "plots", "widgets")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"spgca_lab.{name}")
    raise AttributeError(f"module 'spgca_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ON_DEMAND])
