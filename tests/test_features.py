"""FeatureTaps: records what it should, leaves nothing behind, and says what is wrong."""

import gc
import weakref

import pytest
import torch
from mock_models import BASIC_TAPS, BOTTLENECK_TAPS, TwoConvs, basic_net, bottleneck_net, images
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from spgca_lab.regularizers.taps import FeatureTaps, TapError

TAPS = ("first", "second")
PICTURES = images(2, size=8)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_records_the_four_maps_of_a_forward_pass_in_the_order_of_the_taps():
    net = bottleneck_net().eval()
    order = tuple(reversed(BOTTLENECK_TAPS))
    with FeatureTaps(net, order) as taps, torch.no_grad():
        logits = net(images())
        maps = taps.maps
    assert logits.shape == (2, 5)
    assert list(maps) == list(order)
    assert [tuple(m.shape) for m in maps.values()] == [
        (2, 256, 1, 1),
        (2, 128, 2, 2),
        (2, 64, 4, 4),
        (2, 32, 8, 8),
    ]


def test_maps_are_what_the_modules_computed():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        maps = taps.maps
    first = net.first(PICTURES)
    assert torch.equal(maps["first"], first)
    assert torch.equal(maps["second"], net.second(first.relu()))


def test_each_forward_pass_fills_the_maps_anew():
    net = TwoConvs()
    other = images(3, size=8, seed=1)
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        before = taps.maps
        net(other)
        after = taps.maps
    assert len(before["first"]) == 2
    assert torch.equal(after["first"], net.first(other))


def test_the_output_of_the_model_is_unchanged_bit_for_bit():
    net = basic_net().eval()
    plain = net(images())
    with FeatureTaps(net, BASIC_TAPS):
        assert torch.equal(net(images()), plain)


def test_gradients_flow_through_the_maps():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        taps.maps["second"].sum().backward()
    assert net.first.weight.grad.abs().sum() > 0
    assert net.head.weight.grad is None


def test_no_gradient_graph_when_the_caller_asked_for_none():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps, torch.no_grad():
        net(PICTURES)
        assert not taps.maps["second"].requires_grad


@pytest.mark.parametrize(("build", "taps"), [(basic_net, BASIC_TAPS), (bottleneck_net, BOTTLENECK_TAPS)])
def test_agrees_bit_for_bit_with_torchvisions_feature_extractor_on_a_frozen_source(build, taps):
    source = build().eval().requires_grad_(False)
    extractor = create_feature_extractor(source, list(taps))
    with FeatureTaps(source, taps) as recorded:
        source(images())
        maps = recorded.maps
    theirs = extractor(images())
    assert list(theirs) == list(maps)
    for tap in taps:
        assert torch.equal(maps[tap], theirs[tap]), tap


def test_a_hook_on_bn3_holds_the_block_output_and_one_on_conv3_does_not():
    """The trap that Table 3's conv3 avoids: torchvision adds the residual in place into bn3's output."""
    net = bottleneck_net().eval()
    with FeatureTaps(net, ["layer1.0.conv3", "layer1.0.bn3", "layer1.0"]) as taps, torch.no_grad():
        net(images())
        conv3, bn3, block = taps.maps.values()
    assert torch.equal(bn3, block)
    assert not torch.equal(bn3, net.layer1[0].bn3(conv3))
    extractor = create_feature_extractor(net, ["layer1.0.conv2"])
    with torch.no_grad():
        conv2 = extractor(images())["layer1.0.conv2"]
        again = net.layer1[0].conv3(net.layer1[0].bn2(conv2).relu())
    assert torch.equal(conv3, again)


# What is left behind


def test_no_hook_and_no_map_outlives_the_block_over_fifty_uses():
    net = TwoConvs()
    held = []
    for _ in range(50):
        with FeatureTaps(net, TAPS) as taps:
            net(PICTURES)
            held += [weakref.ref(m) for m in taps.maps.values()]
    gc.collect()
    assert len(held) == 100
    assert [ref for ref in held if ref() is not None] == []
    assert hooks(net) == 0


def test_one_set_of_taps_used_fifty_times_leaks_nothing_either():
    net = TwoConvs()
    taps = FeatureTaps(net, TAPS)
    held = []
    for _ in range(50):
        with taps:
            net(PICTURES)
            held += [weakref.ref(m) for m in taps.maps.values()]
    gc.collect()
    assert [ref for ref in held if ref() is not None] == []
    assert hooks(net) == 0


