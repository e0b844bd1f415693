"""Explorers without a browser: controls move the state, the state moves the picture and the words."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import spgca_lab as lab
from spgca_lab.attention import Attention
from spgca_lab.widgets import (
    AttentionExplorer,
    AttentionState,
    Explorer,
    ExplorerError,
    FeatureMapExplorer,
    FeatureMapState,
    LiveExplorer,
    RunExplorer,
    RunState,
)
from spgca_lab.widgets.attention_sources import run_label
from spgca_lab.widgets.base import table_html
from spgca_lab.widgets.nets import Pictures, grad_cam, load_run, stage_module, tapped
from tests.tiny_runs import KEPT, train


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def kept(store):
    return store.find(method="spgca", alpha=KEPT[0], r=KEPT[1])[0]


@pytest.fixture(scope="module")
def source():
    return lab.load_backbone("mini", weights="random")


def pictures(count=3, size=32, **more):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    names = [f"<class {i}>" for i in range(count)]
    return lab.ImageSet(images, torch.arange(count), names, size, **more)


def masked():
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:2, 8:24, 8:24] = True
    return pictures(masks=masks)


@pytest.fixture
def maps(source):
    return FeatureMapExplorer(source, pictures())


def words(explorer):
    return explorer.status_line.value


def size(explorer):
    return Image.open(io.BytesIO(explorer.image.value)).size


# --- FeatureMapExplorer


def test_sliders_move_state_picture_and_words(maps):
    first = maps.image.value
    maps.layer_slider.value = 2
    assert maps.state.layer == 2
    assert maps.image.value != first
    assert "FM_S = output of layer2.1.conv3, 128 channels × 8 × 8 = 8192 numbers" in words(maps)
    maps.channel_slider.value = 5
    shown = maps.figure().axes[0].images[1].get_array()
    expected = tapped(maps.backbone, maps.backbone.model, maps.pictures.images[:1])[1]["layer2.1.conv3"][0, 5]
    assert np.array_equal(shown, expected)


def test_channel_slider_goes_as_far_as_the_layer_and_begins_with_the_strongest(maps):
    assert maps.channel_slider.max == 63
    maps.show(layer=4, channel=511)
    assert maps.channel_slider.max == 511
    maps.layer_slider.value = 1
    fm = maps.maps(0)[0]["layer1.1.conv3"]
    assert maps.state.channel == int(fm.abs().mean(dim=(1, 2)).argmax())
    assert maps.channel_slider.value == maps.state.channel


def test_going_back_needs_no_drawing(maps, monkeypatch):
    maps.show(picture=1)
    seen = maps.image.value
    maps.show(picture=2)
    monkeypatch.setattr(maps, "figure", lambda state=None: pytest.fail("drawn again"))
    maps.show(picture=1)
    assert maps.image.value == seen


def test_picture_keeps_its_size_whatever_is_shown(maps, source):
    sizes = {size(maps)}
    maps.show(layer=4, picture=2)
    sizes.add(size(maps))
    beside = FeatureMapExplorer(source, pictures(), target=source.to_target(3, seed=0))
    sizes.add(size(beside))
    assert sizes == {(900, 400)}
    assert {e.image.layout.height for e in (maps, beside)} == {"400px"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"picture": 3}, "picture must be a whole number from 0 to 2, got 3"),
        ({"layer": 0}, "layer must be a whole number from 1 to 4, got 0"),
        ({"layer": 2.0}, "got 2.0"),
        ({"channel": 64}, "channel must be a whole number from 0 to 63, got 64"),
        ({"chanel": 1}, "has no 'chanel'; its values are picture, layer, channel"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(maps, values, message):
    before = maps.state, maps.image.value
    with pytest.raises(ExplorerError, match=re.escape(message)):
        maps.show(**values)
    assert (maps.state, maps.image.value) == before


def test_state_survives_json_and_a_new_view(maps, source):
    maps.show(picture=2, layer=3, channel=7)
    state = FeatureMapState.from_dict(json.loads(json.dumps(maps.state.to_dict())))
    again = FeatureMapExplorer(source, pictures(), state=state)
    assert again.state == maps.state
    assert again.image.value == maps.image.value
    assert [again.picture_slider.value, again.layer_slider.value, again.channel_slider.value] == [2, 3, 7]


def test_a_target_that_has_moved_is_measured(source):
    target = source.to_target(3, seed=0)
    explorer = FeatureMapExplorer(source, pictures(), target=target)
    assert "‖FM_T − FM_S‖² = 0.0 %" in words(explorer)
    with torch.no_grad():
        target.layer1[1].conv3.weight.mul_(2)
    assert "‖FM_T − FM_S‖² = 100.0 %" in words(FeatureMapExplorer(source, pictures(), target=target))


def test_errors_are_said_in_the_view_escaped_and_the_last_picture_stays(maps, monkeypatch):
    last = maps.image.value

    def broken(picture):
        raise RuntimeError("no <b>map</b>")

    monkeypatch.setattr(maps, "maps", broken)
    maps.picture_slider.value = 1
    assert "RuntimeError: no &lt;b&gt;map&lt;/b&gt;" in words(maps)
    assert maps.image.value == last


def test_names_of_classes_are_escaped(maps):
    assert "&lt;class 0&gt;" in words(maps)
    assert "<class" not in words(maps)
    assert "<td" in table_html(["a"], [["<i>"]])
    assert "<i>" not in table_html(["a"], [["<i>"]])


def test_pages_without_widgets_show_the_picture(maps):
    bundle = maps._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("FeatureMapExplorer(FeatureMapState(picture=0")


def test_an_explorer_holds_core_widgets_only(maps, kept):
    seen, queue = set(), [maps, AttentionExplorer(kept)]
    while queue:
        widget = queue.pop()
        seen.add((widget._model_module, widget._view_module))
        queue.extend(getattr(widget, "children", ()))
    assert {module for pair in seen for module in pair} == {"@jupyter-widgets/controls"}


def test_own_pictures_of_another_size_are_refused(source):
    with pytest.raises(ExplorerError, match="at least 64 px"):
        FeatureMapExplorer(source, pictures(), image_size=64)


# --- AttentionExplorer


def test_live_attentions_on_equal_networks(source):
    explorer = AttentionExplorer(source, masked())
    assert explorer.names == {"spatial": ["AST", "SPA"], "channel": ["ACT", "GCA"]}
    assert explorer.state == AttentionState(0, "SPA", "GCA", 0, 0.65)
    expected = explorer.source.attentions["GCA"](explorer.source.maps(0)[0])
    values = torch.cat(list(expected.values()), dim=1).detach()
    assert f"GCA: entropy {float(torch.special.entr(values).sum()):.2f} nats" in words(explorer)
    first = explorer.image.value
    explorer.spatial_choice.value = "AST"
    explorer.channel_choice.value = "ACT"
    assert explorer.image.value != first
    assert "AST at" not in words(explorer)
    assert explorer.view(explorer.state).joint is False


def test_scores_are_shown_where_the_mask_is_known(source):
    explorer = AttentionExplorer(source, masked())
    assert explorer.details.value.count("25.0 %") >= 4  # the object's area, once a layer
    explorer.picture_slider.value = 2
    assert "mask unknown" in explorer.details.value
    assert "25.0 %" not in explorer.details.value


def test_opacity_of_nothing_shows_the_picture_in_grey(source):
    explorer = AttentionExplorer(source, pictures())
    explorer.opacity_slider.value = 0
    heat = [
        image.get_array()
        for image in explorer.figure().axes[0].images
        if image.get_array().shape == (32, 32, 3)
    ]
    assert len(heat) >= 5
    assert all((tile[..., 0] == tile[..., 1]).all() for tile in heat[1:])


def test_steps_of_a_run_scrub_its_snapshots(kept):
    explorer = AttentionExplorer(kept)
    snapshots = {(s.stage, s.step): s.weights for s in kept.snapshots()}
    assert explorer.steps == [0, 2, 4]
    assert explorer.at("SPA", 4) == 2
    assert explorer.at("GCA", 0) == 2
    view = explorer.view(explorer.state)
    last = snapshots["spa", 2]["layer4.1.conv3"][0]
    assert view.spatial["layer4.1.conv3"].ravel() == pytest.approx(last * last.size)
    assert view.channel_name == "GCA at step 4"
    seen = explorer.image.value
    explorer.step_slider.value = 0
    assert "step 0 of 4" in words(explorer)
    assert explorer.image.value != seen
    explorer.play.value = 2
    assert explorer.state.step == 4
    assert explorer.image.value == seen


def test_grad_cam_is_the_trained_target_s(kept, store):
    explorer = AttentionExplorer(kept)
    nets = load_run(kept)
    cam, label = grad_cam(nets.backbone, nets.target, explorer.source.pictures.images[0])
    view = explorer.view(explorer.state)
    if cam.max() > 0:
        assert np.array_equal(view.cam, cam)
        assert view.cam_name == nets.classes[label]
    without = store.find(method="spgca", alpha=1.0)[0]
    assert AttentionExplorer(without).view(explorer.state).cam_name == "shipped without the weights of T"


def test_grad_cam_by_hand(source):
    image = pictures().images[0]
    model = source.to_target(3, seed=0)
    model.train()
    cam, label = grad_cam(source, model, image, label=1)
    assert model.training
    model.eval()
    x = source.preprocess(image[None]).requires_grad_(True)
    features = nn.Sequential(*list(model.children())[:-2])(x)
    features.retain_grad()
    model.fc(features.mean(dim=(2, 3)))[0, 1].backward()
    expected = (features.grad.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()[0]
    assert label == 1
    assert cam == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_several_runs_are_told_apart_by_what_differs(store):
    runs = store.find(method="spgca")
    explorer = AttentionExplorer(runs)
    assert len(explorer.names["spatial"]) == len(explorer.names["channel"]) == 3
    assert "GCA · SPA→GCA, α = 3.0, r = 8" in explorer.names["channel"]
    assert len({run_label(run, runs) for run in runs}) == 3


def test_a_reader_s_own_attention_is_explored_like_the_others(source):
    class Contrast(Attention):
        kind = "spatial"

        def forward(self, maps_s, maps_t=None):
            return {tap: m.std(dim=1).flatten(1).softmax(dim=1) for tap, m in maps_s.items()}

    shapes = source.tap_shapes(32)
    explorer = AttentionExplorer(source, pictures(), attentions={"Contrast": Contrast(shapes)})
    assert explorer.state.spatial == "Contrast"
    assert explorer.state.channel is None
    assert "Contrast: entropy" in words(explorer)
    assert size(explorer) == (900, 470)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spatial": "GCA"}, r"spatial must be one of ['SPA'], got 'GCA'"),
        ({"step": 3}, "step must be one of [0, 2, 4], got 3"),
        ({"opacity": 65}, "opacity must be from 0 to 1, got 65"),
    ],
)
def test_attention_states_that_do_not_exist(kept, values, message):
    with pytest.raises(ExplorerError, match=re.escape(message)):
        AttentionExplorer(kept).show(**values)


def test_sources_that_cannot_be_explored(kept, tmp_path):
    with pytest.raises(ExplorerError, match="there is no run to show"):
        AttentionExplorer(lab.RunStore(tmp_path))
    with pytest.raises(ExplorerError, match="a run brings its own"):
        AttentionExplorer(kept, pictures())
    with pytest.raises(ExplorerError, match="got 3"):
        AttentionExplorer([3])


# --- RunExplorer


def test_alpha_and_r_choose_the_run(store):
    explorer = RunExplorer(store)
    assert (explorer.state.alpha, explorer.state.r, explorer.state.step) == (*KEPT, 4)
    assert [explorer.alpha_slider.options, explorer.r_slider.options] == [
        (("1", 1.0), ("3", 3.0)),
        (("4", 4), ("8", 8)),
    ]
    explorer.r_slider.value = 8
    run = store.find(method="spgca", alpha=3.0, r=8)[0]
    assert explorer.run().path == run.path
    bold = [line for line in explorer.figure().axes[2].lines if line.get_color() == "#D55E00"]
    assert np.array_equal(bold[0].get_ydata(), run.evaluations["top1"])
    assert f"final top-1 {run.result['top1']:.1f} %" in words(explorer)


def test_a_pair_that_was_never_trained_says_so(store):
    explorer = RunExplorer(store)
    explorer.show(alpha=1.0, r=8)
    assert "not trained" in words(explorer)
    assert explorer.run() is None
    assert "α = 1 with r = 8 is not among these runs" in [t.get_text() for t in explorer.figure().texts]
    explorer.alpha_slider.value = 3.0
    assert "not trained" not in words(explorer)


def test_film_and_step(store, kept):
    explorer = RunExplorer(store, live=False)
    explorer.show(layer=2, picture=1)
    film = dict(explorer.film(explorer.state))
    first = next(s for s in kept.snapshots() if s.stage == "spa")
    weights = first.weights["layer2.1.conv3"][1]
    assert film[0].ravel() == pytest.approx(weights * weights.size)
    assert list(film) == [0, 2]
    explorer.step_slider.value = 2
    assert "step 2 of 4 · layer 2 · picture 1" in words(explorer)
    assert explorer.live is None


def test_the_live_pass_follows_the_run_and_the_layer(store, kept):
    explorer = RunExplorer(store)
    explorer.layer_slider.value = 2
    assert explorer.live.state.layer == 2
    assert explorer.live.state.run == kept.recipe.hash()
    assert "live pass of SPA→GCA α = 3 r = 4" in words(explorer.live)
    explorer.alpha_slider.value = 1.0
    assert "live pass of SPA→GCA α = 1 r = 4" in words(explorer.live)
    assert "shipped without weights (runs with weights: SPA α = 3 r = 4, SPA→GCA α = 3 r = 4)" in words(
        explorer.live
    )
    assert "S's own head" in words(explorer.live).replace("&#x27;", "'")


def test_runs_can_be_explored_where_their_pictures_are_gone(store, monkeypatch):
    from spgca_lab.widgets import live

    def gone(recipe, size):
        raise FileNotFoundError("no folder '<pictures>'")

    monkeypatch.setattr(live, "_test_pictures", gone)
    explorer = RunExplorer(store)
    assert explorer.live is None
    assert "no folder &#x27;&lt;pictures&gt;&#x27;" in explorer.children[-1].value
    explorer.r_slider.value = 8
    assert "r = 8" in words(explorer)


def test_the_live_pass_computes_the_run_s_own_attention(store):
    run = store.find(method="spa")[0]
    explorer = LiveExplorer(store, run)
    explorer.show(picture=3, layer=3)
    nets = load_run(run)
    batch = explorer.pictures(explorer.state.run, "").images[3:4]
    maps_s = tapped(nets.backbone, nets.backbone.model, batch)[1]
    logits, maps_t = tapped(nets.backbone, nets.target, batch)
    weights = nets.attention(maps_s, maps_t)["layer3.1.conv3"][0]
    shown = [image.get_array() for image in explorer.figure().axes[0].images]
    assert any(
        np.allclose(tile, weights.numpy().reshape(4, 4) * 16) for tile in shown if tile.shape == (4, 4)
    )
    assert f"T: {nets.classes[int(logits.argmax())]}" in words(explorer)


def test_the_live_pass_takes_a_folder_and_names_what_is_wrong_with_it(store, tmp_path):
    explorer = LiveExplorer(store)
    explorer.show(picture=5)
    Image.new("RGB", (50, 40), "orange").save(tmp_path / "one.png")
    explorer.folder_text.value = str(tmp_path)
    assert explorer.state.folder == str(tmp_path)
    assert explorer.state.picture == 0
    assert "picture 0 of 1: one.png" in words(explorer)
    (tmp_path / "two.jpg").write_bytes(b"no picture")
    with pytest.raises(ExplorerError, match=r"two\.jpg.*cannot be read"):
        Pictures.from_folder(tmp_path, 32)
    explorer.folder_text.value = str(tmp_path / "none")
    assert "there is no folder" in words(explorer)
    assert explorer.state.folder == str(tmp_path)
    explorer.folder_text.value = ""
    assert "picture 0 of" in words(explorer)


def test_folders_of_many_pictures_are_thinned_evenly(tmp_path):
    for i in range(9):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i}.png")
    assert Pictures.from_folder(tmp_path, 8, most=3).names == ["0.png", "4.png", "8.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExplorerError, match="no pictures"):
        Pictures.from_folder(tmp_path / "empty", 8)


def test_run_states_that_do_not_exist(store, tmp_path):
    with pytest.raises(ExplorerError, match=re.escape("alpha must be one of [1.0, 3.0], got 2.0")):
        RunExplorer(store, live=False, state=RunState(alpha=2.0, r=4, step=4))
    with pytest.raises(ExplorerError, match="no finished run of 'afa'"):
        RunExplorer(store, method="afa")
    with pytest.raises(ExplorerError, match="there are no runs"):
        LiveExplorer(lab.RunStore(tmp_path))


# --- what explorers stand on


def test_a_run_s_networks_are_those_that_were_trained(kept):
    nets = load_run(kept)
    probe = torch.from_numpy(kept.probe["images"])
    answers = tapped(nets.backbone, nets.target, probe)[0].argmax(dim=1)
    assert answers.tolist() == kept.predictions["predicted"].iloc[kept.probe["rows"]].tolist()
    assert nets.attention is None
    assert nets.reason == "GCA looked at T of the hand-over, which the run does not keep"


def test_the_attention_of_one_stage_reproduces_its_last_snapshot(store):
    run = store.find(method="spa")[0]
    nets = load_run(run)
    probe = torch.from_numpy(run.probe["images"])
    maps_s = tapped(nets.backbone, nets.backbone.model, probe)[1]
    maps_t = tapped(nets.backbone, nets.target, probe)[1]
    last = run.snapshots()[-1]
    assert last.step == run.recipe.iterations
    for tap, weights in nets.attention(maps_s, maps_t).items():
        assert weights.numpy() == pytest.approx(last.weights[tap], rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("tap", "stage"), [("layer4.1.conv3", "layer4"), ("blocks.6.0.conv_pwl", "blocks.6"), ("last", "last")]
)
def test_stage_of_a_tap(tap, stage):
    model = nn.Module()
    for name in (tap, stage):
        parent = model
        for part in name.split("."):
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
    assert stage_module(model, tap) is model.get_submodule(stage)


def test_explorers_are_small_views_that_anyone_can_write():
    from dataclasses import dataclass

    from spgca_lab.plots import LabFigure
    from spgca_lab.widgets import State
    from spgca_lab.widgets.base import slider

    @dataclass(frozen=True)
    class Number(State):
        n: int = 1

    class Numbers(Explorer[Number]):
        def controls(self):
            self.n = self.bind(slider("n", 5), "n")
            return [self.n]

        def figure(self, state=None):
            figure = LabFigure(figsize=(9, 1))
            figure.text(0.5, 0.5, str((state or self.state).n))
            return figure

        def status(self, state):
            return f"n = {state.n}"

    explorer = Numbers(Number(2), height=1)
    assert explorer.n.value == 2
    explorer.n.value = 4
    assert "n = 4" in words(explorer)
    assert [t.get_text() for t in explorer.figure().texts] == ["4"]
