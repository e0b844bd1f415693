"""SPA/GCA Lab: attention-based regularisation for transfer learning, to run, see and question."""

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spgca_lab import paper as paper
    from spgca_lab import penalties
    from spgca_lab import plots as plots
    from spgca_lab import widgets as widgets
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
    from spgca_lab.footprint import OutOfMemory, predict_memory, settle_batch_size
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
    "OutOfMemory",
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
    "predict_memory",
    "random_crop_flip",
    "settle_batch_size",
    "table3",
]

# Where each name is defined. Nothing is imported before it is used: all together take as long as PyTorch itself.
_HOMES = {
    name: home
    for home, names in {
        "attention": "Attention AttentionError ChannelAttention GlobalChannelAttention SelfPixelAttention "
        "SpatialAttention",
        "backbones": "Backbone list_backbones load_backbone table3",
        "datasets": "ImageSet center_crop exhibits load_dataset random_crop_flip",
        "events": "Done Evaluation HandOver Snapshot Step",
        "features": "FeatureTaps TapError",
        "footprint": "OutOfMemory predict_memory settle_batch_size",
        "launch": "RunFailed RunHandle launch",
        "methods": "METHODS",
        "paths": "data_dir",
        "protocol": "Penalty Setup StepState",
        "queues": "Queue launch_all",
        "recipe": "Recipe RecipeError",
        "runs": "Run RunBusy RunError RunStore",
        "training": "TrainingError fit",
    }.items()
    for name in names.split()
}
# Modules that are named with the lab's own names; any other is there as well (`lab.scores`), only not listed.
_MODULES = ("paper", "penalties", "plots", "widgets")


class _Package(ModuleType):
    """The package, in which `launch` is the function wherever the module of that name was imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds every imported submodule in its package; here that would hide the function.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
    # Inspectors ask for many names with underscores, all in vain.
    modules = [] if name.startswith("_") else [module.name for module in pkgutil.iter_modules(__path__)]
    if name in modules:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_near(name, modules)}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})


def _near(name: str, modules: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [*__all__, *modules], n=3) if modules else []
    return f". Near names: {', '.join(near)}" if near else ""
