"""From clips to scores by the same functions as for flow: convert, train, forecast, verify."""

import numpy as np
import properscoring
import pytest

import rvdflow
from lbm.dataset import open_dataset
from lbm.errors import DataError, UsageError
from rvdflow.forecast import forecast
from rvdflow.plan import published_cases
from rvdflow.train import train
from rvdflow.verify import verify
from rvdflow.video.convert import convert
from rvdflow.video.glyphs import Glyphs, MovingGlyphs

COUNTS = {"train": 12, "validation": 3, "test": 4}


def glyphs(path, **settings):
    source = MovingGlyphs(Glyphs(size=(16, 16), speed=(1, 2), frames=22, **settings), COUNTS)
    return convert(source, path, workers=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Coloured digits: 19 clips of 22 frames."""
    return glyphs(tmp_path_factory.mktemp("clips") / "glyphs.zarr", coloured=True)


@pytest.fixture
def run(tmp_path, clips, tiny):
    folder = tmp_path / "run"
    train(clips, folder, tiny(), threads=1, quiet=True)
    return folder


def test_published_cases_of_colour_clips_are_scored_in_grey_levels_of_every_channel(clips, run, tmp_path):
    cases = published_cases("rvd-bair")
    assert cases == {"context": 4, "lead": 16, "init_times": [3]}
    made = forecast(rvdflow.load(run, threads=1), clips, tmp_path / "f.zarr", members=3, quiet=True, **cases)
    drawn, truth = open_dataset(made), open_dataset(clips)
    assert drawn["frames"].dtype == truth["frames"].dtype == np.uint8
    assert drawn["trajectory"].values.tolist() == np.flatnonzero(truth["split"].values == "test").tolist()
    assert drawn["channel"].values.tolist() == ["red", "green", "blue"]

    scores = verify([made], clips, protocol="rvd-bair", families=["points"], lpips_weights=None, quiet=True)
    members = np.moveaxis(drawn["frames"].values[:, 0], 1, -1).astype(float)  # (case, lead, channel, y, x, member)
    seen = truth["frames"].values[drawn["trajectory"].values, 4:20].astype(float)
    independent = properscoring.crps_ensemble(seen, members).mean((1, 2, 3, 4))
    found = scores["crps"].isel(method=0, init_time=0).mean("lead_time")
    np.testing.assert_allclose(found, independent, rtol=1e-6)


def test_residuals_of_pictures_are_used_as_they_are_drawn(run):
    model = rvdflow.load(run, threads=1).model
    assert (float(model.inflation), float(model.memory)) == (1, 0)


def test_a_run_says_which_channels_it_was_trained_on(run):
    from rvdflow.info import describe
    from rvdflow.info_words import in_words

    assert "frames in red, green, blue on 16 x 16 pixels" in "\n".join(in_words(describe(run)))


def test_a_run_on_colour_refuses_gray_clips(run, tmp_path):
    gray = glyphs(tmp_path / "gray.zarr")
    with pytest.raises(DataError, match=r"trained on channels .*'red'.* the data has \['gray'\]"):
        forecast(rvdflow.load(run, threads=1), gray, tmp_path / "f.zarr", members=2, lead=4, context=4, quiet=True)


def test_a_protocol_without_cases_is_refused():
    with pytest.raises(UsageError, match="'rvd' names no cases: use rvd-kth, rvd-bair, rvd-cityscapes"):
        published_cases("rvd")
