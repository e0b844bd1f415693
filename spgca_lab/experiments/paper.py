"""The paper's Tables 1–7 and the claims of its text as data, where the two disagree, and what others publish."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

SOURCE = (
    "Kang, C.; Kang, S.-u. Deep Transfer Learning Method Using Self-Pixel and Global Channel Attentive "
    "Regularization. Preprints 2024, doi:10.20944/preprints202404.1423.v1 (CC BY 4.0)"
)

RUNS = 5  # of every cell of Tables 4–7 (Sec. 5.1)

CAPTIONS = {
    1: "The purpose and characteristics of target datasets",
    2: "The structure of submodule networks",
    3: "The selected intermediate layers in the experiments",
    4: "Comparison of top-1 accuracy (%) results with different methods on five datasets",
    5: "Comparison of top-1 accuracy (%) results with different submodules on five datasets",
    6: "Effects of reduction rate r on global channel attention module",
    7: "Effects of training order of proposed submodules",
}

DOGS = ("ResNet-101", "Stanford Dogs 120")
CUB = ("ResNet-101", "CUB-200-2011")
CALTECH30 = ("ResNet-101", "Caltech 256-30")
CALTECH60 = ("ResNet-101", "Caltech 256-60")
INDOOR = ("ResNet-50", "MIT Indoor 67")

# One row a data set: "mean±sd" of five runs, in the order of the columns.
TABLE4_METHODS = ("l2", "l2_fe", "l2_sp", "delta", "afa", "spgca")
TABLE4 = {
    DOGS: "82.37±0.25 87.66±0.15 87.28±0.17 87.48±0.11 88.22±0.07 88.44±0.04",
    CUB: "78.40±0.10 62.09±0.07 79.89±0.09 80.04±0.13 80.30±0.03 80.62±0.08",
    CALTECH30: "84.39±0.41 83.18±0.13 85.72±0.10 85.49±0.16 86.15±0.06 86.42±0.01",
    CALTECH60: "86.69±0.23 83.64±0.10 87.72±0.15 86.94±0.07 87.83±0.03 87.94±0.06",
    INDOOR: "83.06±0.19 82.00±0.10 83.70±0.17 84.06±0.08 84.34±0.10 84.82±0.13",
}
TABLE5_METHODS = ("ast", "act", "spa", "gca")
TABLE5 = {
    DOGS: "88.12±0.08 88.06±0.04 88.29±0.07 88.18±0.04",
    CUB: "80.37±0.16 80.29±0.12 80.47±0.14 80.48±0.15",
    CALTECH30: "85.89±0.06 85.69±0.07 85.98±0.09 86.14±0.09",
    CALTECH60: "87.20±0.12 87.02±0.19 87.30±0.11 87.87±0.08",
    INDOOR: "84.36±0.09 84.03±0.14 84.18±0.13 84.72±0.06",
}
TABLE6_RATES = (4, 8, 16, 32)
TABLE6 = {CALTECH30: "86.14±0.09 86.06±0.04 86.06±0.21 86.05±0.16"}
TABLE7_ORDERS = ("spa->gca", "gca->spa")
TABLE7 = {
    DOGS: "88.44±0.04 88.23±0.13",
    CUB: "80.62±0.08 79.93±0.05",
    CALTECH30: "86.42±0.01 86.31±0.08",
    CALTECH60: "87.94±0.06 88.05±0.08",
    INDOOR: "84.82±0.13 84.30±0.07",
}
DATASETS = tuple(name for _, name in TABLE4)


def printed(number: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the accuracies of Table 4, 5, 6 or 7 as `{(data set, column): (mean, sd)}` in percent.

    Columns are methods, orders, or r as text.
    """
    if number not in (4, 5, 6, 7):
        raise ValueError(f"the paper's Tables 4 to 7 hold accuracies, not {number!r}")
    frame = table(number)
    return {
        (row[1], str(row[2])): (float(row[3]), float(row[4]))
        for row in frame.itertuples(index=False, name=None)
    }


