"""The host's attacks on a move: who was trained on? All score candidates, members higher."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.privacy.audit.membership import scores as row_space_scores

Scores = NDArray[np.float64]


def loaded(model: nn.Module, weights: Floats) -> nn.Module:
    """Return the model with the weights float32 [weights] in it."""
    model.load_state_dict(unflatten(weights, model.state_dict()))
    return model


def row_space(
    model: nn.Module, before: Floats, move: Floats, inputs: Floats, labels: Tensor, own: Floats
) -> Scores:
    """Score by how much of a sample lies in the row space of the first layer's move: float64 [N]."""
    del labels, before
    first = next(p for p in model.parameters() if p.dim() == 2)
    return row_space_scores(move[: first.numel()].reshape(first.shape), inputs, own)


def gradient_matching(
    model: nn.Module, before: Floats, move: Floats, inputs: Floats, labels: Tensor, own: Floats
) -> Scores:
    """Score by the match of a sample's own gradient with the move, as a cosine: float64 [N]."""
    del own
    loaded(model, before)
    x = torch.from_numpy(inputs)
    parameters = dict(model.named_parameters())
    whole = unflatten(-move, model.state_dict())

    def loss(weights: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        scores = torch.func.functional_call(model, weights, (one[None],))
        return F.cross_entropy(scores, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = []
    for at in range(0, len(x), 256):
        gradients = each(
            {n: p.detach() for n, p in parameters.items()}, x[at : at + 256], labels[at : at + 256]
        )
        flat = torch.cat([gradients[name].flatten(1) for name in parameters], 1)
        target = torch.cat([whole[name].reshape(-1) for name in parameters])
        found.append((flat @ target) / flat.norm(dim=1).clamp(min=1e-12))
    return torch.cat(found).double().numpy()


def loss_fallen(
    model: nn.Module, before: Floats, move: Floats, inputs: Floats, labels: Tensor, own: Floats
) -> Scores:
    """Score by how far the loss of a sample fell: float64 [N]."""
    del own
    fell = []
    for weights in (before, before + move):
        with torch.no_grad():
            scores = loaded(model, weights)(torch.from_numpy(inputs))
            fell.append(F.cross_entropy(scores, labels, reduction="none").double().numpy())
    fallen: Scores = fell[0] - fell[1]
    return fallen


Attack = Callable[[nn.Module, Floats, Floats, Floats, Tensor, Floats], Scores]
ATTACKS: dict[str, Attack] = {
    "row space": row_space,
    "gradient matching": gradient_matching,
    "loss fallen": loss_fallen,
}
"""Attacks by name: model, weights before, move, candidates [N, p], labels, the host's own samples [M, p]."""
