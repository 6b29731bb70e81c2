"""A device that is not there: its tensors hold real values, and obey the rules of a GPU's.

An operation that mixes its tensors with those of the CPU fails, as it would on CUDA, and so does one with a random
generator of the other side; whatever makes the host wait for the device (a value read, rows counted, rows copied back)
is counted. Torch lets a process have one backend of its own, for good: use this in a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
ATEN = torch.ops.aten
CROSSING = {ATEN.copy_, ATEN._to_copy}
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_}
WAITING = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal, ATEN.bincount, ATEN._unique2}


class MixedDevicesError(Exception):
    """An operation got tensors, or a generator, of both sides."""


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class There(Tensor):
    """A tensor on the device. values: the one on the CPU that stands for its memory."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            values.stride(),
            values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Pretended.current.call(operator, args, kwargs or {})


class GeneratorThere(torch.Generator):
    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)


class Pretended(TorchDispatchMode):
    """Inside, the device `pretended` is there. waits: how often the host has waited for it."""

    current: Pretended

    def __init__(self) -> None:
        super().__init__()
        _setup_privateuseone_for_python_backend(NAME, Backend())
        self._cast_nothing = torch.library.Library("_", "IMPL")
        self._cast_nothing.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's data cannot change sides
        self.waits = 0
        self._generators: dict[int, torch.Generator] = {}  # by address: torch hands them on under another wrapper
        Pretended.current = self

    def generator(self, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
        """In place of `engine.seeding.generator`."""
        made = GeneratorThere() if torch.device(device).type == NAME else torch.Generator(device)
        if isinstance(made, GeneratorThere):
            self._generators[made._cdata] = made
        return made.manual_seed(seed)

    def __torch_dispatch__(self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(operator, args, kwargs or {})

    def call(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do `operator` on the CPU, and put what it gives where it belongs."""
        packet, given = operator.overloadpacket, tree_leaves((args, kwargs))
        here = any(isinstance(each, There) for each in given)
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        there = here if wanted is None else wanted == NAME
        self._check(operator, packet, given, args, here, there)
        if here and (packet in WAITING or (packet in CROSSING and wanted == "cpu")):
            self.waits += 1
        inner = {**tree_map(_values, kwargs), **({"device": torch.device("cpu")} if wanted else {})}
        with _disable_current_modes():
            result = operator(*tree_map(_values, args), **inner)
            if packet is ATEN._efficientzerotensor:  # forward derivatives begin with zeros that have no memory
                result = torch.zeros(result.shape, dtype=result.dtype)
        if not there:
            return result
        known = {id(_values(each)): each for each in given if isinstance(each, Tensor)}  # what was changed in place
        made = tree_map(lambda each: known[id(each)] if id(each) in known else _there(each), result)
        return return_and_correct_aliasing(operator, args, kwargs, made) if operator.is_view else made

    def _check(self, operator: Any, packet: Any, given: list[Any], args: Any, here: bool, there: bool) -> None:
        plain = [each for each in given if isinstance(each, Tensor) and not isinstance(each, There) and each.dim()]
        if packet in INDEXING and isinstance(args[0], There):
            indices = [each for each in args[1] if each is not None]
            if any(each is value for each in plain for value in args[2:]):
                raise MixedDevicesError(f"{operator} got values of the CPU")
            # torch takes these, at the price of a copy or of counting rows
            self.waits += any(each.dtype == torch.bool or not isinstance(each, There) for each in indices)
        elif here and plain and packet not in CROSSING:
            raise MixedDevicesError(f"{operator} got tensors of both devices")
        for generator in (each for each in given if isinstance(each, torch._C.Generator)):
            if (generator._cdata in self._generators) != there:
                raise MixedDevicesError(f"{operator} got a generator of the other device")


def _there(each: Any) -> Any:
    return There(each) if isinstance(each, Tensor) else each


def _values(each: Any) -> Any:
    return each.values if isinstance(each, There) else each
