"""Measure what the README reports: every method, three seeds, last iterate.

python benchmarks/results.py run                       # train what the store lacks; can be stopped and resumed
python benchmarks/results.py run --only mini-near      # one experiment
python benchmarks/results.py run --photos FOLDER       # also lite0 on a folder of photographs
python benchmarks/results.py collect                   # runs -> benchmarks/results.csv
python benchmarks/results.py report                    # results.csv -> tables here and in the README

`report` also writes down a short form of the reports in caltech101-mini/, with α chosen on held-out images.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import pandas as pd

from spgca_lab.analysis.statistics import PairedDifference, mean_interval, paired_difference

REPO = Path(__file__).resolve().parents[1]
STORE = REPO / "runs" / "results"
CSV = REPO / "benchmarks" / "results.csv"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
HELD_OUT = REPO / "benchmarks" / "caltech101-mini"
HELD_OUT_MARKS = ("<!-- held-out:begin -->", "<!-- held-out:end -->")
METHODS = ("l2", "l2_fe", "l2_sp", "delta", "lwf", "uniform", "ast", "act", "spa", "gca", "afa", "spgca")
ATTENTION = ("ast", "act", "spa", "gca", "afa", "spgca")
SEEDS = (0, 1, 2)
MINI = {"backbone": "mini", "dataset": "stickers", "per_class": 2, "test_per_class": 10}
MINI |= {"iterations": 150, "batch_size": 16, "evaluations": 1, "snapshots": 0}
LITE0 = {"backbone": "lite0", "per_class": 5, "image_size": 128}
LITE0 |= {"iterations": 100, "batch_size": 16, "evaluations": 1, "snapshots": 0}
EXPERIMENTS = {
    "mini-near": MINI | {"preset": "near"},
    "mini-mid": MINI | {"preset": "mid"},
    "mini-far": MINI | {"preset": "far"},
    "lite0-caltech101-mini": LITE0,
}
TITLES = {
    "mini-near": "`mini` → stickers `near`",
    "mini-mid": "`mini` → stickers `mid`",
    "mini-far": "`mini` → stickers `far`",
    "lite0-caltech101-mini": "`lite0` → caltech101-mini",
}


def recipes(photos: Path | None, only: str | None) -> list[tuple[str, dict]]:
    """Return the recipes to train, all methods of a seed before the next seed."""
    jobs = []
    for seed in SEEDS:
        for name, base in EXPERIMENTS.items():
            if only not in (None, name) or (name.startswith("lite0") and photos is None):
                continue
            fields = base | ({"dataset": str(photos)} if name.startswith("lite0") else {})
            jobs += [(name, fields | {"method": method, "seed": seed}) for method in METHODS]
    return jobs


def train(job: tuple[str, dict]) -> str:
    """Train one run in one thread; a finished run returns at once."""
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    name, fields = job
    recipe = lab.Recipe(**fields)
    started = time.time()
    for event in lab.fit(recipe, store=STORE / name):
        if isinstance(event, lab.Done):
            top1 = event.result["top1"]
    return f"{name} {recipe.method} seed {recipe.seed}: {top1:.2f} % ({time.time() - started:.0f} s)"


def collect() -> pd.DataFrame:
    """One row a finished run; runs that the store no longer has stay as they were measured."""
    import spgca_lab as lab

    rows = []
    for name in EXPERIMENTS:
        for run in lab.RunStore(STORE / name):
            recipe, result = run.recipe, run.result
            if result is None:
                continue
            rows.append(
                {"experiment": name, "method": recipe.method, "alpha": recipe.alpha, "seed": recipe.seed}
                | {"top1": round(result["top1"], 4), "seconds": result["seconds"], "recipe": recipe.hash()}
                | {
                    k: result[k]
                    for k in ("train_pictures", "test_pictures", "classes", "image_size", "iterations")
                }
                | {"device": result["device"], "threads": result["threads"], "torch": result["torch"]}
            )
    table = pd.DataFrame(rows)
    if CSV.exists():
        table = pd.concat([pd.read_csv(CSV), table]).drop_duplicates(
            ["experiment", "method", "seed"], keep="last"
        )
    order = {m: i for i, m in enumerate(METHODS)}
    table = table.sort_values(
        ["experiment", "method", "seed"], key=lambda c: c.map(order) if c.name == "method" else c
    )
    table.to_csv(CSV, index=False)
    return table


def paired(table: pd.DataFrame, method: str, other: str) -> PairedDifference:
    """Mean difference to `other` over shared seeds with its 95 % t interval, in points."""
    top1 = {m: table[table["method"] == m].set_index("seed")["top1"].to_dict() for m in (method, other)}
    return paired_difference(top1[method], top1[other])


def report(table: pd.DataFrame) -> str:
    """The README's section: a table an experiment and what it forces one to say."""
    parts = []
    for name, title in TITLES.items():
        part = table[table["experiment"] == name]
        if part.empty:
            continue
        first = part.iloc[0]
        seeds = ", ".join(map(str, sorted(part["seed"].unique())))
        parts.append(
            f"**{title}**: {first['train_pictures']} training and {first['test_pictures']} test pictures, "
            f"{first['classes']} classes, {first['image_size']} px, {first['iterations']} steps, seeds {seeds}.\n"
        )
        parts.append(
            "| method | α | top-1 % (mean ± sd) | − `l2` (95 %) | − `uniform` (95 %) |\n|---|---|---|---|---|"
        )
        better: dict[str, list[str]] = {"l2": [], "uniform": []}
        for method in METHODS:
            runs = part[part["method"] == method]
            if runs.empty:
                continue
            cells = []
            for other in ("l2", "uniform"):
                if other == method or other not in set(part["method"]):
                    cells.append("")
                    continue
                gap = paired(part, method, other)
                cells.append(f"{gap:+.1f}")
                if gap.low > 0:
                    better[other].append(method)
            own = mean_interval(runs["top1"])
            spread = f"{own.mean:.1f} (n = 1)" if own.n == 1 else f"{own.mean:.1f} ± {own.sd:.1f}"
            parts.append(
                f"| `{method}` | {runs['alpha'].iloc[0]:g} | {spread} | "
                + " | ".join(cells) + " |"
            )  # fmt: skip
        parts.append("")
        for other, names in better.items():
            attention_only = other == "uniform"
            shown = [f"`{m}`" for m in names if m in ATTENTION or not attention_only]
            none = "no attention" if attention_only else "no method"
            parts.append(f"- Above `{other}` with 95 % confidence here: {', '.join(shown) or none}.")
        for _, run in part[part["top1"] < part.groupby("method")["top1"].transform("median") / 2].iterrows():
            parts.append(
                f"- `{run['method']}` broke down with seed {run['seed']}: {run['top1']:.1f} %. It counts."
            )
        parts.append("")
    return "\n".join(parts)


