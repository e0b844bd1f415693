"""Explorers: a plain state, functions that draw it, and a thin view of core widgets."""

from spgca_lab.widgets.attention import AttentionExplorer, AttentionState
from spgca_lab.widgets.base import Explorer, ExplorerError, State
from spgca_lab.widgets.feature_maps import FeatureMapExplorer, FeatureMapState
from spgca_lab.widgets.live import LiveExplorer, LiveState
from spgca_lab.widgets.runs import RunExplorer, RunState

__all__ = [
    "AttentionExplorer",
    "AttentionState",
    "Explorer",
    "ExplorerError",
    "FeatureMapExplorer",
    "FeatureMapState",
    "LiveExplorer",
    "LiveState",
    "RunExplorer",
    "RunState",
    "State",
]
