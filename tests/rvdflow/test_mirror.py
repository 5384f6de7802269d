"""Reflected clips are solutions of the same equations, of the same flow, and the same for any division of a batch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lbm import dataset as store
from rvdflow.conditions import Conditions
from rvdflow.frames import Frames
from rvdflow.mirror import SIGNS, Mirror, obstruction
from rvdflow.networks import Batch
from rvdflow.normalisation import Normalisation, fit_normalisation

VARIABLES = ("vorticity", "velocity_x", "velocity_y", "density")


def normalisation(variables=VARIABLES):
    rng = np.random.default_rng(0)
    shift, scale = rng.normal(size=len(variables)), rng.uniform(0.5, 2, len(variables))
    return Normalisation("standard", variables, tuple(shift), tuple(scale))


def batch(frames, solid, by):
    """Physical frames (b, t, c, y, x) and masks (b, y, x) as a batch to train on."""
    values = by.apply(frames, solid[:, None, None]).astype(np.float32)
    return Batch(torch.from_numpy(values), Conditions().given(solid, np.zeros((len(solid), 0))))


def flow(rng, rows=3, height=6, width=8):
    """Periodic velocities, their vorticity, a density; masks (b, y, x)."""
    u, v, density = rng.normal(size=(3, rows, 2, height, width))
    vorticity = (np.roll(v, -1, -1) - np.roll(v, 1, -1)) / 2 - (np.roll(u, -1, -2) - np.roll(u, 1, -2)) / 2
    solid = rng.random((rows, height, width)) < 0.2
    return np.stack([vorticity, u, v, density], 2), solid


def test_a_reflected_clip_is_the_clip_of_the_reflected_flow():
    rng, by = np.random.default_rng(1), normalisation()
    physical, solid = flow(rng)
    vorticity, u, v, density = (physical[:, :, k, ::-1] for k in range(4))
    # The velocity field of the reflected flow, and its vorticity by the definition dv/dx - du/dy.
    u, v = u, -v
    curl = (np.roll(v, -1, -1) - np.roll(v, 1, -1)) / 2 - (np.roll(u, -1, -2) - np.roll(u, 1, -2)) / 2
    np.testing.assert_allclose(curl, -vorticity, atol=1e-12)
    expected = batch(np.stack([curl, u, v, density], 2), np.ascontiguousarray(solid[:, ::-1]), by)
    found = Mirror.of(by).reflect(batch(physical, solid, by), np.ones(3, bool))
    torch.testing.assert_close(found.frames, expected.frames, atol=1e-6, rtol=1e-6)
    assert torch.equal(found.given.fluid, expected.given.fluid)


def test_the_solver_agrees_about_the_signs(tmp_path):
    # The flow past a cylinder, and past the same cylinder on the other side of the axis.
    assert set(SIGNS) == set(VARIABLES)
    found = []
    for centre in (9.5, 13.5):
        path = tmp_path / f"{centre}.zarr"
        command = f"simulate -o {path} --size 24x48 --frames 2 --every 16 --warmup 600 --sides periodic --reynolds 10"
        command += f" --diameter 4 --set centre=[12,{centre}] --trajectories 1 --split 1,0,0 --quiet"
        command += f" --fields {','.join(VARIABLES)}"
        subprocess.run([sys.executable, "-m", "lbm", *command.split()], check=True)
        found.append(store.open_dataset(path, chunks=None))
    one, other = found
    for name in VARIABLES:
        values = one[name].values
        reflected = SIGNS[name] * other[name].values[..., ::-1, :]
        # Steady by then: the start, which is not symmetric, has decayed below float32's rounding of numbers near 1.
        np.testing.assert_allclose(values, reflected, rtol=0, atol=3e-7)
        if name != "density":
            assert np.abs(values + reflected).max() > 0.1 * values.std()  # the other sign would not do


def test_twice_reflected_is_as_before_and_others_stay():
    rng, by = np.random.default_rng(2), normalisation()
    once = batch(*flow(rng), by)
    mirror = Mirror.of(by)
    chosen = np.array([True, False, True])
    found = mirror.reflect(once, chosen)
    assert torch.equal(found.frames[1], once.frames[1])
    assert not torch.allclose(found.frames[0], once.frames[0])
    torch.testing.assert_close(mirror.reflect(found, chosen).frames, once.frames, atol=1e-6, rtol=1e-6)


def test_half_of_the_clips_are_reflected_whoever_holds_them():
    by = normalisation(("vorticity",))
    rng = np.random.default_rng(3)
    physical = rng.normal(size=(8, 1, 1, 2, 2))
    whole, mirror = batch(physical, np.zeros((8, 2, 2), bool), by), Mirror.of(by)
    changed = 0
    for step in range(200):
        mine = mirror.training(whole, seed=0, step=step, clips=8, rows=slice(None))
        parts = [
            mirror.training(whole.rows(a, a + 4), seed=0, step=step, clips=8, rows=slice(a, a + 4)) for a in (0, 4)
        ]
        assert torch.equal(mine.frames, torch.cat([part.frames for part in parts]))
        changed += int((mine.frames != whole.frames).flatten(1).any(1).sum())
    # 1600 tosses of a coin: 4 standard deviations are 80.
    assert abs(changed - 800) < 80


def test_what_is_not_symmetric_is_told(build, tmp_path):
    opened = store.open_dataset(build(tmp_path / "a.zarr"), chunks=None)
    frames = Frames(opened, ("vorticity",))
    assert obstruction(opened, frames, [0, 1]) == "obstacles do not lie symmetrically"
    frames.solid = np.zeros_like(frames.solid)
    assert obstruction(opened, frames, [0, 1]) is None
    spinning = opened.assign(spin=("trajectory", [0.0, 0.1, 0.0, 0.0]))
    assert obstruction(spinning, frames, [0, 1]) == "runs have a spin"
    assert obstruction(spinning, frames, [0, 2]) is None
    video = opened.rename(vorticity="brightness")
    assert "brightness is no variable of a flow" in (obstruction(video, Frames(video, ("brightness",)), [0]) or "")
    with pytest.raises(KeyError):
        Mirror.of(fit_normalisation(Frames(video, ("brightness",)), [0]))
