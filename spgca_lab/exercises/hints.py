"""Three hints an exercise, from a nudge to nearly the line of code."""

__all__ = ["HINTS"]

HINTS: dict[str, tuple[str, str, str]] = {
    "accuracy_interval": (
        "Each picture is right or wrong, like a coin that shows heads with probability p: how much does the share of "
        "heads in n throws scatter?",
        "The standard deviation of that share is √(p(1 − p)/n). The 95 % interval reaches 1.96 of it to either side.",
        "In percentage points: 100 times 1.96 times (p * (1 - p) / n).sqrt().",
    ),
    "feature_map": (
        "PyTorch calls a forward hook with (module, inputs, output): let yours put the output somewhere.",
        "model.get_submodule(name).register_forward_hook(f) returns a handle; call model(x), then handle.remove().",
        "Let f append its third argument to a list, call model(x) inside try, remove the handle in finally, and return "
        "the list's only element.",
    ),
    "l2_sp": (
        "For every parameter: how far is it from where it started? The squares of these distances add up.",
        "Both dictionaries have the same names: loop over parameters.items() and look each name up in start.",
        "0.5 times the sum over names of (w - start[name]).square().sum().",
    ),
    "ast_weights": (
        "Read Eq. 2 from the inside out: which operation comes first, and over which dimension?",
        "AvgPool leaves one number per position: fm_s.mean(dim=1), flattened to [b, h·w]. That is what fc takes.",
        "fc(pooled) are scores; .softmax(dim=1) makes each picture's weights sum to one.",
    ),
    "ast_loss": (
        "The weights stand inside the norm: multiply first, then square.",
        "a is [b, h·w], the maps are [b, c, h, w]: reshape a to [b, 1, h, w], so that every channel gets it.",
        "weighted = a.reshape(b, 1, h, w) * (fm_s - fm_t); then half of weighted.square().sum() over b.",
    ),
    "act_loss": (
        "The weights stand outside the norm: first one squared norm per channel, then weigh.",
        "The squared norms are (fm_s - fm_t).square().sum(dim=(2, 3)), of shape [b, c] like a.",
        "Half of (a * norms).sum(), divided by the number of pictures.",
    ),
    "spa_weights": (
        "It is Eq. 2 with another input: Eq. 7 puts both maps on top of each other first.",
        "torch.cat([fm_s, fm_t], dim=1) has 2C channels; the mean over them leaves [b, h, w].",
        "fc(both.mean(dim=1).flatten(1)) are the scores; the softmax over positions is missing.",
    ),
    "spa_loss": (
        "Eq. 8 looks like Eq. 3, with your spa_weights in place of AST's. Where may the gradient go?",
        "Give spa_weights the target's map without its gradient: fm_t.detach(). The difference keeps it.",
        "Reshape the weights to [b, 1, h, w], multiply fm_s - fm_t, take half the sum of squares over the batch size.",
    ),
    "gca_weights": (
        "One distribution over all layers: all channels must meet before the softmax.",
        "m.mean(dim=(2, 3)) of every layer, joined by torch.cat(…, dim=1), is [b, ΣC]: what fc takes.",
        "After one softmax(dim=1), .split([m.shape[1] for m in maps_s.values()], dim=1) gives each layer its own.",
    ),
    "layer_shares": (
        "The weights of all layers sum to one: what part of that one lies in a layer?",
        "Add up the channels of a layer, picture by picture; then take the mean over the pictures.",
        "{tap: w.sum(dim=1)… for tap, w in weights.items()}, with the mean at the end.",
    ),
    "gca_loss": (
        "Eq. 10 is Eq. 5 layer by layer, added up.",
        "For each tap the squared norms are (maps_s[tap] - maps_t[tap]).square().sum(dim=(2, 3)), [b, C_i].",
        "Add 0.5 * (weights[tap] * squared).sum() / b to a total, tap by tap.",
    ),
    "total_loss": (
        "Three terms: the labels, α times the penalty, β times the decay of the head.",
        "F.cross_entropy takes logits. WD is half the sum of squares of all of head.parameters(), bias included.",
        "torch.nn.functional.cross_entropy(logits, labels) + alpha * penalty + beta * 0.5 * (…).",
    ),
    "hand_over": (
        "Which entries of T's state belong to the backbone? All but those of the head.",
        "A name belongs to the head when it starts with head + '.'; for these keep S's own entries.",
        "Start from S's state and overwrite it: {**state_s, **{name: w for name, w in state_t.items() if …}}.",
    ),
    "paired_interval": (
        "Pairing means: take the differences first, everything else from them alone.",
        "d = a - b; its mean has the standard error d.std() / √n.",
        "half = t * d.std() / len(d) ** 0.5; return torch.stack of the mean minus and plus half.",
    ),
    "mass_inside": (
        "heat and mask must have one size before you can ask what lies inside.",
        "Every cell covers len(mask) // len(heat) pixels a side: repeat_interleave along dim 0, then along dim 1.",
        "The share is fine[mask].sum() over fine.sum(), with fine the stretched heatmap.",
    ),
    "optimal_positions": (
        "Where a difference is large, a weight costs much: the best weights fall as d grows. How fast?",
        "Setting the derivative of ½ Σ a² d − λ Σ a to zero gives a · d = λ at every position.",
        "a is proportional to 1 / d; divide each row by its own sum.",
    ),
    "printed_interval": (
        "Variances of independent numbers add, also when the numbers are subtracted.",
        "A mean of n runs has the variance sd² / n; two of them add up.",
        "t times the root of (sd_a**2 + sd_b**2) / n.",
    ),
    "contrast_weights": (
        "Two steps: how much do the channels differ at a position, and how do positions share a whole of one?",
        "fm_s.std(dim=1, unbiased=False) is [b, h, w]; positions must lie along one dimension before the softmax.",
        "Flatten from dimension 1 on, then softmax(dim=1).",
    ),
    "rank_correlation": (
        "Only the order counts: replace every number by its rank.",
        "x.argsort().argsort() gives the ranks 0 … n − 1 of a tensor without ties.",
        "1 - 6 * (r - s).square().sum() / (n * (n**2 - 1)), with the ranks as floating-point numbers.",
    ),
}
