"""Ratio of the penalty's gradient norm to the cross-entropy's at the first step, by method and scale.

python benchmarks/first_step.py                          # mini at 64 px, lite0 at 112 px; near and far stickers
python benchmarks/first_step.py --backbones mini --presets near

Norms over the backbone of T, of α times the gradient of the penalty and of that of the cross-entropy, each stage as a
training begins it, with the α of its method for the scale. A training warns where the ratio is 100 or more.
"""

import argparse

import spgca_lab as lab
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.training.diagnose import DOMINATES
from spgca_lab.training.loop import Training

SIZES = {"mini": 64, "lite0": 112}


def ratios(backbone: lab.Backbone, preset: str, method: str, scale: str, size: int) -> list[float | None]:
    """Return one number per stage; None where a stage has no penalty or trains the head alone."""
    recipe = lab.Recipe(method=method, backbone=backbone.name, scale=scale, preset=preset, image_size=size)
    train = lab.load_dataset("stickers", preset=preset, per_class=2, test_per_class=1, image_size=size)[0]
    training = Training(recipe, backbone, train, train, device="cpu")
    found = []
    for index in range(len(recipe.stages().stages)):
        training.begin_stage(index)
        assert training.stage is not None
        training.stage.step(0)
        ratio = training.stage._ratio
        found.append(None if ratio is None else float(ratio))
    training.close()
    return found


def main() -> None:
    """Measure, and print one table per backbone and preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--presets", nargs="+", default=["near", "far"])
    parser.add_argument("--methods", nargs="+", default=[name for name in lab.METHODS if name != "delta"])
    options = parser.parse_args()
    stages = 0
    for name in options.backbones:
        backbone = lab.load_backbone(name)
        for preset in options.presets:
            print(f"\n{name}, {SIZES[name]} px, {preset}; training warns from {DOMINATES:g} on\n")
            print(f"| method | {' | '.join(SCALES)} |\n|{'---|' * (1 + len(SCALES))}")
            for method in options.methods:
                cells = []
                for scale in SCALES:
                    found = ratios(backbone, preset, method, scale, SIZES[name])
                    stages += sum(each is not None for each in found)
                    cells.append(", ".join("" if each is None else f"{each:.3g}" for each in found))
                print(f"| {method} | {' | '.join(cells)} |", flush=True)
    print(f"\n{stages} stages.")


if __name__ == "__main__":
    main()
