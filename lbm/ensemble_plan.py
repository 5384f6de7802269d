"""Which runs of the solver make a perfect-model ensemble, and the states that they start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import dataset
from lbm.errors import DataError, UsageError

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

CHUNK_BYTES = 64 * 2**20  # of a chunk of the forecast


@dataclass(frozen=True)
class Plan:
    """Which runs of the solver make the ensemble. Cases are trajectories x init_times."""

    trajectories: tuple[int, ...]
    init_times: tuple[int, ...]
    members: int
    lead: int
    perturb: float  # root mean square of a disturbance, in units of U
    noise: bool  # other inflow noise after the state; else that of the truth
    seed: int
    fields: tuple[str, ...]
    frame_size: tuple[int, int]
    every: int  # ticks between frames

    @property
    def portion(self) -> int:
        """Members of a case that share a chunk of the store."""
        return max(1, min(self.members, CHUNK_BYTES // (4 * self.lead * math.prod(self.frame_size))))

    @property
    def nbytes(self) -> int:
        """Size of the forecast, uncompressed."""
        cases = len(self.trajectories) * len(self.init_times)
        return 4 * cases * self.members * self.lead * len(self.fields) * math.prod(self.frame_size)

    def settings(self) -> dict[str, Any]:
        """What a resume must find unchanged."""
        names = ("members", "lead", "perturb", "noise", "seed")
        lists = {"trajectories": list(self.trajectories), "init_times": list(self.init_times)}
        return {name: getattr(self, name) for name in names} | lists


class Truth:
    """A simulated dataset with saved states: `opened`, `config`, and the flow and the states of its trajectories."""

    def __init__(self, path: Path) -> None:
        from lbm.recording import stored_config

        self.path = path
        self.opened = dataset.open_dataset(path, chunks=None)
        self.config = stored_config(path)
        if "populations" not in self.opened:
            raise DataError(
                f"{path} has no saved states to start from: simulate it with --save-states 20 (one every 20 frames)"
            )

    def parameters(self, trajectory: int) -> FlowParameters:
        """The solver's parameters of one trajectory."""
        from lbm.recording import parameters

        return parameters(self.config, trajectory)

    def state(self, trajectory: int, init_time: int) -> dict[str, np.ndarray]:
        """What `Simulation.restore` takes."""
        place = self.opened["state_time"].values.tolist().index(init_time)
        saved = {name: self.opened[name][trajectory, place].values for name in ("state_outlet", "state_noise")}
        return {
            "tick": np.array(self.opened["tick"].values[init_time], np.int64),
            "populations": self.opened["populations"][trajectory, place].values,
            "outlet": saved["state_outlet"].astype(float),
            "noise": saved["state_noise"].astype(float),
        }

    def plan(
        self,
        members: int,
        lead: int,
        init_times: Sequence[int] | None,
        split: str | None,
        perturb: float,
        noise: bool,
        seed: int,
    ) -> Plan:
        """Choose the cases. Raises `UsageError` for settings that make no ensemble."""
        for name, value, least in (("members", members, 1), ("lead", lead, 1), ("seed", seed, 0)):
            if value < least:
                raise UsageError(f"{name} is {value}: at least {least}")
        if not 0 <= perturb <= 1:
            raise UsageError(f"perturb is {perturb:g}: a share of the inflow velocity, 0 to 1, such as 0.02")
        fields = tuple(str(n) for n, v in self.opened.data_vars.items() if v.dims == ("trajectory", "time", "y", "x"))
        runs = self._runs(split)
        flows = [self.parameters(k) for k in runs]
        if not perturb and not (noise and all(p.noise_streamwise or p.noise_transverse for p in flows)):
            why = "the inflow is steady" if noise else "the inflow noise is the truth's own"
            raise UsageError(
                f"{self.path}: all members would be equal ({why}, states are not disturbed): add --perturb 0.02"
            )
        return Plan(
            trajectories=tuple(runs),
            init_times=tuple(self._init_times(lead, init_times, max(_settled(p) for p in flows))),
            members=members,
            lead=lead,
            perturb=float(perturb),
            noise=noise,
            seed=seed,
            fields=tuple(sorted(fields)),
            frame_size=(self.opened.sizes["y"], self.opened.sizes["x"]),
            every=int(self.opened.attrs["frame_interval"]),
        )

    def _runs(self, split: str | None) -> list[int]:
        splits = self.opened["split"].values.tolist()
        runs = [k for k, name in enumerate(splits) if split in (None, "all", name)]
        if not runs:
            raise UsageError(f"{self.path} has no trajectory for {split!r}: choose from {', '.join(sorted({*splits}))}")
        return runs

    def _init_times(self, lead: int, wanted: Sequence[int] | None, settled: int) -> list[int]:
        ticks, frames = self.opened["tick"].values, self.opened.sizes["time"]
        saved = self.opened["state_time"].values.tolist()
        usable = [t for t in saved if t + lead < frames and ticks[t] >= settled]
        if not usable:
            raise UsageError(
                f"{self.path} has {frames} frames and states at {_list(saved)}: none has {lead} frames after it"
                f"{' and lies after the start of the flow' if settled else ''}: lower --lead"
            )
        times = usable if wanted is None else sorted(set(wanted))
        if wrong := [str(t) for t in times if t not in usable] if times else ["none"]:
            raise UsageError(f"init time {wrong[0]}: {self.path} can start from {_list(usable)}, with lead {lead}")
        return times

    def check_state(self, trajectory: int, init_time: int) -> None:
        """The state must give the frame that was stored with it, or the members would not be of its model."""
        from lbm.flow import Simulation

        simulation = Simulation(self.parameters(trajectory))
        simulation.restore(self.state(trajectory, init_time))
        size = (self.opened.sizes["y"], self.opened.sizes["x"])
        for name, ours in simulation.fields(("vorticity", "velocity_x", "velocity_y", "density"), size).items():
            if name in self.opened:
                stored = self.opened[name][trajectory, init_time].values
                # other processors round otherwise: a few units of the last place of the largest velocity
                if not np.allclose(ours, stored, rtol=1e-4, atol=1e-5):
                    raise DataError(
                        f"{self.path}: the state at frame {init_time} of trajectory {trajectory} does not give the "
                        f"{name} of that frame: it was written by another version of the solver; simulate it again"
                    )


def _settled(p: FlowParameters) -> int:
    """Tick after which the inflow depends on the seed through its noise alone: its starting pulse has passed."""
    from lbm.inflow import Inflow

    return math.ceil(p.startup + p.ramp_ticks + Inflow(p).pulse_length) if p.obstacles and p.ends == "open" else 0


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 6 else f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"
