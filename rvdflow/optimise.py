"""One gradient step: loss, clipping, learning-rate schedule, averaged weights; what happens when numbers go bad.

A step whose loss or gradient is not finite changes nothing: weights, averages, optimiser and the network's running
statistics stay as they were; it is counted, and `max_bad_steps` of them in a row end the training.
All noise of a step comes from one generator named by (seed, step), so no state of a random generator needs saving.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lbm.errors import DataError, NumericalError
from rvdflow.noise import torch_generator
from rvdflow.train_config import TrainConfig


class Optimiser:
    """Trains `model` (anything with `loss(clip, step=, generator=)`) and keeps its average, `average`.

    `step` counts the gradient steps done, skipped ones included; `skipped` those that changed nothing.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device):
        self.model, self.config, self.device = model.to(device).train(), config, device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
        self.optimiser = kind(
            model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.step = self.skipped = self.bad_in_a_row = 0

    def advance(self, clip: Tensor) -> dict[str, float]:
        """One step on `clip` (batch, time, channel, y, x). Returns its losses and the norm of its gradient."""
        generator = torch_generator(self.config.seed, "train", self.step, device=self.device)
        rate = self.config.learning_rate_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        before = [buffer.clone() for buffer in self.model.buffers()]
        losses = self.model.loss(clip.to(self.device), step=self.step, generator=generator)  # type: ignore[operator]
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = float(self._clip_gradient())
        values = {name: float(value.detach()) for name, value in losses.items()}
        if math.isfinite(norm) and math.isfinite(values["loss"]):
            self.optimiser.step()
            self._update_average()
            self.bad_in_a_row = 0
        else:
            self._undo(before)
        self.step += 1
        return {**values, "gradient_norm": norm, "learning_rate": rate}

    def _clip_gradient(self) -> Tensor:
        limit = self.config.gradient_clip
        return nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)

    def _undo(self, before: list[Tensor]) -> None:
        with torch.no_grad():
            for buffer, old in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(old)
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

    def state(self) -> tuple[dict[str, int], dict[str, Any]]:
        """(numbers, tensors) that `restore` needs to go on to the same bits."""
        numbers = {"step": self.step, "skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row}
        tensors = {
            "weights": self.average.state_dict(),
            "raw_weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        return numbers, tensors

    def restore(self, numbers: dict[str, int], tensors: dict[str, Any]) -> None:
        """Take up a saved state. DataError when it does not fit the network."""
        try:
            self.step, self.skipped = int(numbers["step"]), int(numbers["skipped"])
            self.bad_in_a_row = int(numbers["bad_in_a_row"])
            self.average.load_state_dict(tensors["weights"])
            self.model.load_state_dict(tensors["raw_weights"])
            self.optimiser.load_state_dict(tensors["optimiser"])
        except Exception as error:
            raise DataError(
                f"the training state does not fit the network ({' '.join(str(error).split())[:200]})"
            ) from error
