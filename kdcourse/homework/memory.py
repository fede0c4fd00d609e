"""How large a tensor does a function create? Counted, not timed: the same on every machine."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Records, while active, the number of entries of the largest tensor that operations create."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch's compiler out: its import takes as long as the rest of torch."""
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and look at its results."""
        result = function(*args, **(kwargs or {}))
        made = [one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.numel = max([self.numel, *made])
        return result


def largest_tensor(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the number of entries of the largest tensor created while ``function`` runs.

    A submission's function, which runs elsewhere (:class:`kdcourse.homework.sandbox.Remote`), is
    watched there.
    """
    with torch.enable_grad(), LargestTensor() as watched:
        function(*arguments)
    return max(watched.numel, getattr(function, "largest", 0))
