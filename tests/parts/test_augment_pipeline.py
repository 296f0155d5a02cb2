"""Several augmentations as one, and how they are chosen on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from train.parts import augment
from train.parts.contracts import Visit

CONF = Path(__file__).parents[2] / "conf"
IMAGES = torch.randint(0, 256, (16, 3, 32, 40), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pipeline_applies_ops_in_order():
    ops = [augment.multi_scale([12, 20], 10, 12, fit_to_data=False), augment.crop(), augment.erase()]
    pipeline, images = augment.Pipeline(ops), IMAGES
    draws = pipeline.draw(rng(), 16, (3, 32, 40))
    expected = images
    for index, op in enumerate(ops):
        expected = op.apply(expected, {key[2:]: value for key, value in draws.items() if key.startswith(f"{index}.")})
    assert pipeline.apply(images, draws).equal(expected)
    assert pipeline.output_shape((3, 32, 40)) == (3, 10, 10)
    assert pipeline.evaluate(images).equal(ops[0].evaluate(images))
    assert augment.Pipeline([]).apply(images, augment.Pipeline([]).draw(rng(), 16, (3, 32, 40))) is images


def test_pipeline_ops_draw_independently():
    shape = (3, 32, 32)
    short = augment.Pipeline([augment.flip(), augment.rotate()]).draw(rng(), 32, shape)
    long = augment.Pipeline([augment.erase(), augment.rotate(), augment.flip()]).draw(rng(), 32, shape)
    assert short["1.radians"].equal(long["1.radians"])


def test_pipeline_tells_the_visit_to_those_that_ask_alone():
    visit, shape = Visit(1, torch.tensor([3, 0, 5, 5]), 6, seed=9), (3, 32, 32)
    ops = [augment.flip(), augment.alternating_flip(), augment.rotate()]
    drawn = augment.Pipeline(ops).draw_for(rng(), visit, shape)
    known = augment.Pipeline(ops).draw(rng(), 4, shape)
    assert [key for key in known if not drawn[key].equal(known[key])] == ["1.flip"]
    first = torch.rand(6, generator=rng(9)) < 0.5
    assert drawn["1.flip"].tolist() == [not first[index] for index in (3, 0, 5, 5)]


def test_pipeline_separates_framing_from_rest():
    framing, flip = augment.multi_scale(), augment.flip()
    pipeline = augment.Pipeline([framing, flip])
    assert pipeline.framing is framing
    assert list(pipeline.rest.ops) == [flip]
    assert augment.Pipeline([flip]).framing is None
    assert list(augment.Pipeline([flip]).rest.ops) == [flip]


@pytest.mark.parametrize(
    ("override", "names"),
    [
        (None, ["crop", "flip"]),
        ("augment=none", []),
        ("augment=[flip,rotate,erase]", ["flip", "rotate", "erase"]),
        ("augment=[rotate,flip]", ["rotate", "flip"]),
        ("augment=lecture", ["multi_scale", "flip", "rotate", "color"]),
        ("augment=[lecture,erase]", ["multi_scale", "flip", "rotate", "color", "erase"]),
        ("augment.flip.p=0.3", ["crop", "flip"]),
        ("~augment.flip", ["crop"]),
    ],
)
def test_augment_choices_compose_on_the_command_line(tmp_path, override, names):
    primary = {"defaults": ["_self_", {"augment": "flip_crop"}], "augment": {}, "hydra": {"searchpath": [f"file://{CONF}"]}}
    OmegaConf.save(primary, tmp_path / "config.yaml")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", [override] if override else [])
    ops = instantiate(config.augment, _convert_="all")
    assert list(ops) == names
    for name, op in ops.items():  # the numbers in a YAML are the function's own defaults
        default = augment.flip(0.3) if override == "augment.flip.p=0.3" and name == "flip" else getattr(augment, name)()
        assert OmegaConf.create(vars(op)) == OmegaConf.create(vars(default))
