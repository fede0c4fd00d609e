"""A batch as anybody's loader yields it, and a model as anybody has written it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from kdcourse import files
from kdcourse.errors import ArgumentError, ArgumentTypeError

Inputs = Any  # a tensor, or tensors in tuples, lists and dictionaries, each with N samples
Batch = tuple[Inputs, Tensor]
Given = Batch | tuple[Inputs, Tensor, Tensor] | Mapping[str, Any]  # what read_batch makes one from
Output = Callable[[Any], Tensor]  # finds the logits in what a model returns
TARGETS = ("labels", "label", "targets", "target", "y")  # names of the target in a dictionary
ANYTHING = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
LOGITS = ("logits", "out")  # names of the logits: transformers', and torchvision's for pixels


class SeparateViews(NamedTuple):
    """Inputs of which student and teacher each see their own.

    A ``DataLoader`` whose samples are ``(SeparateViews(own, theirs), target)`` yields such batches.
    Any other pair reaches both models whole.
    """

    student: Inputs
    teacher: Inputs


def views_of(inputs: Inputs) -> SeparateViews:
    """Return what the student and what the teacher sees."""
    return inputs if isinstance(inputs, SeparateViews) else SeparateViews(inputs, inputs)


class Weighted(NamedTuple):
    """Inputs that came with a weight for each place: batches ``(inputs, target, weight)``."""

    inputs: Inputs
    weight: Tensor


def weight_of(inputs: Inputs) -> tuple[Inputs, Tensor | None]:
    """Return what a model is called with, and the weights that came with it."""
    return inputs if isinstance(inputs, Weighted) else (inputs, None)


class Named(NamedTuple):
    """The one input of a batch that was a dictionary, and its name there."""

    inputs: Inputs
    name: str


def without_name(inputs: Inputs) -> Inputs:
    """Return inputs, and of a single one that has a name just itself."""
    return inputs.inputs if isinstance(inputs, Named) else inputs


def seen_of(inputs: Inputs) -> tuple[Inputs, Tensor | None]:
    """Return what terms see of the inputs, and the weights that came with them."""
    inputs, weight = weight_of(inputs)
    return without_name(inputs), weight


def _weighted(inputs: Inputs, weight: object, samples: int, name: str) -> Inputs:
    """Let weights travel with what the student sees: it is the student's loss that they weight."""
    if not isinstance(weight, Tensor):
        kind = type(weight).__name__
        raise ArgumentTypeError(name, f"the weights of {name} must be a tensor, got a {kind}")
    if weight.dim() == 0 or len(weight) != samples:
        got = len(weight) if weight.dim() else "a single number"
        raise ArgumentError(name, f"a batch of {name} has {samples} targets, and weights of {got}")
    own, theirs = views_of(inputs)
    own = Weighted(own, weight)
    return SeparateViews(own, theirs) if isinstance(inputs, SeparateViews) else own


def _out_of(batch: Mapping[str, Any]) -> object:
    """Return inputs and target of a dictionary, or that itself if its target cannot be told."""
    found = [key for key in TARGETS if key in batch]
    if len(found) != 1:
        return batch
    rest = {key: value for key, value in batch.items() if key != found[0]}
    if len(rest) != 1:
        return rest, batch[found[0]]
    ((key, value),) = rest.items()
    return Named(value, key), batch[found[0]]


