"""AttentionExplorer without a browser: attentions live and from runs, scores, steps, and what they stand on."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import spgca_lab as lab
from spgca_lab.analysis import scores
from spgca_lab.explorers import AttentionExplorer, AttentionState, ExplorerError
from spgca_lab.explorers.attention import snapshot_step
from spgca_lab.explorers.forward import grad_cam_of, run_label, stage_name, tapped
from spgca_lab.plots.attention import shares
from spgca_lab.regularizers.attention import Attention
from spgca_lab.runs.load import load_run
from tests.explorers import keeps_the_promises, masked, pictures, said, size, upload, words


@pytest.fixture(scope="module")
def source():
    return lab.load_backbone("mini", weights="random")


def test_it_keeps_what_every_explorer_promises(kept_run):
    keeps_the_promises(AttentionExplorer(kept_run), picture=2, step=2, opacity=0.3)
    keeps_the_promises(AttentionExplorer("mini"), picture=3, spatial2=None)


def test_live_attentions_on_equal_networks(source):
    explorer = AttentionExplorer(source, masked())
    assert explorer.names == {"spatial": ["AST", "SPA"], "channel": ["ACT", "GCA"]}
    assert explorer.state == AttentionState(0, "SPA", "AST", "GCA", "ACT", 0, 0.65)
    expected = explorer.source.attentions["GCA"](explorer.source.maps(0)[0])
    values = torch.cat(list(expected.values()), dim=1).detach()
    assert f"GCA: entropy {float(torch.special.entr(values).sum()):.2f} nats" in words(explorer)
    first = explorer.image.png
    explorer.spatial_choice.value = "AST"
    explorer.channel_choice.value = "ACT"
    assert explorer.image.png != first
    assert [channel.joint for channel in explorer.view(explorer.state).channel] == [False, False]


def test_scores_are_shown_where_the_mask_is_known(source):
    explorer = AttentionExplorer(source, masked())
    assert explorer.details.value.count("25.0 %") >= 4  # the object's area, once a layer
    explorer.picture_slider.value = 2
    assert "mask unknown" in words(explorer)
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


def test_steps_of_a_run_scrub_its_snapshots(kept_run):
    explorer = AttentionExplorer(kept_run)
    snapshots = {(s.stage, s.step): s.weights for s in kept_run.snapshots()}
    assert explorer.steps == [0, 2, 4]
    assert snapshot_step(explorer.source.steps["SPA"], 4) == 2
    assert snapshot_step(explorer.source.steps["GCA"], 0) == 2
    view = explorer.view(explorer.state)
    last = snapshots["spa", 2]["layer4.1.conv3"][0]
    assert view.spatial[0].maps["layer4.1.conv3"].ravel() == pytest.approx(last * last.size)
    assert [view.spatial[0].name, view.channel[0].name] == ["SPA at step 2", "GCA at step 4"]
    seen = explorer.image.png
    explorer.step_slider.value = 0
    assert "step 0 of 4" in words(explorer)
    assert explorer.image.png != seen
    explorer.play.value = 2
    assert explorer.state.step == 4
    assert explorer.image.png == seen


def test_grad_cam_is_the_trained_target_s(kept_run, tiny_store):
    explorer = AttentionExplorer(kept_run)
    nets = load_run(kept_run)
    cam, label = grad_cam_of(nets.backbone, nets.target, explorer.source.images.images[0])
    view = explorer.view(explorer.state)
    if cam.max() > 0:
        assert np.array_equal(view.cam, cam)
        assert view.cam_name == nets.classes[label]
    without = tiny_store.find(method="spgca", alpha=1.0)[0]
    assert AttentionExplorer(without).view(explorer.state).cam_name == "shipped without the weights of T"


def test_grad_cam_by_hand(source):
    image = pictures().images[0]
    model = source.to_target(3, seed=0)
    model.train()
    cam, label = grad_cam_of(source, model, image)
    assert model.training
    model.eval()
    x = source.preprocess(image[None]).requires_grad_(True)
    features = nn.Sequential(*list(model.children())[:-2])(x)
    features.retain_grad()
    model.fc(features.mean(dim=(2, 3)))[0, label].backward()
    expected = (features.grad.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()[0]
    assert cam == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_several_runs_are_told_apart_by_what_differs(tiny_store):
    runs = tiny_store.find(method="spgca")
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
    assert size(explorer) == (900, 440)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spatial": "GCA"}, r"spatial must be one of ['SPA'], got 'GCA'"),
        ({"step": 3}, "step must be one of [0, 2, 4], got 3"),
        ({"opacity": 65}, "opacity must be from 0 to 1, got 65"),
    ],
)
def test_attention_states_that_do_not_exist(kept_run, values, message):
    with pytest.raises(ExplorerError, match=re.escape(message)):
        AttentionExplorer(kept_run).show(**values)


def test_sources_that_cannot_be_explored(kept_run, tmp_path):
    with pytest.raises(ExplorerError, match="there is no run to show"):
        AttentionExplorer(lab.RunStore(tmp_path))
    with pytest.raises(ExplorerError, match="a run brings its own"):
        AttentionExplorer(kept_run, target=nn.Identity())
    with pytest.raises(ExplorerError, match="GCA was trained on T at the hand-over"):
        AttentionExplorer(kept_run, pictures())
    with pytest.raises(ExplorerError, match="images go with one run"):
        AttentionExplorer([kept_run, kept_run], pictures())
    with pytest.raises(ExplorerError, match="got 3"):
        AttentionExplorer([3])


def test_all_four_attentions_are_shown_at_once(source):
    explorer = AttentionExplorer(source, masked())
    figure = explorer.figure()
    bold = [text.get_text() for text in figure.texts if text.get_weight() == "bold"]
    assert bold == ["SPA", "AST", "GCA", "ACT"]
    heat = [i for i in figure.axes[0].images if i.get_array().shape == (32, 32, 3)]
    assert len(heat) == 2 + 4 + 4  # the picture and Grad-CAM, and a row of four layers each
    explorer.show(spatial2=None, channel2=None)
    texts = [text.get_text() for text in explorer.figure().texts]
    assert "no second spatial attention chosen" in texts
    assert size(explorer) == (900, 660)


def test_channel_weights_are_drawn_sorted_and_shares_add_up(kept_run):
    explorer = AttentionExplorer(kept_run)
    explorer.show(picture=1, step=4)
    (gca,) = [s for s in kept_run.snapshots() if s.stage == "gca" and s.step == 4]
    weights = {tap: w[1].astype(float) for tap, w in gca.weights.items()}
    lines = [line for line in explorer.figure().artists if hasattr(line, "get_ydata")]
    drawn = [10 ** line.get_ydata() for line in lines if len(line.get_ydata()) > 2]
    for values, w in zip(drawn, weights.values(), strict=True):
        assert values == pytest.approx(np.sort(w)[::-1] * 960, rel=1e-3)
    percent, even = shares(weights, True)
    assert sum(percent) == pytest.approx(100, abs=0.1)
    assert even == pytest.approx([100 * c / 960 for c in (64, 128, 256, 512)])
    texts = [text.get_text() for text in explorer.figure().texts]
    assert all(f"{p:.0f}" in texts for p in percent)
    effective = scores.effective_number(weights)
    top = int(np.argmax(percent))
    assert f"GCA puts {percent[top]:.0f} % of its weight on layer {top + 1}" in said(explorer)
    assert f"effective channels {effective:.0f} of 960" in said(explorer)


def test_the_sentence_says_how_much_lies_on_the_object(source):
    explorer = AttentionExplorer(source, masked())
    maps = explorer.view(explorer.state).spatial[0].maps
    inside = scores.mass_inside(maps["layer4.1.conv3"], masked().masks[0])
    assert f"SPA has {100 * inside:.0f} % of its layer-4 weight on the object" in said(explorer)
    explorer.picture_slider.value = 2
    assert "SPA&#x27;s strongest position" in said(explorer)


def test_live_attentions_look_at_a_reader_s_own_pictures(source, tmp_path, kept_run):
    explorer = AttentionExplorer(source, pictures())
    Image.new("RGB", (50, 40), "orange").save(tmp_path / "one.png")
    explorer.strip.place.value = str(tmp_path)
    assert "image 0 of 1: one.png" in words(explorer)
    explorer.strip.upload.value = (upload("notes.txt", b"hi"),)
    assert "is not an image" in words(explorer)
    explorer.opacity_slider.value = 0.2
    assert "opacity 0.20" in words(explorer)
    snapshots = AttentionExplorer(kept_run)
    with pytest.raises(ExplorerError, match="its own probe images only"):
        snapshots.show(place=str(tmp_path))


def test_a_trained_attention_is_called_on_other_pictures(tiny_store):
    run = tiny_store.find(method="spa")[0]
    explorer = AttentionExplorer(run, pictures())
    nets = load_run(run)
    batch = pictures().images[1:2]
    maps_s = tapped(nets.backbone, nets.backbone.model, batch)[1]
    maps_t = tapped(nets.backbone, nets.target, batch)[1]
    expected = nets.attention(maps_s, maps_t)["layer3.1.conv3"][0]
    explorer.show(picture=1)
    shown = explorer.view(explorer.state).spatial[0].maps["layer3.1.conv3"]
    assert shown.ravel() == pytest.approx(expected.numpy() * expected.numel(), rel=1e-4)
    assert "trained, called live" in words(explorer)


def test_runs_shipped_without_snapshots_are_counted_not_hidden(tiny_store, kept_run, tmp_path):
    import shutil

    trimmed = tmp_path / kept_run.path.name
    shutil.copytree(kept_run.path, trimmed, ignore=shutil.ignore_patterns("probe.npz", "snapshots"))
    with pytest.raises(ExplorerError, match="shipped without its images and snapshots"):
        AttentionExplorer(lab.Run(trimmed))
    assert "(1 runs without snapshots left out)" in words(AttentionExplorer([kept_run, lab.Run(trimmed)]))


def test_a_run_s_networks_are_those_that_were_trained(kept_run):
    nets = load_run(kept_run)
    probe = torch.from_numpy(kept_run.probe["images"])
    answers = tapped(nets.backbone, nets.target, probe)[0].argmax(dim=1)
    assert answers.tolist() == kept_run.predictions["predicted"].iloc[kept_run.probe["rows"]].tolist()
    assert nets.attention is None
    assert nets.reason == "GCA was trained on T at the hand-over, which the run does not save"


def test_the_attention_of_one_stage_reproduces_its_last_snapshot(tiny_store):
    run = tiny_store.find(method="spa")[0]
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
    assert stage_name(tap) == stage
