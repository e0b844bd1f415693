"""The paper's Tables 1–7 and the claims of its text as data, where the two do not agree, and what others publish."""

from spgca_lab.experiments.paper.claims import CLAIMS, Claim
from spgca_lab.experiments.paper.elsewhere import ELSEWHERE, Elsewhere
from spgca_lab.experiments.paper.notes import NOTES, Note
from spgca_lab.experiments.paper.tables import (
    CAPTIONS,
    DATASETS,
    RUNS,
    SOURCE,
    TABLE6_RATES,
    printed,
    table,
)

__all__ = [
    "CAPTIONS",
    "CLAIMS",
    "DATASETS",
    "ELSEWHERE",
    "NOTES",
    "RUNS",
    "SOURCE",
    "TABLE6_RATES",
    "Claim",
    "Elsewhere",
    "Note",
    "printed",
    "table",
]
