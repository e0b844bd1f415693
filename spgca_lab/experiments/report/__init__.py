"""Tables 4–7 and Figure 2 with ours beside the paper's: means over seeds, paired differences, and what is missing."""

from spgca_lab.experiments.report.build import Report, report
from spgca_lab.experiments.report.published import ReportError, label, published_difference

__all__ = ["Report", "ReportError", "label", "published_difference", "report"]
