"""What holds for every method of two players: whom a loss moves, steps in turn, and going on after a stop."""

import copy

import pytest
import torch

from rvdflow.methods import method
from rvdflow.networks import Given
from rvdflow.noise import Draws, torch_generator

NONE = torch.zeros(0)  # the statistic of models that have none
TINY = {
    "retrogan": ({"width": 0.0625, "residual_blocks": 1, "frame_game": 0.3, "sequence_game": 0.3}, (16, 48)),
    "futuregan": ({"levels": 2, "width": 0.03125, "context_frames": 2, "future_frames": 2}, (16, 32)),
    "dvd-gan": ({"width": 0.0625, "latent": 8, "context_frames": 1, "future_frames": 3}, (32, 64)),
}
EVERY = pytest.mark.parametrize("name", TINY)


def _model(name, **changes):
    config, model_class = method(name)
    settings, (height, width) = TINY[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config(**{**settings, **changes}), channels=1, height=height, width=width).train()


def _clips(model, rows=2, seed=1):
    """Waves that move on, each with a phase of its own."""
    _, ny, nx = model.frame_shape
    phase = 6.3 * torch.rand(rows, 1, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    t = torch.arange(float(model.clip_frames))[:, None, None, None]
    wave = (0.5 * torch.arange(float(nx)) + 0.3 * torch.arange(float(ny))[:, None] - t + phase).sin()
    return 0.8 * wave


def _given(model, rows=2):
    return Given(torch.ones(rows, 1, *model.frame_shape[1:]), torch.zeros(rows, 0))


def _optimisers(model):
    return {
        player: torch.optim.Adam([p for _, p in model.player(player)], lr=1e-3, betas=model.published[player].betas)
        for player in model.players
    }


def _train(model, optimisers, first, stop, total=4):
    """Steps in turn, as a training does them: players in order, each as often as is published."""
    for step in range(first, stop):
        for player in model.players:
            for turn in range(model.turns.get(player, 1)):
                draws = Draws(torch_generator(0, "train", player, step, turn), 2)
                clips = _clips(model, seed=100 * step + turn)
                loss = model.losses(player, clips, _given(model), progress=step / total, draws=draws)["loss"]
                optimisers[player].zero_grad(set_to_none=True)
                loss.backward()
                optimisers[player].step()
                model.follow(NONE, 0, player)


@EVERY
def test_a_step_of_one_player_leaves_the_other_as_it_was(name):
    model = _model(name)
    optimisers = _optimisers(model)
    for player in model.players:
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        draws = Draws(torch.Generator().manual_seed(0), 2)
        model.zero_grad(set_to_none=True)
        model.losses(player, _clips(model), _given(model), progress=1.0, draws=draws)["loss"].backward()
        assert all(p.grad is None for key, p in model.named_parameters() if not key.startswith(player))
        assert all(p.requires_grad for p in model.parameters())
        optimisers[player].step()
        moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
        assert moved
        assert all(key.startswith(player) for key in moved)


@EVERY
def test_going_on_from_a_saved_state_gives_the_same_bits(name):
    model = _model(name)
    optimisers = _optimisers(model)
    _train(model, optimisers, 0, 2)
    again = _model(name)
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.zero_()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    others = _optimisers(again)
    for player, optimiser in optimisers.items():
        others[player].load_state_dict(copy.deepcopy(optimiser.state_dict()))
    _train(model, optimisers, 2, 4)
    _train(again, others, 2, 4)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@EVERY
def test_the_discriminator_finds_out_an_untrained_generator(name):
    """Its loss falls below what it is where real and fake have the same scores, on clips that it has not seen."""
    model = _model(name)
    optimiser = torch.optim.Adam([p for _, p in model.player("discriminator")], lr=5e-3, betas=(0.0, 0.99))

    def loss(seed):
        clips, draws = _clips(model, 4, seed), Draws(torch.Generator().manual_seed(seed), 4)
        return model.losses("discriminator", clips, _given(model, 4), progress=1.0, draws=draws)["loss"]

    for k in range(25):
        found = loss(k)
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        model.follow(NONE, 0, "discriminator")
    # Least squares: 2/6 of frames and 1/5 of clips are real, D = p is best: 2/9 + 4/25. Hinge: 2 and 2. Wasserstein,
    # with a gradient of length 0: 10.
    blind = {"retrogan": 2 / 9 + 4 / 25, "futuregan": 10.0, "dvd-gan": 4.0}[name]
    assert float(loss(99).detach()) < 0.7 * blind


@EVERY
def test_losses_can_be_taken_where_no_gradient_is_wanted(name):
    model = _model(name).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for player in model.players:
            draws = Draws(torch.Generator().manual_seed(0), 2)
            found = model.losses(player, _clips(model), _given(model), progress=0.4, draws=draws)
            assert all(value.isfinite() and not value.requires_grad for value in found.values())
            with pytest.raises(ValueError, match="no player"):
                model.losses("nobody", _clips(model), _given(model), progress=0.4, draws=draws)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@EVERY
def test_the_generator_gains_on_a_discriminator_that_stands_still(name):
    # Of RetroGAN the games alone, which here outweigh all else: its other losses would fall without a discriminator.
    model = _model(name, **({"frame_game": 100.0, "sequence_game": 100.0} if name == "retrogan" else {}))
    clips, adam = _clips(model), torch.optim.Adam([p for _, p in model.player("generator")], lr=2e-3, betas=(0.0, 0.99))
    found = []
    for _ in range(12):
        draws = Draws(torch.Generator().manual_seed(0), 2)  # the same noise each time
        losses = model.losses("generator", clips, _given(model), progress=1.0, draws=draws)
        adam.zero_grad(set_to_none=True)
        losses["loss"].backward()
        adam.step()
        model.follow(NONE, 0, "generator")
        game = losses["frame_game"] + losses["sequence_game"] if name == "retrogan" else losses["loss"]
        found.append(float(game.detach()))
    assert found[-1] < found[0] - 0.05
