"""How channels differ: a norm of each channel divides the gradient by that channel's variance, not by their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from train.observe.theory.stages import Norm, Weighted


def inverse_variance(norm: Norm, layer: Weighted, x: Tensor) -> Tensor:
    """E[1 / (V + eps)] [1 or N, 1, 1, 1], where V is the variance of one channel of `layer` for the images x [N, C, H, W].

    `norm`, of each channel, takes the variance over the batch or over each image. With Gaussian weights w and the covariance S
    of what the window sees, V = w' S w = sum_i a_i z_i^2, where a_i = var(w) times the i-th eigenvalue of S, so that

        E[1 / (V + eps)] = integral over t > 0 of exp(-eps t) prod_i (1 + 2 a_i t)^(-1/2)

    Neighbouring pixels are alike, so that few a_i matter and the result is far above 1 / E[V]. Deeper layers see so many
    channels that the theory takes V for its mean.
    """
    eigenvalues = layer.weight_variance * _eigenvalues(layer, x, norm.across_batch)
    total = eigenvalues.sum(dim=1, keepdim=True).clamp(min=1e-300)
    exponent = torch.linspace(-20, 30, 1000, dtype=torch.float64)
    t = exponent.exp() / total
    products = -0.5 * torch.log1p(2 * eigenvalues[:, :, None] * t[:, None, :]).sum(dim=1) - norm.eps * t
    return torch.trapezoid(t * products.exp(), exponent, dim=1)[:, None, None, None]


def _eigenvalues(layer: Weighted, x: Tensor, across_batch: bool) -> Tensor:
    """[1 or N, number]: of the covariance of the window's contents."""
    seen = layer.window.patches(x)
    if across_batch:
        seen = seen.transpose(0, 1).flatten(1)[None]
    seen = seen - seen.mean(dim=2, keepdim=True)
    places, samples = seen.shape[1:]
    gram = seen @ seen.mT if places <= samples else seen.mT @ seen
    return torch.linalg.eigvalsh(gram / samples).clamp(min=0)