def table(number: int) -> pd.DataFrame:
    """Return one of the paper's Tables 1 to 7, in long form where it reports accuracies.

    Tables 1–3 are as printed. Tables 4–7 have one row per number: `model`, `dataset`, then `method` (Tables 4, 5), `r`
    (Table 6) or `order` (Table 7), and `mean` and `sd` of five runs, in percent. Methods have this package's names:
    `spgca` is the paper's "Proposed". `attrs` holds `number`, `caption` and `source`.
    """
    if number not in CAPTIONS or isinstance(number, bool):
        raise ValueError(f"the paper has Tables 1 to 7, not {number!r}")
    frame = {
        1: _datasets,
        2: _structures,
        3: _layers,
        4: lambda: _accuracies(TABLE4, "method", TABLE4_METHODS),
        5: lambda: _accuracies(TABLE5, "method", TABLE5_METHODS),
        6: lambda: _accuracies(TABLE6, "r", TABLE6_RATES),
        7: lambda: _accuracies(TABLE7, "order", TABLE7_ORDERS),
    }[number]()
    frame.attrs.update(number=number, caption=CAPTIONS[number], source=SOURCE)
    return frame


def _datasets() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("Stanford Dogs 120", "Object Classification", 12_000, 8_580, 120),
            ("Caltech 256-30", "Object Classification", 7_710, 5_140, 257),
            ("Caltech 256-60", "Object Classification", 15_420, 5_140, 257),
            ("CUB-200-2011", "Object Classification", 5_994, 5_794, 200),
            ("MIT Indoor 67", "Scene Classification", 5_360, 1_340, 67),
        ],
        columns=["dataset", "task", "train_samples", "test_samples", "classes"],
    )


def _structures() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("FC_SPA", 1, "Fully connected", "H×W", "H", "ReLU"),
            ("FC_SPA", 2, "Fully connected", "H", "H×W", None),
            ("FC_GCA", 1, "Fully connected", "C1+…+Cn", "(C1+…+Cn)/r", "ReLU"),
            ("FC_GCA", 2, "Fully connected", "(C1+…+Cn)/r", "C1+…+Cn", None),
        ],
        columns=["network", "layer", "layer_type", "input_size", "output_size", "activation"],
    )


def _layers() -> pd.DataFrame:
    return pd.DataFrame(
        [
            (1, "layer1.2.conv3", "layer1.2.conv3"),
            (2, "layer2.3.conv3", "layer2.3.conv3"),
            (3, "layer3.22.conv3", "layer3.5.conv3"),
            (4, "layer4.2.conv3", "layer4.2.conv3"),
        ],
        columns=["layer", "ResNet-101", "ResNet-50"],
    )


def _accuracies(
    rows: dict[tuple[str, str], str], column: str, values: Sequence[str] | Sequence[int]
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (model, dataset, value, *(float(part) for part in cell.split("±")))
            for (model, dataset), cells in rows.items()
            for value, cell in zip(values, cells.split(), strict=True)
        ],
        columns=["model", "dataset", column, "mean", "sd"],
    )


