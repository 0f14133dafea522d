from collections import Counter

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from napari_pcs.objectives.noising import NoiseSchedule

STEPS, FIRST, LAST = 1000, 5e-3, 2e-2
PUBLISHED = NoiseSchedule("scaled_linear", STEPS, FIRST, LAST)


def kept_in_closed_form(name="scaled_linear", steps=STEPS, first=FIRST, last=LAST):
    """Product of what each step keeps, one after another, in double precision."""
    product, found = 1.0, []
    for i in range(steps):
        share = i / (steps - 1)
        if name == "linear":
            beta = first + share * (last - first)
        else:
            beta = (np.sqrt(first) + share * (np.sqrt(last) - np.sqrt(first))) ** 2
        product *= 1 - beta
        found.append(product)
    return np.array(found)


def images(count=2, seed=0):
    """Clean images in [-1, 1] and noise."""
    random = torch.Generator().manual_seed(seed)
    shape = (count, 1, 6, 5, 4)
    return torch.rand(shape, generator=random) * 2 - 1, torch.randn(shape, generator=random)


@pytest.mark.parametrize("name", ["scaled_linear", "linear"])
@pytest.mark.parametrize("steps", [1000, 50])
def test_what_is_kept_of_the_image_is_the_closed_form_and_monais(name, steps):
    schedule = NoiseSchedule(name, steps, FIRST, LAST)
    np.testing.assert_allclose(schedule.kept.double().numpy(), kept_in_closed_form(name, steps), rtol=2e-4)
    monai = DDPMScheduler(steps, schedule=f"{name}_beta", beta_start=FIRST, beta_end=LAST)
    assert torch.equal(schedule.kept, monai.alphas_cumprod)


@pytest.mark.parametrize("time", [0, 250, 999])
def test_noisy_images_have_the_mean_and_the_variance_of_the_closed_form(time):
    kept = kept_in_closed_form()[time]
    clean, count = 0.6, 200_000
    noise = torch.randn((1, 1, count, 1, 1), generator=torch.Generator().manual_seed(1))
    noisy = PUBLISHED.add_noise(torch.full_like(noise, clean), noise, torch.tensor([time])).double()
    error = np.sqrt((1 - kept) / count)
    assert noisy.mean().item() == pytest.approx(np.sqrt(kept) * clean, abs=4 * error)
    assert noisy.var().item() == pytest.approx(1 - kept, rel=4 * np.sqrt(2 / count))


def test_one_step_at_a_time_leads_to_the_same_distribution_as_all_at_once():
    betas = 1 - kept_in_closed_form()[1:] / kept_in_closed_form()[:-1]
    betas = np.concatenate([[FIRST], betas])
    mean, variance = 0.6, 0.0
    for time in range(400):
        mean, variance = np.sqrt(1 - betas[time]) * mean, (1 - betas[time]) * variance + betas[time]
    kept = PUBLISHED.kept[399].item()
    assert mean == pytest.approx(np.sqrt(kept) * 0.6, rel=1e-3)
    assert variance == pytest.approx(1 - kept, rel=1e-3)


def test_each_image_of_a_batch_gets_the_noise_of_its_own_step_as_monai_adds_it():
    clean, noise = images()
    times = torch.tensor([10, 700])
    monai = DDPMScheduler(STEPS, schedule="scaled_linear_beta", beta_start=FIRST, beta_end=LAST)
    torch.testing.assert_close(PUBLISHED.add_noise(clean, noise, times), monai.add_noise(clean, noise, times))


@pytest.mark.parametrize("time", [0, 300, 999])
def test_the_clean_image_follows_from_the_noisy_one_and_its_noise(time):
    clean, noise = images()
    times = torch.full((2,), time)
    noisy = PUBLISHED.add_noise(clean, noise, times)
    torch.testing.assert_close(PUBLISHED.clean_from(noisy, noise, times), clean, atol=2e-3, rtol=0)


def test_the_way_back_goes_from_the_last_step_to_the_image_in_25_even_steps():
    way = PUBLISHED.way_back(25, STEPS - 1)
    assert len(way) == 25
    assert [start for start, _ in way[:3]] == [999, 957, 916]
    assert [start for start, _ in way[1:]] == [end for _, end in way[:-1]]
    assert way[-1] == (0, -1)
    assert set(Counter(start - end for start, end in way[:-1])) == {41, 42}


def test_the_way_back_can_begin_anywhere():
    assert PUBLISHED.way_back(25, 100) == [(100, 83), (83, 42), (42, 0), (0, -1)]
    assert PUBLISHED.way_back(25, 83) == [(83, 42), (42, 0), (0, -1)]
    assert PUBLISHED.way_back(25, 0) == [(0, -1)]


@pytest.mark.parametrize("time", [999, 500, 41])
def test_a_step_back_is_monais_wherever_monai_steps_between_the_same_times(time):
    monai = DDIMScheduler(STEPS, schedule="scaled_linear_beta", beta_start=FIRST, beta_end=LAST)
    monai.set_timesteps(25)
    noisy, noise = images()
    expected, _ = monai.step(noise, time, noisy)
    torch.testing.assert_close(PUBLISHED.step_back(noisy, noise, time, time - 40), expected)
    last, _ = monai.step(noise, 0, noisy)
    torch.testing.assert_close(PUBLISHED.step_back(noisy, noise, 0, -1), last)


def test_who_knows_the_noise_finds_the_image_on_the_whole_way_back():
    clean, noise = images()
    for start in (0, 83, 400, 999):
        found = PUBLISHED.add_noise(clean, noise, torch.full((2,), start))
        for one, other in PUBLISHED.way_back(25, start):
            found = PUBLISHED.step_back(found, noise, one, other)
            if other >= 0:
                expected = PUBLISHED.add_noise(clean, noise, torch.full((2,), other))
                torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
        torch.testing.assert_close(found, clean, atol=2e-3, rtol=0)
