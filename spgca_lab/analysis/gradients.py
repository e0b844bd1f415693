"""Pull and StageTerms: what each term of Eq. 6, 11 and 12 pulls at, as numbers that α and β only rescale."""

import math
from dataclasses import dataclass

__all__ = ["CE", "DECAY", "PENALTY", "Pull", "StageTerms"]

CE, PENALTY, DECAY = range(3)


@dataclass(frozen=True)
class Pull:
    r"""Gradients of the three terms at one place, without their factors α and β.

    $$\Big\lVert \frac{\partial L}{\partial FM_T^i} \Big\rVert^2 = \sum_{jk} a_j a_k \langle g_j, g_k \rangle,
    \qquad a = (1, \alpha, \beta)$$

    So α and β only rescale what was measured once. A gradient is the total one: at a tap it holds what reaches the
    loss through deeper taps too.

    Args:
        place: name of the tap, or of the head (whose gradient is by its parameters).
        products: inner products of the gradients of cross-entropy, penalty and decay, `[3][3]`.
        acts: whether each term depends on this place at all.
        own: norm of the penalty's gradient with all other maps held fixed: what this layer's own term of Eq. 3, 5, 8 or
            10 pulls at, without what deeper taps send back; NaN where the penalty does not look at this map.

    Example:
        >>> pull = Pull("layer1", ((4.0, -1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, 0.0, 0.0)), (True, True, False))
        >>> pull.norms(alpha=3.0, beta=0.01), pull.ratio(3.0, 0.01), pull.cosine(3.0, 0.01)
        ((2.0, 3.0, 0.0), 1.5, -0.5)
    """

    place: str
    products: tuple[tuple[float, float, float], ...]
    acts: tuple[bool, bool, bool]
    own: float = math.nan

    def norms(self, alpha: float = 1.0, beta: float = 1.0) -> tuple[float, float, float]:
        """‖g_CE‖, α‖g_penalty‖ and β‖g_decay‖."""
        ce, penalty, decay = (math.sqrt(max(self.products[i][i], 0.0)) for i in range(3))
        return ce, alpha * penalty, beta * decay

    def total(self, alpha: float, beta: float) -> float:
        """Norm of the whole loss's gradient."""
        return self._norm((1.0, alpha, beta))

    def regulariser(self, alpha: float, beta: float) -> float:
        """‖α g_penalty + β g_decay‖: what pulls besides the task."""
        return self._norm((0.0, alpha, beta))

    def ratio(self, alpha: float, beta: float) -> float:
        """The regulariser's pull over the task's; NaN where nothing pulls, infinite where only it does."""
        task, other = self._norm((1.0, 0.0, 0.0)), self.regulariser(alpha, beta)
        if task == 0.0:
            return math.inf if other else math.nan
        return other / task

    def cosine(self, alpha: float, beta: float) -> float:
        """Of the angle between both pulls: above 0 they pull together, below 0 against each other; else NaN."""
        lengths = self._norm((1.0, 0.0, 0.0)) * self.regulariser(alpha, beta)
        if lengths == 0.0:
            return math.nan
        inner = alpha * self.products[CE][PENALTY] + beta * self.products[CE][DECAY]
        return min(max(inner / lengths, -1.0), 1.0)

    def own_ratio(self, alpha: float) -> float:
        """α·`own` over the task's pull; NaN where either is missing."""
        task = self._norm((1.0, 0.0, 0.0))
        return alpha * self.own / task if task else math.nan

    def crossing(self, term: int = PENALTY) -> float:
        """The α (or β) at which this term pulls as hard as the task; NaN where it never does."""
        norms = self.norms()
        return norms[CE] / norms[term] if norms[term] and norms[CE] else math.nan

    def _norm(self, factors: tuple[float, float, float]) -> float:
        pairs = ((i, j) for i in range(3) for j in range(3))
        square = math.fsum(factors[i] * factors[j] * self.products[i][j] for i, j in pairs)
        # Where gradients cancel, rounding can leave a little less than nothing.
        return math.sqrt(max(square, 0.0))


@dataclass(frozen=True)
class StageTerms:
    """The loss of one stage on one batch and its gradients, as plain numbers.

    Args:
        stage: name of the stage.
        cross_entropy: in nats.
        penalty: without α.
        decay: without β.
        pulls: one a tap, in order, then the head's.
        accuracy: of T on the batch, in percent.

    Example:
        >>> StageTerms("spa", 2.0, 0.5, 100.0, (), 50.0).parts(alpha=2.0, beta=0.01)
        (2.0, 1.0, 1.0)
    """

    stage: str
    cross_entropy: float
    penalty: float
    decay: float
    pulls: tuple[Pull, ...]
    accuracy: float

    @property
    def taps(self) -> tuple[Pull, ...]:
        """The pulls at the feature maps."""
        return self.pulls[:-1]

    @property
    def head(self) -> Pull:
        """The pulls at the head's parameters."""
        return self.pulls[-1]

    def parts(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Cross-entropy, α·penalty and β·decay: they add up to the loss."""
        return self.cross_entropy, alpha * self.penalty, beta * self.decay