@dataclass(frozen=True)
class Claim:
    """A difference that the text of Sec. 5 claims, to be computed again from the tables."""

    where: str  # section
    sentence: str  # the paper's words
    table: int | None  # number of the table with the compared cells; None where the paper prints no numbers
    pairs: tuple[
        tuple[str, str, str], ...
    ] = ()  # data set, column said to be ahead, column said to be behind
    points: float | None = (
        None  # claimed difference in percentage points; None where only the order is claimed
    )
    least: int | None = None  # number of pairs that must agree for the sentence to hold; None: all
    smallest: tuple[str, ...] = ()  # data sets that are said to have the smallest differences of all pairs

    @property
    def differences(self) -> tuple[float, ...]:
        """Differences of the printed means, pair by pair, in percentage points."""
        if self.table is None:
            return ()
        cells = printed(self.table)
        return tuple(round(cells[d, ahead][0] - cells[d, behind][0], 2) for d, ahead, behind in self.pairs)

    @property
    def fails(self) -> tuple[tuple[str, str, str], ...]:
        """The pairs whose printed means contradict the sentence."""
        differences = self.differences
        others = [
            d for (name, *_), d in zip(self.pairs, differences, strict=True) if name not in self.smallest
        ]

        def agrees(pair: tuple[str, str, str], difference: float) -> bool:
            if self.points is not None:
                return abs(difference - self.points) < 0.005
            if pair[0] in self.smallest:
                return difference < min(others)
            return difference > 0

        pairs = zip(self.pairs, differences, strict=True) if differences else ()
        return tuple(pair for pair, difference in pairs if not agrees(pair, difference))

    @property
    def holds(self) -> bool | None:
        """True where the printed means agree with the sentence; None where the paper prints no numbers."""
        if self.table is None:
            return None
        return len(self.pairs) - len(self.fails) >= (len(self.pairs) if self.least is None else self.least)


