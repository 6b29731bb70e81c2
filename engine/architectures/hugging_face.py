"""Image classifiers of transformers from a configuration, untrained, made to fit or refused with the reason."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from app.catalog import HuggingFaceParams
from engine.architectures import Size, fitting
from engine.checkpoints import FILE_NAMES
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError

OWN = (
    "id2label", "label2id", "num_labels", "auto_map", "architectures", "_name_or_path", "transformers_version",
    "dtype", "torch_dtype", "return_dict", "output_attentions", "output_hidden_states", "torchscript",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "gradient_checkpointing",
    "use_return_dict",
)  # fmt: skip
"""Members of a configuration that the dataset's classes take the place of, or that say how the network is stored and
run, not what it is: here it is trained in float32 and answers with logits."""


def build(params: HuggingFaceParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """The classifier of `config` with `num_classes` outputs; it answers with logits alone.

    Its checkpoints have the names that the library writes, which may differ from those of its modules.

    Raises:
        ArchitectureError: the library cannot build it, or it cannot take such images.
    """
    import_torchvision()  # transformers imports it, which by itself may fail
    transformers = importlib.import_module("transformers")
    kind = params.config["model_type"]

    def make() -> nn.Module:
        config = _config(transformers, params.config, channels, num_classes)
        model: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
        model.register_forward_hook(_logits)
        return model.train()

    try:
        _config(transformers, params.config, channels, num_classes)
    except Exception as error:  # the library's own checks have many types
        reason = " ".join(str(error).split())[:300]
        raise ArchitectureError(f"transformers cannot build {kind} of this configuration: {reason}") from None
    key = ("hugging_face", json.dumps(params.config, sort_keys=True), channels, num_classes, size)
    fitting.require(key, f"{kind} of this configuration", make, channels, num_classes, size)
    model = make()
    setattr(model, FILE_NAMES, _written_names(model))
    return model


def _config(transformers: Any, given: Mapping[str, Any], channels: int, num_classes: int) -> Any:
    own = {name: value for name, value in given.items() if name not in OWN and name != "model_type"}
    if "num_channels" in own or channels != 3:
        own["num_channels"] = channels
    return transformers.AutoConfig.for_model(given["model_type"], num_labels=num_classes, **own)


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
