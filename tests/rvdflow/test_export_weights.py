"""Exported weights: the same numbers to the bit, readable by others, refused when anything about them is not right."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch

import rvdflow
from lbm.dataset import open_dataset
from lbm.errors import DataError, UsageError
from rvdflow import checkpoint
from rvdflow.export_weights import DESCRIPTION, WEIGHTS, export, is_exported, read


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """An exported model that no test changes."""
    return export(trained, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of it to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (WEIGHTS, DESCRIPTION):
        (folder / name).write_bytes((exported / name).read_bytes())
    return folder


def _redescribe(folder, **changes):
    """Edit the description and make its own checksum agree, as a forger would."""
    described = json.loads((folder / DESCRIPTION).read_text()) | changes
    described.pop("description_sha256")
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    described["description_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(described))


# ------------------------------------------------------------------ what comes back


def test_weights_and_what_goes_with_them_come_back_to_the_bit(trained, exported):
    kept, found = checkpoint.read(checkpoint.find(trained)), read(exported)
    weights = kept.state["weights"]
    assert found.state["weights"].keys() == weights.keys()
    for name, value in found.state["weights"].items():
        assert (value.dtype, value.shape) == (weights[name].dtype, weights[name].shape)
        assert value.equal(weights[name]), name
    for name in ("config", "normalisation", "conditions", "data", "optimiser", "software", "validation_crps"):
        assert found.meta[name] == kept.meta[name]
    assert found.sha256 == kept.sha256


def test_forecasts_of_an_exported_model_are_those_of_its_run_to_the_bit(trained, exported, flow):
    asked = {"members": 3, "lead": 3, "cases": 2, "seed": 7}
    data = open_dataset(flow, chunks=None)
    before, after = (rvdflow.load(place, threads=1).forecast(data, **asked) for place in (trained, exported))
    np.testing.assert_array_equal(after["vorticity"].values, before["vorticity"].values)
    assert after.attrs["checkpoint_sha256"] == before.attrs["checkpoint_sha256"]


def test_other_programs_need_only_safetensors_and_json(trained, exported):
    from safetensors.torch import load_file

    described = json.loads((exported / DESCRIPTION).read_text(), parse_constant=pytest.fail)  # no NaN: strict JSON
    weights = load_file(exported / WEIGHTS)
    kept = checkpoint.read(checkpoint.find(trained))
    assert described["weights"]["sha256"] == hashlib.sha256((exported / WEIGHTS).read_bytes()).hexdigest()
    assert described["weights"]["numbers"] == sum(v.numel() for v in weights.values())
    assert described["inflation"] == float(weights["inflation"]) == kept.meta["inflation"]
    assert described["sampler"] == kept.meta["config"]["model"]["sampler"]
    assert described["checkpoint"] == {"file": "best.pt", "sha256": kept.sha256}
    assert "safetensors" in described["exported_with"]["versions"]


def test_an_exported_model_exported_again_is_the_same_model(trained, exported, tmp_path):
    again = export(exported, tmp_path / "again")
    assert (again / WEIGHTS).read_bytes() == (exported / WEIGHTS).read_bytes()
    assert read(again).meta == read(exported).meta


def test_weights_of_any_layout_and_scores_that_are_not_finite_are_kept(trained, tmp_path):
    kept = checkpoint.read(checkpoint.find(trained))
    base = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    weights = {
        "last": base.to(memory_format=torch.channels_last),
        "turned": base.transpose(1, 3),
        "shared": base[:, 1],
        "whole": torch.tensor(3),
        "half": base.to(torch.bfloat16),
    }
    path = tmp_path / "odd.pt"
    meta = {**kept.meta, "validation_crps": float("nan"), "validation_spread_skill": [1.0, float("inf")]}
    checkpoint.write(path, meta, {"weights": weights})
    found = read(export(path, tmp_path / "model"))
    for name, value in weights.items():
        assert found.state["weights"][name].dtype == value.dtype
        assert found.state["weights"][name].equal(value)
    assert (found.meta["validation_crps"], found.meta["validation_spread_skill"]) == (None, [1.0, None])


# ------------------------------------------------------------------ damage


def test_a_flipped_bit_is_refused_or_changes_nothing(exported, copy):
    """Every flip in the weights is refused; in the description, all but those that leave its meaning (1e-5, 1E-5)."""
    rng, whole, refused = np.random.default_rng(3), read(exported), {WEIGHTS: 0, DESCRIPTION: 0}
    for name in refused:
        content = (exported / name).read_bytes()
        for place, bit in zip(rng.integers(0, len(content), 40), rng.integers(0, 8, 40), strict=True):
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(bit)
            (copy / name).write_bytes(damaged)
            try:
                assert read(copy).meta == whole.meta
            except DataError:
                refused[name] += 1
        (copy / name).write_bytes(content)
    assert refused[WEIGHTS] == 40
    assert refused[DESCRIPTION] >= 38


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_files_cut_short_or_missing_are_refused(exported, copy, name):
    content = (exported / name).read_bytes()
    for k in range(20):
        (copy / name).write_bytes(content[: (len(content) - 2) * k // 20])
        with pytest.raises(DataError, match=name):
            read(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match="no such file: an exported model is"):
        read(copy)


def test_weights_of_another_model_are_refused(trained, exported, copy, tmp_path):
    other = export(checkpoint.step_files(trained / "checkpoints")[0], tmp_path / "other")
    (copy / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(DataError, match=r"not the file that model\.json describes"):
        read(copy)


def test_weights_that_do_not_fit_the_network_described_are_refused(exported, copy):
    described = json.loads((copy / DESCRIPTION).read_text())
    described["config"]["model"]["width"] = 8
    _redescribe(copy, config=described["config"])
    with pytest.raises(DataError, match="do not fit the network"):
        rvdflow.load(copy)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": "rvdflow exported model", "version": 1}', "[" * 100_000, '{"a": NaN}']
)
def test_what_is_not_a_description_is_refused(copy, text):
    (copy / DESCRIPTION).write_text(text)
    with pytest.raises(DataError, match=r"model\.json: not the description"):
        read(copy)


def test_a_later_version_of_the_format_is_refused_by_both_numbers(copy):
    _redescribe(copy, version=2)
    with pytest.raises(DataError, match="model version 2, this software reads rvdflow exported model version 1"):
        read(copy)


def test_a_pickle_in_place_of_the_weights_is_never_executed(copy, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"weights": Evil()}, copy / WEIGHTS)
    digest = hashlib.sha256((copy / WEIGHTS).read_bytes()).hexdigest()
    _redescribe(copy, weights={"file": WEIGHTS, "sha256": digest})
    with pytest.raises(DataError, match="not a safetensors file"):
        read(copy)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_without_weights_is_refused(trained, tmp_path):
    checkpoint.write(tmp_path / "none.pt", checkpoint.read(checkpoint.find(trained)).meta, {})
    with pytest.raises(DataError, match="holds no weights"):
        export(tmp_path / "none.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------ where it is written


def test_an_exported_model_is_replaced_only_when_asked_and_nothing_else_ever(trained, exported, copy, tmp_path):
    before = (copy / DESCRIPTION).read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        export(trained, copy)
    (copy / DESCRIPTION).write_bytes(before[:9])
    export(trained, copy, overwrite=True)
    assert read(copy).meta == read(exported).meta
    (copy / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(exported)
    (tmp_path / "file").write_text("mine")
    for place in (copy, trained, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(UsageError, match="is not an exported model"):
            export(trained, place, overwrite=True)
    assert (copy / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert is_exported(export(trained, tmp_path / "empty"))


def test_an_export_that_fails_leaves_what_was_there(trained, exported, copy, tmp_path, monkeypatch):
    content = {p.name: p.read_bytes() for p in copy.iterdir()}
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:  # the old one is aside, the new one about to take its place
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        export(trained, copy, overwrite=True)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == content
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_a_full_disk_leaves_nothing_behind(trained, tmp_path, rvdflow_process):
    code, _, errors = rvdflow_process("export", trained, "-o", tmp_path / "model", limit=20_000).wait()
    assert code == 5, errors
    assert "bytes needed" in errors
    assert len(errors.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_the_command_lines_export_forecast_and_tell(trained, flow, tmp_path, rvdflow_process):
    code, output, errors = rvdflow_process("export", trained, "-o", tmp_path / "model").wait()
    assert code == 0, errors
    assert output == f"wrote {tmp_path / 'model'}\n"
    written = []
    for place in (trained, tmp_path / "model"):
        target = tmp_path / f"{place.name}.zarr"
        arguments = ("--checkpoint", place, "--data", flow, "--lead", 2, "--ensemble", 2, "--threads", 1, "-o", target)
        code, _, errors = rvdflow_process("forecast", *arguments).wait()
        assert code == 0, errors
        written.append(open_dataset(target, chunks=None)["vorticity"].values)
    np.testing.assert_array_equal(*written)
    code, output, _ = rvdflow_process("info", tmp_path / "model", "--json").wait()
    assert (code, json.loads(output)["kind"]) == (0, "exported model")
