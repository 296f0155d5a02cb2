"""Models: each choice takes `input_shape`, `classes`, `norm`, `activation`, `dropout` and its own settings, and returns a
module from images [N, C, H, W] to logits [N, K].

Common to all: a convolution or linear layer has a bias exactly where no norm follows it; every activation is a module of its
own; parts are counted from 1, and layers go by their module names (`stem.conv`, `stage2.block1.conv1`, `fc1`, `head`). Weights
are torch's defaults until `init` sets them. nn.Dropout modules exist only if `dropout` (the probability of zero) is above 0.
"""

from train.parts.model.airbench import airbench
from train.parts.model.convnet import convnet
from train.parts.model.fixup import fixup
from train.parts.model.mlp import mlp
from train.parts.model.plain import plain
from train.parts.model.resnet import resnet
from train.parts.model.resnet9 import resnet9
from train.parts.model.torchvision import torchvision

__all__ = ["airbench", "convnet", "fixup", "mlp", "plain", "resnet", "resnet9", "torchvision"]
