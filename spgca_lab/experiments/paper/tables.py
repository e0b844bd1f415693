"""Tables 1–7 as printed."""

from collections.abc import Sequence

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
    """The accuracies of a table by data set and column.

    Args:
        number: 4–7.

    Returns:
        `{(data set, column): (mean, sd)}` in percent; columns are methods, orders, or r as text.

    Raises:
        ValueError: for another number.

    Source:
        Tables 4–7 of the paper.

    Example:
        >>> printed(6)["Caltech 256-30", "4"]
        (86.14, 0.09)
    """
    if number not in (4, 5, 6, 7):
        raise ValueError(f"the paper's Tables 4 to 7 hold accuracies, not {number!r}")
    frame = table(number)
    return {
        (row[1], str(row[2])): (float(row[3]), float(row[4]))
        for row in frame.itertuples(index=False, name=None)
    }


def table(number: int) -> pd.DataFrame:
    """One of the paper's tables, in long form where it reports accuracies.

    Args:
        number: 1–7.

    Returns:
        Tables 1–3 as printed. Tables 4–7 with one row a number: `model`, `dataset`, then `method` (Tables 4
        and 5), `r` (Table 6) or `order` (Table 7), and `mean` and `sd` of five runs, in percent. Methods have
        this package's names: `spgca` is the paper's "Proposed". `attrs` holds `number`, `caption` and
        `source`.

    Raises:
        ValueError: for another number.

    Source:
        Tables 1–7 of the paper.

    Example:
        >>> four = table(4)
        >>> best = four[four.method == "spgca"].set_index("dataset")
        >>> float(best.loc["CUB-200-2011", "mean"]), float(best.loc["CUB-200-2011", "sd"])
        (80.62, 0.08)
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
