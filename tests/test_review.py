"""Stages fused with deeper ones, and compared ever more coarsely."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.errors import ArgumentError
from kdcourse.methods.neighbours import Neighbours
from kdcourse.methods.review import KnowledgeReview, hierarchical_context_loss
from kdcourse.objective import Lesson, Outputs
from kdcourse.training.rules import check_enough


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(3, 2, 8, 8, seed=1), draw(3, 2, 8, 8, seed=2)
LOSSES = {
    "review": hierarchical_context_loss,
    "review, sequence": lambda s, t: hierarchical_context_loss(s.flatten(2), t.flatten(2)),
    "review, few positions": lambda s, t: hierarchical_context_loss(s[..., :3, :2], t[..., :3, :2]),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definition, one number at a time: images only.


def part_means(image, rows, columns):
    """Averages over a grid of parts, which may overlap where sizes are no multiples."""
    height, width = len(image), len(image[0])
    means = []
    for i in range(rows):
        for j in range(columns):
            across = range(i * height // rows, -(-(i + 1) * height // rows))
            along = range(j * width // columns, -(-(j + 1) * width // columns))
            values = [image[h][w] for h in across for w in along]
            means.append(math.fsum(values) / len(values))
    return means


def naive(s, t):
    (height, width), weight, total, weights = s.shape[2:], 1.0, 0.0, 0.0
    for level in (None, 4, 2, 1):
        grid = (height, width) if level is None else (min(level, height), min(level, width))
        if level is not None:
            if grid == (height, width):
                continue
            weight /= 2
        squares = [
            (a - b) ** 2
            for own, theirs in zip(s.flatten(0, 1).tolist(), t.flatten(0, 1).tolist(), strict=True)
            for a, b in zip(part_means(own, *grid), part_means(theirs, *grid), strict=True)
        ]
        total += weight * math.fsum(squares) / len(squares)
        weights += weight
    return total / weights


@pytest.mark.parametrize("size", [(8, 8), (6, 5), (4, 4), (4, 9), (3, 2), (2, 2), (1, 1)], ids=str)
def test_equals_the_definition(size):
    s, t = draw(3, 2, *size, seed=1), draw(3, 2, *size, seed=2)
    assert hierarchical_context_loss(s, t).item() == pytest.approx(naive(s, t), rel=1e-12)


@pytest.mark.parametrize(
    ("size", "weights"),
    [(8, (8, 4, 2, 1)), (4, (4, None, 2, 1)), (3, (4, None, 2, 1)), (2, (2, None, None, 1))],
)
def test_the_weights_go_to_the_levels_that_are_coarser(size, weights):
    """Where one pixel differs by 1, a mean over it and others differs by its share."""
    s = torch.zeros(1, 1, size, size, dtype=torch.float64)
    s[..., 0, 0] = 1
    means = [s, *(F.adaptive_avg_pool2d(s, level) for level in (4, 2, 1))]
    each = [w * m.square().mean() for w, m in zip(weights, means, strict=True) if w is not None]
    expected = sum(each) / sum(w for w in weights if w is not None)
    torch.testing.assert_close(hierarchical_context_loss(s, torch.zeros_like(s)), expected)


def test_one_position_is_the_mean_squared_error_and_a_shift_counts_alike_at_all_levels():
    vectors = STUDENT[..., 0, 0], TEACHER[..., 0, 0]
    torch.testing.assert_close(hierarchical_context_loss(*vectors), F.mse_loss(*vectors))
    torch.testing.assert_close(
        hierarchical_context_loss(TEACHER + 3, TEACHER), torch.tensor(9.0).double()
    )
    assert hierarchical_context_loss(TEACHER, TEACHER) == 0


@pytest.mark.parametrize("size", [32, 8, 7, 4, 2, 1])
def test_against_the_authors_convention(size):
    """A level is used if it is smaller than the height; each one used halves the weight."""
    s, t = draw(2, 3, size, size, seed=1), draw(2, 3, size, size, seed=2)
    used = [level for level in (4, 2, 1) if level < size]
    weights = [0.5**k for k in range(len(used) + 1)]
    views = [lambda z: z, *(lambda z, to=level: F.adaptive_avg_pool2d(z, to) for level in used)]
    theirs = [w * F.mse_loss(view(s), view(t)) for w, view in zip(weights, views, strict=True)]
    torch.testing.assert_close(hierarchical_context_loss(s, t), sum(theirs) / sum(weights))


# The term.


def lesson(student, teacher, samples=4):
    """Shown features, of shapes without samples, by names."""
    own, theirs = (
        {name: draw(samples, *shape, seed=i + 7).float() for i, (name, shape) in enumerate(side)}
        for side in (student.items(), teacher.items())
    )
    target = torch.zeros(samples, dtype=torch.int64)
    return Lesson(Outputs(features=own), target, Outputs(features=theirs))


OWN = {"a": (3, 8, 8), "b": (5, 4, 4), "c": (6,)}
THEIRS = {"a": (4, 8, 8), "b": (7, 6, 6), "c": (9,)}


def fused_by_hand(term, shown):
    """The authors' order of operations, re-stated: deepest first, channels by the weights."""
    deeper, total = None, 0.0
    for name, fusion in list(zip(OWN, term.fusions, strict=True))[::-1]:
        x, t = shown.student.features[name], shown.teacher.features[name]
        x, t = (z[:, :, None, None] if z.dim() == 2 else z for z in (x, t))
        norm = (lambda z: F.batch_norm(z, None, None, training=True)) if term.norm else lambda z: z
        x = norm(torch.einsum("nchw,dc->ndhw", x, fusion.into[0].weight[:, :, 0, 0]))
        if deeper is not None:
            rows = (torch.arange(x.shape[2]) * deeper.shape[2]) // x.shape[2]
            y = deeper[:, :, rows][:, :, :, rows]
            both, v = torch.cat([x, y], 1), fusion.attention
            maps = torch.einsum("nchw,dc->ndhw", both, v.weight[:, :, 0, 0])
            a, b = (maps + v.bias[:, None, None]).sigmoid().split(1, 1)
            x = a * x + b * y
        rows = (torch.arange(t.shape[2]) * x.shape[2]) // t.shape[2]
        deeper = x[:, :, rows][:, :, :, rows]
        out = norm(F.conv2d(deeper, fusion.out[0].weight, padding=1))
        total = total + naive(out.double(), t.double())
    return total


