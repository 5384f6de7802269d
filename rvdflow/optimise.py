"""One training step: losses, clipping, learning-rate schedule, averaged weights; what happens when numbers go bad.

In a step each player of a model takes its turns in order (see rvdflow.trainable), a gradient step each, on the same
clips with random numbers of its own. A residual diffusion has one player.

A step is the same, to rounding, however its clips are divided among processes and into parts: each part draws the rows
of its clips from the step's random numbers, and gradients, losses and statistics are averaged over all parts before
anything is done with them. They travel in one all-reduce, whatever number of forward passes made them and whichever
parameters have a gradient at all.

A turn whose loss or gradient is not finite, in any part, changes nothing on any rank, nor does what is left of its
step; the step is counted, and `max_bad_steps` of them in a row end the training. All noise of a turn comes from one
generator named by (seed, step, player, turn), so no state of a random generator needs saving.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lbm.errors import DataError, NumericalError, UsageError
from rvdflow.build import compile_networks
from rvdflow.layers import ConvGRU
from rvdflow.methods.recurrent import ConvLSTM
from rvdflow.muon import Muon
from rvdflow.networks import Batch
from rvdflow.noise import Draws, torch_generator
from rvdflow.ranks import Ranks
from rvdflow.train_config import TrainConfig
from rvdflow.trainable import Trainable


class Optimiser:
    """Trains `model`, and keeps its average, `average`.

    `step` counts the training steps done, skipped ones included; `skipped` those that ended before their last turn.
    UsageError when the batch does not divide among `ranks` and parts.
    """

    def __init__(self, model: Trainable, config: TrainConfig, device: torch.device, ranks: Ranks | None = None):
        self.ranks = ranks or Ranks()
        parts = self.ranks.size * config.accumulate
        if config.batch_size % parts:
            raise UsageError(
                f"batch_size {config.batch_size} does not divide among {self.ranks.size} processes "
                f"with accumulate = {config.accumulate}: choose a multiple of {parts}"
            )
        self.rows = config.batch_size // parts  # clips at a time
        self.model = model.to(device).train()
        self.config, self.device = config, device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.precision = _precision(config, device)
        if config.checkpoint_activations:
            forget_insides(model)
        if config.compile:
            compile_networks(self.model)
        self.weights = {name: model.player(name) for name in model.players}
        self.movers = {name: _optimisers(model, weights, config) for name, weights in self.weights.items()}
        self.optimisers = [mover for movers in self.movers.values() for mover in movers]
        self.step = self.skipped = self.bad_in_a_row = 0
        self.logged: dict[str, None] = {}  # names of what steps say; NaN of a player whose turn did not come

    @property
    def share(self) -> slice:
        """Which clips of a batch this rank takes."""
        mine = self.rows * self.config.accumulate
        return slice(self.ranks.rank * mine, (self.ranks.rank + 1) * mine)

    def advance(self, batch: Batch, progress: float) -> dict[str, float]:
        """One step on this rank's share of the batch, after a part `progress` (0 to 1) of the training.

        Returns the losses of the whole batch and the norm of its gradient; those of the player whose forecasts are
        wanted by their names, those of others with the player's name before them.
        """
        rate = self.config.learning_rate_at(progress, self.step)
        values, finite = {"learning_rate": rate}, True
        turns = [(name, k) for name in self.model.players for k in range(self.model.turns.get(name, 1))]
        for player, turn in turns:
            found, finite = self._turn(player, turn, batch, progress, rate)
            before = "" if player == self.model.forecasting() else f"{player}_"
            values |= {before + name: value for name, value in found.items()}
            if not finite:
                break
        self.logged |= dict.fromkeys(values)
        values = {**dict.fromkeys(("loss", "gradient_norm", *self.logged), math.nan), **values}
        if finite:
            self._update_average()
            self.bad_in_a_row = 0
        else:
            self._skip()
        self.step += 1
        return values

    def _turn(
        self, player: str, turn: int, batch: Batch, progress: float, rate: float
    ) -> tuple[dict[str, float], bool]:
        """One gradient step of `player`, unless its numbers are not finite; returns them, and whether they are."""
        rate = rate / self.config.learning_rate * self.model.rate_factor(player, progress)
        for mover in self.movers[player]:
            mover.zero_grad(set_to_none=True)
            for group in mover.param_groups:
                group["lr"] = mover.defaults["lr"] * rate
        losses, statistic = self._gradient(player, turn, batch, progress)
        norm = self._clip_gradient(player)
        finite = bool(torch.stack([norm, losses["loss"], statistic.sum()]).isfinite().all())
        if finite:
            for mover in self.movers[player]:
                mover.step()
            self.model.follow(statistic, self.step, player)
        return {**{name: float(value) for name, value in losses.items()}, "gradient_norm": float(norm)}, finite

    def _gradient(self, player: str, turn: int, batch: Batch, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Put the gradient of the whole batch into the player's parameters; returns its losses and its statistic."""
        config, parts = self.config, self.config.accumulate
        found = []
        names: tuple[str | int, ...] = () if len(self.model.players) == 1 else (player, turn)
        for k in range(parts):
            first, rows = k * self.rows, self.rows
            generator = torch_generator(config.seed, "train", self.step, *names, device=self.device)
            draws = Draws(generator, config.batch_size, self.share.start + first, rows)
            part = batch.rows(first, first + rows).to(self.device)
            with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                losses = self.model.loss(*part, player=player, progress=progress, draws=draws)
            (losses.values["loss"] / parts).backward()
            found.append(losses)
        logged = list(found[0].values)
        # A root mean square of parts is not the mean of theirs: squares are averaged.
        power = torch.tensor([2.0 if name.endswith("_rmse") else 1.0 for name in logged], device=self.device)
        if parts * self.ranks.size == 1:
            power = torch.ones_like(power)
        table = torch.stack([torch.stack([one.values[n].detach() for n in logged]) for one in found])
        values = (table**power).mean(0)
        statistic = torch.stack([one.statistic for one in found]).mean(0)
        self._average_over_ranks(player, values, statistic)
        return dict(zip(logged, values ** (1 / power), strict=True)), statistic

    def _average_over_ranks(self, player: str, *tensors: Tensor) -> None:
        """Replace the player's gradients, and `tensors`, by their means over all ranks."""
        if self.ranks.size == 1:
            return
        everything = [*(p.grad for _, p in self.weights[player] if p.grad is not None), *tensors]
        message = self.ranks.mean_(torch.cat([t.flatten() for t in everything]))
        for tensor, mean in zip(everything, message.split([t.numel() for t in everything]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def _clip_gradient(self, player: str) -> Tensor:
        limit = self.config.gradient_clip
        weights = [p for _, p in self.weights[player]]
        return nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit)

    def _skip(self) -> None:
        self.skipped += 1
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise NumericalError(
                f"loss or gradient was not finite in {self.bad_in_a_row} steps in a row, up to step {self.step + 1}: "
                "lower --learning-rate, then go on from the last checkpoint or start again"
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = self.config.ema_decay_at(self.step)
        if decay == 1:
            return
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, seen in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.lerp_(seen, 1 - decay) if self.model.average_buffers else kept.copy_(seen)

    def forecaster(self) -> Any:
        """A copy of the model with the weights that forecasts are made with."""
        model = copy.deepcopy(self.average)
        if self.config.forecast_weights == "last":
            model.load_state_dict(self.model.state_dict())
        return model

    def state(self) -> tuple[dict[str, int], dict[str, Any]]:
        """(numbers, tensors) that `restore` needs to go on to the same bits."""
        numbers = {"step": self.step, "skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row}
        raw = self.model.state_dict()
        tensors = {
            "weights": raw if self.config.forecast_weights == "last" else self.average.state_dict(),
            "average_weights": self.average.state_dict(),
            "raw_weights": raw,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        return numbers, tensors

    def restore(self, numbers: dict[str, int], tensors: dict[str, Any]) -> None:
        """Take up a saved state. DataError when it does not fit the network."""
        try:
            self.step, self.skipped = int(numbers["step"]), int(numbers["skipped"])
            self.bad_in_a_row = int(numbers["bad_in_a_row"])
            self.average.load_state_dict(tensors["average_weights"])
            self.model.load_state_dict(tensors["raw_weights"])
            for optimiser, state in zip(self.optimisers, tensors["optimisers"], strict=True):
                optimiser.load_state_dict(state)
        except Exception as error:
            raise DataError(
                f"the training state does not fit the network ({' '.join(str(error).split())[:200]})"
            ) from error


def _optimisers(
    model: nn.Module, weights: list[tuple[str, nn.Parameter]], config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """What moves a player's weights: one optimiser, or muon for the convolutions inside and adamw for all else."""
    parameters = dict(weights)
    inner = [name for name, weight in parameters.items() if weight.ndim == 4 and "head" not in name]
    adam = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
    settings: dict[str, Any] = {
        "lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay, "foreach": True
    }  # fmt: skip
    if config.optimiser != "muon" or not inner:
        return [adam(parameters.values(), **settings)]
    rest = [weight for name, weight in parameters.items() if name not in inner]
    gates = _gates(model)
    groups: dict[int, list[nn.Parameter]] = {}
    for name in inner:
        groups.setdefault(gates.get(name, 1), []).append(parameters[name])
    fused = [{"params": weights, "matrices": count} for count, weights in groups.items()]
    return [Muon(fused, lr=config.muon_rate), adam(rest, **settings)]


def _gates(model: nn.Module) -> dict[str, int]:
    """Names of weights that hold the gates of a recurrent unit one above the other, and how many."""
    return {
        f"{name}.{part}.weight": layer.out_channels // unit.channels
        for name, unit in model.named_modules()
        if isinstance(unit, ConvGRU | ConvLSTM)
        for part, layer in unit.named_children()
        if isinstance(layer, nn.Conv2d)
    }


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What the networks compute in; never float16, whose range the losses of rare noise levels leave."""
    if config.precision == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]


def forget_insides(model: Trainable) -> None:
    """Make each block keep its input alone for the gradient, and compute the rest again; networks draw no noise."""
    if not model.recomputed:
        raise UsageError(f"checkpoint_activations is not for {type(model).__name__}: leave it out")
    for module in model.modules():
        if isinstance(module, model.recomputed):
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            module.forward = again
