"""Many processes, one batch: what losses that compare samples need under ``torchrun``."""

import torch
from torch import Tensor, distributed

from kdcourse.checks import readable


def count() -> int:
    """Number of processes that train together; 1 without ``torchrun``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def all_samples(embeddings: Tensor) -> Tensor:
    """Gather the samples of all processes, in the order of their ranks.

    Gradients reach this process's own samples only, multiplied by the number of processes: after
    ``DistributedDataParallel`` has averaged them, they are those of one process with the whole
    batch. That needs no communication backward, since every process has the same loss.

    Args:
        embeddings: ``(N, D)``, the same shape on every process.

    Returns:
        ``(P · N, D)`` for P processes; the same tensor where there is one only.

    Raises:
        ValueError: different numbers of samples (looked at for CPU tensors only).
    """
    processes = count()
    if processes == 1:
        return embeddings
    if readable(embeddings):
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(processes)]
        distributed.all_gather(counts, torch.tensor([len(embeddings)]))
        if len({int(count) for count in counts}) > 1:
            raise ValueError(
                "every process must hold equally many samples, got "
                + ", ".join(str(int(count)) for count in counts)
            )
    own = embeddings.contiguous()
    parts = [torch.empty_like(own) for _ in range(processes)]
    distributed.all_gather(parts, own.detach())
    parts[distributed.get_rank()] = own + (processes - 1) * (own - own.detach())
    return torch.cat(parts)
