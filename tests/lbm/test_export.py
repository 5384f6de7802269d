"""Export to netCDF: everything comes back as it was, by the rules of the CF conventions, whole or not at all."""

import re
import subprocess
import sys
import tracemalloc

import netCDF4
import numpy as np
import pytest
import xarray as xr

from lbm import dataset
from lbm.errors import DataError, ResourceError, UsageError
from lbm.export import export

RUNS, TIMES, NY, NX = 3, 10, 6, 8
UNITS = {"vorticity": "1/tick", "velocity_x": "cells/tick"}


def flow_store(path, *, size=(NY, NX), times=TIMES, chunk=4, cells_per_pixel=2):
    ny, nx = size
    rng = np.random.default_rng(3)
    dims = ("trajectory", "time", "y", "x")
    variables = {n: dataset.Variable(dims, "float32", {"units": u}, (1, chunk, ny, nx)) for n, u in UNITS.items()}
    solid = np.zeros((RUNS, ny, nx), bool)
    solid[:, 2:4, 1:3] = True
    variables["solid"] = dataset.Variable(dims[:1] + dims[2:], "bool", {"long_name": "inside"}, values=solid)
    variables["strouhal"] = dataset.Variable(("trajectory",), "float64", {"units": "1"}, values=[0.2, np.nan, 0.21])
    state = (RUNS, 1, 9, 2 * NY, 2 * NX)
    variables["populations"] = dataset.Variable(
        ("trajectory", "state_time", "q", "cell_y", "cell_x"), "float32", {}, values=np.zeros(state, np.float32)
    )
    coords = {
        "trajectory": ("trajectory", np.arange(RUNS), {}),
        "time": ("time", np.arange(times), {"long_name": "frame"}),
        "tick": ("time", 64 * np.arange(times), {"units": "ticks"}),
        "split": ("trajectory", np.array(["train", "train", "test"]), {}),
        "reynolds": ("trajectory", np.full(RUNS, 200.0), {"units": "1"}),
    }
    sizes = {"trajectory": RUNS, "time": times, "y": ny, "x": nx, "state_time": 1, "q": 9}
    sizes |= {"cell_y": 2 * NY, "cell_x": 2 * NX}
    attrs = {"title": "a flow", "source": "lattice-Boltzmann simulation", "cells_per_pixel": cells_per_pixel}
    attrs |= {"history": "created by a test", "stable": True, "nothing": None, "sizes": [1, 2], "table": {"a": "b"}}
    with dataset.create(path, variables=variables, coords=coords, sizes=sizes, attrs=attrs) as writer:
        for name in UNITS:
            for run in range(RUNS):
                for start in range(0, times, chunk):
                    part = slice(start, min(start + chunk, times))
                    values = rng.standard_normal((part.stop - start, ny, nx))
                    writer.write(name, values.astype(np.float32), trajectory=run, time=part)
        for run in range(RUNS):
            writer.mark(trajectory=run, time=slice(0, times))
        writer.finish()
    return path


def forecast_store(path):
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    sizes = dict(zip(dims, (1, 2, 3, 4, NY, NX), strict=True))
    init, lead = np.array([3, 7]), np.arange(1, 5)
    coords = {
        "trajectory": ("trajectory", np.array([2]), {}),
        "init_time": ("init_time", init, {"units": "frames"}),
        "member": ("member", np.arange(3), {}),
        "lead_time": ("lead_time", lead, {"units": "frames"}),
        "valid_time": (("init_time", "lead_time"), init[:, None] + lead, {"units": "frames"}),
    }
    values = np.random.default_rng(4).standard_normal(tuple(sizes.values()), dtype=np.float32)
    fields = {"vorticity": dataset.Variable(dims, "float32", {"units": "1/tick"}, (1, 1, 3, 4, NY, NX), values=values)}
    attrs = {"title": "a forecast", "source": "test", "method": "perfect-model", "deterministic": False}
    with dataset.create(path, variables=fields, coords=coords, sizes=sizes, attrs=attrs) as writer:
        writer.array("cases_written")[...] = 1
        writer.finish()
    return path


def scores_store(path):
    sizes = {"method": 2, "trajectory": 1, "lead_time": 4}
    values = np.full((2, 1, 4), np.nan)
    values[0] = 1
    scores = {"crps": dataset.Variable(tuple(sizes), "float64", {"units": "(1/tick)^2"}, values=values)}
    coords = {
        "method": ("method", np.array(["rvd", "persistence"]), {}),
        "trajectory": ("trajectory", np.array([2]), {}),
        "lead_time": ("lead_time", np.arange(1, 5), {}),
    }
    with dataset.create(path, variables=scores, coords=coords, sizes=sizes, attrs={"title": "scores"}) as writer:
        writer.finish()
    return path


