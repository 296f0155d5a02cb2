"""The table of statistics is consistent, and tags are taken apart as they were put together."""

from __future__ import annotations

from train.tags import STATISTICS, join, layer_of, layers_of, measured, module_of, split


def test_names_and_charts_are_unique() -> None:
    assert len({statistic.name for statistic in STATISTICS}) == len(STATISTICS)
    assert len({(statistic.group, statistic.title) for statistic in STATISTICS}) == len(STATISTICS)


def test_levels_divide_the_table() -> None:
    assert measured("basic") < measured("full")
    assert measured("full") | measured("probe") == {statistic.name for statistic in STATISTICS}
    assert not measured("full") & measured("probe")
    assert measured("basic", "gradient_") == {"std"}


def test_split_takes_apart_what_join_puts_together() -> None:
    for layer in ("head", "stage1.act1#2", "a/b"):
        assert split(join("activation_std", layer)) == ("activation_std", layer)
    assert split("lr") == ("lr", "")


def test_layers_of_a_statistic_keep_the_order_of_the_tags() -> None:
    assert layers_of("weight_std", ["weight_std/b", "weight_std_of/c", "lr", "weight_std/a"]) == ["b", "a"]


def test_later_calls_of_a_module_are_layers_of_their_own() -> None:
    assert [layer_of("act", call) for call in range(3)] == ["act", "act#2", "act#3"]
    assert {module_of(layer_of("act", call)) for call in range(3)} == {"act"}
