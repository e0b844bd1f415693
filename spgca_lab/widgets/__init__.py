"""Explorers: a plain state, functions that draw it, and a thin view of core widgets."""

from spgca_lab.widgets.attention import AttentionExplorer, AttentionState
from spgca_lab.widgets.base import Explorer, State
from spgca_lab.widgets.comparison import MethodComparison, MethodComparisonState
from spgca_lab.widgets.feature_maps import FeatureMapExplorer, FeatureMapState
from spgca_lab.widgets.loss import LossExplorer, LossState
from spgca_lab.widgets.monitor import MonitorState, TrainingMonitor
from spgca_lab.widgets.parts import ExplorerError
from spgca_lab.widgets.runs import RunExplorer, RunState

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
