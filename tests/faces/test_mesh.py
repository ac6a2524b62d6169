"""The dense mesh: its measured mean face, the rasteriser, and the texture warp."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.errors import WeightsMissingError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.types import FloatArray, UInt8Image

SIZE = 160


def face_landmarks(size: int = SIZE, yaw: float = 0.0, mouth: float = 0.0) -> FloatArray:
    """The mean face turned by ``yaw`` degrees, aligned into a crop; ``mouth`` lowers the lower lip (eye distances)."""
    points = mesh.mean_face().points.copy()
    points[list(mesh.INNER_LIPS[11:]), 1] += mouth
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    points = (points @ turn.T * size / 4 + size / 2).astype(np.float32)
    return transform_points(ffhq_affine(points, size), points)


def smooth_picture(size: int = SIZE, seed: int = 0) -> UInt8Image:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_mean_face_is_a_symmetric_face_in_eye_units() -> None:
    mean = mesh.mean_face()
    assert mean.points.shape == (478, 3)
    eyes = [mean.points[list(ring)].mean(0) for ring in (mesh.LEFT_EYE_RING, mesh.RIGHT_EYE_RING)]
    assert eyes[1][0] - eyes[0][0] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(mean.points[mean.mirror] * [-1, 1, 1] - mean.points).max() < 1e-4
    assert (mean.mirror[mean.mirror] == np.arange(478)).all()
    assert mean.points[1, 2] < mean.points[234, 2]  # the nose is nearer to the viewer than the cheek's edge
    assert (np.diff(mean.deviations) <= 0).all() and mean.deviations[-1] > 0


def test_triangles_cover_the_oval_once_and_turn_one_way() -> None:
    mean = mesh.mean_face()
    areas = mesh.signed_areas(mean.points, mean.triangles)
    assert (areas > 0).mean() > 0.98  # the mean lips are nearly shut, so a sliver or two may be edge on
    oval = mean.points[list(mesh.FACE_OVAL), :2]
    x, y = oval[:, 0], oval[:, 1]
    inside = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert areas.sum() == pytest.approx(inside, rel=0.03)
    assert set(mean.triangles.ravel()) == set(range(mesh.SKIN_POINTS))
    # every inner edge has exactly two triangles
    edges = np.sort(
        np.concatenate([mean.triangles[:, [0, 1]], mean.triangles[:, [1, 2]], mean.triangles[:, [2, 0]]]), 1
    )
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert counts.max() == 2


def test_rasterise_gives_barycentric_values_and_hides_what_is_behind() -> None:
    points = np.array([[1, 1, 0], [17, 2, 0], [4, 15, 0], [1, 1, -5], [9, 1, -5], [1, 9, -5]], np.float32)
    triangles = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    values = np.zeros((2, 3, 2), np.float32)
    values[0] = points[:3, :2]  # the value is the place itself
    values[1] = 100
    picture, covered = mesh.rasterise(points, values, triangles, 20)
    assert (picture[2, 2] == 100).all()  # in both; the nearer one wins although listed either way round
    flipped, _ = mesh.rasterise(points, values[::-1], triangles[::-1], 20)
    np.testing.assert_allclose(flipped, picture, atol=1e-4)
    only_far = covered & (picture[..., 0] < 50)
    y, x = np.nonzero(only_far)
    assert len(x) > 40
    np.testing.assert_allclose(picture[y, x], np.stack([x, y], 1), atol=1e-3)
    assert not covered[0].any() and not covered[19].any()


def test_rasterise_drops_triangles_seen_from_behind_and_outside() -> None:
    points = np.array([[2, 2, 0], [12, 2, 0], [2, 12, 0], [-50, -50, 0], [-40, -50, 0], [-50, -40, 0]], np.float32)
    triangles = np.array([[0, 2, 1], [3, 4, 5]], np.int32)
    _, covered = mesh.rasterise(points, np.ones((2, 3, 1), np.float32), triangles, 16)
    assert not covered.any()


def test_no_cracks_inside_the_face() -> None:
    landmarks = face_landmarks(mouth=0.1)
    _, valid = mesh.MeshTexture(smooth_picture(), landmarks).warp(landmarks, SIZE)
    inner = cv2.erode(mesh.ring_mask(landmarks, (mesh.FACE_OVAL,), SIZE), np.ones((7, 7))) > 0.99
    assert inner.sum() > 2000
    assert valid[inner].min() == 1.0


def test_warping_a_face_onto_itself_changes_nothing_and_follows_a_shift() -> None:
    rgb, landmarks = smooth_picture(), face_landmarks()
    warped, valid = mesh.MeshTexture(rgb, landmarks).warp(landmarks, SIZE)
    inside = valid == 1
    assert np.abs(warped[inside].astype(int) - rgb[inside]).max() <= 4  # remap works in 1/32 px
    shifted, valid_shifted = mesh.MeshTexture(rgb, landmarks).warp(landmarks + np.array([8, 5, 0], np.float32), SIZE)
    both = inside & (np.roll(valid_shifted, (-5, -8), (0, 1)) == 1)
    assert both.sum() > 2000
    difference = np.abs(np.roll(shifted, (-5, -8), (0, 1))[both].astype(int) - rgb[both])
    assert difference.max() <= 4
    assert (shifted[valid_shifted == 0] == 0).all()


def test_coarse_grid_stays_close_to_the_full_grid() -> None:
    rgb, source, target = smooth_picture(320), face_landmarks(320), face_landmarks(320, yaw=20, mouth=0.15)
    fine, valid_fine = mesh.MeshTexture(rgb, source, mesh.WarpConfig(cells=(320, 320))).warp(target, 320)
    coarse, valid = mesh.MeshTexture(rgb, source, mesh.WarpConfig(cells=(160, 160))).warp(target, 320)
    both = (valid_fine == 1) & (valid == 1)
    assert np.abs(fine[both].astype(float) - coarse[both]).mean() < 1.0


def test_a_turned_source_lends_its_seen_cheek_to_the_hidden_one() -> None:
    source, target = face_landmarks(yaw=50), face_landmarks()
    texture = mesh.MeshTexture(smooth_picture(), source)
    assert texture.mirrored_share > 0.1
    assert mesh.MeshTexture(smooth_picture(), target).other_rgb is None
    where, valid = texture.displacement(target, SIZE)
    share = where[2]
    left, right = share[:, : SIZE // 3].max(), share[:, -SIZE // 3 :].max()
    assert min(left, right) < 0.05 and max(left, right) > 0.95  # one cheek borrows, the other never
    inside = valid == 1
    steps = np.abs(np.diff(share, axis=1))[inside[:, 1:] & inside[:, :-1]]
    assert steps.max() < 0.35  # no hard seam


def test_region_masks_hold_the_openings_only() -> None:
    shut, wide = face_landmarks(), face_landmarks(mouth=0.3)
    mouth = mesh.inner_mouth_mask(wide, SIZE, feather=0)
    assert mouth.sum() > 3 * mesh.inner_mouth_mask(shut, SIZE, feather=0).sum()
    centre = wide[[13, 14], :2].mean(0).round().astype(int)
    assert mouth[centre[1], centre[0]] == 1
    eyes = mesh.ring_mask(wide, (mesh.LEFT_EYE_RING, mesh.RIGHT_EYE_RING), SIZE, feather=1.0)
    for iris in (468, 473):
        x, y = wide[iris, :2].round().astype(int)
        assert eyes[y, x] > 0.8
    assert (eyes * mouth).max() == 0
    assert eyes.min() >= 0 and eyes.max() <= 1


def test_missing_asset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "ASSET", mesh.ASSET.with_name("gone.safetensors"))
    mesh.mean_face.cache_clear()
    with pytest.raises(WeightsMissingError, match="gone.safetensors"):
        mesh.mean_face()
    monkeypatch.undo()
    mesh.mean_face.cache_clear()


def test_skin_on_a_small_target_shows_no_aliases_and_on_a_large_one_all_detail() -> None:
    size = 640
    source = face_landmarks(size)
    stripes = np.zeros((size, size, 3), np.uint8)
    stripes[:, ::2] = 255  # as fine as a picture can be
    pyramid = mesh.TexturePyramid(stripes, source)
    small, large = face_landmarks(96), face_landmarks(size)
    rgb, valid = pyramid.warp(small, 96)
    inside = cv2.erode(valid, np.ones((9, 9))) > 0.99
    assert rgb[inside].astype(float).std() < 12, "grey, not moiré"
    aliased = mesh.MeshTexture(stripes, source).warp(small, 96)[0]
    assert aliased[inside].astype(float).std() > 25
    rgb, valid = pyramid.warp(large, size)
    assert rgb[cv2.erode(valid, np.ones((9, 9))) > 0.99].astype(float).std() > 60
