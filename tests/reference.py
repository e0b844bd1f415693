"""The paper's equations as float64 Python loops over nested lists: slow, plain, independent of the package.

Written from the equations, from Table 2 and from the AFA and DELTA releases where those decide an open point
(`docs/paper_notes.md`). A map of one image is `[channel][row][column]`; a batch is a list of those. Nothing
here imports torch, so no broadcasting, reduction or dtype rule of torch can be wrong in both places.
"""

import math


def dense(x, weight, bias=None):
    """A fully connected layer: `weight[out][in]`, `bias[out]` or none."""
    out = []
    for i, row in enumerate(weight):
        total = bias[i] if bias is not None else 0.0
        for j, w in enumerate(row):
            total += w * x[j]
        out.append(total)
    return out


def relu(x):
    return [v if v > 0 else 0.0 for v in x]


def softmax(z):
    top = max(z)
    powers = [math.exp(v - top) for v in z]
    total = math.fsum(powers)
    return [p / total for p in powers]


def flatten(image):
    """`Flat`: C x H x W to C x (HW), row after row."""
    return [[value for row in channel for value in row] for channel in image]


def mean_over_channels(flat):
    """`AvgPool`: C x (HW) to HW."""
    return [math.fsum(channel[p] for channel in flat) / len(flat) for p in range(len(flat[0]))]


def ast(source, net):
    """Eq. 2 for one layer of one image: `net` = first weight, first bias, second weight, second bias."""
    w1, b1, w2, b2 = net
    return softmax(dense(relu(dense(mean_over_channels(flatten(source)), w1, b1)), w2, b2))


def spa(source, target, net):
    """Eq. 7 for one layer of one image: the channels of S, then those of T, then everything as in Eq. 2."""
    return ast([*source, *target], net)


def act(source, net, channel_bias):
    """Eq. 4 for one layer of one image: one net HW -> H -> 1 for all channels, then each channel's bias."""
    w1, b1, w2, b2 = net
    scores = []
    for channel, bias in zip(flatten(source), channel_bias, strict=True):
        (score,) = dense(relu(dense(channel, w1, b1)), w2, b2)
        scores.append(score + bias)
    return softmax(scores)


def gca(sources, net):
    """Eq. 9 for all layers of one image: one list of weights per layer."""
    w1, b1, w2, b2 = net
    means = [math.fsum(channel) / len(channel) for image in sources for channel in flatten(image)]
    weights = softmax(dense(relu(dense(means, w1, b1)), w2, b2))
    split = []
    for image in sources:
        split.append(weights[: len(image)])
        weights = weights[len(image) :]
    return split


def variance(batch):
    """Population variance of every number in a batch of maps."""
    values = [v for image in batch for channel in image for row in channel for v in row]
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / len(values)


def spatial_loss(sources, targets, weights, scale):
    """Eq. 3 and 8: per layer a batch of maps of S, of T, and a batch of weights over positions."""
    total = 0.0
    for source, target, weight in zip(sources, targets, weights, strict=True):
        layer = []
        for s, t, a in zip(source, target, weight, strict=True):
            height, width = len(s[0]), len(s[0][0])
            factor = 1 if scale == "literal" else height * width
            for c in range(len(s)):
                for y in range(height):
                    for x in range(width):
                        layer.append(0.5 * (factor * a[y * width + x] * (s[c][y][x] - t[c][y][x])) ** 2)
        total += _batch(layer, source, scale)
    return total


def channel_loss(sources, targets, weights, scale):
    """Eq. 5: the weight of a channel times that channel's squared norm, layer by layer."""
    return _channels(sources, targets, weights, scale, [len(source[0]) for source in sources])


def gca_loss(sources, targets, weights, scale):
    """Eq. 10: as Eq. 5, with weights that are one distribution over the channels of all layers."""
    return _channels(
        sources, targets, weights, scale, [sum(len(source[0]) for source in sources)] * len(sources)
    )


def feature_loss(sources, targets, scale):
    """What is left of Eq. 3, 5, 8 and 10 without weights."""
    total = 0.0
    for source, target in zip(sources, targets, strict=True):
        layer = [
            0.5 * (a - b) ** 2
            for s, t in zip(source, target, strict=True)
            for cs, ct in zip(flatten(s), flatten(t), strict=True)
            for a, b in zip(cs, ct, strict=True)
        ]
        total += _batch(layer, source, scale)
    return total


def delta_loss(sources, targets, weights):
    """DELTA's release, with the batch averaged: per layer ½ · C / HW · Σ w_c ‖Δ_c‖²."""
    total = 0.0
    for source, target, weight in zip(sources, targets, weights, strict=True):
        for s, t in zip(source, target, strict=True):
            for w, cs, ct in zip(weight, flatten(s), flatten(t), strict=True):
                norm = math.fsum((a - b) ** 2 for a, b in zip(cs, ct, strict=True))
                total += 0.5 * len(s) / len(cs) * w * norm / len(source)
    return total


def l2(tensors):
    """WD of Eq. 6, 11, 12 over flat lists of numbers."""
    return 0.5 * math.fsum(v * v for values in tensors for v in values)


def l2_sp(tensors, start):
    """L2-SP over flat lists of numbers."""
    return 0.5 * math.fsum(
        (a - b) ** 2 for p, q in zip(tensors, start, strict=True) for a, b in zip(p, q, strict=True)
    )


def cross_entropy(logits, labels):
    """L_CE: batch mean of -log softmax at the label."""
    return -math.fsum(math.log(softmax(z)[y]) for z, y in zip(logits, labels, strict=True)) / len(labels)


def distillation(logits_s, logits_t, temperature):
    """LwF's term: T² times the KL divergence from the softened source to the softened target, batch mean."""
    total = 0.0
    for z_s, z_t in zip(logits_s, logits_t, strict=True):
        p = softmax([z / temperature for z in z_s])
        q = softmax([z / temperature for z in z_t])
        total += math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(logits_s)


def objective(cross_entropy, alpha, penalty, beta, decay):
    """Eq. 6, 11 and 12."""
    return cross_entropy + alpha * penalty + beta * decay


def _channels(sources, targets, weights, scale, counts):
    total = 0.0
    for source, target, weight, count in zip(sources, targets, weights, counts, strict=True):
        factor = 1 if scale == "literal" else count
        layer = []
        for s, t, a in zip(source, target, weight, strict=True):
            for c, (cs, ct) in enumerate(zip(flatten(s), flatten(t), strict=True)):
                for u, v in zip(cs, ct, strict=True):
                    layer.append(0.5 * factor * a[c] * (u - v) ** 2)
        total += _batch(layer, source, scale)
    return total


def _batch(terms, source, scale):
    """Sum over elements and mean over images; for "relative" mean over all, in units of S's variance."""
    if scale == "relative":
        return math.fsum(terms) / len(terms) / variance(source)
    return math.fsum(terms) / len(source)
