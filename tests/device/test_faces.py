"""Decoding against maps that are written by hand, as the network would."""

import numpy as np
import pytest

from device import faces

HEIGHT, WIDTH = 240, 320
LANDMARKS = np.array([(90, 70), (110, 70), (100, 82), (92, 95), (108, 95)], np.float32)


def nothing():
    """Maps in which nobody is."""
    return {
        stride: (
            np.full((HEIGHT // stride, WIDTH // stride), -9.0, np.float32),
            np.zeros((HEIGHT // stride, WIDTH // stride, 14), np.float32),
        )
        for stride in faces.STRIDES
    }


def put(maps, stride, box, landmarks, logit, cell=None):
    """Write a face into the maps, at the cell of its centre or another one."""
    x, y, width, height = box
    across, down = cell or (int((x + width / 2) // stride), int((y + height / 2) // stride))
    centre = stride * (np.array([across, down]) + 0.5)
    edges = np.array([centre[0] - x, centre[1] - y, x + width - centre[0], y + height - centre[1]])
    maps[stride][0][down, across] = logit
    maps[stride][1][down, across] = np.arcsinh(np.concatenate([edges, (landmarks - centre).ravel()]) / stride)


@pytest.mark.parametrize("stride", faces.STRIDES)
def test_a_face_comes_back_as_it_was_written(stride):
    maps = nothing()
    put(maps, stride, (80, 55, 40, 50), LANDMARKS, 2.0)
    (found,) = faces.decode(maps, 0.5)
    np.testing.assert_allclose(found[:4], (80, 55, 40, 50), atol=1e-3)
    np.testing.assert_allclose(found[4:14].reshape(5, 2), LANDMARKS, atol=1e-3)
    assert found[14] == pytest.approx(1 / (1 + np.exp(-2)))


def test_cells_and_strides_that_show_one_face_are_one_detection():
    maps = nothing()
    put(maps, 8, (80, 55, 40, 50), LANDMARKS, 1.0)
    put(maps, 8, (81, 55, 40, 50), LANDMARKS + 1, 1.0, cell=(13, 10))
    put(maps, 16, (80, 55, 40, 50), LANDMARKS, 3.0)
    put(maps, 16, (200, 100, 60, 70), LANDMARKS + 100, 0.5)
    first, second = faces.decode(maps, 0.5)
    assert first[14] > second[14]
    np.testing.assert_allclose(first[:4], (80, 55, 40, 50), atol=1)
    np.testing.assert_allclose(second[:4], (200, 100, 60, 70), atol=1e-2)


def test_the_score_parts_faces_from_the_rest():
    maps = nothing()
    put(maps, 8, (80, 55, 40, 50), LANDMARKS, 0.2)
    assert len(faces.decode(maps, 0.5)) == 1
    assert len(faces.decode(maps, 0.6)) == 0
    assert faces.decode(nothing(), 0.5).shape == (0, 15)


def test_maps_full_of_noise_are_no_trouble():
    rng = np.random.default_rng(0)
    maps = {stride: (rng.normal(4, 1, heat.shape), rng.normal(0, 1, far.shape)) for stride, (heat, far) in nothing().items()}
    found = faces.decode(maps, 0.5)
    assert np.isfinite(found).all() and len(found) <= faces.MOST


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920), (1, 1), (1, 4000), (4000, 1), (112, 112), (240, 320)])
def test_a_frame_is_shown_whole(height, width):
    picture, scale = faces.framed(np.full((height, width, 3), 200, np.uint8), HEIGHT, WIDTH)
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    shown = (picture == 200).all(axis=2)
    down, across = (max(round(side * scale), 1) for side in (height, width))
    assert shown[:down, :across].all() and shown.sum() == down * across
    assert (picture[~shown] == faces.GREY).all()
    assert scale <= faces.ENLARGED and (down == HEIGHT or across == WIDTH or scale == faces.ENLARGED)