def _everywhere(ahead: str, behind: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((dataset, ahead, behind) for dataset in DATASETS)


CLAIMS = (
    Claim(
        "§5.1",
        "For all datasets, the proposed regularization method shows an overall improved performance compared to "
        "previous transfer learning regularization methods.",
        4,
        # AFA is the best of the previous methods on every data set.
        _everywhere("spgca", "afa"),
    ),
    Claim(
        "§5.1",
        "boosted by approximately 0.32% in comparison to the AFA method",
        4,
        ((CUB[1], "spgca", "afa"),),
        points=0.32,
    ),
    Claim("§5.1", "the improvement is 0.48%", 4, ((INDOOR[1], "spgca", "afa"),), points=0.48),
    Claim(
        "§5.1",
        "the improvement is relatively small for the Stanford Dogs 120 [35] and Caltech 256-60 [36]",
        4,
        _everywhere("spgca", "afa"),
        smallest=(DOGS[1], CALTECH60[1]),
    ),
    Claim(
        "§5.1",
        "SPA and GCA showed similar or improved classification accuracy results across the board",
        5,
        _everywhere("spa", "ast") + _everywhere("gca", "act"),
    ),
    Claim(
        "§5.1",
        "For most datasets, there was a slight improvement of the SPA over the AST.",
        5,
        _everywhere("spa", "ast"),
        least=3,
    ),
    Claim(
        "§5.1",
        "Regarding the Caltech 256-60, the GCA showed about 0.85% improvement over the ACT.",
        5,
        ((CALTECH60[1], "gca", "act"),),
        points=0.85,
    ),
    Claim("§5.1", "the SPA resulted in 0.18% less accuracy", 5, ((INDOOR[1], "ast", "spa"),), points=0.18),
    Claim(
        "§5.1",
        "the GCA yielded an increase by 0.69% over the ACT",
        5,
        ((INDOOR[1], "gca", "act"),),
        points=0.69,
    ),
    Claim(
        "§5.1",
        "both proposed submodules converged faster than the submodules of the previous AFA method",
        None,
    ),
    Claim(
        "§5.2",
        "classification accuracy tends to decrease as r increases",
        6,
        ((CALTECH30[1], "4", "8"), (CALTECH30[1], "8", "16"), (CALTECH30[1], "16", "32")),
    ),
    Claim(
        "§5.2",
        "we set the reduction rate to 4, which is the lowest level",
        6,
        ((CALTECH30[1], "4", "8"), (CALTECH30[1], "4", "16"), (CALTECH30[1], "4", "32")),
    ),
    Claim(
        "§5.2",
        "Better result is obtained when the SPA submodule is trained after the GCA module.",
        7,
        ((CALTECH60[1], "gca->spa", "spa->gca"),),
    ),
    Claim(
        "§5.2",
        "To reflect this result, we trained SPA for the first half of the total training session",
        7,
        _everywhere("spa->gca", "gca->spa"),
    ),
)


@dataclass(frozen=True)
class Note:
    """A place where the paper contradicts itself, its numbers, or what its sources publish."""

    where: str  # sections, equations and tables concerned
    says: str  # the paper's statement
    found: str  # what its own numbers, or the named source, give instead


NOTES = (
    Note(
        "§5.2, Table 7, Caltech 256-60",
        "Better results when SPA is trained after GCA; 'to reflect this', SPA is trained first.",
        "Table 7 has SPA first ahead on four data sets, by 0.11 to 0.69 points. Caltech 256-60 is the one data set of "
        "five on which it is behind (87.94 against 88.05), as the sentence says; the method that is said to reflect "
        "this trains in the other order.",
    ),
    Note(
        "§5.2, Table 6",
        "Accuracy tends to decrease as r increases, because the bottleneck loses information.",
        "From r = 4 to r = 32 the mean falls by 0.09 points, with standard deviations of 0.09 and 0.16; 8, "
        "16 and 32 lie within 0.01 of each other. The numbers show no trend.",
    ),
    Note(
        "§5.1, Table 5",
        "SPA and GCA show similar or improved accuracy across the board.",
        "On MIT Indoor 67 SPA is 0.18 points below AST, as the text itself says; elsewhere SPA gains 0.09 to "
        "0.17 points over AST with standard deviations of 0.06 to 0.16.",
    ),
    Note(
        "Tables 4, 5",
        "The method trains SPA, then GCA, each for half of the iterations.",
        "GCA alone reaches 87.87 ± 0.08 on Caltech 256-60 and 84.72 ± 0.06 on MIT Indoor 67; both stages "
        "reach 87.94 ± 0.06 and 84.82 ± 0.13. On these two SPA adds no more than the runs scatter.",
    ),
    Note(
        "Table 4, Caltech 256-30",
        "86.42 ± 0.01 over five runs.",
        "One of the 5,140 test pictures is 0.019 points: five runs would have to agree to about one picture.",
    ),
    Note(
        "Table 4, Stanford Dogs 120",
        "DELTA 87.48, AFA 88.22, proposed 88.44.",
        "AFA's authors report 88.7 for DELTA and 90.1 for AFA with the same network, the best iterate on the "
        "test set. The set-ups differ, and the proposed result is below both baselines as published.",
    ),
    Note(
        "Table 4, Stanford Dogs 120",
        "L2-FE, a frozen network with a new head, reaches 87.66: above L2, L2-SP and DELTA.",
        "The dogs are pictures of ImageNet, on which the source was trained; on CUB-200-2011 the same method "
        "has 62.09 and is last.",
    ),
    Note(
        "Eq. 3, 5, 8, 10; §4.2",
        "Softmax weights multiply the differences; α is between 0.005 and 0.1.",
        "Uniform weights over the 3,136 positions of layer 1 scale Eq. 8 there by 1/3136², about 1e-7. AFA's "
        "release multiplies by H·W (AST) and C (ACT); the paper mentions no factor and no α per data set.",
    ),
    Note(
        "Eq. 4, Table 2",
        "FC_ACT maps C × (HW) to C; Table 2 gives the structures used in the proposed method.",
        "Table 2 leaves out the nets of AST and ACT. AFA's release shares one HW → H → 1 net among the "
        "channels.",
    ),
    Note(
        "§3.3",
        "The target's weights of stage 1 are sent back to the source; then only GCA's are drawn anew.",
        "Unsaid: whether BatchNorm's statistics go along, the last or the best iterate, and the momentum.",
    ),
)


@dataclass(frozen=True)
class Elsewhere:
    """Another publication's accuracy for a data set and a method of Table 4."""

    dataset: str  # as in the tables
    model: str  # the network that was trained
    method: str  # this package's name of the method
    value: float  # top-1 in percent; the lower end of a range
    high: float | None = None  # upper end of a range
    sd: float | None = None
    iterate: str = "iterate not stated"
    source: str = ""
    why: str = ""  # reason why it cannot be compared with the paper's cell as it stands

    def __str__(self) -> str:
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