@pytest.mark.parametrize("norm", [True, False])
def test_the_term_fuses_from_deep_to_shallow(norm):
    shown = lesson(OWN, THEIRS)
    term = KnowledgeReview(["a", "b", "c"], norm=norm)
    assert term.loss(shown).item() == pytest.approx(fused_by_hand(term, shown), rel=1e-5)
    assert [fusion.attention is None for fusion in term.fusions] == [False, False, True]
    widths = {fusion.into[0].weight.shape[0] for fusion in term.fusions}
    assert widths == {6}  # the student's deepest layer has as many channels
    assert not list(term.buffers())


def test_a_stage_hears_of_deeper_ones_and_not_of_shallower_ones():
    term, shown = KnowledgeReview(["a", "b", "c"]), lesson(OWN, THEIRS)
    term.prepare(shown)
    for features in shown.student.features.values():
        features.requires_grad_()
    stages = term._stages(shown)
    _, deeper = term.fusions[2](stages[2][0], None, (1, 1))
    compared, _ = term.fusions[1](stages[1][0], deeper, (6, 6))
    features = list(shown.student.features.values())
    looked_at = torch.autograd.grad(compared[0, 0, 0, 0], features, allow_unused=True)
    assert looked_at[0] is None
    assert looked_at[2].abs().sum() > 0


def test_its_weights_follow_from_a_seed_and_its_width_can_be_chosen():
    shown, terms = lesson(OWN, THEIRS), [KnowledgeReview(["a", "b", "c"], 5) for _ in range(3)]
    terms.append(KnowledgeReview(["a", "b", "c"], 5, seed=1))
    for seed, term in zip((1, 1, 2, 3), terms, strict=True):
        term.prepare(shown, seed=seed)
    values = [term.loss(shown).item() for term in terms]
    assert values[0] == values[1] == values[3] != values[2]
    assert terms[0].fusions[0].out[0].weight.shape == (4, 5, 3, 3)
    assert repr(terms[0]).endswith("width=5, norm=True)")


def test_a_last_batch_of_one_sample_costs_nothing_behind_batch_norm():
    term, bare = KnowledgeReview(["a", "b", "c"]), KnowledgeReview(["a", "b", "c"], norm=False)
    few = lesson(OWN, THEIRS, samples=1)
    assert term.loss(few) == 0
    assert bare.loss(few) > 0
    assert (term.least, bare.least) == (2, 1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_batch_norm_goes_through_compile_vmap_and_the_meta_device():
    shown, term = lesson(OWN, THEIRS), KnowledgeReview(["a", "b", "c"])
    term.prepare(shown)
    features = list(shown.student.features.values())

    def loss(*tensors):
        own = Outputs(features=dict(zip(OWN, tensors, strict=True)))
        return term.loss(Lesson(own, shown.target, shown.teacher))

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*features), loss(*features))
    several = [torch.stack([z, 2 * z.flip(0)]) for z in features]
    loop = torch.stack([loss(*each) for each in zip(*several, strict=True)])
    torch.testing.assert_close(torch.func.vmap(loss)(*several), loop)
    for outputs in (shown.student, shown.teacher):
        outputs.features = {name: z.to("meta") for name, z in outputs.features.items()}
    assert term.to("meta").loss(shown).is_meta


def test_sequences_and_volumes():
    for size in ((5,), (4, 3, 2)):
        shown = lesson({"a": (3, *size), "b": (4,)}, {"a": (2, *size), "b": (3,)})
        term = KnowledgeReview(["a", "b"])
        term.loss(shown).backward()
        assert all(p.grad is not None for p in term.parameters())


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="student_features must have positions in as many"):
        KnowledgeReview(["a", "b"]).loss(lesson({"a": (3, 8), "b": (5, 4, 4)}, THEIRS))
    with pytest.raises(ArgumentError, match="width must be a positive integer"):
        KnowledgeReview(["a"], 0)
    with pytest.raises(ArgumentError, match="must have the same shape"):
        hierarchical_context_loss(STUDENT, TEACHER[..., :4])
    with pytest.raises(ArgumentError, match="must have shape"):
        hierarchical_context_loss(STUDENT[0, 0, 0], TEACHER)


def test_in_many_processes_each_needs_two_samples_as_batch_norm_sees_its_own(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    check_enough(KnowledgeReview(["a"], norm=False), 1)
    check_enough(KnowledgeReview(["a"]), 2)
    check_enough(Neighbours(), 1)  # which compares the samples of both
    with pytest.raises(ArgumentError, match=r"compares at least 2 samples, and .* holds 1"):
        check_enough(KnowledgeReview(["a"]), 1)