def test_maps_of_the_pass_before_are_let_go_inside_the_block():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        first = weakref.ref(taps.maps["first"])
        assert first() is not None
        net(PICTURES)
        gc.collect()
        assert first() is None


def test_nothing_outlives_an_exception_inside_the_block():
    net = TwoConvs()
    held = []

    def use():
        with FeatureTaps(net, TAPS) as taps:
            net(PICTURES)
            held.extend(weakref.ref(m) for m in taps.maps.values())
            raise KeyError("in the reader's own cell")

    for _ in range(50):
        with pytest.raises(KeyError, match="reader's own cell"):
            use()
    gc.collect()
    assert len(held) == 100
    assert [ref for ref in held if ref() is not None] == []
    assert hooks(net) == 0


def test_nothing_outlives_a_forward_pass_that_raises():
    net = TwoConvs()
    net.fail = True
    taps = FeatureTaps(net, TAPS)
    with pytest.raises(RuntimeError, match="out of order"), taps:
        net(PICTURES)
    assert hooks(net) == 0
    net.fail = False
    with taps:
        net(PICTURES)
        assert list(taps.maps) == list(TAPS)


def test_neither_the_model_nor_the_taps_are_kept_alive():
    net = TwoConvs()
    taps = FeatureTaps(net, TAPS)
    with taps:
        net(PICTURES)
    refs = [weakref.ref(net), weakref.ref(taps)]
    del net, taps
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_maps_taken_out_stay_valid_after_the_block():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        maps = taps.maps
    assert torch.equal(maps["first"], net.first(PICTURES))
    maps["second"].sum().backward()
    assert net.second.weight.grad is not None


def test_the_dict_is_the_callers_own():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        taps.maps.clear()
        assert list(taps.maps) == list(TAPS)


def test_hooks_of_others_stay():
    net = TwoConvs()
    seen = []
    handle = net.first.register_forward_hook(lambda *_: seen.append(1))
    with FeatureTaps(net, TAPS):
        net(PICTURES)
    net(PICTURES)
    assert len(seen) == 2
    handle.remove()
    assert hooks(net) == 0


# Training flags


def mixed_flags(net):
    net.train()
    for module in list(net.modules())[1::3]:
        module.training = False
    return [m.training for m in net.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_are_set_inside_and_restored_module_by_module(training):
    net = basic_net()
    flags = mixed_flags(net)
    assert len(set(flags)) == 2
    with FeatureTaps(net, BASIC_TAPS, training=training):
        assert {m.training for m in net.modules()} == {training}
    assert [m.training for m in net.modules()] == flags


def test_training_flags_are_restored_after_an_exception():
    net = basic_net()
    flags = mixed_flags(net)
    with pytest.raises(KeyError), FeatureTaps(net, BASIC_TAPS, training=False):
        raise KeyError
    assert [m.training for m in net.modules()] == flags


def test_training_flags_are_left_alone_unless_asked():
    net = basic_net()
    flags = mixed_flags(net)
    with FeatureTaps(net, BASIC_TAPS):
        assert [m.training for m in net.modules()] == flags
        net.eval()
    assert not any(m.training for m in net.modules())


def test_batchnorm_statistics_do_not_move_in_eval_mode():
    net = basic_net().train()
    before = net.bn1.running_mean.clone()
    with FeatureTaps(net, BASIC_TAPS, training=False), torch.no_grad():
        net(images())
    assert torch.equal(net.bn1.running_mean, before)
    assert net.training


# Two at once, and again


def test_nested_taps_on_one_model_each_keep_their_own():
    net = TwoConvs()
    with FeatureTaps(net, ["first"]) as outer:
        net(PICTURES)
        with FeatureTaps(net, ["first", "second"]) as inner:
            net(images(3, size=8))
            assert list(inner.maps) == ["first", "second"]
            assert len(outer.maps["first"]) == 3
        assert hooks(net) == 3
        net(PICTURES)
        assert len(outer.maps["first"]) == 2
    assert hooks(net) == 0


def test_nested_taps_restore_flags_from_the_inside_out():
    net = basic_net().train()
    with FeatureTaps(net, BASIC_TAPS, training=False):
        with FeatureTaps(net, BASIC_TAPS, training=True):
            assert net.training
        assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.modules())


