"""Where the paper contradicts itself, its numbers, or what its sources publish."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One place where the paper contradicts itself, its numbers, or what its sources publish.

    Attributes:
        where: sections, equations and tables concerned.
        says: what the paper says there.
        found: what its own numbers, or the named source, give instead.
    """

    where: str
    says: str
    found: str


NOTES = (
    Note(
        "§5.2, Table 7, Caltech 256-60",
        "Better results when SPA is trained after GCA; 'to reflect this', SPA is trained first.",
        "Table 7 has SPA first ahead on four data sets, by 0.11 to 0.69 points. Caltech 256-60 is the one data set of "
        "five on which it is behind (87.94 against 88.05), as the sentence says; the method that is said to reflect "
        "this trains in the other order.",
    ),
    Note(
        "§5.2, Table 6",
        "Accuracy tends to decrease as r increases, because the bottleneck loses information.",
        "From r = 4 to r = 32 the mean falls by 0.09 points, with standard deviations of 0.09 and 0.16; 8, "
        "16 and 32 lie within 0.01 of each other. The numbers show no trend.",
    ),
    Note(
        "§5.1, Table 5",
        "SPA and GCA show similar or improved accuracy across the board.",
        "On MIT Indoor 67 SPA is 0.18 points below AST, as the text itself says; elsewhere SPA gains 0.09 to "
        "0.17 points over AST with standard deviations of 0.06 to 0.16.",
    ),
    Note(
        "Tables 4, 5",
        "The method trains SPA, then GCA, each for half of the iterations.",
        "GCA alone reaches 87.87 ± 0.08 on Caltech 256-60 and 84.72 ± 0.06 on MIT Indoor 67; both stages "
        "reach 87.94 ± 0.06 and 84.82 ± 0.13. On these two SPA adds no more than the runs scatter.",
    ),
    Note(
        "Table 4, Caltech 256-30",
        "86.42 ± 0.01 over five runs.",
        "One of the 5,140 test pictures is 0.019 points: five runs would have to agree to about one picture.",
    ),
    Note(
        "Table 4, Stanford Dogs 120",
        "DELTA 87.48, AFA 88.22, proposed 88.44.",
        "AFA's authors report 88.7 for DELTA and 90.1 for AFA with the same network, the best iterate on the "
        "test set. The set-ups differ, and the proposed result is below both baselines as published.",
    ),
    Note(
        "Table 4, Stanford Dogs 120",
        "L2-FE, a frozen network with a new head, reaches 87.66: above L2, L2-SP and DELTA.",
        "The dogs are pictures of ImageNet, on which the source was trained; on CUB-200-2011 the same method "
        "has 62.09 and is last.",
    ),
    Note(
        "Eq. 3, 5, 8, 10; §4.2",
        "Softmax weights multiply the differences; α is between 0.005 and 0.1.",
        "Uniform weights over the 3,136 positions of layer 1 scale Eq. 8 there by 1/3136², about 1e-7. AFA's "
        "release multiplies by H·W (AST) and C (ACT); the paper mentions no factor and no α per data set.",
    ),
    Note(
        "Eq. 4, Table 2",
        "FC_ACT maps C × (HW) to C; Table 2 gives the structures used in the proposed method.",
        "Table 2 leaves out the nets of AST and ACT. AFA's release shares one HW → H → 1 net among the "
        "channels.",
    ),
    Note(
        "§3.3",
        "The target's weights of stage 1 are sent back to the source; then only GCA's are drawn anew.",
        "Unsaid: whether BatchNorm's statistics go along, the last or the best iterate, and the momentum.",
    ),
)
