"""Does an ensemble go all the ways that a bouncing glyph may go?

    rvdflow convert glyphs --size 32x32 --modes 3 --speed 0.6,1.2 --train 2000 --test 200 -o glyphs.zarr
    rvdflow train --data glyphs.zarr --minutes 20 -o runs/glyphs
    rvdflow forecast --checkpoint runs/glyphs --data glyphs.zarr --ensemble 16 --init-times 3 -o rvd.zarr
    python benchmarks/glyph_modes.py --data glyphs.zarr rvd.zarr [persistence.zarr ...] [--figure ways.png]

For every test clip whose glyph bounces once in time, each member is counted for one of the K futures, or as undecided
(rvdflow.video.coverage). The perfect model, draws from the true distribution, is counted alike. The figure shows one
case: the futures, and members of the first forecast.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.style import figure, pictures
from lbm.dataset import open_dataset, read_attributes
from rvdflow.streams import stream_seed
from rvdflow.video.coverage import Ways, expected_ways, ways
from rvdflow.video.glyphs import Glyphs, continuations, render, trajectory


def settings_of(attributes: dict[str, Any]) -> tuple[Glyphs, int]:
    """The law of the clips in a store, and their seed."""
    options = json.loads(attributes["config"])["options"]
    seed = options.pop("seed")
    options.pop("counts")
    for name in ("size", "digits", "speed", "probabilities"):
        options[name] = tuple(options[name]) if options[name] is not None else None
    return Glyphs(**options), seed


def cases(data: Any, drawn: Any, settings: Glyphs, seed: int) -> dict[tuple[int, int], Ways]:
    """The ways of each case (trajectory, init_time) of a forecast that has some."""
    found = {}
    for k in drawn["trajectory"].values:
        split, number = str(data["split"].values[k]), int(data["number"].values[k])
        path = trajectory(settings, stream_seed(seed, split), number)
        for t in drawn["init_time"].values:
            way = ways(settings, path, int(t), drawn.sizes["lead_time"])
            if way is not None:
                found[int(k), int(t)] = way
    return found


def count(name: str, known: dict[tuple[int, int], Ways], members: Any) -> None:
    """Print how many ways are met, and how members divide among them."""
    taken = [way.taken(members(case)) for case, way in known.items()]
    met = np.array([len(set(one[one >= 0])) for one in taken])
    decided = np.concatenate(taken)
    futures = max(len(way.probabilities) for way in known.values())
    shares = [np.mean(decided == k) for k in range(futures)]
    expected = np.mean(
        [expected_ways(way.probabilities, len(one)) for way, one in zip(known.values(), taken, strict=True)]
    )
    print(
        f"{name:16} {len(taken[0]):4d} members: {met.mean():.2f} of {futures} ways met (draws from the truth: "
        f"{expected:.2f}), two or more in {np.mean(met > 1):.0%} of cases; "
        f"ways {' '.join(f'{share:.0%}' for share in shares)}, undecided {np.mean(decided < 0):.0%}"
    )


def draw(way: Ways, members: np.ndarray, shown: int = 6) -> Any:
    """Rows: the futures and some members; columns: leads from just before the bounce on."""
    first = max(0, int(way.bounce) - 1)
    leads = np.unique(np.linspace(first, way.lead - 1, 7).astype(int))
    taken = way.taken(members)
    order = [int(np.flatnonzero(taken == k)[0]) for k in range(len(way.frames)) if (taken == k).any()]
    order += [m for m in range(len(members)) if m not in order]
    rows = [
        (f"way {k + 1} ({p:.0%})", one) for k, (p, one) in enumerate(zip(way.probabilities, way.frames, strict=True))
    ]
    rows += [
        (f"member {m + 1}: {'undecided' if taken[m] < 0 else f'way {taken[m] + 1}'}", members[m]) for m in order[:shown]
    ]
    with figure(1.1 * len(leads) + 2.4, 1.12 * len(rows) + 0.3) as drawing:
        grid = drawing.subplots(len(rows), len(leads), squeeze=False)
        for (label, frames), line in zip(rows, grid, strict=True):
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
            for axes, lead in zip(line, leads, strict=True):
                axes.imshow(frames[lead].squeeze(-1), cmap="gray", vmin=0, vmax=255)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
        for axes, lead in zip(grid[0], leads, strict=True):
            axes.set_title(f"lead {lead + 1}", fontsize=10, loc="center")
    return drawing


def main() -> None:
    """Print one row for each forecast, and one for draws from the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forecasts", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    data = open_dataset(options.data, chunks=None)
    settings, seed = settings_of(read_attributes(options.data))
    for file in options.forecasts:
        drawn = open_dataset(file, chunks=None)
        name = str(next(n for n, v in drawn.data_vars.items() if {"member", "y", "x"} <= set(v.dims)))
        known = cases(data, drawn, settings, seed)

        def members(case: tuple[int, int], drawn: Any = drawn, name: str = name) -> np.ndarray:
            picked = drawn[name].sel(trajectory=case[0], init_time=case[1])
            return picked.transpose("member", "lead_time", "y", "x", "channel").values

        if file == options.forecasts[0]:
            print(f"{len(known)} cases with a bounce in time, judged at leads {min(w.lead for w in known.values())} "
                  f"to {max(w.lead for w in known.values())}")  # fmt: skip

            def truth(case: tuple[int, int], drawn: Any = drawn) -> np.ndarray:
                path = trajectory(settings, stream_seed(seed, str(data["split"].values[case[0]])),
                                  int(data["number"].values[case[0]]))  # fmt: skip
                paths = continuations(
                    settings, path.at(case[1]), drawn.sizes["lead_time"], drawn.sizes["member"], seed=case[0]
                )
                return np.stack([render(settings, one) for one in paths])

            count("truth", known, truth)
            if options.figure is not None:
                middle = sorted(known, key=lambda case: known[case].bounce)[len(known) // 2]
                options.figure.write_bytes(pictures(draw(known[middle], members(middle)))[0])
        count(str(drawn.attrs.get("method", file.stem)), known, members)


if __name__ == "__main__":
    main()
