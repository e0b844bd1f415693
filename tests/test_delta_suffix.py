"""Many filters per pass of a split network give the same as one forward pass per filter, within the budget."""

import pytest
import torch
from mock_models import BOTTLENECK_TAPS, bottleneck_net, images
from torch import nn
from torch.nn import functional as F

from spgca_lab.backbones import load_backbone
from spgca_lab.regularizers.ablate import FullNetwork, SplitNetwork, peak_bytes, suffix
from spgca_lab.regularizers.delta import filter_importance

LABELS = torch.tensor([0, 4, 2])


def one_forward_a_filter(model, tap, x, labels, channels):
    """Run the whole network, once intact and once per filter, whose map a hook zeroes."""

    def loss(channel):
        def silence(module, args, output):
            output = output.clone()
            output[:, channel] = 0
            return output

        handle = model.get_submodule(tap).register_forward_hook(silence)
        rise = F.cross_entropy(model(x), labels)
        handle.remove()
        return rise

    with torch.no_grad():
        intact = F.cross_entropy(model(x), labels)
        return torch.stack([loss(channel) - intact for channel in channels])


@pytest.fixture(scope="module")
def networks():
    """Target networks with heads and images: `{name: (model, taps, head, x)}`."""
    made = {}
    for name, size in (("mini", 32), ("lite0", 64)):
        backbone = load_backbone(name)
        model = backbone.to_target(5, seed=0).requires_grad_(False)
        made[name] = (model, backbone.taps, backbone.head, images(3, size=size, seed=1))
    model = bottleneck_net().eval().requires_grad_(False)
    return made | {"thin": (model, BOTTLENECK_TAPS, "fc", images(3))}


class Rows:
    """The number of rows in each pass through a module."""

    def __init__(self, module):
        self.seen = []
        self._handle = module.register_forward_pre_hook(lambda _, args: self.seen.append(len(args[0])))

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        self._handle.remove()