def read_batch(batch: object, name: str) -> Batch:
    """Return inputs and target of a batch, or say what it is instead.

    In a dictionary, as ``transformers`` collates it, the target is among the inputs. A third entry
    is the weights of the places.
    """
    if isinstance(batch, Mapping):
        batch = _out_of(batch)
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        got = f"a {type(batch).__name__}"
        if isinstance(batch, Mapping):
            got += f" with {', '.join(map(repr, batch))}"
        elif isinstance(batch, (tuple, list)):
            got += f" of {len(batch)}"
        raise ArgumentTypeError(
            name,
            f"{name} must yield batches (inputs, target), (inputs, target, weight) or dictionaries "
            f"with labels, got {got}: let its collate_fn return such, whose inputs are what the "
            "model is called with, and whose target is −1 where there is no label",
        )
    inputs, target, *weights = batch
    if not isinstance(target, Tensor):
        kind = type(target).__name__
        raise ArgumentTypeError(
            name,
            f"the targets of {name} must be a tensor, got {kind} (−1 stands for no label)",
        )
    if target.dim() == 0:
        raise ArgumentError(name, f"{name} yields single samples: put it into a DataLoader")
    if len(target) == 0:
        raise ArgumentError(name, f"a batch of {name} holds no sample")
    if any(isinstance(one, Tensor) and one.is_meta for one in tree_leaves([inputs, target])):
        raise ArgumentError(name, f"a batch of {name} is on the meta device: it has no values")
    if not any(isinstance(one, Tensor) for one in tree_leaves(inputs)):
        kind = type(inputs).__name__
        raise ArgumentTypeError(
            name,
            f"the inputs of {name} must be tensors, perhaps in tuples, lists or dictionaries, got "
            f"a {kind}: let its collate_fn return such (dict(inputs), say)",
        )
    seen = without_name(inputs)
    if isinstance(seen, Tensor) and len(seen) != len(target):
        raise ArgumentError(
            name, f"a batch of {name} has {len(seen)} inputs and {len(target)} targets"
        )
    for weight in weights:
        inputs = _weighted(inputs, weight, len(target), name)
    return inputs, target


def are_classes(target: Tensor) -> bool:
    """Whether targets are classes, one a place, and not probabilities of each, or quantities."""
    return not target.is_floating_point()


def count_labels(target: Tensor) -> Tensor:
    """Count what has a label: places with a class of at least 0, or samples with probabilities."""
    if are_classes(target):
        return (target >= 0).sum()
    return torch.full((), len(target), device=target.device)


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply a function to every tensor of the inputs."""
    return (
        function(inputs) if isinstance(inputs, Tensor) else tree_map_only(Tensor, function, inputs)
    )


def differentiable(inputs: Inputs) -> Inputs:
    """Return inputs with respect to which what is made of them can be differentiated."""
    return map_tensors(lambda one: one.detach().requires_grad_(), inputs)


@contextmanager
def blaming_model(
    who: str, inputs: Inputs, source: str = "train", first: bool = True
) -> Iterator[None]:
    """Say which model could not take the first batch, and what that is.

    Later, what a model's own code raises is its own affair; only batch norm's error is translated.
    """
    try:
        yield
    except Exception as error:
        _blame_single_sample(error)
        if files.is_full(error) and type(error).__module__.startswith("torch._"):
            raise files.FileError(
                f"torch.compile cannot keep what it makes, {files.why(error)}: free some space, or "
                "set the environment variable TORCHINDUCTOR_CACHE_DIR to another folder"
            ) from error
        if not first or _speaks_for_itself(error):
            raise
        raise ArgumentError(
            who, f"the {who} fails on the inputs of {source}, {shapes(inputs)}: {_last(error)}"
        ) from error


@contextmanager
def blaming_argument(name: str, what: str, first: bool = True) -> Iterator[None]:
    """Name the argument whose own code fails when it is called for the first time."""
    try:
        yield
    except Exception as error:
        _blame_single_sample(error)
        if not first or _speaks_for_itself(error):
            raise
        kind = type(error).__name__
        raise ArgumentError(name, f"{what} fails with {kind}: {_last(error)}") from error


def _blame_single_sample(error: Exception) -> None:
    """Translate batch norm's error, which may come as late as with an epoch's last batch."""
    if "Expected more than 1 value per channel" in str(error):
        raise ArgumentError(
            "batch_size",
            "a batch, or a part of one, holds a single sample, from which batch norm cannot "
            "learn: change batch_size or accumulate, or leave out the last batch (drop_last=True, "
            "of fit for Images, of their loader for others)",
        ) from error


def _speaks_for_itself(error: Exception) -> bool:
    """Whether an error is clear already, of somebody's own kind, or perhaps another process's."""
    own = type(error).__module__.partition(".")[0] not in ("builtins", "torch")
    machine = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "CUDA error" in str(error)
    return own or machine or _many_processes()


def _many_processes() -> bool:
    together = distributed.is_available() and distributed.is_initialized()
    return together and distributed.get_world_size() > 1


def _last(error: Exception) -> str:
    """The last line of a message, which may quote the traceback of another process."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "Traceback" in str(error) else " ".join(lines)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Move inputs to a device."""
    return map_tensors(lambda tensor: tensor.to(device), inputs)


