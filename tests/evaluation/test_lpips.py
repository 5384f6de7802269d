"""LPIPS equals the `lpips` package on the same trunk, reads the published files, and says so when it cannot."""

import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr

from evaluation import DimensionError, EvaluationError, MissingValueError
from evaluation import lpips as module
from evaluation.lpips import FILES, Lpips, build_trunk, lpips, read_heads
from evaluation.weights import Unavailable, sha256

EXACT = 1e-6  # float32 sums in another order


def torch_lpips():
    """The package, which needs torchvision, which needs two operators that it lacks beside a CPU build of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            module.torchvision_schemas = library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import lpips as package
    return package


def random_state(trunk, seed=0):
    """A state dict as torchvision's, with random features and a classifier that nobody needs."""
    torch.manual_seed(seed)
    parts = build_trunk(trunk)
    state = {f"features.{k}": v for part in parts for k, v in part.state_dict().items()}
    return state | {"classifier.6.bias": torch.zeros(1000)}


def network(trunk="alex", **options):
    stages = build_trunk(trunk)
    state = random_state(trunk)
    for part in stages:
        part.load_state_dict({k: state[f"features.{k}"] for k in part.state_dict()})
    return Lpips(stages, read_heads(trunk)[0], trunk=trunk, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of torch wait for each other by spinning: on a busy machine one is faster than two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alex():
    return network()


def package_network(trunk):
    package = torch_lpips()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = package.LPIPS(net=trunk, pretrained=True, pnet_rand=True, verbose=False).eval()
    state = random_state(trunk)
    theirs.net.load_state_dict({k: state["features." + k.split(".", 1)[1]] for k in theirs.net.state_dict()})
    return theirs


def frames(*shape, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return values.astype(dtype)


def as_rgb(values):
    """(n, y, x[, 3]) of 0..255 -> (n, 3, y, x) in [-1, 1]."""
    x = torch.from_numpy(values.astype(np.float32)) / 127.5 - 1
    return x[:, None].repeat(1, 3, 1, 1) if x.ndim == 3 else x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("trunk", "colour"), [("alex", ()), ("alex", (3,)), ("vgg", ())])
def test_equals_the_lpips_package_on_the_same_trunk(trunk, colour):
    members, truth = frames(2, 2, 64, 68, *colour), frames(2, 64, 68, *colour, seed=1)
    theirs = package_network(trunk)
    with torch.no_grad():
        want = np.stack([theirs(as_rgb(m), as_rgb(truth)).ravel().numpy() for m in members])
    got = network(trunk).ensemble(members, truth)
    assert got.shape == (2, 2)
    assert want.min() > 0.01
    np.testing.assert_allclose(got, want, atol=EXACT, rtol=0)


def test_small_frames_are_enlarged_by_a_whole_factor(alex):
    members, truth = frames(2, 1, 24, 40), frames(1, 24, 40, seed=1)
    assert [alex.enlargement(y, x) for y, x in ((24, 40), (32, 64), (64, 64), (63, 500), (128, 128))] == [3, 2, 1, 2, 1]
    theirs = package_network("alex")

    def large(values):
        return torch.nn.functional.interpolate(as_rgb(values), scale_factor=3, mode="bilinear", align_corners=False)

    with torch.no_grad():
        want = np.stack([theirs(large(m), large(truth)).ravel().numpy() for m in members])
    np.testing.assert_allclose(alex.ensemble(members, truth), want, atol=EXACT, rtol=0)
    as_given = network(smallest=1)
    assert as_given.enlargement(40, 40) == 1
    with torch.no_grad():
        want = theirs(as_rgb(frames(1, 40, 40)), as_rgb(frames(1, 40, 40, seed=1))).item()
    got = as_given.ensemble(frames(1, 1, 40, 40), frames(1, 40, 40, seed=1))
    assert got[0, 0] == pytest.approx(want, abs=EXACT)


def test_equal_pictures_are_at_distance_zero_and_noise_drives_them_apart(alex):
    truth = frames(2, 64, 64).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    members = np.stack([truth + amount * noise for amount in (0, 5, 20, 60)])
    found = alex.ensemble(members, truth, value_range=(-50, 300))
    assert found[0].max() < 1e-10  # batches of different size round differently: 1e-6, squared
    assert (np.diff(found, axis=0) > 0).all()


def test_truth_passes_once_and_batches_change_nothing(alex, monkeypatch):
    members, truth = frames(4, 3, 64, 64), frames(3, 64, 64, seed=1)
    want = alex.ensemble(members, truth)
    seen = []
    features = Lpips.features
    monkeypatch.setattr(Lpips, "features", lambda self, x, r=None: seen.append(len(x)) or features(self, x, r))
    for pixels in (1, 64 * 64 * 2, 64 * 64 * 100):
        monkeypatch.setitem(module._PIXELS, "alex", pixels)
        seen.clear()
        np.testing.assert_allclose(alex.ensemble(members, truth), want, atol=EXACT, rtol=0)
        np.testing.assert_allclose(alex.ensemble(members[:2], truth), want[:2], atol=EXACT, rtol=0)
        assert sum(seen) == (4 + 1) * 3 + (2 + 1) * 3
        assert max(seen) <= max(pixels // 64**2, 1)


def test_values_are_mapped_to_black_and_white(alex):
    members, truth = frames(2, 1, 64, 64), frames(1, 64, 64, seed=1)
    want = alex.ensemble(members, truth)
    as_float = [a.astype(np.float64) * 3 - 7 for a in (members, truth)]
    got = alex.ensemble(*as_float, value_range=(-7, 255 * 3 - 7))
    np.testing.assert_allclose(got, want, atol=1e-5)
    beyond = np.where(as_float[0] == as_float[0].max(), 1e9, as_float[0])
    np.testing.assert_allclose(alex.ensemble(beyond, as_float[1], value_range=(-7, 255 * 3 - 7)), want, atol=1e-5)
    with pytest.raises(EvaluationError, match="float64 values need value_range"):
        alex.ensemble(*as_float)
    for bad in ((1, 1), (2, 1), (0, np.inf)):
        with pytest.raises(EvaluationError, match="the lower one first"):
            alex.ensemble(*as_float, value_range=bad)
    with pytest.raises(EvaluationError, match="do not fit"):
        alex.ensemble(members, truth[:, 1:])
    with pytest.raises(EvaluationError, match=r"\(lead, y, x, 3\)"):
        alex.ensemble(frames(2, 1, 64, 64, 2), frames(1, 64, 64, 2))


def test_threads_and_processes_share_a_network(alex):
    members, truth = frames(3, 1, 64, 64), frames(1, 64, 64, seed=1)
    want = alex.ensemble(members, truth)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: alex.ensemble(members, truth), range(8)):
            np.testing.assert_array_equal(got, want)
    again = pickle.loads(pickle.dumps(alex))
    np.testing.assert_allclose(again.ensemble(members, truth), want, atol=EXACT)
    assert again.description == alex.description


# Files of weights


def test_a_trunk_is_read_from_a_path_or_from_the_cache_and_its_hash_recorded(tmp_path, monkeypatch, alex):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = folder / FILES["alex"]
    torch.save(random_state("alex"), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    members, truth = frames(2, 1, 64, 64), frames(1, 64, 64, seed=1)
    for loaded in (Lpips.load(), Lpips.load(file), Lpips.load(str(file), trunk="alex")):
        np.testing.assert_array_equal(loaded.ensemble(members, truth), alex.ensemble(members, truth))
        assert sha256(file) in loaded.description
        assert "NOT the published file (7be5be79...)" in loaded.description  # random weights are not it
        assert "\n" not in loaded.description


def test_the_published_file_is_known_by_its_hash(tmp_path):
    from evaluation.weights import described

    file = tmp_path / FILES["alex"]
    assert described(file, "7be5be79" + 56 * "0").endswith("the published file")
    assert "NOT" in described(file, 64 * "0")
    assert "published" not in described(tmp_path / "own.pt", 64 * "0")
    assert "NOT" in described(tmp_path / "renamed.pth", 64 * "0", "7be5be79")


def test_without_weights_it_says_what_they_are_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for trunk, file in FILES.items():
        with pytest.raises(Unavailable, match=rf"LPIPS.*unavailable.*{file}.*torchvision") as error:
            Lpips.load(trunk=trunk)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(Unavailable, match=r"there is no file .*nowhere\.pth"):
        Lpips.load(tmp_path / "nowhere.pth")
    with pytest.raises(EvaluationError, match="unknown trunk 'resnet'"):
        Lpips.load(trunk="resnet")
    file = tmp_path / "trunk.pth"
    torch.save(random_state("alex"), file)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="install lpips"):
        Lpips.load(file)


def test_the_cache_is_where_pytorch_keeps_it(monkeypatch, tmp_path):
    from evaluation.weights import cache_folder

    for setting, value in (("TORCH_HOME", "a"), ("XDG_CACHE_HOME", "b")):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.setenv(setting, str(tmp_path / value))
        assert str(cache_folder()) == torch.hub.get_dir() + "/checkpoints"


def test_wrong_files_are_refused_in_one_line(tmp_path):
    good = random_state("alex")
    no_layer = {k: v for k, v in good.items() if k != "features.6.bias"}
    broken = good | {"features.3.weight": torch.full_like(good["features.3.weight"], torch.nan)}
    vgg = {k: torch.zeros(1, dtype=v.dtype).expand(v.shape) for k, v in random_state("vgg").items()}
    cases = {
        "heads": ({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, "holds no AlexNet trunk"),
        "vgg": (vgg, r"features\.0\.weight has shape \(64, 3, 3, 3\), wanted \(64, 3, 11, 11\)"),
        "layer": (no_layer, r"features\.6\.bias is missing"),
        "nan": (broken, "not finite"),
        "list": ([1, 2], "not the named tensors"),
        "empty": ({}, "not the named tensors"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(EvaluationError, match=message) as error:
            Lpips.load(tmp_path / name)
        assert not isinstance(error.value, Unavailable)
        assert "\n" not in str(error.value)
    torch.save(good, tmp_path / "good")
    whole = (tmp_path / "good").read_bytes()
    for name, content in {"cut": whole[:-1000], "half": whole[: len(whole) // 2], "text": b"<html>no</html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EvaluationError, match="damaged") as error:
            Lpips.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"features.0.weight": Evil()}, protocol=2))
    with pytest.raises(EvaluationError):
        Lpips.load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_the_heads_given_as_trunk_are_refused():
    import importlib.util

    folder = importlib.util.find_spec("lpips").submodule_search_locations[0]
    with pytest.raises(EvaluationError, match="holds no AlexNet trunk"):
        Lpips.load(f"{folder}/weights/v0.1/alex.pth")


def test_importing_the_modules_imports_neither_torch_nor_the_package():
    code = (
        "import sys, evaluation.lpips, evaluation.fvd, evaluation.frechet, evaluation.weights; "
        "print(sorted({'torch', 'torchvision', 'lpips', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# On labelled arrays

DIMS = ("trajectory", "member", "lead_time", "y", "x")


def case(dtype=np.float32):
    forecast = xr.DataArray(frames(2, 2, 3, 32, 40, dtype=dtype), dims=DIMS, coords={"lead_time": [1, 2, 3]})
    truth = xr.DataArray(frames(2, 3, 32, 40, dtype=dtype, seed=1), dims=[d for d in DIMS if d != "member"])
    return forecast, truth.assign_coords(forecast.coords)


def test_labelled_arrays_give_the_mean_over_members(alex):
    forecast, truth = case(np.uint8)
    found = lpips(forecast, truth, network=alex, dim="trajectory")
    want = [alex.ensemble(f, t).mean(0) for f, t in zip(forecast.values, truth.values, strict=True)]
    assert found.dims == ("lead_time",)
    np.testing.assert_allclose(found, np.mean(want, 0), atol=EXACT)
    assert found.attrs["enlarged"] == 2
    assert found.attrs["units"] == "1"
    assert found.attrs["network"] == alex.description
    weights = xr.DataArray([1.0, 3.0], dims="trajectory")
    weighed = lpips(forecast, truth, network=alex, dim="trajectory", weights=weights)
    np.testing.assert_allclose(weighed, 0.25 * want[0] + 0.75 * want[1], atol=EXACT)
    single = lpips(forecast.isel(member=0), truth, network=alex, member_dim=None, dim=())
    np.testing.assert_allclose(single[0], alex.ensemble(forecast.values[0, :1], truth.values[0])[0], atol=EXACT)


def test_lazy_arrays_of_any_chunks_and_order_give_the_same_numbers(alex):
    forecast, truth = case(np.uint8)
    want = lpips(forecast, truth, network=alex, dim=())
    got = lpips(forecast.chunk(lead_time=1, member=1, y=10), truth.chunk(trajectory=1, x=7), network=alex, dim=())
    assert got.chunks is not None
    xr.testing.assert_allclose(got.compute(), want, atol=EXACT)
    turned = lpips(forecast.transpose("x", "y", "member", ...), truth.transpose("y", ...), network=alex)
    xr.testing.assert_allclose(turned, want.mean(), atol=EXACT)


def test_colour_has_a_dimension_of_its_own(alex):
    dims = ("member", "lead_time", "y", "x", "channel")
    forecast = xr.DataArray(frames(2, 1, 64, 64, 3), dims=dims)
    truth = xr.DataArray(frames(1, 64, 64, 3, seed=1), dims=dims[1:])
    want = alex.ensemble(forecast.values, truth.values).mean()
    order = ("channel", "lead_time", "member", "y", "x")
    assert float(lpips(forecast.transpose(*order), truth, network=alex)) == pytest.approx(want, abs=EXACT)


def test_walls_are_grey_and_other_missing_values_count(alex):
    forecast, truth = case()
    wall = xr.zeros_like(truth[0, 0], dtype=bool)
    wall[8:14, 5:12] = True
    masked, options = truth.where(~wall), {"network": alex, "value_range": (0, 255), "dim": ()}
    want = lpips(forecast.where(~wall, 127.5), truth.where(~wall, 127.5), **options)
    got = lpips(forecast.where(~wall, 1e6), masked, nan_policy="omit", **options)
    xr.testing.assert_allclose(got, want, atol=EXACT)
    plain = alex.ensemble(forecast.values[0], truth.values[0], (0, 255), fluid=~wall.values)
    np.testing.assert_allclose(plain.mean(0), want[0], atol=EXACT)
    assert np.isnan(lpips(forecast, masked, **options)).all()
    with pytest.raises(MissingValueError):
        lpips(forecast, masked, nan_policy="raise", **options)
    holes = forecast.copy()
    holes[0, 1, 2, 3, 4] = np.nan
    assert int(np.isnan(lpips(holes, truth, **options)).sum()) == 1
    left = lpips(holes, truth, nan_policy="omit", **options)
    alone = lpips(forecast[:, :1], truth, **options)
    assert float(left[0, 2]) == pytest.approx(float(alone[0, 2]), abs=EXACT)


def test_nothing_is_broadcast(alex):
    forecast, truth = case(np.uint8)
    for wrong in (truth[:, :2], truth[0], truth.isel(x=slice(1)), truth.assign_coords(lead_time=[2, 3, 4])):
        with pytest.raises(DimensionError):
            lpips(forecast, wrong, network=alex)
    with pytest.raises(EvaluationError, match="space"):
        lpips(forecast, truth, network=alex, space=("lat", "lon"))
