"""The command line: the same recipes and the same trainer as notebooks and widgets."""

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from tqdm import tqdm

import spgca_lab as lab
from spgca_lab._files import make_folder, replace_file
from spgca_lab.data import install, installed
from spgca_lab.data.published import PUBLISHED, published
from spgca_lab.experiments.grid import GRIDS, choose_alphas, expand, search
from spgca_lab.experiments.train_grid import require_datasets, train_missing
from spgca_lab.runs.lock import RunLock
from spgca_lab.runs.worker import Worker

Options = argparse.Namespace
DESCRIPTION = "Attention-based regularisation for transfer learning: run it, see it, question it."
RUN_COLUMNS = "hash status top1 method backbone dataset preset alpha r seed iterations"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` replace the words after the program's name.

    Returns:
        0, 2 after an error, which is one line on standard error, or 128 and the signal's number after a signal.
    """
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        known = sorted(set(re.findall(r"--[\w-]+", options.parser.format_help())))
        near = difflib.get_close_matches(word.replace("_", "-"), known, cutoff=0.7)
        options.parser.error(
            f"unknown argument {word}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    try:
        if getattr(options, "threads", None):
            torch.set_num_threads(options.threads)
        return options.run(options) or 0
    except (ValueError, LookupError, RuntimeError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"spgca-lab: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spgca-lab: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _some(options: Options, names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names.split()}


def _backbones(options: Options) -> None:
    """List the source models, or print Table 3 for some; this downloads nothing."""
    if not options.names:
        print(*lab.list_backbones(), sep="\n")
    for name in options.names:
        print(f"{name}:\n{lab.table3(name, image_size=options.image_size).to_string(index=False)}")


def _methods(_: Options) -> None:
    """List the methods, one sentence each."""
    for name, method in lab.METHODS.items():
        print(f"{name:<12} {method.summary}")
    print("\nStages in another order: 'gca->spa'. A class of your own: 'my_file.py:MyPenalty'.")


def _runs(options: Options) -> None:
    """List the runs of a store."""
    store = str(options.store)
    table = lab.RunStore(store).table()
    if table.empty:
        raise LookupError(f"there are no runs in {store!r}; make one with: spgca-lab fit --store {store}")
    print(table[RUN_COLUMNS.split()].to_string(index=False))


def _data_list(options: Options) -> None:
    """List the published data sets, which are installed, and their terms."""
    print(installed.list_published(options.home))


def _data_fetch(options: Options) -> None:
    """Download, check and unpack data sets; the same command resumes a broken download."""
    # An unknown name is an error before the first of many gigabytes.
    for each in [published(name) for name in options.names]:
        install.fetch(each.name, **_some(options, "home mirror unverified allow_http keep fresh"))
        print(installed.describe_installed(each.name, options.home))


def _data_import(options: Options) -> None:
    """Install a data set from archives that you have."""
    install.import_archives(options.name, options.paths, **_some(options, "home unverified fresh"))
    print(installed.describe_installed(options.name, options.home))


def _data_check(options: Options) -> int:
    """Count the images of a data set against Table 1, and name every corrupt file."""
    from spgca_lab.data.check import check

    found = check(options.name, options.home, options.seed)
    print(found.text(full=options.full), *installed.unverified_archives(options.name, options.home), sep="\n")
    return 0 if found.ok else 1


def _recipe(options: Options) -> None:
    """Print a recipe, or save it, without training."""
    recipe = _recipe_of(options)
    if options.output is None:
        print(recipe.to_json(), end="")
    else:
        options.output.write_text(recipe.to_json(), encoding="utf-8")
        print(f"{options.output}: {recipe.method} on {recipe.dataset}, run {recipe.hash()}")


def _fit(options: Options) -> int:
    """Train one recipe into a run folder; the same command resumes it."""
    kind, patience, recipe = options.launched or "terminal", 1.0, None
    if options.launched:
        # `lab.launch` wrote the recipe into the run folder, and transfers the folder's lock to this process.
        folder, patience = options.recipe.parent, 60.0
    else:
        recipe = lab.choose_batch_size(_recipe_of(options), options.device)
        folder = lab.RunStore(options.store).folder(recipe)
        if not options.fresh and (folder / "result.json").exists():
            # No lock is needed: the store may lie where nothing can be written.
            _show(recipe, lab.fit(recipe, options.store), options)
            return 0
        make_folder(folder)
    with (
        RunLock.take(folder, kind, patience=patience) as lease,
        Worker(lease, attached=kind == "attached", nice=bool(options.launched)) as worker,
    ):
        recipe = recipe or _recipe_of(options)
        events = lab.fit(recipe, **_some(options, "store device"), resume=not options.fresh, lease=lease)
        with closing(events):
            _show(recipe, worker.steered(events), options)
    if not worker.stopped:
        return 0
    print("spgca-lab: stopped; the same command goes on from here", file=sys.stderr)
    return 128 + worker.signal if worker.signal is not None else 0


def _show(recipe: lab.Recipe, events: Iterable[lab.training.events.Event], options: Options) -> None:
    with tqdm(total=recipe.iterations, unit="step", disable=options.events or None) as bar:
        for event in events:
            if isinstance(event, lab.Step) and not options.events:
                bar.update(event.step - bar.n)
                bar.set_postfix_str(f"{event.stage} loss {event.loss:.3f}", refresh=False)
            elif options.events or not isinstance(event, lab.Snapshot):
                bar.write(str(event))


def _steer(options: Options) -> None:
    handle = lab.RunHandle(options.folder)
    if handle.pid is None:
        raise lab.RunError(
            f"{str(options.folder)!r}: no process trains there, the run is {handle.status}; start it with: "
            f"spgca-lab fit --recipe {options.folder / 'recipe.json'} --store {options.folder.parent}"
        )
    getattr(handle, options.command)()


def _tune(options: Options) -> None:
    """Choose α on held-out training images; the same command continues a search."""
    # Optuna takes a moment to import, which the other commands are spared.
    from spgca_lab.experiments.alpha_choice import format_alpha
    from spgca_lab.experiments.alpha_search import tune

    chosen = _some(options, "trials alphas low high per_stage validation seeds study device")
    tuned = tune(_recipe_of(options), options.store, log=partial(print, flush=True), **chosen)
    output = options.output or options.store / "tuned" / f"{tuned.study}.json"
    make_folder(output.parent)
    replace_file(output, tuned.recipe.to_json().encode())
    shown = tuned.trials.assign(alpha=tuned.trials["alpha"].map(format_alpha))[["alpha", "top1", "state"]]
    shown.columns = ["α", "validation top-1", "state"]
    print(shown.to_string(index=False, float_format="{:.2f} %".format, na_rep="–"))
    print(f"α = {format_alpha(tuned.alpha)}: {tuned.recipe.alpha_from}")
    print(f"go on with: spgca-lab fit --recipe {output} --store {options.store}")


def _grid(options: Options) -> int:
    """Train the runs behind a table of the paper, by the paper's recipe; the same command continues."""
    grid = expand(options.table, **_some(options, "seeds datasets columns"), **_given_fields(options))
    store, held = lab.RunStore(options.store), {"validation": options.held_out, "seeds": options.tune_seeds}
    needs = _some(options, "dry_run ray gpus cpus memory devices workers threads retries")
    if not options.dry_run:
        require_datasets(grid)
    if options.alpha_grid:
        print("Choosing α on held-out training images:")
        # A run that diverges fails, and its value of α is out.
        train_missing(search(grid, options.alpha_grid, **held), store, **needs)
        grid = grid if options.dry_run else choose_alphas(grid, store, options.alpha_grid, **held)
    print(f"{GRIDS[grid.table].title} ({grid.table}):")
    for cell in grid.cells:
        alphas = ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(cell.recipe.alphas))
        print(f"  {cell.title}, {cell.column}: α = {alphas}; {cell.recipe.alpha_from or 'not searched'}")
    if not options.dry_run:
        grid.save(store)
    failed = train_missing(grid.recipes(), store, **needs)
    print(f"Now: spgca-lab report {grid.table} --store {options.store}")
    return 1 if failed else 0


def _report(options: Options) -> None:
    """Compare the finished runs of a store with tables of the paper."""
    from spgca_lab.experiments.report import report
    from spgca_lab.plots import to_png

    # All reports come first, so that an unknown name leaves no files.
    chosen = _some(options, "baseline level")
    reports = [report(table, options.store, **chosen) for table in dict.fromkeys(options.tables)]
    folder = options.out or options.store / "reports"
    for found in reports:
        print(found.markdown())
        files = [*found.write(folder), folder / f"{found.table}.png"]
        replace_file(files[-1], to_png(report_figure(found), dpi=150))
        # Standard output holds nothing but Markdown, for a redirection into a file.
        print(*(f"wrote {file}" for file in files), sep="\n", file=sys.stderr)


def report_figure(found: Any) -> Any:
    """Draw the figure of a report: dots and intervals, or for Figure 2 the curves."""
    from spgca_lab.plots.report import convergence_curves, report_dots

    if found.table != "fig2":
        title = f"Table {found.table.removeprefix('table')}: ours beside the paper's"
        return report_dots(found.shown, found.references, level=found.level, title=title)
    columns, datasets = (list(found.shown[name].unique()) for name in ("column", "dataset"))
    pairs = [(b, a) for a, b in found.references.items() if a != b and a in columns]
    title = "Figure 2: convergence"
    return convergence_curves(found.mean_curves(), pairs, level=found.level, title=title, datasets=datasets)


def _given_fields(options: Options) -> dict[str, Any]:
    return {n: v for n, v in vars(options).items() if n in options.fields and v is not None}


def _recipe_of(options: Options) -> lab.Recipe:
    given, file = _given_fields(options), options.recipe
    if options.paper and file:
        raise lab.RecipeError(f"--paper and --recipe {file} both give a whole recipe: use one of them")
    if options.paper:
        return lab.Recipe.paper(**given)
    base = lab.Recipe.from_json(file.read_text(encoding="utf-8")) if file else lab.Recipe()
    # Another method or scale brings its own default α, unless one was given.
    if {"method", "scale", "backbone"} & set(given):
        given = {"alpha": None, "scale": None if "backbone" in given else base.scale} | given
    return base.replace(**given)


def _list_of(kind: Callable[[str], Any], words: str, text: str) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.split(",")]
    try:
        if not all(parts):
            raise ValueError
        return tuple(map(kind, parts))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {words} joined by commas, got {text!r}") from None


_numbers, _names = partial(_list_of, float, "numbers"), partial(_list_of, str, "names")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    values = _list_of(int, "whole numbers", text) if "," in text else tuple(range(_count(text)))
    if min(values) < 0 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"expected a number of seeds, such as 5, or the seeds, such as 0,3,7; got {text!r}"
        )
    return values


def _reader(name: str, hint: Any) -> Callable[[str], Any]:
    """Return the function that reads a recipe's field, by the field's type."""
    kinds = {hint, *get_args(hint)}
    if name == "trains":
        return lambda text: tuple(part.strip() for part in text.split(";")) if ";" in text else text
    if get_origin(hint) is tuple:
        return _numbers
    if any(get_origin(kind) is tuple for kind in kinds):
        several = _numbers if float in kinds else _names
        return lambda text: values[0] if len(values := several(text)) == 1 else values
    if {int, str} <= kinds:
        return lambda text: int(text) if text.isdecimal() else text
    return next((kind for kind in (int, float) if kind in kinds), str)


# Groups of `--help`; the other options of a command that trains belong to "run".
GROUPS = {
    "data": "dataset preset per_class test_per_class image_size clutter data_seed augmentation validation",
    "method": "method backbone weights alpha alpha_from beta r scale attention attend_through_target target_bn",
    "optimisation": "iterations batch_size optimiser lr backbone_lr momentum weight_decay schedule milestones warmup "
    "trains attention_optimiser attention_lr",
    "measurement": "evaluations snapshots probe",
    "run": "seed engine",
}
GROUP_OF = {name: title for title, names in GROUPS.items() for name in names.split()}
PER_STAGE = (
    "Options per stage take one value or, joined by commas, one for each stage: --lr 0.01,0.001. Only --trains joins "
    "stages by semicolons: --trains 'all;layer3,layer4'."
)
# Type, default and help; a name ends like a regular expression when it takes several words.
OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "names*": (str, None, "source models"),
    "--image-size": (int, None, "input size in pixels"),
    "store?": (str, "runs", "folder of runs"),
    "name": (str, None, ", ".join(PUBLISHED)),
    "names+": (str, None, ", ".join(PUBLISHED)),
    "paths+": (Path, None, "archives"),
    "--home": (
        Path,
        None,
        "folder of the data sets; by default $SPGCA_LAB_DATA, or in the user's data folder",
    ),
    "--mirror": (str, None, "URL of a folder with files of the same names"),
    "--unverified": (bool, False, "accept archives whose size or checksum is not the published one"),
    "--allow-http": (bool, False, "allow unencrypted downloads that no published SHA-256 protects"),
    "--keep": (bool, False, "keep the archives after they are unpacked"),
    "--fresh": (bool, False, "start over, in place of continuing or answering with what is there"),
    "--seed": (int, 0, "seed of a split that is drawn"),
    "--full": (bool, False, "list every class, however many there are"),
    "folder": (Path, None, "the run's own folder in its store"),
    "--recipe": (Path, None, "recipe file (JSON); other options change its fields"),
    "--paper": (bool, False, "begin with the paper's recipe (Sec. 4.2), not the quick default"),
    "--store": (Path, "runs", "folder of runs"),
    "--device": (str, None, "cpu, cuda, …; by default a GPU if there is one"),
    "--threads": (_count, None, "CPU threads per run; by default PyTorch's choice, shared by a grid's runs"),
    "--events": (bool, False, "print each event in one line, without a progress bar"),
    "--launched": (str, None, argparse.SUPPRESS),
    "--output": (Path, None, "recipe file to write"),
    "--trials": (int, 20, "number of values to try, over all calls"),
    "--alphas": (_numbers, None, "values to try, joined by commas, in place of a range"),
    "--low": (float, None, "least value; by default from the penalty's scale"),
    "--high": (float, None, "largest value; by default from the penalty's scale"),
    "--per-stage": (bool, False, "search one α per stage"),
    "--validation": (float, 0.2, "share of each class's training images that is held out"),
    "--study": (str, None, "name of the search; by default derived from all that defines it"),
    "--seeds": (_seeds, "1", "number of seeds (5: 0 to 4), or the seeds, joined by commas (0,3,7)"),
    "table": (str, None, ", ".join(GRIDS)),
    "tables+": (str, None, ", ".join(GRIDS)),
    "--datasets": (_names, None, "data sets in place of the table's, joined by commas: names or folders"),
    "--columns": (_names, None, "some of the table's columns, joined by commas"),
    "--alpha-grid": (_numbers, None, "values of α to try first, joined by commas"),
    "--held-out": (float, 0.2, "share of each class's training images that measures these values"),
    "--tune-seeds": (_seeds, "1", "seeds of the runs that measure these values"),
    "--dry-run": (bool, False, "count the runs, and those that are finished, without training"),
    "--devices": (_names, None, "joined by commas, such as cuda:0,cuda:1; 'all' takes every GPU"),
    "--workers": (_count, None, "runs at a time on this machine; by default one per device"),
    "--retries": (int, 2, "restarts of a run whose process or node was lost"),
    "--ray": (str, None, "address of a Ray cluster, 'auto', or 'local' to start one here"),
    "--gpus": (float, 1.0, "GPUs per run on Ray; 0 trains on the CPU"),
    "--cpus": (float, 4.0, "CPUs per run on Ray"),
    "--memory": (float, None, "GiB of memory per run on Ray"),
    "--out": (Path, None, "folder of Markdown, CSV and figure; by default STORE/reports"),
    "--baseline": (str, None, "column that the others are compared with; by default the grid's"),
    "--level": (float, 0.95, "confidence level"),
}
COMMANDS: dict[str, tuple[Callable[[Options], int | None], str]] = {
    "backbones": (_backbones, "names* --image-size"),
    "methods": (_methods, ""),
    "runs": (_runs, "store?"),
    "data list": (_data_list, "--home"),
    "data fetch": (_data_fetch, "names+ --mirror --unverified --allow-http --keep --fresh --home"),
    "data import": (_data_import, "name paths+ --unverified --fresh --home"),
    "data check": (_data_check, "name --seed --full --home"),
    "fit": (_fit, "--recipe --paper --store --device --threads --fresh --events --launched"),
    "recipe": (_recipe, "--recipe --paper --output"),
    "stop": (_steer, "folder"),
    "pause": (_steer, "folder"),
    "resume": (_steer, "folder"),
    "tune": (
        _tune,
        "--recipe --paper --trials --alphas --low --high --per-stage --validation --seeds --study --store --device "
        "--threads --output",
    ),
    "grid": (
        _grid,
        "table --seeds --datasets --columns --alpha-grid --held-out --tune-seeds --store --dry-run --devices --workers "
        "--threads --retries --ray --gpus --cpus --memory",
    ),
    "report": (_report, "tables+ --store --out --baseline --level"),
}
# Commands with an option for each field of a recipe but these.
WITHOUT = {"fit": "", "recipe": "", "tune": "alpha alpha_from seed validation"}
WITHOUT["grid"] = "method dataset seed validation alpha_from"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spgca-lab", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"spgca-lab {lab.__version__}")
    groups = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    data = groups[""].add_parser("data", help="list, fetch, import and check the paper's data sets")
    groups["data"] = data.add_subparsers(required=True, metavar="COMMAND")
    for path, (run, flags) in COMMANDS.items():
        group, _, name = path.rpartition(" ")
        does = run.__doc__ or f"{name.capitalize()} the training in a run folder."
        words = [flag.rstrip("*+?").upper() for flag in flags.split() if flag[0] != "-"]
        usage = " ".join(["%(prog)s [OPTION ...]", *words])
        # An abbreviation would be taken for another option: --alpha for --alphas.
        command = groups[group].add_parser(name, help=does, description=does, usage=usage, allow_abbrev=False)
        command.set_defaults(run=run, parser=command, command=name)
        own = _add_recipe(command, WITHOUT[name].split()) if name in WITHOUT else command
        for flag in flags.split():
            _add(own, flag)
    groups[""].choices["grid"].set_defaults(store="runs/paper", seeds="5")
    return parser


def _add(parser: Any, flag: str) -> None:
    kind, default, text = OPTIONS[flag]
    details = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
    if default:
        text += " (default: %(default)s)"
    if flag[-1] in "*+?":
        details |= {"nargs": flag[-1], "metavar": flag[:-1].upper()}
    names = [flag, "-o"] if flag == "--output" else [flag.rstrip("*+?")]
    parser.add_argument(*names, help=text, **details)


def _add_recipe(parser: argparse.ArgumentParser, without: Sequence[str]) -> Any:
    """Add an option for each field of a recipe, and return the group of the run's own options."""
    parser.epilog = PER_STAGE
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    texts = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", inspect.getdoc(lab.Recipe) or "", re.MULTILINE))
    fields = lab.Recipe.__dataclass_fields__.items()
    types = {name: f.type for name, f in fields if name not in without and not name.endswith("_code")}
    parser.set_defaults(fields=set(types))
    for name, hint in types.items():
        text = " ".join(texts.get(name, "").replace("`", "").replace("%", "%%").split())
        reads: dict[str, Any] = {"type": _reader(name, hint)}
        if hint is bool:
            reads = {"action": argparse.BooleanOptionalAction}
        group = groups[GROUP_OF.get(name, "run")]
        group.add_argument("--" + name.replace("_", "-"), default=None, help=text, **reads)
    return groups["run"]
