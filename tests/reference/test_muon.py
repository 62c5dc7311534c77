from __future__ import annotations

import numpy as np
import pytest

from steelyard.seeds import generator

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_orthogonalized_matrices_keep_singular_vectors_and_have_values_near_one(shape: tuple[int, int]) -> None:
    from steelyard.reference.muon import orthogonalize

    matrix = generator(0, str(shape)).standard_normal((1, *shape))
    result = orthogonalize(torch.from_numpy(matrix))[0].numpy()
    left, values, right = np.linalg.svd(matrix[0], full_matrices=False)
    inner = left.T @ result @ right.T
    # In the matrix' own singular basis the result is diagonal: the polynomial acts on the values alone.
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-6
    large = values / np.linalg.norm(values) > 0.02
    assert np.diag(inner)[large] == pytest.approx(1, abs=0.35)


def test_the_step_follows_the_equations() -> None:
    from steelyard.reference.muon import Muon, orthogonalize

    draw = generator(1, "muon")
    start = torch.from_numpy(draw.standard_normal((12, 4)))
    gradients = [torch.from_numpy(draw.standard_normal((12, 4))) for _ in range(3)]
    parameter = torch.nn.Parameter(start.clone())
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.2)
    expected, momentum = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + gradient
        direction = orthogonalize((gradient + 0.9 * momentum)[None])[0]
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * 3**0.5 * direction
    torch.testing.assert_close(parameter.detach(), expected)


def test_stacking_matrices_of_one_shape_changes_nothing() -> None:
    from steelyard.reference.muon import orthogonalize

    stack = torch.from_numpy(generator(2, "stack").standard_normal((3, 8, 20)))
    torch.testing.assert_close(orthogonalize(stack), torch.cat([orthogonalize(one[None]) for one in stack]))