def held_out() -> str:
    """Return Tables 5 and 4 with α chosen on held-out images, from the files that `spgca-lab report` wrote."""
    parts = []
    for number in (5, 4):
        table = pd.read_csv(HELD_OUT / f"table{number}.csv", dtype={"alpha": str})
        table = table[table["planned"] & (table["n"] > 0)]
        parts.append(
            f"**Table {number}**\n\n"
            f"| method | α | top-1 %, mean ± sd | − `{table['reference'].iloc[0]}` (95 %) |\n|---|---|---|---|"
        )
        for row in table.itertuples():
            alpha = "" if row.alpha in ("0", "0.0") else row.alpha
            gap = "" if row.column == row.reference else f"{row.diff:+.1f} ± {row.diff_half:.1f}"
            parts.append(f"| `{row.column}` | {alpha} | {row.mean:.1f} ± {row.sd:.1f} | {gap} |")
        parts.append("")
    return "\n".join(parts)


def write_between(marks: tuple[str, str], text: str, *files: Path) -> None:
    """Put a text between two marks of each file."""
    for file in files:
        before, rest = file.read_text(encoding="utf-8").split(marks[0])
        _, after = rest.split(marks[1])
        file.write_text(f"{before}{marks[0]}\n\n{text}\n{marks[1]}{after}", encoding="utf-8")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "collect", "report"))
    parser.add_argument("--only", choices=EXPERIMENTS)
    parser.add_argument("--photos", type=Path, help="folder with train/ and test/, for lite0-caltech101-mini")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.command == "run":
        jobs = recipes(options.photos.resolve() if options.photos else None, options.only)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            for line in pool.imap(train, jobs):
                print(line, flush=True)
    elif options.command == "collect":
        print(collect().groupby(["experiment", "method"])["top1"].agg(["mean", "std", "count"]).to_string())
    else:
        here = REPO / "benchmarks" / "README.md"
        write_between(MARKS, report(pd.read_csv(CSV)), REPO / "README.md", here)
        write_between(HELD_OUT_MARKS, held_out(), here)


if __name__ == "__main__":
    main()
