"""Muon: its matrices are close to the orthogonal factor, and it moves every direction alike."""

import pytest
import torch

from rvdflow.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (1, 9)])
def test_an_orthogonalised_matrix_has_the_directions_of_the_matrix_and_singular_values_near_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    assert found.shape == shape
    gains = torch.diagonal(u.T @ found @ vh.T)
    assert gains.min() > 0.6
    assert gains.max() < 1.3
    torch.testing.assert_close(found, u @ torch.diag(gains) @ vh, atol=1e-4, rtol=1e-4)  # nothing off the diagonal


def test_its_scale_does_not_matter():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalised(1e4 * matrix), orthogonalised(matrix), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(orthogonalised(torch.zeros(3, 4))).all()


def test_a_gradient_that_is_next_to_nothing_moves_next_to_nothing():
    # A gate that is shut has gradients of 1e-20: their squares are 0 in float32, they must not be taken for a norm.
    matrix = torch.randn(16, 200, generator=torch.Generator().manual_seed(1))
    for scale in (1e-14, 1e-20, 1e-25, 1e-40):
        moved = orthogonalised(scale * matrix)
        assert torch.isfinite(moved).all()
        assert moved.norm() < 1e12 * scale


def test_an_ill_conditioned_quadratic_is_descended_along_all_directions_alike():
    # loss = sum_i scale_i |w_i - target_i|^2 / 2: the gradient hardly sees the last rows, Muon moves them as fast.
    scale = torch.logspace(0, -2, 6)[:, None]
    target = torch.linalg.qr(torch.randn(12, 6, generator=torch.Generator().manual_seed(2)))[0].T  # orthonormal rows
    weight = torch.nn.Parameter(torch.zeros(6, 12))
    muon = Muon([weight], lr=0.05, momentum=0.5)
    for _ in range(10):
        muon.zero_grad()
        (0.5 * scale * (weight - target).square()).sum().backward()
        muon.step()
    moved = (weight.detach() * target).sum(1)
    assert moved.min() > 0.5 * moved.max() > 0.2


def test_convolutions_move_as_matrices_of_their_outputs_and_absent_gradients_stay():
    g = torch.Generator().manual_seed(3)
    first = torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=g))
    frozen = torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=g))
    before, kept = first.detach().clone(), frozen.detach().clone()
    gradient = torch.randn(4, 3, 3, 3, generator=g)
    first.grad = gradient.clone()
    Muon([first, frozen], lr=0.1, momentum=0.0, weight_decay=0.5).step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * orthogonalised(gradient.reshape(4, 27)).reshape(4, 3, 3, 3)
    torch.testing.assert_close(first.detach(), expected)
    assert torch.equal(frozen, kept)


def test_gates_in_one_weight_move_as_matrices_of_their_own_and_equal_shapes_do_not_mix():
    g = torch.Generator().manual_seed(4)
    fused = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
    other = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
    fused.grad, other.grad = (torch.randn(8, 3, 3, 3, generator=g) for _ in range(2))
    fused.grad[:4] *= 1e3  # would hide the other gate
    Muon([{"params": [fused, other], "matrices": 2}], lr=1.0, momentum=0.0).step()
    for weight in (fused, other):
        for gate in (slice(0, 4), slice(4, 8)):
            expected = -orthogonalised(weight.grad[gate].reshape(4, 27)).reshape(4, 3, 3, 3)
            torch.testing.assert_close(weight.detach()[gate], expected, atol=1e-5, rtol=1e-5)