STORES = {"flow": flow_store, "forecast": forecast_store, "scores": scores_store}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each kind of store and its export."""
    folder = tmp_path_factory.mktemp("export")
    return {kind: (build(folder / f"{kind}.zarr"), export(folder / f"{kind}.zarr")) for kind, build in STORES.items()}


# ------------------------------------------------------------------ content


@pytest.mark.parametrize("kind", STORES)
def test_xarray_reads_back_what_was_stored(files, kind):
    """Warnings are errors in these tests, so opening is silent too."""
    store, file = files[kind]
    ours = dataset.open_dataset(store).drop_vars(["frames_written", "cases_written"], errors="ignore")
    with xr.open_dataset(file) as theirs:
        left_out = {"populations"} if kind == "flow" else set()
        assert set(ours.data_vars) - left_out == set(theirs.data_vars)
        assert set(ours.coords) == set(theirs.coords) - {"x", "y"}
        for name in (*theirs.data_vars, *ours.coords):
            assert theirs[name].dtype == ours[name].dtype, name
            assert theirs[name].dims == ours[name].dims
            np.testing.assert_array_equal(theirs[name].values, ours[name].values)


def test_coordinates_are_centres_of_pixels_in_cells(files):
    with xr.open_dataset(files["flow"][1]) as flow:
        # a pixel of 2 x 2 cells whose centres lie at 0 and 1
        assert flow["x"].values[:3].tolist() == [0.5, 2.5, 4.5]
        assert flow["y"].sizes == {"y": NY}
        assert flow["time"].values.tolist() == list(range(TIMES))


def test_chunks_are_those_of_the_store_and_compressed(files, tmp_path):
    with netCDF4.Dataset(files["flow"][1]) as nc:
        variable = nc["vorticity"]
        assert variable.chunking() == [1, 4, NY, NX]
        assert (variable.filters()["zlib"], variable.filters()["shuffle"]) == (True, True)
    plain = export(files["flow"][0], tmp_path / "plain.nc", compress=False)
    with netCDF4.Dataset(plain) as nc:
        assert nc["vorticity"].filters()["zlib"] is False


def test_trajectories_and_variables_can_be_chosen(files, tmp_path):
    store, _ = files["flow"]
    made = export(store, tmp_path / "part.nc", variables=["velocity_x"], trajectories=[2, 0])
    ours = dataset.open_dataset(store)
    with xr.open_dataset(made) as part:
        assert set(part.data_vars) == {"velocity_x", "solid"}
        assert part["trajectory"].values.tolist() == [0, 2]
        assert part["split"].values.tolist() == ["train", "test"]
        np.testing.assert_array_equal(part["velocity_x"].values, ours["velocity_x"].values[[0, 2]])
    made = export(files["forecast"][0], tmp_path / "forecast.nc", trajectories=[2])
    with xr.open_dataset(made) as forecast:
        assert forecast["trajectory"].values.tolist() == [2]
    state = export(store, tmp_path / "state.nc", variables=["populations"])
    with xr.open_dataset(state) as saved:
        assert saved["populations"].shape == (RUNS, 1, 9, 2 * NY, 2 * NX)


def test_equal_datasets_give_equal_files(files, tmp_path):
    store, file = files["flow"]
    again = export(store, tmp_path / "again.nc")
    assert again.read_bytes() == file.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.nc"]


# ------------------------------------------------------------------ conventions


def cf_problems(path):
    """Breaches of CF-1.11, written from the text of its conformance document, for the features that we use."""
    found = []
    with netCDF4.Dataset(path) as nc:
        if nc.Conventions != "CF-1.11":
            found.append("2.6.1 Conventions")
        found += [f"2.6.2 {name}" for name in ("title", "history") if not isinstance(nc.getncattr(name), str)]
        for name, v in nc.variables.items():
            text = v.dtype is str
            attrs = {key: v.getncattr(key) for key in v.ncattrs()}
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(set(v.dimensions)) < len(v.dimensions):
                found.append(f"2.3 name or 2.4 dimensions of {name}")
            if not text and v.dtype.str[1:] not in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
                found.append(f"2.2 type of {name}")
            if "_FillValue" in attrs and (np.asarray(attrs["_FillValue"]).dtype != v.dtype or name in nc.dimensions):
                found.append(f"2.5.1 _FillValue of {name}")
            # UDUNITS: only the dimensionless unit is used
            if not text and "flag_values" not in attrs and attrs.get("units") != "1":
                found.append(f"3.1 units of {name}: {attrs.get('units')}")
            if text and "units" in attrs:
                found.append(f"3.1 units of text {name}")
            # the standard name table: realization is dimensionless
            if attrs.get("standard_name", "realization") != "realization":
                found.append(f"3.3 standard_name of {name}")
            if "flag_values" in attrs:
                flags, meanings = np.asarray(attrs["flag_values"]), attrs["flag_meanings"].split()
                if flags.dtype != v.dtype or len(flags) != len(meanings) or not set(np.unique(v[:])) <= set(flags):
                    found.append(f"3.5 flags of {name}")
            if attrs.get("axis", "X") not in "XYZT" or ("axis" in attrs and v.dimensions != (name,)):
                found.append(f"4 axis of {name}")
            if name in nc.dimensions and v.dimensions == (name,) and not text and not (np.diff(v[:]) > 0).all():
                found.append(f"1.3 {name} is not monotonic")
            for related in attrs.get("coordinates", "").split() + attrs.get("ancillary_variables", "").split():
                if related not in nc.variables or not set(nc[related].dimensions) <= set(v.dimensions):
                    found.append(f"5 {related} of {name}")
            for axis in re.findall(r"(\w+):", attrs.get("cell_methods", "")):
                if axis not in v.dimensions:
                    found.append(f"7.3 cell_methods of {name}")
            found += [
                f"2.6 attribute {name}.{key} is {type(value)}"
                for key, value in attrs.items()
                if not isinstance(value, str) and np.asarray(value).dtype.kind not in "iuf"
            ]
    return found


@pytest.mark.parametrize("kind", STORES)
def test_files_follow_the_conventions(files, kind):
    assert cf_problems(files[kind][1]) == []


def test_the_check_finds_breaches(files, tmp_path):
    broken = tmp_path / "broken.nc"
    broken.write_bytes(files["flow"][1].read_bytes())
    with netCDF4.Dataset(broken, "a") as nc:
        nc["vorticity"].units = "1/tick"
        nc["vorticity"].coordinates = "tick nobody"
        nc["vorticity"].cell_methods = "lead: point"
        nc["solid"].flag_meanings = "fluid"
        nc["reynolds"].standard_name = "reynolds"
        nc["time"][3] = 9
    assert [line.split()[0] for line in sorted(cf_problems(broken))] == ["1.3", "3.1", "3.3", "3.5", "5", "7.3"]


def test_attributes_say_what_things_are(files):
    with netCDF4.Dataset(files["flow"][1]) as nc:
        vorticity, solid = nc["vorticity"], nc["solid"]
        assert (vorticity.units, vorticity.lattice_units) == ("1", "1/tick")
        assert set(vorticity.coordinates.split()) == {"tick", "split", "reynolds"}
        assert vorticity.ancillary_variables == "solid"
        assert vorticity.cell_methods == "time: point y: x: mean"
        assert (solid.dtype, solid.flag_values.tolist(), solid.flag_meanings) == ("i1", [0, 1], "fluid solid")
        assert (nc["x"].axis, nc["y"].axis) == ("X", "Y")
        assert nc.history.startswith("created by a test\n")
        assert "doi:" in nc.references
        assert (nc.stable, nc.sizes.tolist(), nc.table) == (1, [1, 2], '{"a": "b"}')
        assert not {"complete", "nothing", "schema_version"} & set(nc.ncattrs())
    with netCDF4.Dataset(files["forecast"][1]) as nc:
        assert nc["member"].standard_name == "realization"
        assert nc["vorticity"].coordinates == "valid_time"
        assert nc.deterministic == 0


# ------------------------------------------------------------------ whole or not at all


def test_memory_holds_a_chunk_not_the_dataset(tmp_path):
    store = flow_store(tmp_path / "large.zarr", size=(128, 256), times=40, chunk=8)  # chunks of 1 MiB, 30 of them
    export(store, tmp_path / "warm.nc", trajectories=[0])
    tracemalloc.start()
    export(store, tmp_path / "large.nc")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "large.nc").stat().st_size > 20 * 2**20
    assert peak < 10 * 2**20  # some copies of one chunk


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variables": ["pressure"]}, UsageError, "choose from populations, solid, strouhal, velocity_x, vorticity"),
        ({"variables": []}, UsageError, "choose from"),
        ({"trajectories": [1, 7]}, UsageError, "trajectory 7: .* has 0, 1, 2"),
        ({"trajectories": []}, UsageError, "trajectory none"),
        ({"output": "a.hdf"}, UsageError, "named .nc"),
        ({"output": "nowhere/a.nc"}, ResourceError, "does not exist"),
        ({"output": "there.nc"}, UsageError, "--overwrite"),
        ({"output": "folder.nc", "overwrite": True}, UsageError, "is a folder"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(files, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.nc").write_text("older")
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(error, match=message):
        export(files["flow"][0], **{"output": "a.nc"} | options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.nc", "there.nc"]
    assert (tmp_path / "there.nc").read_text() == "older"


def test_a_damaged_dataset_gives_no_file(tmp_path):
    store = flow_store(tmp_path / "flow.zarr")
    chunk = store / "vorticity" / "c" / "1" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        export(store, tmp_path / "flow.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["flow.zarr"]


def test_a_full_disk_leaves_the_older_file(files, tmp_path):
    store = flow_store(tmp_path / "flow.zarr", size=(64, 64), times=40, chunk=8)
    target = tmp_path / "flow.nc"
    target.write_text("older")
    code = (
        "import resource, sys, lbm.export as e\n"
        "from lbm.errors import ResourceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: e.export(sys.argv[1], overwrite=True)\n"
        "except ResourceError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
    assert str(target) in done.stdout
    assert target.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flow.nc", "flow.zarr"]
