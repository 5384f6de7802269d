"""FVD: our I3D is the published architecture, both kinds of weight file are read, wrong ones are refused in a line."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from evaluation import DimensionError, EvaluationError
from evaluation.frechet import clip_distance
from evaluation.fvd import FILES, FvdNetwork, fvd, prepared
from evaluation.i3d import I3D, Maximum, Unit, same_padding
from evaluation.weights import Unavailable, sha256


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def random_i3d():
    torch.manual_seed(0)
    return I3D().eval()


class Detector(nn.Module):
    """Stands for the published TorchScript file: the same call, 400 averages over parts of the red channel."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert not rescale
        assert not resize
        assert return_features
        return nn.functional.adaptive_avg_pool2d(x[:, 0].mean(1), (20, 20)).flatten(1)


class Other(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Few(Detector):
    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        return x.mean((2, 3, 4))


def save_script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(module).save(str(path))
    return path


def clips(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def cells(x):
    """What `Detector` sees in clips (n, time, y, x) of 0..255 whose sides divide 20: exact averages."""
    with torch.inference_mode():
        return Detector()(prepared(torch.from_numpy(x.astype(np.float32) / 127.5 - 1)), False, False, True)


# The network


def test_parameters_are_those_of_the_published_network(random_i3d):
    assert sum(p.numel() for p in random_i3d.parameters()) == 12_697_264  # 400 classes, three channels
    shapes = {name: tuple(t.shape) for name, t in random_i3d.state_dict().items()}
    assert len(shapes) == 57 * 6 + 2  # 57 convolutions with normalisation, and the last with a bias
    facts = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Conv3d_1a_7x7.bn.running_var": (64,),
        "Conv3d_2b_1x1.conv3d.weight": (64, 64, 1, 1, 1),
        "Conv3d_2c_3x3.conv3d.weight": (192, 64, 3, 3, 3),
        "Mixed_3b.b0.conv3d.weight": (64, 192, 1, 1, 1),
        "Mixed_3b.b1a.conv3d.weight": (96, 192, 1, 1, 1),
        "Mixed_3b.b1b.conv3d.weight": (128, 96, 3, 3, 3),
        "Mixed_3c.b2b.bn.bias": (96,),
        "Mixed_4b.b0.conv3d.weight": (192, 480, 1, 1, 1),
        "Mixed_4f.b3b.conv3d.weight": (128, 528, 1, 1, 1),
        "Mixed_5b.b2a.conv3d.weight": (32, 832, 1, 1, 1),
        "Mixed_5c.b1b.conv3d.weight": (384, 192, 3, 3, 3),
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    assert facts.items() <= shapes.items()
    assert "logits.bn.weight" not in shapes
    assert "Mixed_3b.b0.conv3d.bias" not in shapes


@pytest.mark.parametrize("n", [5, 6, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
def test_padding_is_that_of_tensorflow(n, kernel, stride):
    front, back = same_padding([n], [kernel], [stride])
    outputs = (n + front + back - kernel) // stride + 1
    assert outputs == -(-n // stride)
    assert back - front in (0, 1)
    assert front + back == max((outputs - 1) * stride + kernel - n, 0)  # no cell more than is needed


def strided(x, weight, stride):
    """SAME convolution (channel, t, y, x) by definition, cell by cell."""
    sizes, kernel = x.shape[1:], weight.shape[2:]
    out = np.zeros((len(weight), *(-(-n // stride) for n in sizes)))
    front = [max((o - 1) * stride + k - n, 0) // 2 for o, k, n in zip(out.shape[1:], kernel, sizes, strict=True)]
    for place in np.ndindex(*out.shape[1:]):
        for offset in np.ndindex(*kernel):
            at = [p * stride + o - f for p, o, f in zip(place, offset, front, strict=True)]
            if all(0 <= a < n for a, n in zip(at, sizes, strict=True)):
                out[(slice(None), *place)] += weight[(slice(None), slice(None), *offset)] @ x[(slice(None), *at)]
    return out


@pytest.mark.parametrize(("kernel", "stride", "sizes"), [(7, 2, (5, 8, 9)), (3, 1, (2, 5, 4)), (3, 2, (4, 7, 3))])
def test_convolution_on_odd_sizes_equals_its_definition(kernel, stride, sizes):
    torch.manual_seed(0)
    unit = Unit(2, 3, kernel, stride, last=True).double()
    nn.init.zeros_(unit.conv3d.bias)
    x = torch.randn(1, 2, *sizes, dtype=torch.float64)
    with torch.inference_mode():
        got = unit(x)[0].numpy()
    np.testing.assert_allclose(got, strided(x[0].numpy(), unit.conv3d.weight.detach().numpy(), stride), atol=1e-12)


def test_maxima_on_odd_sizes_equal_their_definition():
    x = torch.rand(1, 1, 5, 7, 6, dtype=torch.float64)  # never negative, as after a ReLU
    for kernel, stride in (((3,) * 3, (2,) * 3), ((1, 3, 3), (1, 2, 2)), ((2,) * 3, (2,) * 3), ((3,) * 3, (1,) * 3)):
        got = Maximum(kernel, stride)(x)[0, 0].numpy()
        pads = np.array(same_padding(x.shape[2:], kernel, stride)[::-1]).reshape(3, 2)[:, ::-1]
        for place in itertools.product(*(range(n) for n in got.shape)):
            low = [p * s - front for p, s, (front, _) in zip(place, stride, pads, strict=True)]
            window = tuple(slice(max(a, 0), a + k) for a, k in zip(low, kernel, strict=True))
            assert got[place] == float(x[0, 0][window].max())


def test_clips_become_what_the_networks_want():
    grey, colour = torch.rand(10, 32, 64), torch.rand(10, 32, 64, 3)
    assert prepared(grey).shape == (1, 3, 10, 224, 224)
    torch.testing.assert_close(prepared(grey)[:, 0], prepared(grey)[:, 2])
    torch.testing.assert_close(prepared(colour)[0, 1], prepared(colour[..., 1])[0, 0])
    same = torch.rand(10, 224, 224)
    torch.testing.assert_close(prepared(same)[0, 0], same)


# Files


def test_a_state_dict_is_read_into_our_network(tmp_path, random_i3d):
    file = tmp_path / FILES[1]
    torch.save(random_i3d.state_dict(), file)
    network = FvdNetwork.load(file)
    clip = clips(1, 10, 16, 16)
    with torch.inference_mode():
        want = random_i3d(prepared(torch.from_numpy(clip[0].astype(np.float32) / 127.5 - 1)))
    got = network.features(clip)
    assert got.shape == (1, 400)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert sha256(file) in network.description
    classes = random_i3d.state_dict() | {"logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}
    torch.save(classes, file)
    with pytest.raises(EvaluationError, match=r"logits\.conv3d\.weight has shape \(600, .*wanted \(400,") as error:
        FvdNetwork.load(file)
    assert "\n" not in str(error.value)


def test_a_torchscript_file_is_called_as_published(tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    save_script(Detector(), folder / FILES[0])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = FvdNetwork.load()  # from the cache
    clip = clips(2, 10, 20, 20, 3)
    got = network.features(clip)
    np.testing.assert_allclose(got[1:], cells(clip[1]), atol=1e-6)
    assert sha256(folder / FILES[0]) in network.description
    again = pickle.loads(pickle.dumps(network))  # as sent to a worker
    np.testing.assert_array_equal(again.features(clip), got)
    as_float = network.features(clip / 255.0 - 3, value_range=(-3, -2))
    np.testing.assert_allclose(as_float, got, atol=1e-5)
    with_hole = clip.astype(float)
    with_hole[0, 3, 4, 5] = np.nan
    found = network.features(with_hole, value_range=(0, 255))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_wrong_files_are_refused_in_one_line(tmp_path):
    good = save_script(Detector(), tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(good[: len(good) // 2])
    (tmp_path / "page.pt").write_bytes(b"<html>not found</html>")
    torch.save({"lin0.model.1.weight": torch.zeros(1)}, tmp_path / "heads.pt")
    messages = {"cut": "damaged", "page": "damaged", "heads": r"Conv3d_1a_7x7\.conv3d\.weight is missing"}
    for name, message in messages.items():
        with pytest.raises(EvaluationError, match=message) as error:
            FvdNetwork.load(tmp_path / f"{name}.pt")
        assert "\n" not in str(error.value)
    for module, message in ((Other(), "not the FVD detector"), (Few(), r"returned \(1, 3\), wanted \(1, 400\)")):
        network = FvdNetwork.load(save_script(module, tmp_path / "other.pt"))
        with pytest.raises(EvaluationError, match=message) as error:
            network.features(clips(1, 10, 8, 8))
        assert "\n" not in str(error.value)


def test_without_weights_it_says_what_they_are_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"FVD: unavailable, no i3d_torchscript\.pt or i3d_pretrained_400\.pt in"):
        FvdNetwork.load()
    with pytest.raises(Unavailable, match="Kinetics-400"):
        FvdNetwork.load(tmp_path / "nowhere.pt")


def test_clips_too_short_or_of_unknown_range_are_refused():
    network = FvdNetwork(lambda x: x)
    with pytest.raises(EvaluationError, match="at least 10 frames, got 9"):
        network.features(clips(1, 9, 8, 8))
    with pytest.raises(EvaluationError, match="value_range"):
        network.features(np.zeros((1, 10, 8, 8)))
    with pytest.raises(EvaluationError, match="is needed"):
        network.features(clips(10, 8, 8))


# On labelled arrays

DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")


class Cells:
    """A network of a few numbers, repeated: fast, and its distances are known from `clip_distance`."""

    def __call__(self, x):
        part = nn.functional.adaptive_avg_pool2d(x[:, 0].mean(1), (2, 2)).flatten(1)
        return part.repeat(1, 100)


def case():
    values = clips(4, 2, 3, 10, 4, 6)
    forecast = xr.DataArray(values[:, :, 1:], dims=DIMS)
    return forecast, xr.DataArray(values[:, :, 0], dims=[d for d in DIMS if d != "member"])


def test_labelled_arrays_give_the_numbers_of_plain_ones():
    forecast, truth = case()
    network = FvdNetwork(Cells())
    found = fvd(forecast, truth, network=network, splits=2)
    f = network.features(forecast.values.reshape(-1, 10, 4, 6)).reshape(8, 2, 400)
    t = network.features(truth.values.reshape(-1, 10, 4, 6))
    expected = clip_distance(f, t, np.repeat(np.arange(4), 2), splits=2)
    for name, value in expected._asdict().items():
        assert float(found[name]) == pytest.approx(value, rel=1e-9)
    assert found.attrs["network"] == network.description
    lazy = fvd(forecast.chunk(init_time=1, lead_time=5), truth.chunk(trajectory=1), network=network, splits=2)
    assert lazy["distance"].chunks is not None
    xr.testing.assert_allclose(lazy.compute(), found, rtol=1e-9)


def test_walls_are_grey_in_both():
    forecast, truth = case()
    network = FvdNetwork(Cells())
    wall = xr.zeros_like(truth[0, 0, 0], dtype=bool)
    wall[:, :2] = True
    options = {"network": network, "value_range": (0, 255), "splits": 1}
    want = fvd(forecast.where(~wall, 127.5), truth.where(~wall, 127.5), **options)
    got = fvd(forecast.where(~wall, 7e7), truth.where(~wall), nan_policy="omit", **options)
    xr.testing.assert_allclose(got, want, rtol=1e-6)
    assert np.isnan(fvd(forecast.astype(float), truth.where(~wall), **options)["distance"])


def test_short_forecasts_and_other_dims_are_refused():
    forecast, truth = case()
    network = FvdNetwork(Cells())
    with pytest.raises(EvaluationError, match="at least 10 frames, got 9"):
        fvd(forecast.isel(lead_time=slice(9)), truth.isel(lead_time=slice(9)), network=network)
    with pytest.raises(DimensionError):
        fvd(forecast, truth.isel(lead_time=slice(9)), network=network)
    with pytest.raises(EvaluationError, match="at least 4 cases"):
        fvd(forecast[:1], truth[:1], network=network)
