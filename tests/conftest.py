"""What all tests share: the photographs beside the checkout, seeds, and few threads."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import tiny_runs

REPO = Path(__file__).resolve().parents[1]

settings.register_profile(
    "local", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


def _shared(place: str, what: str) -> Path:
    """What lies beside the checkout; where it does not, the test is skipped, or fails if SPGCA_LAB_REQUIRE_SHARED=1."""
    path = REPO.parent / "shared" / place
    if not path.exists():
        message = f"needs {what} of ../shared/{place}, which no checkout holds"
        if os.environ.get("SPGCA_LAB_REQUIRE_SHARED") == "1":
            pytest.fail(f"SPGCA_LAB_REQUIRE_SHARED=1, but this test {message}")
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def shared_photos() -> Path:
    """The folder `caltech101-mini`."""
    return _shared("data/caltech101-mini", "the photographs")


@pytest.fixture(scope="session")
def paper_text() -> str:
    """The paper."""
    return _shared("paper/spgca-paper.txt", "the text").read_text(encoding="utf-8")


@pytest.fixture
def one_thread():
    """For networks so small that they are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded():
    """Each test starts from the same global seed, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """The runs of `tests.tiny_runs`; look at them, and leave them as they are."""
    return tiny_runs.train(tmp_path_factory.mktemp("tiny_runs"))


@pytest.fixture(scope="session")
def kept_run(tiny_store):
    """The one of SPA→GCA that was kept with its weights."""
    alpha, r = tiny_runs.KEPT
    return tiny_store.find(method="spgca", alpha=alpha, r=r)[0]


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh CPU generator with seed 0."""
    return torch.Generator().manual_seed(0)
