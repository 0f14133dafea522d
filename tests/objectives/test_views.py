import numpy as np
import pytest
import torch
from networks import tiny_network
from skimage.color import rgb2hsv

from napari_pcs.data.patch import Patch
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError, ModelError
from napari_pcs.objectives.pictures import IMAGENET_MEAN, IMAGENET_STD, Augmentation2D
from napari_pcs.objectives.views import ViewSettings, check_channels, region_for, views_of

MEAN, STD = (np.array(v, dtype=np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
PLAIN = {"smallest_crop": 1, "ratio": 1, "flip": 0, "jitter": 0, "grey": 0, "blur": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def plain(**changes):
    return ViewSettings(image=Augmentation2D(**{**PLAIN, **changes}))


def picture(channels=3, shape=(48, 40), seed=0):
    return Patch(rng(seed).random((channels, *shape)).astype(np.float32), None, "picture")


def colours_of(view):
    """Undo the normalisation."""
    return view * STD + MEAN


@pytest.fixture(scope="module")
def hemisphere():
    return Patch(phantom().tissue.data[None, :40, 90:130, 70:110].astype(np.float32) / 2, None, "phantom")


@pytest.mark.parametrize(
    ("size", "region"),
    [((64, 64, 64), (80, 80, 80)), ((64, 32, 32), (80, 40, 40)), ((32, 32, 32), (40, 40, 40)), ((96, 96), (96, 96))],
)
def test_a_region_leaves_room_around_a_volume_and_none_around_an_image(size, region):
    assert region_for(size) == region


@pytest.mark.parametrize("size", [(32, 32, 32), (24, 24)])
def test_views_differ_from_one_another_and_depend_on_the_generator_alone(size, hemisphere):
    patch = hemisphere if len(size) == 3 else picture()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = views_of(patch, size, 3, rng(1), settings=ViewSettings())
    torch.manual_seed(4)
    again = views_of(patch, size, 3, rng(1), settings=ViewSettings())
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    assert one.shape == (3, 1 if len(size) == 3 else 3, *size)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(one[a] - one[b]).mean() > 0.02


def test_images_leave_the_generator_of_torch_alone():
    before = torch.get_rng_state()
    views_of(picture(), (24, 24), 5, rng(), settings=ViewSettings())
    assert torch.equal(torch.get_rng_state(), before)


def test_small_views_of_a_volume_are_small_fields_of_view_at_its_scale(hemisphere):
    settings = ViewSettings.model_validate(
        {"volume": {"rotation_deg": 0, "scaling": 0, "ribbon": 0, "blur_mm": 0, "noise": 0, "blocks": 0}
         | dict.fromkeys(("grey", "contrast", "gain"), 0)}
    )  # fmt: skip
    ramp = np.broadcast_to(np.linspace(0, 1, 80, dtype=np.float32)[:, None, None], (80, 80, 80))[None]
    views = views_of(Patch(ramp, None, "ramp"), (64, 32, 32), 4, rng(), settings=settings, scale=(0.05, 0.14))
    assert views.shape == (4, 1, 64, 32, 32)
    np.testing.assert_allclose(np.diff(views, axis=2), 1 / 79, atol=1e-5)


def test_a_constant_image_is_normalised_exactly_whatever_is_cropped_flipped_and_blurred():
    image = np.array([0.2, 0.4, 0.9], dtype=np.float32)[:, None, None] * np.ones((3, 30, 50), dtype=np.float32)
    settings = plain(smallest_crop=0.1, ratio=4 / 3, flip=0.5, blur=1)
    view = views_of(Patch(image, None, "constant"), (16, 16), 1, rng(), settings=settings)[0]
    np.testing.assert_allclose(view, ((image[:, :1, :1] - MEAN) / STD) * np.ones((3, 16, 16)), atol=2e-6)


def test_an_image_that_nothing_happens_to_is_itself():
    image = picture(shape=(24, 24))
    np.testing.assert_allclose(
        colours_of(views_of(image, (24, 24), 1, rng(), settings=plain())[0]), image.image, atol=1e-6
    )


def test_a_grey_image_is_repeated_and_a_coloured_one_made_grey_as_the_network_needs():
    grey = views_of(picture(1), (24, 24), 1, rng(), settings=plain())[0]
    assert grey.shape == (3, 24, 24)
    repeated = colours_of(grey)
    np.testing.assert_allclose(repeated, repeated[:1].repeat(3, axis=0), atol=1e-6)
    coloured = picture(3, (24, 24))
    single = views_of(coloured, (24, 24), 1, rng(), settings=plain(channels=1))[0]
    luma = np.tensordot([0.299, 0.587, 0.114], coloured.image, axes=1)
    np.testing.assert_allclose(single[0] * np.mean(IMAGENET_STD) + np.mean(IMAGENET_MEAN), luma, atol=1e-3)


def test_about_half_of_the_views_of_an_image_are_flipped():
    ramp = np.broadcast_to(np.linspace(0, 1, 16, dtype=np.float32), (1, 16, 16))
    views = views_of(Patch(ramp, None, "ramp"), (16, 16), 400, rng(), settings=plain(flip=0.5))
    assert 0.43 < np.mean(views[..., -1].mean((1, 2)) < views[..., 0].mean((1, 2))) < 0.57


def test_crops_have_the_areas_and_ratios_asked_for():
    rows, columns = np.meshgrid(np.linspace(0, 1, 200), np.linspace(0, 1, 200), indexing="ij")
    place = Patch(np.stack([rows, columns, rows]).astype(np.float32), None, "place")
    settings = plain(ratio=4 / 3)
    views = views_of(place, (64, 64), 200, rng(), settings=settings, scale=(0.05, 0.14))
    tall, wide = (np.array([np.ptp(colours_of(v)[i]) for v in views]) for i in (0, 1))
    areas, ratios = tall * wide, wide / tall
    assert 0.045 < areas.min() < 0.06
    assert 0.13 < areas.max() < 0.145
    assert 0.7 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.42


def test_a_crop_that_fits_nowhere_is_the_middle_of_the_image():
    strip = Patch(np.linspace(0, 1, 300, dtype=np.float32)[None, None].repeat(10, axis=1), None, "strip")
    view = colours_of(views_of(strip, (10, 10), 1, rng(), settings=plain())[0])
    assert view.mean() == pytest.approx(0.5, abs=0.01)
    assert np.ptp(view[0]) < 10 / 290


def test_hue_turns_by_no_more_than_its_share_of_the_circle():
    image = np.array([0.8, 0.3, 0.2], dtype=np.float32)[:, None, None] * np.ones((3, 8, 8), dtype=np.float32)
    settings = plain(jitter=1, brightness=0, contrast=0, saturation=0, hue=0.2)
    views = views_of(Patch(image, None, "red"), (8, 8), 200, rng(), settings=settings)
    hues = np.array([rgb2hsv(colours_of(v)[:, 0, 0]) for v in views])
    before = rgb2hsv(image[:, 0, 0])
    turns = (hues[:, 0] - before[0] + 0.5) % 1 - 0.5
    np.testing.assert_allclose(hues[:, 1:], np.tile(before[1:], (200, 1)), atol=1e-4)
    assert -0.2 - 1e-4 <= turns.min() < -0.18
    assert 0.18 < turns.max() <= 0.2 + 1e-4


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_brightness_multiplies_between_its_bounds(scale):
    image = np.full((3, 8, 8), 0.4, dtype=np.float32)
    settings = plain(jitter=1, brightness=scale, contrast=0, saturation=0, hue=0)
    factors = colours_of(views_of(Patch(image, None, "grey"), (8, 8), 200, rng(), settings=settings))[:, 0, 0, 0] / 0.4
    assert factors.min() == pytest.approx(1 - scale, abs=0.02)
    assert factors.max() == pytest.approx(1 + scale, abs=0.02)


def test_about_a_fifth_of_the_views_lose_their_colour():
    views = views_of(picture(shape=(8, 8)), (8, 8), 500, rng(), settings=plain(grey=0.2))
    spread = np.array([np.ptp(colours_of(v), axis=0).max() for v in views])
    assert 0.15 < np.mean(spread < 1e-5) < 0.25


def test_blur_smooths():
    sharp, blurred = (
        np.abs(np.diff(views_of(picture(), (48, 40), 1, rng(), settings=plain(blur=blur))[0], axis=2)).mean()
        for blur in (0, 1)
    )
    assert blurred < 0.9 * sharp


def test_an_image_of_two_channels_is_refused():
    with pytest.raises(InputError, match=r"found an image of shape \(2, 48, 40\)"):
        views_of(picture(2), (24, 24), 1, rng(), settings=ViewSettings())


class FlatNetwork:
    class config:  # noqa: N801
        architecture, spatial_dims, image_channels = "flat", 2, 1


def test_colours_that_the_network_has_no_inputs_for_are_refused_with_what_to_set():
    check_channels(tiny_network(), ViewSettings())
    check_channels(FlatNetwork, plain(channels=1))
    with pytest.raises(ModelError, match=r"found 3 colours in the settings, expected 1.*views.image.channels to 1"):
        check_channels(FlatNetwork, plain())
