"""Which worker checks which arm."""

from __future__ import annotations

from train.sweep.check import MIN_CONFIGS_PER_WORKER, groups_of_arms

FOLDER = "train.data.image_folder.image_folder"


def test_images_of_a_folder_are_listed_by_one_worker() -> None:
    arms = {f"a{number}": {"data": {"_target_": FOLDER, "root": "a", "size": number}} for number in range(30)}
    arms |= {f"n{number}": {"data": {"_target_": "train.data.noise.noise", "root": "a"}} for number in range(30)}
    arms |= {f"b{number}": {"data": {"_target_": FOLDER, "root": "b"}} for number in range(3)}
    first, second, *others = groups_of_arms(arms, workers=2)
    assert first == [f"a{number}" for number in range(30)]
    assert second == ["b0", "b1", "b2"]
    assert [len(group) for group in others] == [15, 15]
    assert sorted(id for group in others for id in group) == sorted(id for id in arms if id.startswith("n"))


def test_few_arms_take_one_worker_and_unreadable_data_are_not_grouped() -> None:
    arms = {f"n{number}": {"data": None} for number in range(MIN_CONFIGS_PER_WORKER)}
    assert groups_of_arms(arms, workers=4) == [list(arms)]
    assert groups_of_arms({}, workers=4) == []
