"""What others publish for cells of Table 4, and why neither figure refutes the other."""

from dataclasses import dataclass

from spgca_lab.experiments.paper.tables import CUB, DOGS


@dataclass(frozen=True)
class Elsewhere:
    """What others report for a data set and a method of Table 4.

    Attributes:
        dataset: as in the tables.
        model: that they trained.
        method: this package's name.
        value: top-1 in percent; the lower end where a range is given.
        high: the upper end of a range.
        sd: standard deviation where one is given.
        iterate: which iterate it belongs to, as far as it is told.
        source: who says so, and where.
        why: it cannot be compared with the paper's cell as it stands.
    """

    dataset: str
    model: str
    method: str
    value: float
    high: float | None = None
    sd: float | None = None
    iterate: str = "iterate not told"
    source: str = ""
    why: str = ""

    def __str__(self) -> str:
        """The figure as it is given.

        Example:
            >>> str(ELSEWHERE[0])
            '88.7 ± 0.1'
        """
        if self.high is not None:
            return f"{self.value:g} to {self.high:g}"
        return f"{self.value:g}" if self.sd is None else f"{self.value:.1f} ± {self.sd:.1f}"


_AFA = "Xie et al., README of github.com/xiezheng-cs/AFA"
_AFA_WHY = "the best iterate, chosen on the test pictures; another α; two programs for two stages"
_L2SP = "Li et al., README of github.com/holyseven/TransferLearningClassification"
_L2SP_WHY = "TensorFlow's weights and another recipe; a range, without runs or sd"
_TLL = "github.com/thuml/Transfer-Learning-Library, benchmarks of image classification"
_TLL_WHY = "the smaller ResNet-50; RandomResizedCrop, Nesterov, batches of 48 for 10,000 steps; no sd"
_BEST = "best on the test set"

ELSEWHERE = (
    Elsewhere(DOGS[1], "ResNet-101", "delta", 88.7, sd=0.1, iterate=_BEST, source=_AFA, why=_AFA_WHY),
    Elsewhere(DOGS[1], "ResNet-101", "afa", 90.1, sd=0.0, iterate=_BEST, source=_AFA, why=_AFA_WHY),
    Elsewhere(
        DOGS[1],
        "ResNet-101",
        "afa",
        90.22,
        iterate=_BEST,
        source=_AFA,
        why="one released checkpoint: a single run, chosen on the test pictures",
    ),
    Elsewhere(
        DOGS[1], "MobileNetV2", "delta", 81.3, sd=0.1, iterate=_BEST, source=_AFA, why="another network"
    ),
    Elsewhere(DOGS[1], "MobileNetV2", "afa", 82.1, sd=0.1, iterate=_BEST, source=_AFA, why="another network"),
    Elsewhere(DOGS[1], "ResNet-101", "l2_sp", 88, high=89, source=_L2SP, why=_L2SP_WHY),
    Elsewhere(DOGS[1], "ResNet-101", "l2", 81, high=82, source=_L2SP, why=_L2SP_WHY),
    Elsewhere(CUB[1], "ResNet-50", "delta", 82.3, iterate=_BEST, source=_TLL, why=_TLL_WHY),
    Elsewhere(CUB[1], "ResNet-50", "l2", 81.8, iterate=_BEST, source=_TLL, why=_TLL_WHY),
)
