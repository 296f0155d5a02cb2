"""Augmentations: `draw` draws the random numbers (CPU tensors, one draw per image), `apply` applies them (batched, on the
images' device). Each factory function here is one choice of the group `augment`; they compose in the order of the config.

`pixels`: color, erase, cutout. `geometry`: flip, alternating_flip, crop, rotate. `framing`: multi_scale. `policy`:
trivial_augment, rand_augment. `mixing`: mixup, cutmix. `pipeline`: several ops as one.
"""

from train.parts.augment.framing import MultiScale, multi_scale
from train.parts.augment.geometry import AlternatingFlip, Crop, Flip, Rotate, alternating_flip, crop, flip, rotate
from train.parts.augment.mixing import Cutmix, Mixup, cutmix, mixup
from train.parts.augment.op import TrainingOnly, as_float
from train.parts.augment.pipeline import Pipeline, draws_per_image, is_own, mixes, send
from train.parts.augment.pixels import Color, Cutout, Erase, color, cutout, erase
from train.parts.augment.policy import Policy, rand_augment, trivial_augment

__all__ = [
    "AlternatingFlip",
    "Color",
    "Crop",
    "Cutmix",
    "Cutout",
    "Erase",
    "Flip",
    "Mixup",
    "MultiScale",
    "Pipeline",
    "Policy",
    "Rotate",
    "TrainingOnly",
    "alternating_flip",
    "as_float",
    "color",
    "crop",
    "cutmix",
    "cutout",
    "draws_per_image",
    "erase",
    "flip",
    "is_own",
    "mixes",
    "mixup",
    "multi_scale",
    "rand_augment",
    "rotate",
    "send",
    "trivial_augment",
]
