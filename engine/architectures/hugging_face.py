"""Image classifiers of transformers from a configuration, untrained, made to fit or refused with the reason."""

from __future__ import annotations

import importlib
import json
from typing import Any

from torch import Tensor, nn

from app.catalog import HuggingFaceParams
from engine.architectures import Size, fitting
from engine.checkpoints import FILE_NAMES
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError


def build(params: HuggingFaceParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """The classifier of `config` with `num_classes` outputs; it answers with logits alone.

    Its checkpoints have the names that the library writes, which may differ from those of its modules.

    Raises:
        ArchitectureError: the library cannot build it, or it cannot take such images.
    """
    kind = params.config["model_type"]

    def make() -> nn.Module:
        return _network(params, channels, num_classes)

    try:
        _config(params, channels, num_classes)
    except Exception as error:  # the library's own checks have many types
        reason = " ".join(str(error).split())[:300]
        raise ArchitectureError(f"transformers cannot build {kind} of this configuration: {reason}") from None
    key = ("hugging_face", json.dumps(params.config, sort_keys=True), channels, num_classes, size)
    fitting.require(key, f"{kind} of this configuration", make, channels, num_classes, size)
    model = make()
    setattr(model, FILE_NAMES, _written_names(model))
    return model


def _network(params: HuggingFaceParams, channels: int, num_classes: int) -> nn.Module:
    config = _config(params, channels, num_classes)
    model: nn.Module = _transformers().AutoModelForImageClassification.from_config(config)
    model.register_forward_hook(_logits)
    return model.train()


def _config(params: HuggingFaceParams, channels: int, num_classes: int) -> Any:
    own = params.network()
    kind = own.pop("model_type")
    if "num_channels" in own or channels != 3:
        own["num_channels"] = channels
    config = _transformers().AutoConfig.for_model(kind, num_labels=num_classes, **own)
    # Where the library has several classifiers of a kind, this is how it chooses; it wants a list.
    config.architectures = [name for name in [params.classifier()] if name is not None]
    return config


def _transformers() -> Any:
    import_torchvision()  # transformers imports it, which by itself may fail
    return importlib.import_module("transformers")


def _logits(_model: nn.Module, _inputs: tuple[Tensor, ...], outputs: Any) -> Tensor:
    logits: Tensor = outputs.logits
    return logits


def _written_names(model: nn.Module) -> dict[str, str]:
    """The names under which the library writes the tensors, where they differ, by those of its modules."""
    loading = importlib.import_module("transformers.core_model_loading")
    state = model.state_dict()
    written = {id(tensor): name for name, tensor in loading.revert_weight_conversion(model, dict(state)).items()}
    if not all(id(tensor) in written for tensor in state.values()):  # it joins or splits tensors: keep the own names
        return {}
    return {name: written[id(tensor)] for name, tensor in state.items() if written[id(tensor)] != name}
