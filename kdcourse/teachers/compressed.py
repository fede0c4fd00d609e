"""Uncompressed → compressed: pruned and quantised copies of a model, which the model then teaches.

>>> small = prune(model, sparsity=0.9)
>>> fit(small, train, CrossEntropy() + LogitKD(4), teacher=model, learning_rate=0.02)

Compression is a parametrisation of the weights (``torch.nn.utils.parametrize``): the optimiser
updates dense weights, and the layer sees them masked or rounded. So zeros stay zero in training,
and masks and scales are part of ``state_dict()``. (``torch.nn.utils.prune`` can do the same, but
its models cannot be copied after a forward pass.)
"""

import copy
import io
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as pruning
from torch.utils._pytree import tree_leaves

from kdcourse.batch import blaming_model, call
from kdcourse.checks import check_integer, check_number, check_values
from kdcourse.errors import ArgumentError
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import checked
from kdcourse.training.rules import check_weights

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@checked
class Mask(nn.Module):
    """Keeps some weights at zero."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.mask = nn.Buffer(mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@checked
class FakeQuantize(nn.Module):
    r"""Rounds weights to integers times a scale, :math:`s_c \cdot \{-q, …, q\}`, q = 2^{b−1} − 1.

    Each output channel c has a scale, chosen once for the smallest squared error of the initial
    weights. Gradients pass as if weights were not rounded, except where a weight is clipped.

    Args:
        weight: The initial weights ``(C, …)``.
        bits: Number of bits b.
    """

    def __init__(self, weight: Tensor, bits: int):
        super().__init__()
        check_integer("bits", bits, 2, 8)
        self.most = 2 ** (bits - 1) - 1
        self.scale = nn.Buffer(self._best_scale(weight.detach()))

    def forward(self, weight: Tensor) -> Tensor:
        return _rounded(weight, self.scale, self.most)

    def _best_scale(self, weight: Tensor) -> Tensor:
        rows = weight.float().flatten(1)
        largest = rows.abs().amax(dim=1) / self.most
        largest = torch.where(largest > 0, largest, 1.0)  # where a whole channel is pruned
        best, least = largest, torch.full_like(largest, torch.inf)
        for share in torch.linspace(0.2, 1.0, 33).tolist():
            scale = share * largest
            error = (_rounded(rows, scale, self.most) - rows).square().sum(dim=1)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
        return best


def round_input(layer: nn.Module, inputs: tuple[Tensor, ...], *, bits: int) -> tuple[Tensor, ...]:
    """Round a layer's input to 2^b levels between the least and largest value of each sample."""
    if not inputs:
        raise ArgumentError(
            "inputs", f"a quantised {type(layer).__name__} takes its input without a keyword"
        )
    first, *others = inputs
    if first.numel() == 0:
        return inputs
    flat = first.detach().float().flatten(1)
    known = flat.nan_to_num()  # a sample with NaN stays so, behind the layer
    low, high = known.amin(dim=1).clamp(max=0), known.amax(dim=1).clamp(min=0)
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-low / scale).round().to(torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(first.float(), scale, zero, 0, 0, levels)
    return torch.where(first.isfinite(), rounded.to(first.dtype), torch.nan), *others


@checked
def prune(model: nn.Module, sparsity: float) -> nn.Module:
    """Return a pruned copy: the smallest weights of all layers together are zero, and stay zero.

    The weights of linear and convolutional layers are ranked together by magnitude; biases and
    normalisation layers stay. A pruned model can be pruned further; a quantised one cannot.

    Args:
        model: Any module, which stays as it is.
        sparsity: Share of the weights to set to zero, in [0, 1).

    Raises:
        ValueError: ``sparsity`` is out of range, or there is nothing to prune.

    Source: Han et al. 2015 (arXiv 1506.02626).
    """
    check_number("sparsity", sparsity, 0.0, 1.0, open_high=True)
    if _is_quantized(model):
        raise ArgumentError("model", "the model is quantised: prune first, then quantise")
    _layers(model)
    pruned = fold(model).to(memory_format=torch.contiguous_format)  # the ranking flattens by view
    layers = _layers(pruned)
    pruning.global_unstructured(
        [(layer, "weight") for layer in layers], pruning.L1Unstructured, amount=float(sparsity)
    )
    for layer in layers:
        mask = layer.weight_mask.clone()
        pruning.remove(layer, "weight")
        parametrize.register_parametrization(layer, "weight", Mask(mask))
    return pruned


@checked
def prune_width(model: nn.Module, inputs: Tensor, share: float) -> nn.Module:
    """Return a narrower copy, from which the channels with the smallest weights are removed.

    The copy is an ordinary dense model, smaller and faster without any special kernel. Channels
    that depend on each other (shortcuts, batch norm, the next layer) are removed together;
    torch-pruning finds them by a run of the model.

    Args:
        model: Any module, which stays as it is.
        inputs: Example inputs ``(N, C, H, W)``.
        share: Share of the channels of every layer to remove, in [0, 1). The outputs of the model
            all stay.

    Source: Li et al. 2017 (arXiv 1608.08710); Fang et al. 2023 (arXiv 2301.12900).
    """
    import torch_pruning  # which nothing else needs, and a bare machine may not have

    check_number("share", share, 0.0, 1.0, open_high=True)
    check_values("inputs", inputs)
    _layers(model)
    narrow = fold(model)
    called: list[nn.Module] = []
    with evaluation_mode(narrow):
        with blaming_model("model", inputs, "inputs"), ExitStack() as hooks:
            for layer in _layers(narrow):
                hooks.enter_context(layer.register_forward_hook(lambda one, *_: called.append(one)))
            call(narrow, inputs, "model")
        torch_pruning.pruner.BasePruner(
            narrow,
            inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=float(share),
            ignored_layers=called[-1:],  # its channels are the classes
        ).step()
        try:
            found = _shapes(narrow(inputs))
        except Exception as error:  # whatever the model's own code makes of other widths
            raise ArgumentError(
                "model", f"the model, a {type(model).__name__}, cannot be narrowed: {error}"
            ) from error
        with evaluation_mode(model):
            expected = _shapes(model(inputs))
    if found != expected:
        raise ArgumentError(
            "model",
            f"the model, a {type(model).__name__}, cannot be narrowed: its outputs would have the "
            f"shapes {found}, not {expected}",
        )
    return narrow


def _shapes(outputs: object) -> list[tuple[int, ...]]:
    return [tuple(one.shape) for one in tree_leaves(outputs) if isinstance(one, Tensor)]


@checked
def quantize(model: nn.Module, bits: int = 8, activation_bits: int | None = 8) -> nn.Module:
    """Return a copy that computes with rounded weights and inputs, and can be trained further.

    The weights of linear and convolutional layers are rounded by channel (:class:`FakeQuantize`),
    their inputs by sample (:func:`round_input`). The arithmetic remains in floating point ("fake
    quantisation"), and shows what an integer kernel would compute. A pruned model may be quantised;
    zeros stay zero.

    Args:
        model: Any module, which stays as it is.
        bits: Number of bits of the weights, 2 to 8.
        activation_bits: Number of bits of the inputs, 2 to 8; None leaves them as they are.

    Source: Jacob et al. 2018 (arXiv 1712.05877).
    """
    for name, value in (("bits", bits), ("activation_bits", activation_bits)):
        if value is not None:
            check_integer(name, value, 2, 8)
    if _is_quantized(model):
        raise ArgumentError("model", "the model is quantised already")
    _layers(model)
    quantized = copy.deepcopy(model)
    for layer in _layers(quantized):
        rounding = FakeQuantize(layer.weight, bits)
        parametrize.register_parametrization(layer, "weight", rounding)
        if activation_bits is not None:
            layer.register_forward_pre_hook(partial(round_input, bits=activation_bits))
    return quantized


@checked
def fold(model: nn.Module) -> nn.Module:
    """Return a copy with ordinary weights, into which masks and rounding are folded.

    It computes the same: the inputs of a quantised model's layers are still rounded.
    """
    plain = copy.deepcopy(model)
    module: Any
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module, "weight"):
            # parametrize.remove_parametrizations would change the class, which the copy shares with
            # the original.
            learns = any(p.requires_grad for p in module.parametrizations.weight.parameters())
            weight = nn.Parameter(module.weight.detach().clone(), requires_grad=learns)
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module._parameters = {"weight": weight, **module._parameters}
    return plain