def map_samples(function: Callable[[Tensor], Tensor], inputs: Inputs, samples: int) -> Inputs:
    """Apply a function to every tensor of so many samples; others belong to the whole batch."""
    return map_tensors(
        lambda one: function(one) if one.dim() and len(one) == samples else one, inputs
    )


def share(inputs: Inputs, part: tuple[int, int], samples: int | None = None) -> Inputs:
    """Return, for ``(i, P)``, the i-th of P consecutive, nearly equal parts of the samples.

    How many these are can be left out for a tensor.
    """
    number, of = part
    count = len(inputs) if samples is None else samples
    return map_samples(lambda one: one.tensor_split(of)[number], inputs, count)


def split_samples(inputs: Inputs, parts: int, samples: int) -> list[Inputs]:
    """Split the samples into nearly equal parts."""
    return [inputs] if parts == 1 else [share(inputs, (n, parts), samples) for n in range(parts)]


def cast_like(inputs: Inputs, model: nn.Module) -> Inputs:
    """Return floating-point inputs in the precision of a model's weights."""
    weight = next(model.parameters(), None)
    if weight is None or not weight.is_floating_point():
        return inputs
    dtype = weight.dtype
    return map_tensors(lambda one: one.to(dtype) if one.is_floating_point() else one, inputs)


def call(model: nn.Module, inputs: Inputs, who: str, output: Output | None = None) -> Any:
    """Return the logits that a model makes of inputs, and refuse a model that overwrites these.

    They are somebody's data, and others are still to be called with them.

    Args:
        model: Any module. It is called with the inputs as they are; a dictionary is unpacked, if
            the module, or what this wraps, takes its keys as names of arguments.
        inputs: Those of a batch.
        who: What the model is called in errors.
        output: Finds the logits in what the model returns; by default :func:`logits_of`.
    """
    inputs, _ = weight_of(inputs)
    tensors = [inputs] if isinstance(inputs, Tensor) else tree_leaves(inputs)
    counted = [one for one in tensors if isinstance(one, Tensor) and not one.is_inference()]
    versions = [one._version for one in counted]
    given = cast_like(inputs, model)
    if isinstance(given, Named) and _takes(model, {given.name: given.inputs}, by_name=True):
        returned = model(**{given.name: given.inputs})
    else:
        given = without_name(given)
        returned = model(**given) if _takes(model, given) else model(given)
    if versions != [one._version for one in counted]:
        raise ArgumentError(
            who,
            f"the {who} ({type(model).__name__}) changes its inputs in place: let it work on a "
            "copy (x = x.clone(), or an activation that is not inplace)",
        )
    return logits_of(returned) if output is None else output(returned)


def logits_of(returned: Any) -> Any:
    """Find the logits in what a model returns: as they are, by their usual names, or at first."""
    if isinstance(returned, Tensor):
        return returned
    for name in LOGITS:
        if isinstance(returned, Mapping) and name in returned:
            return returned[name]
        if hasattr(returned, name):
            return getattr(returned, name)
    first = next(iter(returned), None) if isinstance(returned, (tuple, list)) else None
    return returned if first is None else first


def _takes(model: nn.Module, inputs: Inputs, by_name: bool = False) -> bool:
    """Whether inputs are a dictionary of a model's arguments, all of which it knows by name."""
    if type(inputs) is not dict or not all(isinstance(key, str) for key in inputs):
        return False
    model = getattr(model, "_orig_mod", model)  # which torch.compile has wrapped
    try:
        signature = inspect.signature(model.forward)
        signature.bind(**inputs)
    except (TypeError, ValueError):  # it cannot be called so, or (if it is compiled) does not tell
        return False
    inner = [*model.children()]  # of what hands over whatever it is given, such as DataParallel
    anything = {one.kind for one in signature.parameters.values()} == ANYTHING
    if anything and len(inner) == 1:
        return _takes(inner[0], inputs, by_name)
    return not by_name or inputs.keys() <= signature.parameters.keys()


def shapes(inputs: Inputs) -> str:
    """Describe inputs by their types and shapes."""
    inputs = without_name(inputs)
    tensors = [one for one in tree_leaves(inputs) if isinstance(one, Tensor)]
    shown = ", ".join(f"{one.dtype} {tuple(one.shape)}" for one in tensors)
    return shown if isinstance(inputs, Tensor) else f"a {type(inputs).__name__} of {shown}"
