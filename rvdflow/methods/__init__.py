"""Published video-forecasting networks, written anew from their papers: what residual video diffusion is compared with.

Each method is a configuration (a frozen pydantic model), presets of it, and a `rvdflow.methods.base.VideoModel`, the
one interface by which they are trained and forecast with:

    name         stochastic   context   published as
    svg-lp       yes          any       Denton & Fergus (2018), arXiv:1802.07687
    ivrnn        yes          fixed     Castrejon, Ballas & Courville (2019), arXiv:1904.12165
    convgru      no           any       the mean of Yang, Srivastava & Mandt (2023), arXiv:2203.09481, alone
    retrogan     no           fixed     Kwon & Park (2019), doi:10.1109/CVPR.2019.00191
    futuregan    no           fixed     Aigner & Koerner (2018), arXiv:1810.01325
    dvd-gan      yes          fixed     Clark, Donahue & Simonyan (2019), arXiv:1907.06571
    timegrad     yes          any       Rasul et al. (2021), arXiv:2101.12072, on coefficients of modes

A method's module is imported when it is asked for: `config, model = method("svg-lp")`. Names are there without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvdflow.methods.base import MethodConfig, VideoModel

# name -> module, class of its configuration, class of its model
METHODS: dict[str, tuple[str, str, str]] = {
    "svg-lp": ("svg_lp", "SvgLpConfig", "SvgLp"),
    "ivrnn": ("ivrnn", "IvrnnConfig", "Ivrnn"),
    "convgru": ("convgru", "ConvGruConfig", "ConvGruForecaster"),
    "retrogan": ("retrogan", "RetroGanConfig", "RetroGan"),
    "futuregan": ("futuregan", "FutureGanConfig", "FutureGan"),
    "dvd-gan": ("dvd_gan", "DvdGanConfig", "DvdGan"),
    "timegrad": ("timegrad", "TimeGradConfig", "TimeGrad"),
}
SIZES = ("small", "64", "128")  # of presets: for two cores, and as published for frames of so many pixels


def preset_names() -> dict[str, str]:
    """The method of each preset, by the preset's name."""
    return {f"{name}-{size}": name for name in METHODS for size in SIZES}


def method(name: str) -> tuple[type[MethodConfig], type[VideoModel]]:
    """The classes of a method's configuration and of its model. ValueError for a name that is none of METHODS."""
    module, config, model = _found(name)
    return getattr(module, config), getattr(module, model)


def presets(name: str) -> dict[str, dict[str, Any]]:
    """Named settings of a method: `<name>-64` and `<name>-128` as published, `<name>-small` for two cores."""
    return _found(name)[0].PRESETS


def training(name: str) -> dict[str, Any]:
    """How the preset `name` is trained: as published, or, on two cores, as `SMALL` of its module says."""
    of = preset_names()[name]
    module = _found(of)[0]
    if name.endswith("-small"):
        return module.SMALL
    model = method(of)[1]
    published = model.published[model.forecasting()]
    return {
        "optimiser": "adam",
        "learning_rate": published.learning_rate,
        "betas": published.betas,
        "weight_decay": published.weight_decay,
        "batch_size": published.batch_size,
        "schedule": published.schedule,
        "steps": published.steps,
        "ema_decay": published.ema_decay,
        "warmup_steps": 0,
        "gradient_clip": None,
        "precision": "float32",
        "checkpoint_every": 5000,
        "log_every": 100,
        "mirror": False,
    }


def _found(name: str) -> tuple[Any, str, str]:
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    module, config, model = METHODS[name]
    return import_module(f"rvdflow.methods.{module}"), config, model
