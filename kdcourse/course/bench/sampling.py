"""What a cache of keys and values saves when a language model writes."""

import time
from functools import partial

import torch
from torch import Tensor, nn

from kdcourse.course.bench.compare import Comparison, Store, compare, comparison_table
from kdcourse.course.claims.results import RESULTS
from kdcourse.language import sample
from kdcourse.models import language_model
from kdcourse.training.device import one_thread

STORE = Store(RESULTS / "bench-sampling.json", "python -m kdcourse bench --sampling", Comparison)
load, table = STORE.load, comparison_table
TOKENS, LENGTH = 83, 78
MODELS = {
    "the teacher, 4 layers of width 128": (128, 4),
    "a student, 2 layers of width 48": (48, 2),
}
TEXTS = 1, 64


class Bare(nn.Module):
    """The same model as any other module, which is shown all tokens again for each new one."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def measure(*, rounds: int = 9, store: Store[Comparison] = STORE) -> list[Comparison]:
    """Let models write with and without a cache, in turn, on one thread; store the comparison.

    Raises:
        RuntimeError: They do not write the same.
    """
    store.check()
    comparisons = []
    with one_thread():
        for name, size in MODELS.items():
            model = language_model(*size, 4, TOKENS, length=LENGTH, seed=0)
            for texts in TEXTS:
                ours, other = (partial(_write, net, texts) for net in (model, Bare(model)))
                if not torch.equal(ours(), other()):
                    raise RuntimeError(f"{name} writes something else with a cache")
                label = f"{name}, {texts} text{'s' * (texts > 1)}, with a cache ÷ without"
                comparisons.append(compare(label, ours, other, rounds, time.process_time))
    store.save(comparisons)
    return comparisons


def _write(model: nn.Module, texts: int) -> Tensor:
    # No text ends: there is no such token. Greedy, so that rounding seldom shows.
    prompts = torch.arange(texts)[:, None]
    return sample(model, prompts, length=LENGTH, end=TOKENS, greedy=True)