@checked
def count_nonzero(model: nn.Module) -> int:
    """Count the parameters that are not zero."""
    return sum(int(p.count_nonzero()) for p in fold(model).parameters())


@checked
def pack(model: nn.Module) -> dict[str, np.ndarray]:
    """Return weights and buffers as arrays to store, rounded weights as integers and scales.

    ``np.savez_compressed(path, **pack(model))`` writes them; :func:`unpack` restores them.
    """
    arrays = {name: _to_numpy(value) for name, value in fold(model).state_dict().items()}
    module: Any
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        rounding = module.parametrizations.weight[-1]
        if isinstance(rounding, FakeQuantize):
            weight = f"{name}.weight" if name else "weight"
            codes = module.weight.detach() / _by_channel(rounding.scale, module.weight)
            arrays[weight] = codes.round().to(torch.int8).cpu().numpy()
            arrays[f"{weight}:scale"] = _to_numpy(rounding.scale)
    return arrays


@checked
def unpack(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the ``state_dict()`` of the plain model that :func:`pack` has turned into arrays."""
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    for name in [name for name in state if name.endswith(":scale")]:
        scale, weight = state.pop(name), state[name.removesuffix(":scale")]
        state[name.removesuffix(":scale")] = weight.to(scale.dtype) * _by_channel(scale, weight)
    return state


@checked
def size_on_disk(model: nn.Module) -> int:
    """Return the size, in bytes, of the compressed file (npz) of a model's :func:`pack`."""
    file = io.BytesIO()
    np.savez_compressed(file, **pack(model))  # type: ignore[arg-type]
    return file.tell()


def _to_numpy(value: Tensor) -> np.ndarray:
    """Return an array; NumPy has no bfloat16."""
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()


def _is_quantized(model: nn.Module) -> bool:
    return any(isinstance(module, FakeQuantize) for module in model.modules())


def _by_channel(scale: Tensor, weight: Tensor) -> Tensor:
    """Reshape a scale per channel ``(C,)`` so that it broadcasts over weights ``(C, …)``."""
    return scale.view(-1, *(1,) * (weight.dim() - 1))


def _rounded(weight: Tensor, scale: Tensor, most: int) -> Tensor:
    scale = scale.float()
    zero = torch.zeros_like(scale)  # integers would be read, to be checked: a GPU is waited for
    rounded = torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -most, most)
    return rounded.to(weight.dtype)


def _layers(model: nn.Module) -> list[Any]:
    check_weights("model", model)
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    if not layers:
        kind = type(model).__name__
        raise ArgumentError("model", f"the model, a {kind}, has no linear or convolutional layer")
    for layer in layers:
        if not (parametrize.is_parametrized(layer, "weight") or "weight" in layer._parameters):
            raise ArgumentError(
                "model",
                f"the weight of {layer} is made by a hook (an old weight_norm or spectral_norm): "
                "take those of torch.nn.utils.parametrizations",
            )
    owners = [id(p) for m in model.modules() for p in m.parameters(recurse=False)]
    if len(set(owners)) < len(owners):
        raise ArgumentError(
            "model",
            "a weight of the model is in two layers, and would be compressed apart: untie them",
        )
    return layers
