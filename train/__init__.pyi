from train.evaluation.load import load as load
from train.listing.api import runs as runs

__version__: str
