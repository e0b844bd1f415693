"""LossExplorer without a browser: controls move the state, the state moves bars, numbers and words."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from torch import nn

import spgca_lab as lab
from spgca_lab.analysis.gradients import BatchProbe
from spgca_lab.explorers import ExplorerError
from spgca_lab.explorers.loss import LossExplorer, LossState
from spgca_lab.plots.panels.loss import (
    LOSS_HEIGHT,
    TERM_COLOURS,
    LossView,
    loss_panel,
    percent,
    short_number,
)
from spgca_lab.plots.style import PlotError
from spgca_lab.training.batches import network_inputs, training_batch
from spgca_lab.training.seeding import derive_seed
from tests.explorers import keeps_the_promises, pictures, said, size, words
from tests.tiny_runs import SMALL

COUNT = 8
OWN = '''
import torch
import spgca_lab as lab

class Loudness(lab.Attention):
    """Positions where the source is loud."""
    kind = "spatial"

    def forward(self, maps_s, maps_t):
        return {tap: m.abs().mean(dim=1).flatten(1).softmax(dim=1) for tap, m in maps_s.items()}
'''


@pytest.fixture(scope="module")
def source():
    return lab.load_backbone("mini", weights="random")


@pytest.fixture(scope="module")
def target(source):
    """A T whose every parameter is a little off S's."""
    model = source.to_target(COUNT, seed=5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * p.std(correction=0) * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture
def explorer(source, target):
    return LossExplorer(source, pictures(COUNT), target)


@pytest.fixture(scope="module")
def refusing(source, target):
    """One for all tests after which nothing has changed."""
    return LossExplorer(source, pictures(COUNT), target)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    store = lab.RunStore(tmp_path_factory.mktemp("runs"))
    recipe = lab.Recipe(method="gca->spa", alpha=(0.5, 2.0), r=8, beta=0.03, target_bn="eval", **SMALL)
    list(lab.fit(recipe, store=store, device="cpu"))
    return store[recipe]


def terms(explorer):
    return explorer.data.terms(explorer.state)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def bars(figure, colour):
    """What the bars of one colour stand for, as drawn: 10 to the top of each, one list in the order of drawing."""
    return [
        10 ** float(path.vertices[:, 1].max())
        for collection in figure.findobj(PolyCollection)
        for path, face in zip(collection.get_paths(), collection.get_facecolor(), strict=True)
        if _same_colour(face, colour)
    ]


def marks(figure):
    """Where the black marks of the layers' own terms lie."""
    lines = [line for line in figure.findobj(Line2D) if line.get_linewidth() == 1.8]
    return [10 ** float(y) for line in lines for y in line.get_ydata()[::3]]


def folder(root, classes, count=4, side=40):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            colour = (40 * i, 90, 20 * len(name))
            Image.new("RGB", (side, side), colour).save(root / name / f"{i}.png")
    return root


# --- what is shown


def test_it_keeps_what_every_explorer_promises(source, run):
    changes = {"method": "afa", "alpha": 0.3, "beta": 0.1, "scale": "literal", "batch": 3, "seed": 2}
    keeps_the_promises(LossExplorer(source), batch_size=4, **changes)
    keeps_the_promises(LossExplorer(target=run), method="gca", r=2, target="start", target_bn="train")


def test_bars_and_marks_are_the_measured_norms(explorer):
    explorer.show(method="spgca", alpha=2.0, beta=0.5)
    figure, found = explorer.figure(), terms(explorer)
    ce, penalty, decay = (bars(figure, colour) for colour in TERM_COLOURS)
    assert ce == pytest.approx([pull.norms()[0] for stage in found for pull in stage.gradients], rel=1e-6)
    assert penalty == pytest.approx([2 * pull.norms()[1] for stage in found for pull in stage.taps], rel=1e-6)
    assert decay == pytest.approx([0.5 * stage.head.norms()[2] for stage in found], rel=1e-6)
    own = [2 * pull.own for stage in found for pull in stage.taps]
    assert marks(figure) == pytest.approx(own, rel=1e-6)


def test_the_split_adds_up_to_the_loss_and_its_bar_shows_the_shares(explorer):
    explorer.show(method="gca", alpha=5.0, beta=0.1)
    (found,) = terms(explorer)
    parts = found.parts(5.0, 0.1)
    figure = explorer.figure()
    shown = texts(figure)
    for value in (*parts, math.fsum(parts)):
        assert f"{value:.4g}" in shown
    for part in parts:
        assert percent(part / math.fsum(parts)) in shown
    wide = [
        r.get_width()
        for colour in TERM_COLOURS
        for r in figure.findobj(Rectangle)
        if r.get_height() == 0.17 and _same_colour(r.get_facecolor(), colour)
    ]
    assert [w / sum(wide) for w in wide] == pytest.approx([p / math.fsum(parts) for p in parts])


def test_numbers_are_those_of_networks_built_beside_the_explorer(explorer, source, target):
    explorer.show(method="spgca", target="trained", batch=2, seed=1, scale="afa", r=8)
    recipe = lab.Recipe(method="spgca", backbone="mini", scale="afa", r=8, seed=1, batch_size=8)
    pixels, y = training_batch(recipe, pictures(COUNT), 32, 2)
    networks = BatchProbe(source, target, pictures(COUNT), 32)
    noise = derive_seed(1, "model", 2)
    expected = networks.measure(networks.begin(recipe), network_inputs(source, pixels), y, seed=noise)
    for given, wanted in zip(terms(explorer), expected, strict=True):
        assert given.parts(1, 1) == pytest.approx(wanted.parts(1, 1), rel=1e-4)
        for a, b in zip(given.gradients, wanted.gradients, strict=True):
            assert a.norms() == pytest.approx(b.norms(), rel=1e-3)
    strip = explorer.figure().axes[0].images[0].get_array()
    assert np.array_equal(strip, np.concatenate(list(pixels.permute(0, 2, 3, 1).numpy()), axis=1))


def test_the_first_picture_is_the_shipped_run_on_its_stickers():
    explorer = LossExplorer()
    state = explorer.state
    assert (state.method, state.alpha, state.r, state.scale) == ("spgca", None, 4, "relative")
    assert (state.target, state.batch_size) == ("trained", 16)
    assert "trained by SPA→GCA (run spgca-ec3591435c4f, top-1 93.8 %)" in words(explorer)
    assert terms(explorer)[0].accuracy > 80
    assert [round(a) for a in explorer.data.recipe(state).alphas] == [3, 3]
    explorer.show(target="start")
    assert terms(explorer)[0].accuracy < 20


def test_every_picture_has_one_size(explorer, source):
    sizes = {size(explorer)}
    for values in (
        {"method": "l2_fe"},
        {"method": "l2"},
        {"method": "uniform", "scale": "literal"},
        {"method": "spgca", "alpha": 0.0},
        {"method": "spgca", "target": "start", "target_bn": "eval"},
        {"method": "afa", "alpha": 1e6, "beta": 0.0},
        {"method": "lwf", "batch_size": 2},
    ):
        explorer.reset()
        explorer.show(**values)
        assert "role" not in words(explorer)
        sizes.add(size(explorer))
    assert sizes == {(900, round(100 * LOSS_HEIGHT))}


# --- controls


def test_every_control_moves_the_state(explorer):
    explorer.method_choice.value = "act->ast"
    assert [stage.stage for stage in terms(explorer)] == ["act", "ast"]
    explorer.scale_choice.value = "afa"
    explorer.target_bn_choice.value = "eval"
    explorer.target_choice.value = "start"
    explorer.alpha_slider.value = 0.03
    explorer.beta_slider.value = 0.3
    explorer.batch_size_slider.value = 4
    explorer.batch_slider.value = 7
    explorer.seed_slider.value = 2
    wanted = LossState("act->ast", 0.03, 0.3, 4, "afa", "eval", "start", "", 4, 7, 2)
    assert explorer.state == wanted
    explorer.show(method="gca", target_bn="train")
    before = terms(explorer)[0].penalty
    explorer.r_slider.value = 32
    assert explorer.state.r == 32
    assert terms(explorer)[0].penalty != before
    explorer.reset_button.click()
    assert (explorer.alpha_slider.value, explorer.r_slider.value) == (3.0, 4)


def test_alpha_and_beta_measure_nothing(explorer, monkeypatch):
    explorer.show(method="spa", alpha=1.0)
    count, plain = explorer.data.measurements, terms(explorer)[0]
    penalty = bars(explorer.figure(), TERM_COLOURS[1])
    monkeypatch.setattr(BatchProbe, "measure", lambda *_: pytest.fail("measured again"))
    first = explorer.image.png
    for alpha, beta in ((3.0, 0.01), (0.0, 0.1), (100.0, 0.0), (10.0, 1.0)):
        explorer.alpha_slider.value, explorer.beta_slider.value = alpha, beta
        assert explorer.image.png != first
    assert explorer.data.measurements == count
    assert terms(explorer)[0] is plain
    assert bars(explorer.figure(), TERM_COLOURS[1]) == pytest.approx([10 * p for p in penalty])


def test_alpha_follows_method_and_scale_until_it_is_given(explorer):
    def effective():
        return explorer.data.recipe(explorer.state).alpha

    for method, scale, alpha in (
        ("spgca", "relative", 3.0),
        ("spgca", "literal", 0.1),
        ("l2_sp", "literal", 0.1),
        ("l2", "afa", 1e-4),
        ("l2->spa", "relative", (1e-4, 3.0)),
    ):
        explorer.show(method=method, scale=scale)
        assert explorer.state.alpha is None
        assert (
            effective()
            == explorer.alpha_slider.value
            == lab.Recipe(method=method, scale=scale).alpha
            == alpha
        )
        assert explorer.alpha_button.disabled
    assert explorer.alpha_slider.label == "0.0001 | 3"
    explorer.alpha_slider.value = 10.0
    explorer.show(method="spgca")
    explorer.show(scale="afa")
    assert explorer.state.alpha == effective() == 10.0
    assert not explorer.alpha_button.disabled
    explorer.alpha_button.click()
    assert (explorer.state.alpha, effective(), explorer.alpha_slider.value) == (None, 0.1, 0.1)
    explorer.show(alpha=(0.5, 2.0))
    assert effective() == (0.5, 2.0)
    explorer.show(method="spa")
    assert explorer.state.alpha is None


def test_values_between_the_stops_are_shown_as_stops(explorer):
    explorer.show(method="gca", alpha=2.5, beta=0.02, r=7, batch_size=3, batch=77, seed=12)
    for control, value in (
        (explorer.alpha_slider, 2.5),
        (explorer.beta_slider, 0.02),
        (explorer.r_slider, 7),
        (explorer.batch_size_slider, 3),
        (explorer.batch_slider, 77),
        (explorer.seed_slider, 12),
    ):
        assert control.value == value
    explorer.reset()
    assert 2.5 not in [value for _, value in explorer.alpha_slider.options]


def test_what_a_method_does_not_use_is_disabled(explorer):
    def disabled():
        return (explorer.alpha_slider.disabled, explorer.r_slider.disabled, explorer.scale_choice.disabled)

    for method, wanted in (
        ("spgca", (False, False, False)),
        ("afa", (False, True, False)),
        ("l2", (False, True, True)),
        ("l2_fe", (True, True, True)),
    ):
        explorer.method_choice.value = method
        assert disabled() == wanted
    names = {value: name for name, value in explorer.method_choice.options}
    assert set(lab.METHODS) | {"gca->spa", "act->ast"} == set(names)
    assert names["afa"] == "AFA: AST→ACT"
    assert names["gca->spa"] == "GCA→SPA"


def test_without_a_trained_t_there_is_only_the_start(source):
    explorer = LossExplorer(source, pictures(COUNT))
    assert explorer.state.target == "start"
    assert explorer.target_choice.disabled
    with pytest.raises(ExplorerError, match="target 'trained' cannot be shown: no trained T was given"):
        explorer.show(target="trained")


# --- what is said


def test_literal_is_said_to_do_nothing(explorer):
    explorer.show(method="ast", scale="literal", alpha=1e-7)
    (found,) = terms(explorer)
    ratios = [pull.ratio(1e-7, 0.01) for pull in found.taps]
    assert max(ratios) < 0.01
    assert "Under literal, AST is negligible" in said(explorer)
    assert f"({short_number(1 / max(ratios))} ×" in said(explorer) or short_number(1 / max(ratios)) in said(
        explorer
    )
    explorer.show(alpha=None, method="spa")
    (found,) = terms(explorer)
    own = found.taps[0].own_ratio(0.1)
    assert own == min(pull.own_ratio(0.1) for pull in found.taps)
    assert own < 1e-3
    assert "own term is negligible in layer 1" in said(explorer)
    assert short_number(1 / own) in said(explorer)


def test_a_large_alpha_drowns_the_task(explorer):
    explorer.show(method="afa", scale="afa", alpha=100.0)
    first = terms(explorer)[0]
    hardest = max(range(4), key=lambda i: first.taps[i].ratio(100.0, 0.01))
    ratio = first.taps[hardest].ratio(100.0, 0.01)
    assert ratio > 3
    assert (
        f"AST dominates the task: gradient norm {short_number(ratio)} × the task&#x27;s (layer {hardest + 1}"
        in (said(explorer))
    )
    assert "tage 2: ACT dominates the task" in said(explorer)
    assert short_number(ratio) in texts(explorer.figure())


def test_equal_networks_pull_at_nothing(explorer):
    explorer.show(target="start", target_bn="eval")
    for stage in terms(explorer):
        assert stage.penalty == 0.0
        assert all(math.isnan(pull.cosine(3.0, 0.01)) for pull in stage.taps)
    assert said(explorer).count("is exactly 0") == 2
    assert sum("FM_S = FM_T" in text for text in texts(explorer.figure())) == 2
    explorer.show(target="trained")
    assert said(explorer).count("is exactly 0") == 1
    explorer.show(target_bn="train")
    assert "exactly 0" not in said(explorer)
    assert sum("only BatchNorm differs" in text for text in texts(explorer.figure())) == 1


@pytest.mark.parametrize(
    ("method", "sentence", "note"),
    [
        ("l2", "acts on T's weights", "acts on T's weights directly"),
        ("l2_sp", "acts on T's weights", "acts on T's weights directly"),
        ("l2_fe", "trains the head alone", "only the head is trained"),
        ("lwf", "LwF's gradient norm is at most", ""),
    ],
)
def test_what_does_not_act_on_maps_says_so(explorer, method, sentence, note):
    explorer.show(method=method)
    assert sentence.replace("'", "&#x27;") in said(explorer)
    figure = explorer.figure()
    assert not note or any(note in text for text in texts(figure))
    assert bool(bars(figure, TERM_COLOURS[1])) == (method == "lwf")
    assert len(bars(figure, TERM_COLOURS[0])) == (1 if method == "l2_fe" else 5)


def test_rows_below_the_bars_are_the_measured_ratios_and_cosines(explorer):
    explorer.show(method="ast", alpha=4.0, beta=0.2)
    (found,) = terms(explorer)
    shown = explorer.figure().texts
    names = ("penalty or decay ÷ task", "layer's own term ÷ task", "cosine with the task (− against)")
    rows = {name: next(t.get_position()[1] for t in shown if t.get_text() == name) for name in names}
    written = {
        name: [t.get_text() for t in shown if t.get_position()[1] == y and t.get_text() != name]
        for name, y in rows.items()
    }
    cosines = [round(pull.cosine(4.0, 0.2), 2) + 0.0 for pull in found.gradients]
    assert written[names[0]] == [short_number(pull.ratio(4.0, 0.2)) for pull in found.gradients]
    assert written[names[1]] == [*(short_number(pull.own_ratio(4.0)) for pull in found.taps), "–"]
    assert written[names[2]] == [f"{value:+.2f}".replace("-", "−") for value in cosines]
    key = "layer's own term"
    assert key in texts(explorer.figure())
    for method in ("lwf", "l2", "l2_fe"):
        explorer.show(method=method)
        without = texts(explorer.figure())
        assert names[0] in without
        assert names[1] not in without
        assert key not in without


def test_where_the_head_alone_is_trained_batchnorm_is_said_to_be_in_eval_mode(explorer):
    explorer.show(method="l2_fe", target_bn="train")
    assert "BatchNorm in eval mode" in words(explorer)
    assert any("(BatchNorm: eval)" in text for text in texts(explorer.figure()))
    explorer.show(method="spa")
    assert any("(BatchNorm: train)" in text for text in texts(explorer.figure()))


@pytest.mark.parametrize("scale", ["literal", "afa", "relative"])
def test_captions_are_short(explorer, scale):
    for method in ("spgca", "ast->spa", "act->ast", "l2_fe", "l2->lwf"):
        explorer.show(method=method, scale=scale)
        assert len(explorer.caption(explorer.state)) < 240


def test_alpha_0_switches_the_penalty_off(explorer):
    explorer.show(alpha=0.0)
    assert said(explorer).count("is off (α = 0)") == 2
    assert "0 %" in texts(explorer.figure())


def test_the_table_has_every_norm_and_the_crossing_point(explorer):
    explorer.show(method="gca", alpha=2.0, beta=0.5)
    (found,) = terms(explorer)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", explorer.details.value)
    rows = [cells[i : i + 10] for i in range(0, len(cells), 10)]
    assert [row[1] for row in rows] == ["layer 1", "layer 2", "layer 3", "layer 4", "head"]
    for row, pull in zip(rows[:4], found.taps, strict=True):
        ce, penalty, _ = pull.norms()
        assert row[2:5] == [short_number(v) for v in (ce, 2 * penalty, 2 * pull.own)]
        assert row[5] == "–"
        assert row[8:] == [short_number(pull.total(2.0, 0.5)), f"α = {short_number(ce / penalty)}"]
    ce, _, decay = found.head.norms()
    assert rows[4][3:6] == ["–", "–", short_number(0.5 * decay)]
    assert rows[4][9] == f"β = {short_number(ce / decay)}"
    assert "at the taps its share is 0" in explorer.details.value


# --- a reader's own


def test_a_readers_class_by_file_and_as_itself(explorer, tmp_path):
    file = tmp_path / "loud.py"
    file.write_text(OWN)
    explorer.own_text.value = f"{file}:Loudness"
    assert explorer.state.method == f"{file}:Loudness"
    assert ("Loudness", explorer.state.method) in explorer.method_choice.options
    by_file = terms(explorer)[0]
    assert by_file.stage == "Loudness"
    assert any(text.startswith("Loudness") for text in texts(explorer.figure()))

    class Loud(lab.Attention):
        kind = "spatial"

        def forward(self, maps_s, maps_t):
            return {tap: m.abs().mean(dim=1).flatten(1).softmax(dim=1) for tap, m in maps_s.items()}

    explorer.show(method=Loud)
    assert explorer.state.method.endswith("Loud")
    assert terms(explorer)[0].penalty == by_file.penalty
    explorer.show(method="spa->" + explorer.state.method)
    assert [stage.stage for stage in terms(explorer)] == ["spa", "Loud"]
    assert not explorer.r_slider.disabled or "r" not in Loud.options


def test_a_class_of_any_name_is_escaped_and_kept_inside_its_column(explorer):
    def penalty(self, state, weights):
        return sum(m.square().mean() for m in state.maps_t.values())

    long = "<b>" + "Very" * 10
    explorer.show(method=type(long, (lab.Penalty,), {"penalty": penalty, "__module__": "__main__"}))
    for shown in (said(explorer), explorer.details.value, explorer.image.value):
        assert "<b>" not in shown
        assert "&lt;b&gt;VeryVery" in shown
    title = next(text for text in texts(explorer.figure()) if text.startswith("<b>"))
    assert title == long[:35] + "…"


def test_a_class_that_fails_is_told_and_the_picture_stays(explorer, tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(OWN.replace(".flatten(1).softmax(dim=1)", ""))
    before = explorer.state, explorer.image.png
    explorer.own_text.value = f"{file}:Loudness"
    assert "spatial weights at &#x27;layer1.1.conv3&#x27; must be [b, h·w]" in words(explorer)
    assert (explorer.state, explorer.image.png) == before
    explorer.own_text.value = "<b>spgcaa"
    assert "unknown method &#x27;&lt;b&gt;spgcaa&#x27;" in words(explorer)
    explorer.alpha_slider.value = 1.0
    assert explorer.state.alpha == 1.0
    assert "role" not in words(explorer)


def test_a_class_that_changed_under_its_name_is_measured_anew(explorer):
    def make(factor):
        class Steady(lab.Penalty):
            def penalty(self, state, weights):
                return factor * sum(m.square().mean() for m in state.maps_t.values())

        Steady.__module__ = "__main__"
        Steady.__qualname__ = "Steady"
        return Steady

    explorer.show(method=make(1.0))
    first, png = terms(explorer)[0].penalty, explorer.image.png
    explorer.show(method=make(2.0))
    assert explorer.state.method == "Steady"
    assert terms(explorer)[0].penalty == pytest.approx(2 * first)
    assert explorer.image.png != png


def test_t_may_be_a_module_and_is_left_as_it_is(source, target):
    before = {name: value.clone() for name, value in target.state_dict().items()}
    target.train()
    explorer = LossExplorer(source, pictures(COUNT), target)
    explorer.show(method="afa", batch=1)
    assert "the module that was given" in words(explorer)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in target.modules())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in [*target.modules(), *source.model.modules()]
    )
    other = LossExplorer(source, pictures(COUNT), source.to_target(5, seed=0))
    assert other.state.target == "start"
    with pytest.raises(
        ExplorerError, match="its head has 5 outputs, 'pictures' has 8 classes; choose 'start'"
    ):
        other.show(target="trained")
    with pytest.raises(lab.TapError, match="no module 'layer1.1.conv3'"):
        LossExplorer(source, pictures(COUNT), nn.Sequential(nn.Flatten(), nn.Linear(9, COUNT)))
    headless = source.to_target(COUNT, seed=0)
    del headless.fc
    with pytest.raises(ExplorerError, match="target has no module 'fc', which is the head of 'mini'"):
        LossExplorer(source, pictures(COUNT), headless)


