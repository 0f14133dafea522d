import itertools

import pytest
import torch

from napari_pcs.training.config import LoopConfig, OptimiserConfig, ScheduleConfig
from napari_pcs.training.optimiser import build_optimiser, learning_rate


def rates(epochs, steps_per_epoch, **schedule):
    config = LoopConfig(
        epochs=epochs, optimiser=OptimiserConfig(learning_rate=0.1), schedule=ScheduleConfig(**schedule)
    )
    return [learning_rate(config, step, steps_per_epoch) for step in range(epochs * steps_per_epoch)]


def test_the_published_schedule_falls_to_a_tenth_after_300_epochs():
    found = rates(600, 3, name="step", step_epochs=300, factor=0.1)
    assert found[:900] == [0.1] * 900
    assert found[900:] == pytest.approx([0.01] * 900)


def test_the_cosine_is_pytorchs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], 0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=0.1 * 0.01)
    expected = []
    for _ in range(20):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    assert rates(5, 4, name="cosine", factor=0.01) == pytest.approx(expected)


def test_the_rate_rises_evenly_during_warm_up_and_joins_the_cosine():
    found = rates(10, 4, name="cosine", warmup_epochs=2, factor=0)
    assert found[:9] == pytest.approx([0.1 * (n + 1) / 9 for n in range(8)] + [0.1])
    assert max(found) == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(found[8:]))


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_one_step_of_each_optimiser_is_pytorchs(name, kind):
    mine, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    config = OptimiserConfig(name=name, learning_rate=0.1, weight_decay=0.01, momentum=0.8)
    options = {"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.999)}
    pair = (build_optimiser([mine], config), kind([theirs], 0.1, weight_decay=0.01, **options))
    for weight, optimiser in zip((mine, theirs), pair, strict=True):
        for _ in range(3):
            optimiser.zero_grad()
            weight.pow(3).sum().backward()
            optimiser.step()
    assert torch.equal(mine, theirs)
