import numpy as np
import pytest

from napari_pcs.objectives.corruption import CorruptionConfig, corrupted, masked_blocks


def image_of(size=(32, 16, 24), seed=0):
    return np.random.default_rng(seed).random((1, *size), dtype=np.float32)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_share_that_is_hidden_is_the_one_asked_for(share):
    hidden = masked_blocks((32, 16, 24), CorruptionConfig(masked_share=share, block=4), np.random.default_rng(0))
    assert hidden.shape == (32, 16, 24)
    assert hidden.mean() == pytest.approx(share, abs=0.5 / (8 * 4 * 6))


def test_blocks_are_hidden_whole():
    hidden = masked_blocks((32, 16, 24), CorruptionConfig(block=8), np.random.default_rng(1))
    blocks = hidden.reshape(4, 8, 2, 8, 3, 8).mean(axis=(1, 3, 5))
    assert set(np.unique(blocks)) == {0.0, 1.0}


def test_nothing_changes_outside_the_blocks_and_all_within():
    image, config = image_of(), CorruptionConfig(block=8)
    hidden = masked_blocks(image.shape[1:], config, np.random.default_rng(2))
    given = corrupted(image, config, np.random.default_rng(2))
    assert np.array_equal(given != image, hidden[None])


def test_without_a_masked_share_the_image_is_given_as_it_is():
    image = image_of()
    given = corrupted(image, CorruptionConfig(masked_share=0), np.random.default_rng(3))
    assert np.array_equal(given, image)
    assert given is not image


def test_a_side_that_is_no_multiple_of_the_block_is_cut():
    hidden = masked_blocks((33, 20), CorruptionConfig(masked_share=0.9, block=8), np.random.default_rng(4))
    assert hidden.shape == (33, 20)


def test_the_same_generator_hides_the_same_blocks():
    first, second = (corrupted(image_of(), CorruptionConfig(), np.random.default_rng(5)) for _ in range(2))
    other = corrupted(image_of(), CorruptionConfig(), np.random.default_rng(6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_noise_stays_in_the_range_of_tissue():
    given = corrupted(image_of(), CorruptionConfig(noise=1), np.random.default_rng(7))
    assert given.min() >= 0
    assert given.max() <= 1
    assert given.dtype == np.float32