@pytest.mark.parametrize(("name", "budget"), [("mini", 9_700_000), ("lite0", None)])
def test_many_filters_a_pass_give_what_one_forward_a_filter_gives(networks, name, budget):
    model, taps, head, x = networks[name]
    with Rows(model.get_submodule(head)) as rows:
        found = filter_importance(model, taps, x, LABELS, budget=budget)
    assert list(found) == list(taps)
    assert any(n % 2 for n in rows)
    assert len(rows) < sum(map(len, found.values()))
    for tap, rises in found.items():
        assert len(rises) == model.get_submodule(tap).out_channels
        sample = [*range(0, len(rises), len(rises) // 3), len(rises) - 1]
        expected = one_forward_a_filter(model, tap, x, LABELS, sample)
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(rises[sample], expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_any_number_of_rows_a_pass_gives_the_same(networks, rows):
    """Five rows and three images: the images of one filter are spread over passes, and the last pass is short."""
    model, taps, head, x = networks["thin"]
    whole = filter_importance(model, taps[1:2], x, LABELS)[taps[1]]
    one = torch.zeros(1, dtype=torch.long)
    rest = suffix(model, taps[1], x)
    budget = rows * peak_bytes(lambda: rest(one, one))
    with Rows(model.get_submodule(head)) as seen:
        found = filter_importance(model, taps[1:2], x, LABELS, budget=budget)[taps[1]]
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)
    assert max(seen) == rows


@pytest.mark.parametrize("budget", [1_000_000, 5_000_000])
def test_no_pass_takes_more_memory_than_the_budget(networks, budget, monkeypatch):
    model, taps, _, x = networks["thin"]
    taken, rows = [], []

    class Watched:
        def __init__(self, *given):
            self._rest = suffix(*given)
            self.channels = self._rest.channels

        def __call__(self, pictures, channels=None):
            taken.append(peak_bytes(lambda: self._rest(pictures, channels)))
            rows.append(len(pictures))
            return self._rest(pictures, channels)

    monkeypatch.setattr("spgca_lab.regularizers.delta.suffix", Watched)
    filter_importance(model, taps, x, LABELS, budget=budget)
    assert budget / 3 < max(taken) <= budget
    assert max(rows) > 1


def test_the_least_budget_runs_one_picture_and_one_filter_a_pass(networks):
    model, taps, head, x = networks["thin"]
    with Rows(model.get_submodule(head)) as rows:
        found = filter_importance(model, taps[:1], x, LABELS, budget=1)[taps[0]]
    assert set(rows) == {1}
    torch.testing.assert_close(
        found, one_forward_a_filter(model, taps[0], x, LABELS, range(len(found))), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_that_is_none_is_refused(networks, budget):
    model, taps, _, x = networks["thin"]
    with pytest.raises(ValueError, match=f"budget is {budget}: give a positive"):
        filter_importance(model, taps, x, LABELS, budget=budget)


def test_what_comes_before_a_tap_is_not_computed_for_every_filter(networks):
    model, taps, _, x = networks["thin"]
    runs = []
    handle = model.conv1.register_forward_hook(lambda *_: runs.append(1))
    filter_importance(model, taps, x, LABELS, budget=2_000_000)
    handle.remove()
    assert len(runs) <= 10 * len(taps)


def test_all_filters_of_the_last_tap_go_through_the_pooling_at_once(networks):
    """After the last tap only the head joins channels, so embeddings are stacked, not maps."""
    model, taps, head, x = networks["mini"]
    pooled, passes = [], []
    handles = [model.avgpool.register_forward_hook(lambda *_: pooled.append(1))]
    handles.append(model.get_submodule(head).register_forward_hook(lambda *_: passes.append(1)))
    filter_importance(model, taps[-1:], x, LABELS)
    for handle in handles:
        handle.remove()
    assert len(pooled) <= 10
    assert len(passes) <= 10


# Networks that are hard to split


class Asks(nn.Module):
    """Branches on its values, which no graph can show."""

    def __init__(self):
        super().__init__()
        self.conv, self.next, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3), nn.Linear(5, 5)

    def forward(self, x):
        x = self.conv(x)
        if x.mean() > 1e9:
            x = -x
        return self.head(self.next(x.relu()).mean(dim=(2, 3)))


class HidesASum(Asks):
    """Changes an earlier tensor in place and continues with it."""

    def forward(self, x):
        before = x[:, :1].repeat(1, 5, 1, 1)
        before[..., 1:-1, 1:-1].add_(self.conv(x))
        return self.head(self.next(before).mean(dim=(2, 3)))


class RunsTwice(Asks):
    """Uses the tap's module twice."""

    def forward(self, x):
        return self.head((self.conv(x) + self.conv(x.flip(3))).mean(dim=(2, 3)))


class KnowsItsBatch(Asks):
    """Reads the number of images before the tap and uses it after the tap."""

    def forward(self, x):
        count = x.shape[0]
        return self.head(self.next(self.conv(x)).relu().view(count, 5, -1).mean(dim=2))


class Joins(Asks):
    """A softmax over channels after the tap, and flattened maps: both join channels."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5 * 6 * 6, 5)

    def forward(self, x):
        x = self.conv(x).softmax(dim=1)
        return self.head(torch.flatten(x + 1, 1))


class Averages(Asks):
    """Averages over channels in a call that resembles a mean over positions."""

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head((x * x.mean(dim=(1, 2, 3), keepdim=True)).mean(dim=(2, 3)))


class Branches(Asks):
    """Two branches after the tap, one of which joins channels, and the input again at the end."""

    def forward(self, x):
        y = self.conv(x)
        y = F.relu(y + y)[..., 1:-1, 1:-1] + self.next(y)
        return self.head(y.mean((2, 3)) + x.mean())


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        *[(n, FullNetwork) for n in (Asks, HidesASum, RunsTwice, KnowsItsBatch)],
        *[(n, SplitNetwork) for n in (Joins, Averages)],
    ],
)
def test_networks_that_cannot_be_cut_are_run_whole(network, kind):
    torch.manual_seed(0)
    model, x = network().eval().requires_grad_(False), images(3, size=8)
    assert type(suffix(model, "conv", x)) is kind
    found = filter_importance(model, ["conv"], x, LABELS, budget=20_000)["conv"]
    expected = one_forward_a_filter(model, "conv", x, LABELS, range(5))
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_tap_whose_map_is_read_twice_once_with_channels_kept_apart():
    torch.manual_seed(0)
    model, x = Branches().eval().requires_grad_(False), images(3, size=8)
    model.head.bias.zero_()
    rest, whole = suffix(model, "conv", x), FullNetwork(model, "conv", x)
    pictures, channels = torch.tensor([0, 0, 2]), torch.tensor([1, 4, 0])
    torch.testing.assert_close(rest(pictures, channels), whole(pictures, channels))


def test_batch_norm_that_uses_the_batch_is_not_taken_for_one_that_leaves_channels_alone():
    """Without running statistics its result depends on the other rows, in eval mode too."""
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4)
    pixels = []
    for norm in norms:
        net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
        (maps,) = SplitNetwork(net, "0", images(3, size=4))._intact
        pixels.append(float(maps.min()))
    assert pixels[0] < 0  # what is kept is the tap itself
    assert pixels[1] == 0  # what is kept is ReLU's


# The model stays as it was


def test_a_failure_behind_the_tap_leaves_modes_hooks_and_forward_methods(networks):
    model, taps, head, x = networks["mini"]
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    calls = []

    def break_down(*_):
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("the head is worn out")

    handle = model.get_submodule(head).register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="worn out"):
        filter_importance(model, taps, x, LABELS)
    handle.remove()
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all("forward" not in vars(m) for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_memory_is_counted_once_for_views_and_no_longer_than_it_lives():
    def work():
        a = torch.zeros(100)
        b = a.view(10, 10).t() + 1
        del a
        return b.relu_() * 2

    assert peak_bytes(work) == 800
    given = torch.zeros(1000)
    assert peak_bytes(lambda: given.add_(1).view(10, 100)) == 0
