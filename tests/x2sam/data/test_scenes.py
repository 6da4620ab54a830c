"""Generated scenes: reproducible bytes, labels that agree with the objects, expressions that hold."""

import numpy as np
import pytest

from x2sam.data.masks import IGNORE, MIN_VISIBLE
from x2sam.data.scene_render import Actor, Lens, Scene, render
from x2sam.data.scene_shapes import SILHOUETTES, Part, box, ellipse
from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.data.textures import PATTERNS, colour_ramp, octave_noise, texture

SIZE = (96, 128)


def check_labels(sample):
    ids = [o.id for o in sample.objects]
    assert len(set(ids)) == len(ids) and all(0 < k < IGNORE for k in ids)
    assert set(np.unique(sample.labels).tolist()) <= {0, IGNORE, *ids}
    for k in ids:
        assert max(np.count_nonzero(frame == k) for frame in sample.labels) >= MIN_VISIBLE


@pytest.mark.parametrize("seed", range(12))
def test_same_generator_same_bytes(seed):
    a, b = (generate_picture(np.random.default_rng(seed), SIZE) for _ in range(2))
    assert a.frames.shape == (1, *SIZE, 3) and a.labels.shape == (1, *SIZE)
    assert a.frames.dtype == a.labels.dtype == np.uint8
    assert np.array_equal(a.frames, b.frames) and np.array_equal(a.labels, b.labels) and a.objects == b.objects
    check_labels(a)


def test_different_generators_differ():
    a, b = (generate_picture(np.random.default_rng(seed), SIZE) for seed in (1, 2))
    assert not np.array_equal(a.frames, b.frames)


@pytest.mark.parametrize("seed", range(6))
def test_clips_keep_ids_and_move(seed):
    clip = generate_clip(np.random.default_rng(seed), 5, SIZE)
    assert clip.frames.shape == (5, *SIZE, 3)
    check_labels(clip)
    again = generate_clip(np.random.default_rng(seed), 5, SIZE)
    assert np.array_equal(clip.frames, again.frames) and np.array_equal(clip.labels, again.labels)
    assert any(not np.array_equal(clip.labels[0], frame) for frame in clip.labels[1:])


def test_some_clip_objects_leave_and_return():
    came_back = 0
    for seed in range(40):
        clip = generate_clip(np.random.default_rng(seed), 6, (64, 64))
        for o in clip.objects:
            seen = [bool((frame == o.id).any()) for frame in clip.labels]
            came_back += "".join("x" if s else "." for s in seen).strip(".").count(".") > 0
    assert came_back >= 3


def test_photos_make_incomplete_samples_unless_only_surfaces():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    complete = [generate_picture(np.random.default_rng(s), SIZE, [photo]).complete for s in range(20)]
    assert 0 < sum(complete) < 20
    assert all(generate_picture(np.random.default_rng(s), SIZE).complete for s in range(5))


def scene_of(*actors, size=(40, 60), camera=None):
    grey = np.full((*size, 3), 128, np.uint8)
    return Scene(
        size=size,
        backdrop=grey,
        ground=np.zeros(size, np.uint8),
        origin=(0.0, 0.0),
        light=np.ones(size, np.float32),
        actors=actors,
        camera=camera or (np.eye(2, 3),),
        sun=(0.0, 0.0),
        lens=Lens(),
    )


def block(number, position, colour, half=10.0, **motion):
    ramp = colour_ramp([np.array(colour, float)] * 2)
    part = Part((box(-1, -1, 1, 1),))
    return Actor(number, (part,), np.zeros((8, 8), np.uint8), (ramp,), np.asarray(position, float), half, **motion)


def test_the_nearest_actor_hides_the_others():
    red, blue = block(1, (20, 20), (255, 0, 0)), block(2, (30, 20), (0, 0, 255))
    frames, labels = render(scene_of(red, blue), np.random.default_rng(0))
    assert labels[0, 20, 12] == 1 and labels[0, 20, 25] == 2 and labels[0, 5, 5] == 0
    # 20 by 20 pixels each and up to a pixel of rim; half of the first is hidden.
    assert 400 <= np.count_nonzero(labels[0] == 2) <= 22 * 22 and 180 <= np.count_nonzero(labels[0] == 1) <= 22 * 11
    # Labels and colours come from one coverage: where the label changes, more than half of the colour has.
    reds, blues = frames[0][labels[0] == 1].astype(int), frames[0][labels[0] == 2].astype(int)
    assert (reds[:, 0] > reds[:, 2]).all() and (blues[:, 2] > blues[:, 0]).all()
    assert (np.ptp(frames[0][labels[0] == 0].astype(int), axis=1) < 140).all()


def test_actors_move_by_their_velocity():
    _, labels = render(
        scene_of(block(1, (20, 20), (9, 9, 9), velocity=np.array([3.0, -1.0])), camera=(np.eye(2, 3),) * 3),
        np.random.default_rng(0),
    )
    assert (labels[1] == 1).any()
    assert np.array_equal(np.roll(labels[0], (-1, 3), (0, 1)), labels[1])
    assert np.array_equal(np.roll(labels[0], (-2, 6), (0, 1)), labels[2])


def test_a_hole_is_not_part_of_a_ring_and_markings_do_not_grow_it():
    ring = (Part((ellipse(), ellipse(rx=0.5))), Part((box(-3, -0.2, 3, 0.2),), tone=1, marking=True))
    ramps = tuple(colour_ramp([np.array(c, float)] * 2) for c in ((255, 0, 0), (0, 255, 0)))
    actor = Actor(1, ring, np.zeros((8, 8), np.uint8), ramps, np.array([30.0, 20.0]), 16.0)
    frames, labels = render(scene_of(actor), np.random.default_rng(0))
    assert labels[0, 20, 30] == 0 and labels[0, 8, 30] == 1
    assert labels[0, 20, 58] == 0 and frames[0, 20, 58].tolist() == [128, 128, 128]
    assert frames[0, 20, 42].tolist() == [0, 255, 0] and frames[0, 8, 30].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", sorted(SILHOUETTES))
def test_every_silhouette_fills_its_frame(name):
    rng = np.random.default_rng(4)
    for _ in range(5):
        points = np.concatenate([o for part in SILHOUETTES[name](rng) for o in part.outlines])
        assert np.isfinite(points).all() and np.abs(points).max() < 1.7 and np.ptp(points, axis=0).max() > 0.8


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_pattern_paints_between_its_colours(pattern):
    painted = texture(np.random.default_rng(1), (30, 41), pattern, [np.array([10.0, 20, 30]), np.array([90.0, 80, 70])])
    assert painted.shape == (30, 41, 3) and painted.dtype == np.uint8
    assert (painted >= (10, 20, 30)).all() and (painted <= (90, 80, 70)).all()


def test_noise_has_more_power_at_low_frequencies():
    noise = octave_noise(np.random.default_rng(0), (128, 128))
    power = np.abs(np.fft.fft2(noise)) ** 2
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128) * 128] * 2))
    bands = [power[(radius >= a) & (radius < 2 * a)].mean() for a in (2, 8, 32)]
    assert bands[0] > 5 * bands[1] > 25 * bands[2]
