"""Copies of a user's model, whose weights must be parameters of float32 on the CPU."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import prune

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.ops.local_ops import describe

UNDONE_BY = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm(module)",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm(module)",
}
"""The call that removes a hook that computes a weight, so that the weight is a parameter again."""

WRAPPED = {
    "OptimizedModule": "model._orig_mod, without torch.compile",
    "DataParallel": "its .module",
    "DistributedDataParallel": "its .module",
}
"""The module to give in place of one that wraps it, by the wrapper's class."""


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of the model. Raises UnsupportedModule if its weights are not float32, computed, or not
    there yet.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise UnsupportedModule(f"{name} has no shape yet; call the model on a batch first")
        numbers = tensor.is_floating_point() or tensor.is_complex()
        if tensor.device.type != "cpu" or (numbers and tensor.dtype is not torch.float32):
            raise UnsupportedModule(
                f"{name} is {tensor.dtype} on {tensor.device}, and programs train float32; give "
                "model.float().cpu()"
            )
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModule(
                f"{describe(name, module)} is compiled by TorchScript; give the nn.Module that it was made of"
            )
        if kind in WRAPPED and type(module).__module__.startswith("torch."):
            raise UnsupportedModule(f"{describe(name, module)} wraps a model; give {WRAPPED[kind]}")
        for hook in module._forward_pre_hooks.values():
            if remedy := _undone(hook):
                raise UnsupportedModule(
                    f"{describe(name, module)} computes its weight at every call ({type(hook).__name__}), "
                    f"and slices train weights as they are; call {remedy} first"
                )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a user's modules hold
        first = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise UnsupportedModule(
            f"{type(model).__name__} cannot be copied ({first}); its weights must be parameters, not computed"
        ) from error


def _undone(hook: object) -> str:
    """Return how a hook that computes a weight is removed; nothing for another hook."""
    if isinstance(hook, prune.BasePruningMethod):
        return "torch.nn.utils.prune.remove(module, 'weight')"
    return UNDONE_BY.get(type(hook).__name__, "")
