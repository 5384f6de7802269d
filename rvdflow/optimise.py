"""One gradient step: loss, clipping, learning-rate schedule, averaged weights; what happens when numbers go bad.

A step is the same, to rounding, however its clips are divided among processes and into parts: each part draws the rows
of its clips from the step's random numbers, and gradients, losses and statistics are averaged over all parts before
anything is done with them. They travel in one all-reduce, whatever number of forward passes made them and whichever
parameters have a gradient at all.

A step whose loss or gradient is not finite, in any part, changes nothing on any rank; it is counted, and
`max_bad_steps` of them in a row end the training. All noise of a step comes from one generator named by (seed, step),
so no state of a random generator needs saving.
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
from rvdflow.layers import ConvGRU, LinearAttention, ResBlock
from rvdflow.muon import Muon
from rvdflow.networks import Batch
from rvdflow.noise import Draws, torch_generator
from rvdflow.ranks import Ranks
from rvdflow.train_config import TrainConfig


class Optimiser:
    """Trains `model`, which has `loss` and `follow` as a ResidualVideoDiffusion, and keeps its average, `average`.

    `step` counts the gradient steps done, skipped ones included; `skipped` those that changed nothing.
    UsageError when the batch does not divide among `ranks` and parts.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device, ranks: Ranks | None = None):
        self.ranks = ranks or Ranks()
        parts = self.ranks.size * config.accumulate
        if config.batch_size % parts:
            raise UsageError(
                f"batch_size {config.batch_size} does not divide among {self.ranks.size} processes "
                f"with accumulate = {config.accumulate}: choose a multiple of {parts}"
            )
        self.rows = config.batch_size // parts  # clips at a time
        self.model: Any = model.to(device).train()
        self.config, self.device = config, device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.precision = _precision(config, device)
        if config.checkpoint_activations:
            _forget_insides(model)
        if config.compile:
            compile_networks(self.model)
        self.optimisers = _optimisers(model, config)
        self.rates = [optimiser.defaults["lr"] for optimiser in self.optimisers]
        self.step = self.skipped = self.bad_in_a_row = 0

    @property
    def share(self) -> slice:
        """Which clips of a batch this rank takes."""
        mine = self.rows * self.config.accumulate
        return slice(self.ranks.rank * mine, (self.ranks.rank + 1) * mine)

    def advance(self, batch: Batch, progress: float) -> dict[str, float]:
        """One step on this rank's share of the batch, after a part `progress` (0 to 1) of the training.

        Returns the losses of the whole batch and the norm of its gradient.
        """
        rate = self.config.learning_rate_at(progress, self.step)
        for optimiser, full in zip(self.optimisers, self.rates, strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = full * (rate / self.config.learning_rate)
        losses, residual_square = self._gradient(batch, progress)
        norm = self._clip_gradient()
        finite = bool(torch.stack([norm, losses["loss"], residual_square.sum()]).isfinite().all())
        if finite:
            for optimiser in self.optimisers:
                optimiser.step()
            self.model.follow(residual_square, self.step)
            self._update_average()
            self.bad_in_a_row = 0
        else:
            self._skip()
        self.step += 1
        values = {name: float(value) for name, value in losses.items()}
        return {**values, "gradient_norm": float(norm), "learning_rate": rate}

    def _gradient(self, batch: Batch, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Put the gradient of the whole batch into the parameters; returns its losses and mean square residual."""
        config, parts = self.config, self.config.accumulate
        found = []
        for k in range(parts):
            first, rows = k * self.rows, self.rows
            generator = torch_generator(config.seed, "train", self.step, device=self.device)
            draws = Draws(generator, config.batch_size, self.share.start + first, rows)
            part = batch.rows(first, first + rows).to(self.device)
            with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                losses = self.model.loss(*part, progress=progress, draws=draws)
            (losses.values["loss"] / parts).backward()
            found.append(losses)
        names = list(found[0].values)
        # A root mean square of parts is not the mean of theirs: squares are averaged.
        power = torch.tensor([2.0 if name.endswith("_rmse") else 1.0 for name in names], device=self.device)
        if parts * self.ranks.size == 1:
            power = torch.ones_like(power)
        table = torch.stack([torch.stack([one.values[n].detach() for n in names]) for one in found])
        values = (table**power).mean(0)
        square = torch.stack([one.residual_square for one in found]).mean(0)
        self._average_over_ranks(values, square)
        return dict(zip(names, values ** (1 / power), strict=True)), square

    def _average_over_ranks(self, *tensors: Tensor) -> None:
        """Replace gradients, and `tensors`, by their means over all ranks."""
        if self.ranks.size == 1:
            return
        everything = [*(p.grad for p in self.model.parameters() if p.grad is not None), *tensors]
        message = self.ranks.mean_(torch.cat([t.flatten() for t in everything]))
        for tensor, mean in zip(everything, message.split([t.numel() for t in everything]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def _clip_gradient(self) -> Tensor:
        limit = self.config.gradient_clip
        return nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)

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
            kept.copy_(seen)  # running statistics are averages already

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


def _optimisers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """What moves the weights: one optimiser, or muon for the convolutions inside and adamw for all else."""
    parameters = dict(model.named_parameters())
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
    """Names of weights that hold the gates of a ConvGRU one above the other, and how many."""
    return {
        f"{name}.{part}.weight": layer.out_channels // unit.channels
        for name, unit in model.named_modules()
        if isinstance(unit, ConvGRU)
        for part, layer in unit.named_children()
        if isinstance(layer, nn.Conv2d)
    }


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What the networks compute in; never float16, whose range the losses of rare noise levels leave."""
    if config.precision == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]


def _forget_insides(model: nn.Module) -> None:
    """Make each block keep its input alone for the gradient, and compute the rest again; networks draw no noise."""
    for module in model.modules():
        if isinstance(module, ResBlock | ConvGRU | LinearAttention):
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            module.forward = again  # type: ignore[method-assign]
