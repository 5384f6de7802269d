"""What the pages on natural video print is what happens: commands exist, output is real, Python runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from lbm import cli, dataset
from rvdflow.cli import app

PAGES = Path(__file__).resolve().parents[3] / "docs/how-to"
NAMES = ("kth", "bair", "cityscapes", "own-video")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.M | re.S)


def own(folder):
    """Ten tiny videos."""
    av = pytest.importorskip("av")
    folder.mkdir()
    for k in range(10):
        with av.open(str(folder / f"shot{k}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for i in range(20 + k):
                picture = np.full((64, 96, 3), (9 * i + 20 * k) % 256, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            file.mux(stream.encode())


@pytest.mark.parametrize("page", NAMES)
def test_commands_of_the_page_exist(page):
    groups = {"lbm": typer.main.get_command(cli.app), "rvdflow": typer.main.get_command(app)}
    lines = [line for line in "".join(blocks(page, "bash")).splitlines() if not line.startswith("pip ")]
    assert len(lines) >= 4
    for line in lines:
        program, *words = shlex.split(line)
        command = groups[program]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line


@pytest.mark.parametrize("page", NAMES)
def test_options_in_the_text_exist(page):
    commands = typer.main.get_command(app).commands
    convert = commands["convert"].commands["video" if page == "own-video" else page]
    known = {option for c in (convert, commands["forecast"]) for p in c.params for option in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", (PAGES / f"{page}.md").read_text())) <= known


@pytest.mark.parametrize("page", NAMES)
def test_output_of_the_page_is_what_a_small_archive_gives(page, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rvdflow.video.convert._workers", lambda _: 1)
    if page == "own-video":
        own(Path("mine"))
    else:
        request.getfixturevalue(page)(Path(page))
    if page == "kth":
        video = Path("kth/person01_boxing_d1_uncomp.avi")
        video.write_bytes(video.read_bytes()[:-5000])
    (shown,) = (block for block in blocks(page, "text") if block.startswith("$ "))
    command, _, wanted = shown.partition("\n")
    answer = CliRunner().invoke(app, shlex.split(command)[2:])
    assert answer.exit_code == 0, answer.exception
    # Sizes hold compressed bytes and the names of versions.
    without = [re.sub(r"[\d.]+ MiB, took .*", "", text) for text in (answer.output, wanted)]
    assert sorted(without[0].splitlines()) == sorted(without[1].splitlines())


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own(Path("mine"))
    (code,) = blocks("own-video", "python")
    exec(code, {})
    assert dict(dataset.open_dataset("gray.zarr").sizes)["channel"] == 1
