"""Notebook 06, the hand-over of Section 3.3."""


def hand_over(state_t, state_s, head):
    backbone = {name: w for name, w in state_t.items() if not name.startswith(head + ".")}
    return {**state_s, **backbone}
