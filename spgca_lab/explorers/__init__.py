"""Explorers: a plain state, functions that draw it, and a thin view of core widgets."""

from spgca_lab.explorers.attention import AttentionExplorer, AttentionState
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.comparison import MethodComparison, MethodComparisonState
from spgca_lab.explorers.feature_maps import FeatureMapExplorer, FeatureMapState
from spgca_lab.explorers.loss import LossExplorer, LossState
from spgca_lab.explorers.monitor import MonitorState, TrainingMonitor
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.explorers.runs import RunExplorer, RunState

__all__ = [
    "AttentionExplorer",
    "AttentionState",
    "Explorer",
    "ExplorerError",
    "FeatureMapExplorer",
    "FeatureMapState",
    "LossExplorer",
    "LossState",
    "MethodComparison",
    "MethodComparisonState",
    "MonitorState",
    "RunExplorer",
    "RunState",
    "State",
    "TrainingMonitor",
]
