"""Load the data of a run, and note what goes into it besides its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from train.config import Settings
from train.data.content import content_of
from train.data.contracts import Dataset, Splits
from train.data.split import keep_fraction, refuse_single_label, split_validation
from train.run.own_code import own_code
from train.store.inputs import Inputs


@dataclass(frozen=True)
class LoadedData:
    """The data of a run. `whole`: the splits as the data set gives them; `splits`: with the validation split."""

    dataset: Dataset
    whole: Splits
    splits: Splits

    @property
    def own_validation(self) -> bool:
        """Whether the data set brings a validation split."""
        return self.whole.val is not None

    def inputs(self, settings: Settings) -> Inputs:
        """Return what goes into the run: the content of its data, and the code of its parts, which are built already."""
        content = content_of(self.whole, self.dataset.class_names, settings.data.verify)
        return Inputs(content, own_code(settings.parts))


def load_data(settings: Settings, dataset: Dataset) -> LoadedData:
    """Load the data. UsageError for data that no run can train on."""
    whole = dataset.load()
    seed = settings.seeds.split
    splits = keep_fraction(split_validation(whole, settings.data.val_fraction, seed), settings.data.train_fraction, seed)
    refuse_single_label(splits.train, dataset.class_names)
    return LoadedData(dataset, whole, splits)
