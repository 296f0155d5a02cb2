"""Variance differences between channels: a per-channel norm divides the gradient by its channel's variance, not their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from train.observe.theory.stages import Norm, Weighted


def inverse_variance(norm: Norm, layer: Weighted, x: Tensor) -> Tensor:
    """Return E[1 / (V + eps)] [1 or N, 1, 1, 1], where V is the variance of one channel of `layer` for images x [N, C, H, W].

    `norm` is a per-channel norm; it computes the variance over the batch or over each image. With Gaussian weights w and the
    covariance S of the window's contents, V = w' S w = sum_i a_i z_i^2, where a_i = var(w) times the i-th eigenvalue of S, so

        E[1 / (V + eps)] = integral over t > 0 of exp(-eps t) prod_i (1 + 2 a_i t)^(-1/2)

    Neighbouring pixels are correlated, so few a_i matter and the result is far above 1 / E[V]. Deeper layers have so many input
    channels that the theory replaces V by its mean.
    """
    eigenvalues = layer.weight_variance * _eigenvalues(layer, x, norm.across_batch)
    total = eigenvalues.sum(dim=1, keepdim=True).clamp(min=1e-300)
    exponent = torch.linspace(-20, 30, 1000, dtype=torch.float64)
    t = exponent.exp() / total
    products = -0.5 * torch.log1p(2 * eigenvalues[:, :, None] * t[:, None, :]).sum(dim=1) - norm.eps * t
    return torch.trapezoid(t * products.exp(), exponent, dim=1)[:, None, None, None]


def _eigenvalues(layer: Weighted, x: Tensor, across_batch: bool) -> Tensor:
    """Return the eigenvalues [1 or N, number] of the covariance of the window's contents."""
    patches = layer.window.patches(x)
    if across_batch:
        patches = patches.transpose(0, 1).flatten(1)[None]
    patches = patches - patches.mean(dim=2, keepdim=True)
    size, samples = patches.shape[1:]
    gram = patches @ patches.mT if size <= samples else patches.mT @ patches
    return torch.linalg.eigvalsh(gram / samples).clamp(min=0)