def test_a_run_gives_backbone_pictures_and_what_it_was_trained_with(run):
    explorer = LossExplorer(target=run)
    state = explorer.state
    assert (state.method, state.alpha, state.r, state.beta) == ("gca->spa", (0.5, 2.0), 8, 0.03)
    assert (state.target_bn, state.target, state.batch_size) == ("eval", "trained", 16)
    assert explorer.data.image_size == 32
    assert "48 pictures" in words(explorer)
    explorer.show(batch_size=8)
    explorer.code_button.click()
    scope: dict = {}
    exec(explorer.code_text.value, scope)
    assert scope["recipe"] == run.recipe
    assert scope["explorer"].state == explorer.state
    assert scope["explorer"].image.png == explorer.image.png


def test_the_code_trains_what_is_set(explorer, source):
    stickers = LossExplorer(source)
    stickers.show(method="gca", alpha=0.5, beta=0.1, r=8, scale="afa", target_bn="eval", batch_size=4, seed=3)
    scope: dict = {}
    exec(stickers.code(stickers.state), scope)
    assert scope["recipe"] == lab.Recipe(
        method="gca",
        alpha=0.5,
        beta=0.1,
        r=8,
        scale="afa",
        target_bn="eval",
        batch_size=4,
        seed=3,
        weights="random",
    )
    assert "dataset, target: the objects of your own" in explorer.code(explorer.state)
    assert "add dataset=" in explorer.code(explorer.state)


