"""A grid of runs on a Ray cluster, gathered to one store."""

from spgca_lab.experiments.cluster.driver import run_on_ray
from spgca_lab.experiments.cluster.gatherer import Gatherer, Outcome, Refused

__all__ = ["Gatherer", "Outcome", "Refused", "run_on_ray"]
