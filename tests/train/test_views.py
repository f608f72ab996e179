import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from device.program import InputError
from train import views as v

PLAIN = {"area": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}


def crops(n: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(30, 226, (n, 14, 14, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)


def seed(number: int = 0) -> tf.Tensor:
    return tf.constant([7, number])


def draws(n: int, kinds: int, number: int = 0) -> v.Draws:
    return v.Draws(tf.random.experimental.stateless_split(seed(number), kinds), n)


def test_without_any_change_a_view_is_the_crop():
    images = crops()
    view = v.view(tf.constant(images), seed(), v.Views(**PLAIN)).numpy()
    np.testing.assert_allclose(view, images / 127.5 - 1, atol=1e-5)


def test_flip_mirrors():
    images = crops()
    view = v.view(tf.constant(images), seed(), v.Views(**{**PLAIN, "flip": 1.0})).numpy()
    np.testing.assert_allclose(view, images[:, :, ::-1] / 127.5 - 1, atol=1e-5)


def test_the_same_seed_gives_the_same_view_and_another_another():
    images = tf.constant(crops())
    first, again, other = (v.view(images, seed(n), v.Views(size=64)).numpy() for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.05
    assert first.shape == (16, 64, 64, 3)
    assert first.min() >= -1 - 1e-5
    assert first.max() <= 1 + 1e-5


def test_every_picture_of_a_batch_is_drawn_for_itself():
    same = tf.constant(np.repeat(crops(1), 8, axis=0))
    views = v.view(same, seed(), v.Views()).numpy()
    assert min(np.abs(views[i] - views[j]).mean() for i in range(8) for j in range(i)) > 0.01


def test_boxes_keep_to_area_ratio_and_picture():
    settings = v.Views(area=(0.25, 0.5), ratio=(0.75, 1.25), flip=0.5)
    y1, x1, y2, x2 = v.boxes(draws(4000, 5), settings).numpy().T
    left, right = np.minimum(x1, x2), np.maximum(x1, x2)
    assert left.min() >= 0 and y1.min() >= 0 and right.max() <= 1 + 1e-6 and y2.max() <= 1 + 1e-6
    area = (right - left) * (y2 - y1)
    assert 0.25 - 1e-5 <= area.min() < 0.26 < 0.49 < area.max() <= 0.5 + 1e-5
    ratio = (right - left) / (y2 - y1)
    assert ratio.min() >= 0.75 - 1e-4 and ratio.max() <= 1.25 + 1e-4
    assert 0.45 < (x2 < x1).mean() < 0.55


def test_a_view_is_turned_sheared_and_shifted_as_opencv_does():
    settings = v.Views(size=64, area=(0.5, 1.0), rotation=20.0, shear=0.2, shift=0.1)
    images = cv2.GaussianBlur(crops(6).transpose(1, 2, 0, 3).reshape(112, 112, 18), (0, 0), 3).reshape(112, 112, 6, 3).transpose(2, 0, 1, 3)
    transforms = v.placements(draws(6, 9), 112, settings)
    result = v.placed(tf.constant(images), transforms, settings.size).numpy()
    for image, row, view in zip(images, transforms.numpy(), result, strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image, row[:6].reshape(2, 3), (64, 64), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(view * 255, expected, atol=3)


def test_rotation_turns_about_the_middle_of_the_part_by_no_more_than_asked():
    settings = v.Views(**{**PLAIN, "rotation": 15.0})
    rows = v.placements(draws(2000, 9), 112, settings).numpy()
    angles = np.degrees(np.arctan2(rows[:, 3], rows[:, 0]))
    assert -15 <= angles.min() < -14 < 14 < angles.max() <= 15
    middle = rows[:, [0, 3]] * 55.5 + rows[:, [1, 4]] * 55.5 + rows[:, [2, 5]]
    np.testing.assert_allclose(middle, 55.5, atol=1e-3)


def test_a_low_resolution_is_averages_over_cells():
    images = tf.constant((crops(8) / 255).astype(np.float32))
    settings = v.Views(**{**PLAIN, "coarse": 1.0, "detail": (0.125, 0.125)})  # 14 cells of 8 pixels
    result = v.softened(draws(8, 4), images, settings).numpy()
    cells = images.numpy().reshape(8, 14, 8, 14, 8, 3).mean((2, 4))
    middle = result.reshape(8, 14, 8, 14, 8, 3)[:, :, 3:5, :, 3:5].mean((2, 4))  # halfway between two pixels
    np.testing.assert_allclose(middle[:, 1:-1, 1:-1], cells[:, 1:-1, 1:-1], atol=0.1)  # 1/16 of the neighbour
    flat = v.softened(draws(8, 4), tf.ones((8, 112, 112, 3)) * 0.3, settings).numpy()
    np.testing.assert_allclose(flat, 0.3, atol=1e-5)


def test_an_erased_box_has_one_colour_and_the_share_asked_for():
    images = tf.constant((crops(64) / 255).astype(np.float32))
    settings = v.Views(**{**PLAIN, "erase": 1.0, "erased": (0.1, 0.2)})
    result = v.erased(draws(64, 6), images, settings).numpy()
    for before, after in zip(images.numpy(), result, strict=True):
        changed = np.any(before != after, axis=2)
        assert changed.mean() <= 0.205
        assert len(np.unique(after[changed], axis=0)) == 1
    untouched = v.erased(draws(64, 6), images, v.Views(**PLAIN)).numpy()
    np.testing.assert_array_equal(untouched, images.numpy())


def test_grey_has_no_colour_left():
    view = v.view(tf.constant(crops()), seed(), v.Views(**{**PLAIN, "grey": 1.0})).numpy()
    np.testing.assert_allclose(view[..., 0], view[..., 1], atol=1e-4)
    np.testing.assert_allclose(view[..., 0], view[..., 2], atol=1e-4)


def test_one_matrix_is_what_the_separate_steps_give():
    """Against a slow reference: hue turned in YIQ, saturation, contrast about the picture's mean, brightness, one by one."""
    settings = v.Views(**{**PLAIN, "jitter": 1.0})
    drawn = draws(4, 6, 3)
    images = (crops(4) / 255).astype(np.float32) * 0.2 + 0.4  # so that nothing is clipped
    result = v.colours(drawn, tf.constant(images), settings).numpy()
    luma, yiq = np.array(v.LUMA), np.array(v.YIQ)
    for n, image in enumerate(images):

        def draw(i, low, high, n=n):
            return float(drawn(i, low, high)[n])

        brightness, contrast, saturation = (draw(i, 0.6, 1.4) for i in (1, 2, 3))
        angle = draw(4, -0.1, 0.1) * 2 * np.pi
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        step = image @ (np.linalg.inv(yiq) @ turn @ yiq).T
        step = saturation * step + (1 - saturation) * (step @ luma)[..., None]
        step = contrast * step + (1 - contrast) * (image @ luma).mean()
        np.testing.assert_allclose(result[n], np.clip(step * brightness, 0, 1), atol=2e-3)


def test_strength_scales_the_jitter():
    images = tf.constant(np.tile(np.float32([0.5, 0.45, 0.45]), (64, 4, 4, 1)))

    def spread(**settings):
        result = v.colours(draws(64, 6), images, v.Views(**{**PLAIN, **settings})).numpy()
        hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in result[:, 0, 0]])
        return np.ptp((hues + 0.5) % 1)  # red lies where the circle closes

    assert spread(jitter=0.0, strength=1.0) < 1e-3
    assert spread(jitter=1.0, strength=0.1) < 0.1 < 0.25 < spread(jitter=1.0, strength=1.0) < 0.45


def test_blur_smooths_and_keeps_the_mean():
    images = tf.constant((crops(4) / 255).astype(np.float32))
    settings = v.Views(**{**PLAIN, "blur": 1.0, "sigma": (2.0, 2.0)})
    result = v.softened(draws(4, 4), images, settings).numpy()
    assert np.abs(np.diff(result, axis=2)).max() < np.abs(np.diff(images.numpy(), axis=2)).max()
    np.testing.assert_allclose(result.mean((1, 2)), images.numpy().mean((1, 2)), atol=0.02)
    inner = images.numpy()[:, 40:72, 40:72]  # against a convolution written out, at one pixel
    at = np.arange(112)
    kernel = np.exp(-((at - 50) ** 2) / 2.0)
    kernel /= kernel.sum()
    expected = np.einsum("h,w,nhwc->nc", kernel, kernel, images.numpy())
    np.testing.assert_allclose(result[:, 50, 50], expected, atol=1e-3)
    assert inner.shape == (4, 32, 32, 3)


def test_an_epoch_shows_every_crop_once_in_an_order_of_its_own():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 112, 112, 3), np.uint8)
    settings = v.Views(size=8, **PLAIN)

    def order(epoch: int) -> list[int]:
        batches = [np.stack(batch) for batch in v.pairs(images, settings, 5, seed=1, epoch=epoch)]
        np.testing.assert_allclose(*np.concatenate(batches, axis=1), atol=1e-6)
        return np.round((np.concatenate(batches, axis=1)[0, :, 0, 0, 0] + 1) * 127.5).astype(int).tolist()

    assert sorted(order(0)) == list(range(10))
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_the_shares_of_a_batch_are_the_batch():
    images, settings = crops(12), replace(v.PRESETS["face"], size=32)
    whole = list(v.pairs(images, settings, 6, seed=1, epoch=2).as_numpy_iterator())
    shares = [v.pairs(images, settings, 6, 1, 2, v.Share(number, 2)).as_numpy_iterator() for number in range(2)]
    for views, *parts in zip(whole, *shares, strict=True):
        for one, pieces in zip(views, zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(np.concatenate(pieces), one, atol=1e-5)
    with pytest.raises(InputError, match="a batch of 6 does not divide by 4: give --batch 8"):
        v.pairs(images, settings, 6, 1, 2, v.Share(0, 4))


def test_no_python_runs_in_the_pipeline():
    """It did once, and a training hung at the end of an epoch."""
    dataset = v.pairs(crops(8), v.Views(size=8), 4, 0, 0)
    graph = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor).numpy()
    assert b"GatherV2" in graph
    assert b"PyFunc" not in graph


def test_bad_settings_and_too_few_crops():
    with pytest.raises(InputError, match="a probability lies between 0 and 1"):
        v.Views(flip=1.5)
    with pytest.raises(InputError, match="area"):
        v.Views(area=(0.0, 1.0))
    with pytest.raises(InputError, match="3 crops do not fill a batch of 8: lower --batch or add photos"):
        v.pairs(crops(3), v.Views(), 8, 0, 0)