def test_source_and_target_are_recorded_side_by_side():
    source, target = TwoConvs(seed=0), TwoConvs(seed=1)
    with FeatureTaps(source, TAPS) as taps_s, FeatureTaps(target, TAPS) as taps_t:
        source(PICTURES)
        target(PICTURES)
        assert torch.equal(taps_s.maps["first"], source.first(PICTURES))
        assert torch.equal(taps_t.maps["first"], target.first(PICTURES))


def test_reentering_after_the_block_works_and_starts_empty():
    net = TwoConvs()
    taps = FeatureTaps(net, TAPS)
    with taps:
        net(PICTURES)
    with taps:
        with pytest.raises(TapError, match="no forward pass yet"):
            _ = taps.maps
        net(PICTURES)
        assert list(taps.maps) == list(TAPS)


def test_entering_twice_at_once_is_refused_and_the_outer_block_goes_on():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        with pytest.raises(TapError, match="already open"):
            taps.__enter__()
        assert list(taps.maps) == list(TAPS)
    assert hooks(net) == 0


# What is refused, and how


def test_an_unknown_tap_lists_near_names():
    with pytest.raises(TapError) as caught:
        FeatureTaps(bottleneck_net(), ["layer1.0.conv3", "layer4.2.conv3"])
    message = str(caught.value)
    assert "ThinResNet has no module 'layer4.2.conv3'" in message
    assert "layer4.0.conv3" in message


def test_a_typing_error_lists_near_names():
    with pytest.raises(TapError, match=r"'frist'.*near names:.*first"):
        FeatureTaps(TwoConvs(), ["frist"])


def test_a_name_like_none_still_shows_what_there_is():
    with pytest.raises(TapError, match=r"'zzzz'.*near names: first, second, head"):
        FeatureTaps(TwoConvs(), ["zzzz"])


def test_the_model_itself_is_no_tap():
    with pytest.raises(TapError, match="no module '' to tap"):
        FeatureTaps(TwoConvs(), [""])


@pytest.mark.parametrize("taps", [[], ["first", "second", "first"]])
def test_no_taps_and_doubled_taps_are_refused(taps):
    with pytest.raises(TapError, match="only once"):
        FeatureTaps(TwoConvs(), taps)


def test_one_name_may_be_given_without_a_list():
    net = TwoConvs()
    with FeatureTaps(net, "first") as taps:
        net(PICTURES)
        assert list(taps.maps) == ["first"]


def test_maps_before_the_first_forward_pass():
    with FeatureTaps(TwoConvs(), TAPS) as taps, pytest.raises(TapError, match="no forward pass yet"):
        _ = taps.maps


def test_maps_outside_the_block():
    net = TwoConvs()
    taps = FeatureTaps(net, TAPS)
    with pytest.raises(TapError, match="closed"):
        _ = taps.maps
    with taps:
        net(PICTURES)
    with pytest.raises(TapError, match="closed"):
        _ = taps.maps


def test_a_forward_pass_that_raised_has_no_half_filled_maps():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net(PICTURES)
        net.fail = True
        with pytest.raises(RuntimeError, match="out of order"):
            net(PICTURES)
        with pytest.raises(TapError, match=r"never reached \['second'\]"):
            _ = taps.maps


def test_a_submodule_called_by_itself_is_no_forward_pass():
    net = TwoConvs()
    with FeatureTaps(net, TAPS) as taps:
        net.first(PICTURES)
        with pytest.raises(TapError, match="no forward pass yet"):
            _ = taps.maps
        net(PICTURES)
        whole = taps.maps
        net.first(images(5, size=8))
        assert torch.equal(taps.maps["first"], whole["first"])


def test_a_module_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    net = Twice()
    with FeatureTaps(net, ["conv"]) as taps:
        net(PICTURES)
        with pytest.raises(TapError, match="'conv' ran more than once"):
            _ = taps.maps


def test_a_tap_that_gives_no_feature_map_is_refused_with_its_shape():
    net = TwoConvs()
    with FeatureTaps(net, ["first", "head"]) as taps:
        net(PICTURES)
        with pytest.raises(TapError, match=r"'head' must output a \[b, c, h, w\] tensor, it gave \(2, 3\)"):
            _ = taps.maps


def test_a_tap_that_gives_a_tuple_is_refused_with_its_type():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    net = nn.Sequential(Pair())
    with FeatureTaps(net, ["0"]) as taps:
        net(PICTURES)
        with pytest.raises(TapError, match=r"'0' must output .* it gave tuple"):
            _ = taps.maps


def test_every_error_is_a_value_error():
    assert issubclass(TapError, ValueError)
