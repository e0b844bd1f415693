"""Attention against masks: scores by hand, controls that say what chance gives, and what is refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import spgca_lab as lab
from spgca_lab.analysis.grounding import attention_scores, control_scores, gain_over_uniform
from spgca_lab.analysis.scores import ScoreError, object_cells
from spgca_lab.runs.load import load_run
from tests.tiny_runs import SMALL

COLUMNS = ["heat", "kind", "stage", "step", "layer", "picture", "hit", "chance", "inside", "area", "iou"]


@pytest.fixture(scope="module")
def scored(kept_run):
    return kept_run, attention_scores(kept_run), control_scores(kept_run)


def share_on_object(heat, mask):
    """Mass inside, cell by cell with loops."""
    (rows, columns), (height, width) = heat.shape, mask.shape
    inside = 0.0
    for y in range(height):
        for x in range(width):
            cell = heat[y * rows // height, x * columns // width]
            inside += cell * mask[y, x] / ((height // rows) * (width // columns))
    return inside / heat.sum()


def test_positions_are_scored_as_they_are(scored):
    run, found, _ = scored
    assert list(found.columns) == COLUMNS
    snapshot = [s for s in run.snapshots() if s.stage == "spa"][-1]
    last = found[(found["heat"] == "SPA") & (found["step"] == snapshot.step)]
    assert len(last) == 4 * len(run.probe["labels"])
    for layer, w in enumerate(snapshot.weights.values(), start=1):
        side = round(w.shape[1] ** 0.5)
        for picture, mask in enumerate(run.probe["masks"]):
            row = last[(last["layer"] == layer) & (last["picture"] == picture)].iloc[0]
            assert row["inside"] == pytest.approx(share_on_object(w[picture].reshape(side, side), mask))
            assert row["area"] == pytest.approx(mask.mean())


def test_channels_are_scored_where_they_speak_for_the_true_class(scored):
    run, found, _ = scored
    trained = load_run(run)
    snapshot = next(s for s in run.snapshots() if s.stage == "gca")
    tap = trained.backbone.taps[3]
    kept = []
    handle = trained.target.get_submodule(tap).register_forward_hook(lambda _, __, y: kept.append(y))
    x = trained.backbone.preprocess(torch.from_numpy(run.probe["images"])).requires_grad_(True)
    logits = trained.target(x)
    handle.remove()
    right = logits.gather(1, torch.from_numpy(run.probe["labels"]).long()[:, None])
    (gradient,) = torch.autograd.grad(right.sum(), kept[0])
    heat = np.einsum("bc,bchw->bhw", snapshot.weights[tap], (gradient * kept[0]).abs().detach().numpy())
    rows = found[(found["heat"] == "GCA") & (found["step"] == snapshot.step) & (found["layer"] == 4)]
    by_hand = [share_on_object(h, m) for h, m in zip(heat, run.probe["masks"], strict=True)]
    assert rows["inside"].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_even_weights_have_on_the_object_what_its_area_is(scored):
    _, _, controls = scored
    even = controls[controls["heat"] == "even"]
    assert even["inside"].tolist() == pytest.approx(even["area"].tolist())
    assert even["iou"].tolist() == pytest.approx(even["area"].tolist())
    assert even["hit"].tolist() == even["chance"].tolist()


def test_all_controls_are_there_layer_by_layer(scored):
    run, _, controls = scored
    layers = controls.groupby("heat")["layer"].unique().map(list).to_dict()
    each = [1, 2, 3, 4]
    assert layers == {
        "even": each,
        "even channels": each,
        "magnitude": each,
        "Grad-CAM": each,
        "Integrated Gradients": [0],
    }
    assert (controls["step"] == run.recipe.iterations).all()


def test_a_heatmap_that_is_the_mask_has_everything_on_the_object():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert object_cells(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    assert object_cells(mask, (8, 8)).sum() == 16
    with pytest.raises(ScoreError, match="at least as fine"):
        object_cells(mask, (16, 16))


def test_a_probe_may_be_as_large_as_the_test_set(tmp_path):
    recipe = lab.Recipe(method="ast", probe=10, **SMALL)
    for _ in lab.fit(recipe, tmp_path, device="cpu"):
        pass
    run = lab.RunStore(tmp_path)[recipe]
    assert len(run.probe["labels"]) == 10
    assert {w.shape[0] for s in run.snapshots() for w in s.weights.values()} == {10}
    assert attention_scores(run)["picture"].nunique() == 10
    assert recipe.replace(probe=1000).hash() != recipe.hash()


def test_a_layer_without_weight_has_no_score_and_says_so(kept_run, tmp_path):
    """As a collapsed GCA leaves it: all weight in one layer."""
    shutil.copytree(kept_run.path, tmp_path / "run")
    run = lab.Run(tmp_path / "run")
    file = sorted((run.path / "snapshots").glob("*-1.npz"))[-1]
    with np.load(file) as arrays:
        kept = {k: arrays[k] for k in arrays.files}
    for i in range(4):
        kept[f"w{i}"] = np.zeros_like(kept[f"w{i}"])
    kept["w2"][:, 0] = 1
    np.savez(file, **kept)
    found = attention_scores(run)
    last = found[(found["heat"] == "GCA") & (found["step"] == found["step"].max())]
    assert last[last["layer"] != 3]["inside"].isna().all()
    assert last[last["layer"] == 3]["inside"].notna().all()
    both = pd.concat([found, control_scores(run)]).assign(seed=0, run="spgca")
    words = gain_over_uniform(both).query("heat == 'GCA' and nets == 'trained'").set_index("layer")["words"]
    assert words[4] == "no weight left in this layer"


def test_words_follow_from_the_interval():
    each = {
        "run": "spa",
        "heat": "SPA",
        "kind": "spatial",
        "step": 0,
        "hit": 0.5,
        "chance": 0.5,
        "iou": 0.3,
        "area": 0.3,
    }
    gains = {1: (5.0, 5.1, 5.2), 2: (-0.2, -0.21, -0.19), 3: (3.0, -3.0, 1.0)}
    rows = [
        each | {"layer": layer, "seed": seed, "inside": 0.3 + gain / 100}
        for layer, part in gains.items()
        for seed, gain in enumerate(part)
    ]
    found = gain_over_uniform(pd.DataFrame(rows)).set_index("layer")
    assert found["words"].to_dict() == {
        1: "5.1 points above uniform weights",
        2: "below uniform weights, by less than half a point",
        3: "cannot be distinguished from uniform weights",
    }
    assert found["n"].tolist() == [3, 3, 3]
    with pytest.raises(ScoreError, match="'inside', 'hit', 'iou', got 'depth'"):
        gain_over_uniform(pd.DataFrame(rows), "depth")


def test_what_has_no_masks_or_no_attention_is_refused(kept_run, tmp_path):
    recipe = lab.Recipe(method="l2", **SMALL)
    for _ in lab.fit(recipe, tmp_path, device="cpu"):
        pass
    run = lab.RunStore(tmp_path)[recipe]
    with pytest.raises(ScoreError, match="has no attention snapshots"):
        attention_scores(run)
    file = run.path / "probe.npz"
    with np.load(file) as arrays:
        kept = {k: arrays[k] for k in arrays.files if k != "masks"}
    np.savez(file, **kept)
    with pytest.raises(ScoreError, match="have no masks"):
        control_scores(lab.Run(run.path))
