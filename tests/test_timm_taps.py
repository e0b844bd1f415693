"""Taps of timm models by name: each map depends on the image and has its stage's channels, or the name is refused."""

import functools

import pytest
import timm
import torch
from timm.models import FeatureInfo

from spgca_lab.backbones import BackboneError, load_backbone
from spgca_lab.regularizers.taps import FeatureTaps

# Networks whose stages do not end in one convolution: taps are the outputs of the stages.
OUTPUTS = {
    "densenet121": "features.denseblock1 features.denseblock2 features.denseblock3 features.norm5",
    "dpn48b": "features.conv2_3 features.conv3_4 features.conv4_6 features.conv5_3",
    "edgenext_xx_small": "stages.0 stages.1 stages.2 stages.3",
    "ghostnet_050": "blocks.1 blocks.3 blocks.5 blocks.7",
    "inception_v3": "Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c",  # as AFA
    "legacy_xception": "block2.rep.0 block3.rep.0 block12.rep.0 act4",
    "mixnet_s": "blocks.1 blocks.2 blocks.4 blocks.5",
    "mobileone_s0": "stages.0 stages.1 stages.2 final_conv",
    "pvt_v2_b0": "stages.0 stages.1 stages.2 stages.3",
    "repghostnet_050": "blocks.1 blocks.3 blocks.5 blocks.7",
    "repvgg_a0": "stages.0 stages.1 stages.2 final_conv",
    "test_maxvit": "stages.0 stages.1 stages.2 stages.3",
}
# Networks whose stages end in a convolution, as the paper's do.
CONVOLUTIONS = (
    *("convnext_atto", "darknet17", "dla46_c", "ese_vovnet19b_dw", "fastvit_t8", "hgnetv2_b0", "resnet18"),
    *(
        "mobilenetv3_small_050",
        "mobilenetv4_conv_small",
        "regnetx_002",
        "resnetv2_18",
        "tf_efficientnet_lite0",
    ),
)
SMALL = {"inception_v3": 96, "test_maxvit": 160}


@functools.cache
def maps_of(name):
    """Maps of two noise images at a small size, random weights: when the taps ran, and after the forward pass."""
    backbone = load_backbone(name, weights="random")
    early = {}
    for tap in backbone.taps:
        module = backbone.model.get_submodule(tap)
        module.register_forward_hook(lambda _m, _i, output, tap=tap: early.__setitem__(tap, output.clone()))
    size = SMALL.get(name, 64)
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with FeatureTaps(backbone.model, backbone.taps) as taps, torch.no_grad():
        backbone.model(noise)
        return early, taps.maps


@pytest.mark.parametrize("name", [*OUTPUTS, *CONVOLUTIONS])
def test_taps_give_whole_maps_of_the_image(name):
    early, maps = maps_of(name)
    stages = FeatureInfo(timm.create_model(name).feature_info, out_indices=()).info
    channels = {stage["reduction"]: stage["num_chs"] for stage in stages}
    found = [m.shape[1] for m in maps.values()]
    # VGG-like networks have a last stage that only pools; of all others the last four stages count.
    assert found == [channels[stride] for stride in sorted(channels)][-4:]
    for tap, feature_map in maps.items():
        assert not torch.equal(feature_map[0], feature_map[1])
        assert torch.equal(early[tap], feature_map)


@pytest.mark.parametrize(("name", "taps"), OUTPUTS.items())
def test_stages_without_a_last_convolution_are_tapped_whole(name, taps):
    assert list(maps_of(name)[1]) == taps.split()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_stages_that_end_in_a_convolution_are_tapped_there(name):
    model = timm.create_model(name)
    assert all(isinstance(model.get_submodule(tap), torch.nn.Conv2d) for tap in maps_of(name)[1])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_tiny_patch16_224", r"blocks\.11 \(stride 16\): no Conv2d, output gives \['b', 197, 192\]"),
        ("swin_tiny_patch4_window7_224", r"layers\.3 \(stride 32\): no Conv2d, output is \['b', 7, 7, 768\]"),
        ("mambaout_femto", r"stages\.0 \(stride 4\): no Conv2d, output is \['b', 56, 56, 48\]"),
        ("hrnet_w18_small", r"stage1 \(stride 4\): no Conv2d"),
        ("selecsls42", r"features\.1 \(stride 4\): no Conv2d, output gives list"),
        ("mvitv2_tiny", r"block\.0 \(stride 4\): no Conv2d, output is never made"),
    ],
)
def test_networks_without_four_maps_are_refused_and_wrapped_by_hand(name, reason):
    with pytest.raises(BackboneError, match=f"'{name}' cannot be loaded by name.*{reason}") as caught:
        load_backbone(name, weights="random")
    for part in ("lab.Backbone(name, timm.create_model", "lab.Tap(module, to_map)", "lab.tokens_to_map"):
        assert part in str(caught.value)
