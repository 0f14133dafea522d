import numpy as np
import pytest
import torch
from autoencoding_builders import naive_similarity, phantom_patch
from monai.losses import SSIMLoss
from monai.metrics.regression import compute_ms_ssim
from skimage.metrics import structural_similarity
from skimage.transform import downscale_local_mean
from torch.nn import functional as F

from napari_pcs.errors import InputError
from napari_pcs.objectives.ssim import MS_SSIM_WEIGHTS, multi_scale_ssim, multi_scale_weights, ssim, ssim_loss


def pair(shape=(2, 1, 20, 17, 14), seed=0):
    """An image and a noisy, fainter copy of it."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=random)
    return x, 0.7 * x + 0.3 * torch.rand(shape, generator=random)


def naive_multi_scale(a, b):
    """Three scales of images whose sides are multiples of 4 or lose what is left over."""
    weights = np.array([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001)
    result = 1.0
    for scale, weight in enumerate(weights):
        result *= naive_similarity(a, b)[0 if scale == 2 else 1] ** weight
        a, b = (downscale_local_mean(i[tuple(slice(n // 2 * 2) for n in i.shape)], 2) for i in (a, b))
    return result


def test_an_image_is_wholly_similar_to_itself():
    x, _ = pair()
    assert torch.allclose(ssim(x, x), torch.ones(2), atol=1e-6)
    assert abs(ssim_loss(x, x).item()) < 1e-6
    assert torch.allclose(multi_scale_ssim(x, x), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 20, 17, 14), (1, 1, 24, 31)])
def test_it_is_what_scikit_image_finds_where_the_window_fits(shape):
    x, y = pair(shape)
    _, everywhere = structural_similarity(
        x[0, 0].numpy().astype(float),
        y[0, 0].numpy().astype(float),
        win_size=11,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    inside = everywhere[(slice(5, -5),) * (len(shape) - 2)]
    assert ssim(x, y).item() == pytest.approx(inside.mean(), abs=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 20, 17, 14), (2, 3, 16, 12, 13), (2, 3, 24, 31)])
def test_value_and_gradient_are_monais(shape):
    x, y = pair(shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, reference = ssim_loss(ours, y), SSIMLoss(len(shape) - 2, win_size=11, kernel_sigma=1.5)(theirs, y)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-5)
    assert (ours.grad - theirs.grad).abs().max() < 1e-5 * theirs.grad.abs().max()


def test_one_place_is_equation_1_written_out():
    x, y = pair((1, 1, 11, 11, 11))
    a, b = x[0, 0].double().numpy(), y[0, 0].double().numpy()
    profile = np.exp(-(((np.arange(11) - 5) / 1.5) ** 2) / 2)
    weights = np.einsum("i,j,k->ijk", profile, profile, profile)
    weights /= weights.sum()
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    cov = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = 1 - (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim_loss(x, y).item() == pytest.approx(expected, abs=1e-6)


def test_rounding_does_not_show_where_tissue_is_flat():
    """Where a patch is wholly white, a variance is nothing but rounding unless care is taken."""
    y = torch.from_numpy(phantom_patch().image)[None]
    for x in (0.999 * y, (y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)):
        expected, _ = naive_similarity(x[0, 0].double().numpy(), y[0, 0].double().numpy())
        assert ssim(x, y).item() == pytest.approx(expected, abs=2e-6)


def test_it_does_not_matter_which_image_comes_first():
    x, y = pair()
    assert torch.allclose(ssim(x, y), ssim(y, x), atol=1e-6)
    assert torch.allclose(multi_scale_ssim(x, y), multi_scale_ssim(y, x), atol=1e-6)


def test_the_gradient_of_the_second_image_is_that_of_the_first_with_both_swapped():
    x, y = pair()
    second, first = y.clone().requires_grad_(), y.clone().requires_grad_()
    ssim_loss(x, second).backward()
    ssim_loss(first, x).backward()
    assert torch.allclose(second.grad, first.grad, atol=1e-8)


def test_where_the_images_lie_does_not_matter():
    """Both on a flat ground that is wide enough, at two places."""
    x, y = pair((1, 1, 9, 9, 9))

    def placed(image, first):
        return F.pad(image, [n for i in reversed(first) for n in (i, 23 - i)], value=0.5)

    here, there = ([placed(image, first) for image in (x, y)] for first in ((10, 13, 10), (13, 11, 12)))
    assert here[0].shape == there[0].shape
    assert ssim(*here).item() == pytest.approx(ssim(*there).item(), abs=1e-6)


def test_each_sample_is_judged_by_itself():
    x, y = pair((3, 1, 12, 13, 14))
    alone = torch.cat([ssim(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.allclose(ssim(x, y), alone, atol=1e-6)


def test_turned_and_mirrored_images_are_as_similar():
    x, y = pair()
    turned = [image.transpose(2, 4).flip(3) for image in (x, y)]
    assert torch.allclose(ssim(x, y), ssim(*turned), atol=1e-6)


def test_the_range_of_values_scales_out():
    x, y = pair()
    assert torch.allclose(ssim(x, y), ssim(255 * x, 255 * y, data_range=255), atol=1e-5)


def test_half_precision_is_left_outside():
    x, y = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ssim(x, y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, ssim(x, y))


def test_what_inference_has_met_first_can_still_be_trained():
    x, y = pair((1, 1, 19, 23, 21))
    with torch.inference_mode():
        value = ssim(x, y)
    x.requires_grad_()
    ssim_loss(x, y).backward()
    assert 1 - ssim_loss(x, y).item() == pytest.approx(value.item(), abs=1e-6)
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("size", "scales"), [((64, 64, 64), 3), ((64, 32, 32), 2), ((20, 40, 40), 1), ((256, 200, 176), 5)]
)
def test_a_patch_has_as_many_scales_as_the_window_fits_into(size, scales):
    weights = multi_scale_weights(size)
    assert len(weights) == scales
    assert sum(weights) == pytest.approx(1)
    assert np.allclose(np.divide(weights, weights[0]), np.divide(MS_SSIM_WEIGHTS[:scales], MS_SSIM_WEIGHTS[0]))


def test_several_scales_are_the_formula_in_double_precision():
    x, y = pair((2, 1, 46, 44, 48))
    expected = [naive_multi_scale(x[i, 0].double().numpy(), y[i, 0].double().numpy()) for i in range(2)]
    assert np.allclose(multi_scale_ssim(x, y).numpy(), expected, atol=1e-5)


def test_several_scales_are_monais_as_far_as_its_rounding_goes():
    """Its 1331 products per voxel, summed in single precision, are off by 1e-4 where variances are small."""
    x, y = pair((2, 1, 46, 44, 48))
    theirs = compute_ms_ssim(x, y, spatial_dims=3, weights=multi_scale_weights((46, 44, 48)))
    assert torch.allclose(multi_scale_ssim(x, y), theirs[:, 0], atol=2e-4)


def test_opposite_structures_have_no_similarity_over_scales():
    x, _ = pair((1, 1, 24, 24, 24))
    assert multi_scale_ssim(x, 1 - x).item() == 0
    assert ssim(x, 1 - x).item() < 0


def test_images_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="same shape"):
        ssim(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 15))


@pytest.mark.parametrize("judge", [ssim, multi_scale_ssim])
def test_images_smaller_than_the_window_are_refused(judge):
    x = torch.zeros(1, 1, 16, 16, 8)
    with pytest.raises(InputError, match="window of 11 voxels for images of 16 x 16 x 8"):
        judge(x, x)
