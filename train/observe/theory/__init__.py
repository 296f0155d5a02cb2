"""Predictions of mean-field theory for the signal at initialisation, layer by layer, forward and backward.

    chain_of(calls) -> Chain                        the layers in order of execution, from a recorded forward pass
    predict(chain, images) -> list of Expected       mean, std and relative gradient std at the output of every layer

The theory (Poole et al. 2016; Schoenholz et al. 2017; He et al. 2015 for ReLU; Yang et al. 2019 for batch norm) assumes many
channels, independent weights of mean 0 that are independent of the signal, and a network in training mode.
`train.observe.theory.recursion` has the formulas and their limits.
"""

from train.observe.contracts import Expected
from train.observe.theory.chain import chain_of
from train.observe.theory.gaussian import GaussianMoments, gaussian_moments
from train.observe.theory.recursion import predict
from train.observe.theory.stages import Activation, Chain, Dropout, Flatten, GlobalPool, Norm, Stage, Uncovered, Weighted, Window

__all__ = [
    "Activation",
    "Chain",
    "Dropout",
    "Expected",
    "Flatten",
    "GaussianMoments",
    "GlobalPool",
    "Norm",
    "Stage",
    "Uncovered",
    "Weighted",
    "Window",
    "chain_of",
    "gaussian_moments",
    "predict",
]
