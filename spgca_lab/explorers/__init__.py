"""Explorers: for each a plain state, functions that draw it, and a thin view of core widgets.

They show what plots draw and may import every package but exercises and cli.
"""

from spgca_lab.explorers.attention import AttentionExplorer as AttentionExplorer
from spgca_lab.explorers.attention import AttentionState as AttentionState
from spgca_lab.explorers.base import Explorer as Explorer
from spgca_lab.explorers.base import State as State
from spgca_lab.explorers.comparison import MethodComparison as MethodComparison
from spgca_lab.explorers.comparison import MethodComparisonState as MethodComparisonState
from spgca_lab.explorers.controls import ExplorerError as ExplorerError
from spgca_lab.explorers.feature_maps import FeatureMapExplorer as FeatureMapExplorer
from spgca_lab.explorers.feature_maps import FeatureMapState as FeatureMapState
from spgca_lab.explorers.loss import LossExplorer as LossExplorer
from spgca_lab.explorers.loss_data import LossState as LossState
from spgca_lab.explorers.monitor import MonitorState as MonitorState
from spgca_lab.explorers.monitor import TrainingMonitor as TrainingMonitor
from spgca_lab.explorers.runs import RunExplorer as RunExplorer
from spgca_lab.explorers.runs import RunState as RunState
