from train.evaluation.load import load as load

__version__: str
