"""FeatureMapExplorer without a browser: controls move the state, the state moves the picture and the words."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import spgca_lab as lab
from spgca_lab.explorers import ExplorerError, FeatureMapExplorer, FeatureMapState
from spgca_lab.explorers.forward import tapped
from spgca_lab.plots.panels.features import GRID
from spgca_lab.runs.load import load_run
from tests.explorers import keeps_the_promises, pictures, said, size, upload, words


@pytest.fixture(scope="module")
def source():
    return lab.load_backbone("mini", weights="random")


@pytest.fixture
def maps(source):
    return FeatureMapExplorer(source, pictures())


def tiles(explorer):
    return [np.asarray(image.get_array()) for image in explorer.figure().axes[0].images]


def test_it_keeps_what_every_explorer_promises(kept_run):
    keeps_the_promises(FeatureMapExplorer(target=kept_run), picture=2, layer=3, channel=7)
    keeps_the_promises(FeatureMapExplorer(), picture=1, layer=2, channel=3)


def test_sliders_move_state_picture_and_words(maps):
    first = maps.image.png
    maps.layer_slider.value = 2
    assert maps.state.layer == 2
    assert maps.image.png != first
    assert "FM_S = output of layer2.1.conv3, 128 channels × 8 × 8 = 8192 numbers" in words(maps)
    maps.channel_slider.value = 5
    expected = tapped(maps.backbone, maps.backbone.model, maps.images_at("mini", "").images[:1])[1]
    assert np.array_equal(tiles(maps)[1], expected["layer2.1.conv3"][0, 5])


def test_source_target_and_signed_difference_lie_side_by_side(kept_run):
    explorer = FeatureMapExplorer(target=kept_run)
    explorer.show(picture=3, layer=3, channel=11)
    nets = load_run(kept_run)
    batch = explorer.images_at("mini", "").images[3:4]
    s = tapped(nets.backbone, nets.backbone.model, batch)[1]["layer3.1.conv3"][0, 11]
    logits, maps_t = tapped(nets.backbone, nets.target, batch)
    t = maps_t["layer3.1.conv3"][0, 11]
    shown = tiles(explorer)
    assert np.array_equal(shown[1], s)
    assert np.array_equal(shown[3], t)
    assert np.array_equal(shown[5], t - s)
    share = 100 * float((t - s).square().sum() / s.square().sum())
    assert f"T has moved it by {share:.1f} % of FM_S" in said(explorer)
    assert f"T predicts {nets.classes[int(logits.argmax())]}" in words(explorer)


def test_the_grid_is_the_strongest_channels_in_order(maps):
    maps.show(layer=3, channel=40)
    fm = maps.maps("mini", "", 0)[0]["layer3.1.conv3"]
    strength = fm.abs().mean(dim=(1, 2))
    order = strength.argsort(descending=True).tolist()
    shown = [tile for tile in tiles(maps) if tile.shape == fm.shape[1:]]
    assert len(shown) == 1 + GRID
    for tile, channel in zip(shown[1:], order[:GRID], strict=True):
        assert np.array_equal(tile, fm[channel])
    rank = order.index(40) + 1
    assert f"Channel 40 is number {rank} in strength of 256 in layer 3" in said(maps)


def test_channel_slider_goes_as_far_as_the_layer_and_begins_with_the_strongest(maps):
    assert maps.channel_slider.max == 63
    maps.show(layer=4, channel=511)
    assert maps.channel_slider.max == 511
    maps.layer_slider.value = 1
    fm = maps.maps("mini", "", 0)[0]["layer1.1.conv3"]
    assert maps.state.channel == int(fm.abs().mean(dim=(1, 2)).argmax())
    assert maps.channel_slider.value == maps.state.channel


def test_the_strip_chooses_a_picture(maps):
    maps.strip.thumbs[2].click()
    assert maps.state.picture == 2
    assert maps.picture_slider.value == 2


def test_another_backbone_brings_its_own_taps_and_goes_back(source):
    explorer = FeatureMapExplorer(source)
    explorer.show(picture=20, layer=2, channel=100)
    explorer.backbone_choice.value = "lite0"
    assert explorer.state.backbone == "lite0"
    assert explorer.state.picture == 0  # there are nine photographs
    assert "x [3, 224, 224] → FM_S = output of blocks.2.1.conv_pwl, 40 channels × 28 × 28" in words(explorer)
    assert "S predicts Egyptian cat" in words(explorer)
    explorer.backbone_choice.value = "mini"
    assert "layer2.1.conv3" in words(explorer)


def test_own_pictures_from_a_folder_and_from_uploads(maps, tmp_path):
    Image.new("RGB", (50, 40), "orange").save(tmp_path / "one.png")
    maps.show(picture=2)
    maps.strip.place.value = str(tmp_path)
    assert "image 0 of 1: one.png" in words(maps)
    seen = maps.image.png
    maps.strip.place.value = str(tmp_path / "none")
    assert "there is no folder" in words(maps)
    assert maps.image.png == seen
    content = (tmp_path / "one.png").read_bytes()
    maps.strip.upload.value = (upload("up.png", content),)
    assert maps.state.place == "uploaded"
    assert "image 0 of 1: up.png" in words(maps)
    other = tmp_path / "two.png"
    Image.new("RGB", (50, 40), "blue").save(other)
    blue = other.read_bytes()
    before = maps.image.png
    maps.strip.upload.value = (upload("up.png", blue),)
    assert maps.image.png != before  # equal state, other pictures
    maps.strip.upload.value = (upload("notes.txt", b"hi"),)
    assert "&#x27;notes.txt&#x27; is not an image" in words(maps)
    maps.layer_slider.value = 3
    maps.reset_button.click()
    assert maps.state.place == ""
    assert "image 0 of 3: &lt;class 0&gt;" in words(maps)


def test_a_failed_upload_leaves_the_explorer_usable(maps):
    maps.strip.upload.value = (upload("notes.txt", b"hi"),)
    assert maps.state.place == ""
    maps.picture_slider.value = 1
    assert "image 1 of 3" in words(maps)


def test_picture_keeps_its_size_whatever_is_shown(maps, source):
    sizes = {size(maps)}
    maps.show(layer=4, picture=2)
    sizes.add(size(maps))
    sizes.add(size(FeatureMapExplorer(source, pictures(), target=source.to_target(3, seed=0))))
    assert sizes == {(900, 495)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"picture": 3}, "picture must be a whole number from 0 to 2, got 3"),
        ({"layer": 0}, "layer must be a whole number from 1 to 4, got 0"),
        ({"layer": 2.0}, "got 2.0"),
        ({"channel": 64}, "channel must be a whole number from 0 to 63, got 64"),
        ({"backbone": "vgg"}, "backbone must be one of ['mini', 'lite0'], got 'vgg'"),
        ({"chanel": 1}, "has no 'chanel'; its values are picture, layer, channel, backbone, place"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(maps, values, message):
    before = maps.state, maps.image.png
    with pytest.raises(ExplorerError, match=re.escape(message)):
        maps.show(**values)
    assert (maps.state, maps.image.png) == before


def test_a_target_that_has_moved_is_measured(source):
    target = source.to_target(3, seed=0)
    explorer = FeatureMapExplorer(source, pictures(), target=target)
    assert "the whole layer by 0.0 %" in said(explorer)
    with torch.no_grad():
        target.layer1[1].conv3.weight.mul_(2)
    assert "the whole layer by 100.0 %" in said(FeatureMapExplorer(source, pictures(), target=target))


def test_own_pictures_of_another_size_are_refused(source):
    with pytest.raises(ExplorerError, match="at least 64 px"):
        FeatureMapExplorer(source, pictures(), image_size=64)


def test_a_state_can_be_given(source):
    state = FeatureMapState(picture=1, layer=2, channel=9)
    assert FeatureMapExplorer(source, pictures(), state=state).channel_slider.value == 9
