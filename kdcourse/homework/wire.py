"""What passes between grader and submission: tensors and plain data, as JSON and safetensors.

Both formats hold data only: reading them executes nothing, and expands nothing.
"""

import json
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def packed(reply: dict[str, Any]) -> tuple[bytes, bytes]:
    """Turn a reply into JSON, and the tensors in it into safetensors."""
    tensors: dict[str, Tensor] = {}

    def other(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if type(value).__module__ == "numpy":
            return value.tolist()
        raise TypeError(f"returned a {type(value).__name__}, not a tensor or a number")

    text = json.dumps(reply, default=other)
    return text.encode(), safetensors.torch.save(tensors)


def unpacked(text: bytes, tensors: bytes) -> dict[str, Any]:
    """Restore a reply from what :func:`packed` has made of it; anything else raises an error."""
    named = safetensors.torch.load(tensors)

    def own(part: dict[str, Any]) -> Any:
        return named[part["tensor"]] if part.keys() == {"tensor"} else part

    reply = json.loads(text, object_hook=own)
    if not isinstance(reply, dict):
        raise TypeError("not a reply")
    return reply


CHANGED = "a tensor that was passed in was changed in place: work on a copy of it"


def changes(given: list[Tensor | nn.Module]) -> list[tuple[int, bool]]:
    """Return what differs once a tensor was changed in place, or made to require a gradient."""
    return [(one._version, one.requires_grad) for one in given if isinstance(one, Tensor)]


def leaves(value: Any) -> list[Tensor | nn.Module]:
    """Return the modules and tensors in nested arguments, always in the same order."""
    return [one for one in tree_leaves(value) if isinstance(one, (Tensor, nn.Module))]


def state(module: nn.Module) -> dict[str, Any]:
    """Return what a function may change in a module, and pickle partly leaves out."""
    return {
        "values": module.state_dict(),
        "modes": [one.training for one in module.modules()],
        "gradients": [weight.grad for weight in module.parameters()],
    }


def restore(module: nn.Module, state: dict[str, Any]) -> None:
    """Put a module into a state that :func:`state` has returned."""
    module.load_state_dict(state["values"])
    for one, mode in zip(module.modules(), state["modes"], strict=True):
        one.training = bool(mode)
    for weight, gradient in zip(module.parameters(), state["gradients"], strict=True):
        weight.grad = gradient
