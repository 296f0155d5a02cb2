"""Objects from a checked configuration. This is the only module that resolves and calls a `_target_`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_method
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from train.config import Settings, check_call
from train.data.contracts import Dataset, Framed
from train.errors import UsageError
from train.parts.activation import ActivationName
from train.parts.activation import activation as activation_named
from train.parts.augment import Pipeline
from train.parts.contracts import ActivationFactory, Initializer, NormFactory, OwnInit, Schedule, Shape
from train.parts.kinds import parameter_kinds
from train.parts.optimizer import OptimizerFactory
from train.parts.regularization import Regularization, parameter_groups
from train.run.trust import ALLOWED_PACKAGES, is_allowed, trusted
from train.store.identity import current_target


class TrackedNorm:
    """A norm factory that remembers the types of the modules it made. `types` has no containers, unless they are all there is."""

    def __init__(self, make: NormFactory) -> None:
        self.make = make
        self.types: set[type[nn.Module]] = set()

    def __call__(self, channels: int) -> nn.Module:
        module = self.make(channels)
        types = {type(part) for part in module.modules()}
        self.types |= types if len(types) == 1 else types - {nn.Sequential, nn.Identity}
        return module

    def finish(self, model: nn.Module) -> None:
        """Change a model that was built with this norm, where the norm asks for it."""
        finish = getattr(self.make, "finish", None)
        if finish is not None:
            finish(model)


@dataclass(frozen=True)
class Parts:
    """The chosen ingredients of a run. None of them has read data or holds parameters yet."""

    dataset: Dataset
    pipeline: Pipeline
    init: Initializer
    norm: TrackedNorm | None
    activation: ActivationFactory | None
    regularization: Regularization
    optimizer: OptimizerFactory
    schedule: Schedule
    model_settings: Mapping[str, Any]
    input_shape: Shape

    def new_model(self) -> nn.Module:
        """Return a model on the default device with torch's default weights, drawn from the global generator."""
        model = call_target("model", self.model_settings, self.model_inputs(), self.model_offers())
        if self.norm is not None:
            self.norm.finish(model)
        return model

    def initialise(self, model: nn.Module, images: Tensor, generator: Generator) -> None:
        """Set the initial weights: those of the init, and what the model itself defines."""
        self.init(model, images, generator)
        if isinstance(model, OwnInit):
            model.finish_init(images)

    def new_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of the model's parameters, with weight decay where the regularization asks for it."""
        groups = parameter_groups(model, self.regularization)
        split = getattr(self.optimizer, "split", None)
        return self.optimizer(groups if split is None else split(groups, parameter_kinds(model)))

    def model_inputs(self) -> dict[str, Any]:
        return {
            "input_shape": self.input_shape,
            "classes": len(self.dataset.class_names),
            "norm": self.norm,
            "activation": self.activation,
            "dropout": self.regularization.dropout,
        }

    def model_offers(self) -> dict[str, Any]:
        """Return the arguments for models that have such a parameter."""
        return {"stochastic_depth": self.regularization.stochastic_depth}


def build(settings: Settings, dataset: Dataset | None = None) -> Parts:
    """Call the function of every choice. UsageError for the first invalid setting.

    `dataset`: stands for that of the choice, which is not made then.
    """
    parts = settings.parts
    if dataset is None:
        dataset = build_dataset(settings)
    if len(dataset.class_names) < 2:
        found = ", ".join(f"'{name}'" for name in dataset.class_names) or "none"
        raise UsageError(f"data._target_={parts['data']['_target_']}: training needs at least two classes, and it has {found}.")
    norm: NormFactory | None = call_target("norm", parts["norm"], {})
    pipeline = Pipeline([call_target(f"augment.{name}", node, {}) for name, node in parts["augment"].items()])
    made = Parts(
        dataset=dataset,
        pipeline=pipeline,
        init=call_target("init", parts["init"], {}),
        norm=None if norm is None else TrackedNorm(norm),
        activation=choose_activation(
            **check_call(choose_activation, "model", {"activation": parts["model"].get("activation")}, ())
        ),
        regularization=call_target("regularization", parts["regularization"], {}),
        optimizer=call_target("optimizer", parts["optimizer"], {}),
        schedule=call_target("schedule", parts["schedule"], {}),
        model_settings=parts["model"],
        input_shape=input_shape(dataset, pipeline),
    )
    refuse_depth(made)
    return made


def refuse_depth(parts: Parts) -> None:
    """Raise UsageError for stochastic depth in a model whose function has no such parameter."""
    target, depth = parts.model_settings.get("_target_"), parts.regularization.stochastic_depth
    if depth > 0 and "stochastic_depth" not in inspect.signature(locate("model", target)).parameters:
        name = str(target).rpartition(".")[2]
        raise UsageError(
            f"regularization.stochastic_depth={depth:g}: model={name} does not take it; a branch that it may have is dropped as "
            "its own recipe says, or never. Use model=resnet, resnet9 or fixup, or regularization.stochastic_depth=0."
        )


def build_dataset(settings: Settings) -> Dataset:
    """Return the chosen data set, which has read no images yet. UsageError for an invalid setting."""
    shared = {"root": settings.data.root, "workers": settings.data.workers, "verify": settings.data.verify}
    return call_target("data", settings.parts["data"], {}, offered=shared)


def input_shape(dataset: Dataset, pipeline: Pipeline) -> Shape:
    """Return the shape [C, H, W] of the model's inputs. The framing op, if any, sets the size of decoded image files."""
    if isinstance(dataset, Framed) and pipeline.framing is not None:
        return pipeline.rest.output_shape((dataset.shape[0], *pipeline.framing.size()))
    return pipeline.output_shape(dataset.shape)


def choose_activation(activation: ActivationName | None) -> ActivationFactory | None:
    """Return the factory that `model.activation` names; None (null) leaves the choice to the model."""
    return None if activation is None else activation_named(activation)


def call_target(group: str, node: Any, given: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Any:
    """Call the function that `node` names as `_target_` with the node's settings and the arguments `given`; return its result.

    Arguments in `offered` are passed only if the function has such parameters and the node has no such settings. UsageError for
    invalid settings.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(f"{group}: this choice names no function. Its YAML needs a line '_target_: package.module.function'.")
    function = locate(group, node["_target_"])
    accepted = inspect.signature(function).parameters
    passed = dict(given) | {name: value for name, value in (offered or {}).items() if name in accepted and name not in node}
    settings = {name: value for name, value in node.items() if name != "_target_" and name not in given}
    return function(**check_call(function, group, settings, passed), **passed)


def locate(group: str, target: Any) -> Any:
    """Import the function at a dotted path. UsageError, before any import, unless its package is allowed or trusted."""
    path = current_target(str(target))
    refuse_untrusted(group, target, path)
    try:
        function = get_method(path)
    except Exception as error:
        cause = error.__cause__ or error
        raise UsageError(f"{group}._target_={target}: this function cannot be imported ({cause}).") from None
    # Check where the function is defined, too: torch.nn.os.system is reachable through torch.nn.
    refuse_untrusted(group, target, str(getattr(function, "__module__", "")))
    return function


def refuse_untrusted(group: str, target: Any, path: str) -> None:
    """Raise UsageError when the dotted `path` lies outside the packages that may be called."""
    if not is_allowed(path, trusted()):
        package = path.partition(".")[0]
        raise UsageError(
            f"{group}._target_={target}: {path} is outside the packages that a configuration may call "
            f"({', '.join(ALLOWED_PACKAGES)}). If you trust this code, add trust={package} to the command line "
            f"(several: trust=[{package},...])."
        )