def test_a_state_that_was_given_comes_back_by_its_code(source):
    explorer = LossExplorer(source, state=LossState(method="gca", alpha=0.5, batch_size=4))
    assert explorer.state.scale == "relative"
    scope: dict = {}
    exec(explorer.code(explorer.state), scope)
    assert scope["explorer"].state == explorer.state


# --- pictures of one's own, and errors


def test_a_folder_of_ones_own_and_back(explorer, tmp_path):
    place = str(folder(tmp_path / "<b>mine", ["cats", "dogs"]))
    explorer.place_text.value = place
    assert explorer.state.place == place
    # T was trained on 8 other classes, and 4 of these pictures are for training.
    assert (explorer.state.target, explorer.state.batch_size) == ("start", 6)
    assert "&lt;b&gt;mine train: 6 pictures" in words(explorer)
    assert explorer.data.recipe(explorer.state).dataset == place
    assert f"dataset={place!r}" in explorer.code(explorer.state)
    explorer.place_text.value = ""
    assert explorer.state.place == ""
    assert explorer.state.target == "start"


@pytest.mark.parametrize("kind", ["none", "flat", "one", "few"])
def test_a_folder_that_cannot_be_used_is_told(explorer, tmp_path, kind):
    place, message = str(tmp_path / "absent"), "is neither a data set&#x27;s name nor a folder"
    if kind == "flat":
        place, message = str(folder(tmp_path / "mine" / "x", ["cats"]) / "cats"), "has no class folders"
    if kind == "one":
        place = str(folder(tmp_path / "mine", ["cats"]))
        message = "has one class, &#x27;cats&#x27;: cross-entropy (Eq. 6) needs at least two"
    if kind == "few":
        place, message = str(folder(tmp_path / "mine", ["a", "b"], count=1)), "needs at least 2 images"
    before = explorer.state, explorer.image.png
    explorer.place_text.value = place
    assert message in words(explorer)
    assert (explorer.state, explorer.image.png) == before
    explorer.batch_slider.value = 3
    assert explorer.state.batch == 3
    assert "role" not in words(explorer)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "spgac"}, "unknown method 'spgac'; did you mean 'spgca'"),
        ({"method": 3}, "method must be a name or a subclass of lab.Attention or lab.Penalty, got 3"),
        ({"method": "spa->gca->act"}, "'spa->gca->act' has 3 stages; here is room for two"),
        ({"alpha": -1.0}, "alpha must be a finite number of at least 0, got -1.0"),
        ({"alpha": (1.0, 2.0, 3.0)}, "alpha needs one value, or one per stage (2), got (1.0, 2.0, 3.0)"),
        ({"beta": "much"}, "beta must be a finite number of at least 0, got 'much'"),
        ({"r": 0}, "r must be a whole number from 1 to 960, got 0"),
        ({"scale": "bfa"}, "scale must be one of ['literal', 'afa', 'relative'], got 'bfa'"),
        ({"target_bn": "off"}, "target_bn must be one of ['train', 'eval'], got 'off'"),
        ({"target": "done"}, "target must be one of ['start', 'trained'], got 'done'"),
        ({"batch_size": 1}, "batch_size must be a whole number from 2 to 32, got 1"),
        ({"batch_size": 32}, "batch_size is 32, but 'pictures' has only 8 training images"),
        ({"batch": -1}, "batch must be a whole number from 0 to 999, got -1"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
        ({"place": 3}, "place must be '' or the path of a folder, got 3"),
        ({"gamma": 1}, "LossState has no 'gamma'; its values are method, alpha, beta"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(refusing, values, message):
    before = refusing.state, refusing.image.png
    with pytest.raises(ExplorerError, match=re.escape(message)):
        refusing.show(**values)
    assert (refusing.state, refusing.image.png) == before


def test_delta_is_measured_on_few_pictures_and_not_on_large_ones(source, explorer):
    explorer.show(method="delta")
    assert "DELTA&#x27;s filters were weighed on 4 images (training takes up to 64)" in words(explorer)
    large = LossExplorer(source, pictures(4, size=128))
    assert large.state.batch_size == 4
    with pytest.raises(ExplorerError, match="takes minutes on mini at 128 px; choose the backbone 'mini'"):
        large.show(method="delta")


# --- the panel


def test_numbers_are_written_short():
    given = (0.0, 1.0, 0.031, 12.4, 1234.0, 99_999.0, 3e6, 2.04e-5, -0.5, math.inf, math.nan)
    wanted = ("0", "1", "0.031", "12", "1,200", "100,000", "3·10⁶", "2·10⁻⁵", "−0.5", "∞", "–")
    assert tuple(map(short_number, given)) == wanted
    shares = (0.0, 1.0, 0.5, 0.996, 0.9999, 0.012, 3e-7, 1e-12)
    assert tuple(map(percent, shares)) == (
        "0 %",
        "100 %",
        "50 %",
        "99.6 %",
        "> 99.9 %",
        "1.2 %",
        "0.00003 %",
        "1·10⁻¹⁰ %",
    )


def test_the_panel_refuses_what_does_not_fit():
    fields = {"title": "", "factors": "", "about": "", "parts": (1.0, 0.0, 0.0), "places": ("a", "b")}
    numbers = {"ratios": (1, 2), "cosines": (0, 0), "own": (1, 1)}
    with pytest.raises(PlotError, match=re.escape("2 places need norms [2, 3] and 2 ratios")):
        LossView(**fields, norms=np.ones((3, 3)), **numbers)
    view = LossView(**fields, norms=np.full((2, 3), np.nan), **numbers)
    batch = np.zeros((2, 3, 8, 8), np.uint8)
    for views in ([], [view] * 3):
        with pytest.raises(PlotError, match="one or two stages"):
            loss_panel(views, batch)
    assert loss_panel([view], batch).get_size_inches().tolist() == [9.0, LOSS_HEIGHT]


def _same_colour(rgba, colour):
    return np.allclose(rgba[:3], [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
