"""Checkpoints: exact round trips, detected damage, the previous one in reserve, and nothing that executes."""

import pickle
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spgca_lab as lab
from spgca_lab.runs import checkpoint
from spgca_lab.runs.checkpoint import CheckpointError, pack, unpack
from tests.tiny_runs import SMALL

PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    values = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    tensor = values.to(draw(st.sampled_from(DTYPES)))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


STATES = st.dictionaries(
    st.text(),
    st.recursive(
        PLAIN | tensors(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def same(one, other):
    if isinstance(one, torch.Tensor):
        layout = one.ndim == 4 and one.numel() and one.is_contiguous(memory_format=torch.channels_last)
        return (
            one.dtype == other.dtype
            and torch.equal(one, other)
            and (not layout or other.is_contiguous(memory_format=torch.channels_last))
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(STATES)
def test_what_goes_in_comes_out(state):
    assert same(state, unpack(pack(state)))


def test_tensors_of_one_storage_stay_two():
    whole = torch.arange(4.0)
    back = unpack(pack({"a": whole, "b": whole[1:3]}))
    assert torch.equal(back["a"], whole)
    assert torch.equal(back["b"], whole[1:3])


def test_what_is_neither_a_tensor_nor_plain_is_refused():
    with pytest.raises(TypeError, match="not Generator"):
        pack({"rng": torch.Generator()})


STATE = {
    "step": 3,
    "net": {"w": torch.arange(40.0), "b": torch.ones(2, 3, 4, 4)},
    "text": "α" * 40,
    "n": {0: 1.5},
}


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_or_a_lost_end_is_noticed_wherever_it_is(seed):
    draw, content = random.Random(seed), bytearray(pack(STATE))
    if seed % 3 == 0:
        del content[draw.randrange(len(content)) :]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    with pytest.raises(CheckpointError, match="it is damaged"):
        unpack(bytes(content))


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A run that was left after two checkpoints, and the same run that was not."""
    recipe = lab.Recipe(method="spgca", **SMALL | {"iterations": 8})
    stores = tmp_path_factory.mktemp("left"), tmp_path_factory.mktemp("whole")
    for event in lab.fit(recipe, stores[0], device="cpu"):
        if isinstance(event, lab.Step) and event.step == 5:
            break
    list(lab.fit(recipe, stores[1], device="cpu"))
    return recipe, *stores


def copy_of(left, tmp_path):
    import shutil

    recipe, store, _ = left
    shutil.copytree(store, tmp_path / "store")
    return lab.RunStore(tmp_path / "store").folder(recipe)


@pytest.mark.parametrize("damage", ["truncated", "empty", "a flipped bit", "gone"])
def test_the_checkpoint_before_serves_where_the_last_is_damaged(left, tmp_path, damage):
    folder = copy_of(left, tmp_path)
    file = folder / checkpoint.NAME
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    torn = {"truncated": content[:9000], "empty": b"", "a flipped bit": content}
    if damage == "gone":
        file.unlink()
        list(lab.fit(left[0], tmp_path / "store", device="cpu"))
    else:
        file.write_bytes(torn[damage])
        with pytest.warns(
            UserWarning, match=r"checkpoint\.safetensors' cannot be used, it is damaged: .*at step 4"
        ):
            list(lab.fit(left[0], tmp_path / "store", device="cpu"))
    one, other = lab.RunStore(left[2])[left[0]], lab.Run(folder)
    assert {f.name for f in one.path.rglob("*")} == {f.name for f in other.path.rglob("*")}
    for name in ("steps.csv", "evaluations.csv", "predictions.csv", "weights.safetensors"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


def test_without_a_whole_checkpoint_all_are_named_with_what_to_do(left, tmp_path):
    folder = copy_of(left, tmp_path)
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (folder / name).write_bytes(b"nothing")
    with pytest.raises(lab.RunError, match=r"checkpoint\.safetensors'.*checkpoint-previous.*resume=False"):
        next(lab.fit(left[0], tmp_path / "store", device="cpu"))
    assert len(list(lab.fit(left[0], tmp_path / "store", device="cpu", resume=False))) > 8


class Trap:
    """What executes as soon as it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("name", checkpoint.FILES)
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_checkpoint_that_would_execute_is_refused_and_does_not(left, tmp_path, name, writer):
    folder, trap = copy_of(left, tmp_path), tmp_path / "executed"
    checkpoint.remove(folder)
    state = {"step": 3, "trap": Trap(trap)}
    if writer == "torch":
        torch.save(state, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(state))
    with pytest.raises(CheckpointError, match=r"cannot be used, it is damaged.*start over"):
        next(lab.fit(left[0], tmp_path / "store", device="cpu"))
    assert not trap.exists()
    naive = (folder / name).rename(tmp_path / "naive.pt")
    torch.load(naive, weights_only=False) if writer == "torch" else pickle.loads(naive.read_bytes())
    assert trap.exists(), "the trap works on those who fall for it"
