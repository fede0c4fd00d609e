import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchdistill.losses import mid_level

from kdcourse import relation_term, relational
from kdcourse.course.bench.compare import kernels

N, D = 7, 5
LOSSES = {
    "distance": relational.rkd_distance_loss,
    "angle": relational.rkd_angle_loss,
    "similarity": relational.similarity_preserving_loss,
}
LEAST = {"distance": 2, "angle": 3, "similarity": 1}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
rkd = pytest.mark.parametrize("loss", [LOSSES["distance"], LOSSES["angle"]], ids=["d", "a"])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STUDENT, TEACHER = draw(N, D, seed=1), draw(N, 3, seed=2)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# Naive definitions, one pair and one triple at a time, in Python's own floats.


def huber(x):
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def norm(v):
    return math.sqrt(math.fsum(a * a for a in v))


def minus(u, v):
    return [a - b for a, b in zip(u, v, strict=True)]


def naive_distance(s, t):
    pairs = list(itertools.permutations(range(len(s)), 2))

    def ratios(z):
        d = [norm(minus(z[i], z[j])) for i, j in pairs]
        mean = math.fsum(d) / len(d)
        return [x / mean if mean else 0.0 for x in d]

    values = [huber(a - b) for a, b in zip(ratios(s), ratios(t), strict=True)]
    return math.fsum(values) / len(pairs)


def naive_angle(s, t):
    def cosine(z, i, j, k):
        u, v = minus(z[i], z[j]), minus(z[k], z[j])
        if norm(u) == 0 or norm(v) == 0:
            return 0.0
        return math.fsum(a * b for a, b in zip(u, v, strict=True)) / (norm(u) * norm(v))

    triples = list(itertools.permutations(range(len(s)), 3))
    return math.fsum(huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triples) / len(triples)


def naive_similarity(s, t):
    def rows(z):
        gram = [[math.fsum(a * b for a, b in zip(u, v, strict=True)) for v in z] for u in z]
        return [[x / (norm(row) or 1.0) for x in row] for row in gram]

    squares = [
        (a - b) ** 2
        for u, v in zip(rows(s), rows(t), strict=True)
        for a, b in zip(u, v, strict=True)
    ]
    return math.fsum(squares) / len(s) ** 2


NAIVE = {"distance": naive_distance, "angle": naive_angle, "similarity": naive_similarity}


def with_duplicates(z):
    z = z.clone()
    z[3] = z[0]
    z[5] = z[0]
    return z


CASES = {
    "plain": lambda z: z,
    "at an offset of 1000": lambda z: z + 1000,
    "at an offset of -1000": lambda z: z - 1000,
    "duplicates": with_duplicates,
    "duplicates at 1000": lambda z: with_duplicates(z + 1000),
    "large": lambda z: 1e4 * z,
    "small": lambda z: 1e-4 * z,
    "one dimension": lambda z: z[:, :1],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_naive_definition(name, case, dtype, rel, seed):
    s, t = (draw(9, d, seed=10 * seed + d).to(dtype) for d in (5, 4))
    s, t = CASES[case](s), CASES[case](t)
    value = LOSSES[name](s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    expected = NAIVE[name](s.double().tolist(), t.double().tolist())
    assert value.item() == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("name", LOSSES)
def test_duplicates_in_one_net_only(name):
    s, t = with_duplicates(STUDENT), TEACHER
    for a, b in [(s, t), (t, s)]:
        value = LOSSES[name](a, b).item()
        assert value == pytest.approx(NAIVE[name](a.tolist(), b.tolist()), rel=1e-9)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What is chosen for few samples on a GPU."""
    monkeypatch.setitem(relational.FEW, "cpu", relational.FEW["other"])
    monkeypatch.setattr(relational, "HALVES", "none")
    monkeypatch.setattr(relational, "readable", lambda tensor: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_few_samples_on_a_gpu_have_the_same_values_and_gradients(name, case, monkeypatch):
    s, t = (CASES[case](draw(9, d, seed=d)) for d in (5, 4))
    found = values_and_gradients(LOSSES[name], s, t)
    single = values_and_gradients(LOSSES[name], s.float(), t.float())
    monkeypatch.undo()
    expected = values_and_gradients(LOSSES[name], s, t)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)
    exact = values_and_gradients(LOSSES[name], s.float().double(), t.float().double())
    assert single[0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert (single[1] - exact[1]).norm() <= 1e-4 * exact[1].norm() + 1e-12  # of 0 on a line


def values_and_gradients(loss, s, t):
    s = s.clone().requires_grad_()
    value = loss(s, t)
    return value.detach(), torch.autograd.grad(value, s)[0]


@pytest.mark.usefixtures("as_on_a_gpu")
@every_loss
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_few_samples_on_a_gpu_under_transformations(loss):
    assert torch.autograd.gradcheck(lambda z: loss(z, TEACHER), STUDENT.clone().requires_grad_())
    value, gradient = values_and_gradients(loss, STUDENT, TEACHER)
    batched = torch.func.vmap(torch.func.grad(loss))(STUDENT[None], TEACHER[None])
    torch.testing.assert_close(batched[0], gradient)
    with torch.autocast("cpu", torch.bfloat16):
        single, _ = values_and_gradients(loss, STUDENT.float(), TEACHER.float())
    assert single.item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_angle_loss_of_few_samples_on_a_gpu_compiles_in_one_graph():
    torch.compiler.reset()
    loss = relational.rkd_angle_loss
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = values_and_gradients(loss, STUDENT, TEACHER)
    torch.testing.assert_close(values_and_gradients(compiled, STUDENT, TEACHER), expected)


def normalized(z):
    """Unit vectors between samples, as the authors of relational KD write them."""
    return torch.nn.functional.normalize(z[None] - z[:, None], dim=2)


def plain_angle(s, t):
    with torch.no_grad():
        theirs = normalized(t) @ normalized(t).mT
    return torch.nn.functional.smooth_l1_loss(normalized(s) @ normalized(s).mT, theirs)


def plain_distance(s, t):
    def ratios(z):
        distance = torch.linalg.vector_norm(z[None] - z[:, None], dim=2)
        return distance / distance[distance > 0].mean()

    with torch.no_grad():
        theirs = ratios(t)
    return torch.nn.functional.smooth_l1_loss(ratios(s), theirs)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("loss", "plain"), [(LOSSES["angle"], plain_angle), (LOSSES["distance"], plain_distance)]
)
def test_few_samples_on_a_gpu_take_no_more_kernels_than_the_authors_form(loss, plain):
    ours, theirs = (
        kernels(lambda f=f: values_and_gradients(f, STUDENT, TEACHER)) for f in (loss, plain)
    )
    assert ours <= theirs


def test_the_angle_loss_does_not_depend_on_the_size_of_its_chunks(monkeypatch):
    s = STUDENT.clone().requires_grad_()
    values = []
    for elements in (1, 3 * N * N, 10**6):
        monkeypatch.setitem(relation_term.CHUNK, "cpu", elements)
        value = relational.rkd_angle_loss(s, TEACHER)
        values.append((value.item(), torch.autograd.grad(value, s)[0]))
    for value, gradient in values[1:]:
        assert value == pytest.approx(values[0][0], rel=1e-12)
        assert torch.allclose(gradient, values[0][1], atol=1e-14)


def test_angles_beyond_the_quadratic_part_of_the_huber_loss_have_the_right_gradient():
    line = torch.linspace(0, 1, N, dtype=torch.float64)[:, None]
    other = draw(N, 2, seed=4).requires_grad_()
    cosines = naive_angle(other.tolist(), line.tolist())
    assert cosines > 0.3  # many differences are above 1
    assert torch.autograd.gradcheck(lambda z: relational.rkd_angle_loss(z, line), other)


@every_loss
def test_gradients_in_float32_at_an_offset(loss):
    s, t = (draw(40, 16, seed=i, dtype=torch.float32) + 1000 for i in (5, 6))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        z = s.to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad(loss(z, t.to(dtype)), z)[0].double())
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


@every_loss
def test_zero_at_equality_and_above_zero_elsewhere(loss):
    s = TEACHER.clone().requires_grad_()
    value = loss(s, TEACHER)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(value, s)[0].abs().max() < 1e-12
    assert loss(STUDENT, TEACHER) > 1e-3


# What the losses do not see.


def rotation(size):
    return torch.linalg.qr(draw(size, size, seed=9))[0]


MOVES = {
    "rotated": (LOSSES, lambda z: z @ rotation(z.shape[1])),
    "mirrored": (LOSSES, lambda z: z * torch.tensor([-1.0] + [1.0] * (z.shape[1] - 1))),
    "scaled": (LOSSES, lambda z: 37 * z),
    "moved": (("distance", "angle"), lambda z: z + draw(z.shape[1], seed=8)),
    "in more dimensions": (LOSSES, lambda z: torch.cat([z, torch.zeros_like(z)], dim=1)),
}


@pytest.mark.parametrize(
    ("name", "move"), [(name, move) for move, (names, _) in MOVES.items() for name in names]
)
def test_what_it_does_not_see(name, move):
    change = MOVES[move][1]
    expected = LOSSES[name](STUDENT, TEACHER).item()
    assert LOSSES[name](change(STUDENT), TEACHER).item() == pytest.approx(expected, rel=1e-9)
    assert LOSSES[name](STUDENT, change(TEACHER)).item() == pytest.approx(expected, rel=1e-9)


def test_the_similarity_loss_does_see_a_move():
    loss = relational.similarity_preserving_loss
    assert loss(STUDENT + 1, TEACHER).item() != pytest.approx(loss(STUDENT, TEACHER).item())


@every_loss
def test_the_order_of_the_samples_does_not_matter(loss):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    expected = loss(STUDENT, TEACHER).item()
    assert loss(STUDENT[order], TEACHER[order]).item() == pytest.approx(expected, rel=1e-12)


@rkd
def test_scaling_makes_no_gradient_along_the_scale(loss):
    s = STUDENT.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(s, TEACHER), s)[0]
    assert float((gradient * STUDENT).sum()) == pytest.approx(0, abs=1e-12)
    assert gradient.sum(dim=0).abs().max() < 1e-12  # nor along a move


def test_similarity_takes_features_of_any_shape():
    s, t = draw(N, 2, 3, 3, seed=1), draw(N, 4, 2, seed=2)
    value = relational.similarity_preserving_loss(s, t)
    assert value == relational.similarity_preserving_loss(s.flatten(1), t.flatten(1))


def test_distances():
    d = relational.distances(STUDENT)
    assert torch.allclose(d, torch.cdist(STUDENT, STUDENT), atol=1e-12)
    assert torch.equal(d.diagonal(), torch.zeros(N).double())
    assert torch.autograd.gradcheck(relational.distances, STUDENT.clone().requires_grad_())
    half = relational.distances(STUDENT.half())
    assert half.dtype == torch.float32
    assert torch.equal(half, relational.distances(STUDENT.half().float()))


# Degenerate batches.

DEGENERATE = {
    "all the same": torch.ones(N, D),
    "all zero": torch.zeros(N, D),
    "two places": torch.tensor([[0.0] * D] * 3 + [[1.0] * D] * 4),
    "one apart": torch.tensor([[0.0] * D] * 6 + [[5.0] * D]),
    "on a line": torch.arange(float(N))[:, None] * torch.ones(D),
}


@every_loss
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_degenerate_batches_give_finite_values_and_gradients(loss, case, dtype):
    for t in (TEACHER.to(dtype), DEGENERATE[case].to(dtype)):
        s = DEGENERATE[case].clone().to(dtype).requires_grad_()
        value = loss(s, t)
        value.backward()
        assert value.isfinite()
        assert s.grad.isfinite().all()


def test_samples_that_coincide_send_each_other_no_gradient():
    s = with_duplicates(STUDENT).requires_grad_()
    pull = torch.autograd.grad(relational.distances(s)[0, 3], s)[0]
    assert torch.equal(pull, torch.zeros_like(pull))


# Second opinions.


def torchdistill_rkd(distance, angle):
    loss = mid_level.RKDLoss("s", "t", distance, angle, "mean")
    return lambda s, t: loss({"s": {"output": s}}, {"t": {"output": t}})


def test_agrees_with_torchdistill_up_to_the_factors_of_the_docstrings():
    distance = torchdistill_rkd(1.0, 0.0)(STUDENT, TEACHER).item()
    ours = relational.rkd_distance_loss(STUDENT, TEACHER).item()
    assert distance == pytest.approx(ours * (N - 1) / N, rel=1e-9)
    angle = torchdistill_rkd(0.0, 1.0)(STUDENT, TEACHER).item()
    ours = relational.rkd_angle_loss(STUDENT, TEACHER).item()
    assert angle == pytest.approx(ours * (N - 1) * (N - 2) / N**2, rel=1e-9)


# The authors' conventions for samples that coincide, in Python's own floats.


def authors_distance(s, t):
    """All N² pairs; a distance is at least 1e-6, but 0 from a sample to itself."""

    def ratios(z):
        d = [
            0.0 if i == j else max(norm(minus(u, v)), 1e-6)
            for i, u in enumerate(z)
            for j, v in enumerate(z)
        ]
        mean = math.fsum(d) / sum(x > 0 for x in d)
        return [x / mean for x in d]

    values = [huber(a - b) for a, b in zip(ratios(s), ratios(t), strict=True)]
    return math.fsum(values) / len(s) ** 2


def authors_angle(s, t):
    """All N³ triples; the unit vector between samples that coincide is zero."""

    def unit(z, i, j):
        v = minus(z[i], z[j])
        return [a / (norm(v) or 1.0) for a in v]

    def cosine(z, i, j, k):
        return math.fsum(a * b for a, b in zip(unit(z, i, j), unit(z, k, j), strict=True))

    triples = list(itertools.product(range(len(s)), repeat=3))
    return math.fsum(huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triples) / len(triples)


DUPLICATES = {  # and how many pairs coincide in one net only
    "none": (STUDENT, TEACHER, 0),
    "in both": (with_duplicates(STUDENT), with_duplicates(TEACHER), 0),
    "in the student": (with_duplicates(STUDENT), TEACHER, 3),
    "in the teacher": (STUDENT, with_duplicates(TEACHER), 3),
}
coinciding = pytest.mark.parametrize(("s", "t", "pairs"), DUPLICATES.values(), ids=DUPLICATES)


@coinciding
def test_the_authors_distance_loss_is_smaller_by_the_factor_of_the_docstring(s, t, pairs):
    ours = relational.rkd_distance_loss(s, t).item()
    theirs = authors_distance(s.tolist(), t.tolist())
    assert theirs == pytest.approx(ours * (N - 1) / N, rel=1e-5)


def test_the_authors_distances_of_a_collapsed_student_are_all_alike_and_ours_are_zero():
    s, t = torch.ones(N, D), TEACHER
    ratio = relational.distances(t) / (relational.distances(t).sum() / (N * (N - 1)))
    apart = ~torch.eye(N, dtype=torch.bool)
    for found, place in (
        (relational.rkd_distance_loss(s.double(), t).item(), 0.0),
        (authors_distance(s.tolist(), t.tolist()) * N / (N - 1), 1.0),
    ):
        values = [huber(x - place) for x in ratio[apart].tolist()]
        assert found == pytest.approx(math.fsum(values) / len(values), rel=1e-9)


@coinciding
def test_the_authors_angle_loss_follows_from_ours_as_the_docstring_says(s, t, pairs):
    ours = relational.rkd_angle_loss(s, t).item()
    theirs = authors_angle(s.tolist(), t.tolist())
    assert theirs == pytest.approx(ours * (N - 1) * (N - 2) / N**2 + pairs / N**3, rel=1e-9)


def test_torchdistills_similarity_divides_rows_by_their_sum_and_ours_by_their_norm():
    other = mid_level.SPKDLoss("s", "t", "batchmean")
    theirs = other({"s": {"output": STUDENT}}, {"t": {"output": TEACHER}}).item()
    gram = [z @ z.T for z in (STUDENT, TEACHER)]
    by_norm, by_sum = ([torch.nn.functional.normalize(g, p=p, dim=1) for g in gram] for p in (2, 1))
    assert theirs == pytest.approx((by_sum[0] - by_sum[1]).square().mean().item(), rel=1e-9)
    ours = relational.similarity_preserving_loss(STUDENT, TEACHER).item()
    assert ours == pytest.approx((by_norm[0] - by_norm[1]).square().mean().item(), rel=1e-9)


# Precision, devices, transformations.


def test_the_angle_loss_never_holds_all_differences():
    samples, width = 128, 512
    s = draw(samples, width, dtype=torch.float32).requires_grad_()
    t = draw(samples, width, seed=1, dtype=torch.float32)
    largest = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest.append(tensor.numel())
            return out

    with Largest():
        relational.rkd_angle_loss(s, t).backward()
    assert max(largest) <= max(relation_term.CHUNK["cpu"], samples * width)
    assert max(largest) < samples**2 * width / 10


# Bad input.

sizes = st.integers(0, 6)


@every_loss
@given(samples=sizes, other=sizes)
def test_batches_that_differ_are_named(loss, samples, other):
    if samples == other:
        other += 1
    with pytest.raises(ValueError, match=r"student_|teacher_"):
        loss(torch.randn(samples, D), torch.randn(other, D))


@pytest.mark.parametrize("name", LOSSES)
def test_too_few_samples_are_named(name):
    for samples in range(LEAST[name]):
        with pytest.raises(ValueError, match=r"student_(embeddings|features) must .*at least"):
            LOSSES[name](torch.randn(samples, D), torch.randn(samples, D))
    assert LOSSES[name](torch.randn(LEAST[name], D), torch.randn(LEAST[name], D)).isfinite()


@rkd
@given(shape=st.lists(st.integers(1, 4), max_size=4).filter(lambda s: len(s) != 2))
def test_wrong_dimensions_are_named(loss, shape):
    with pytest.raises(ValueError, match=r"student_embeddings must have shape \(N, D\)"):
        loss(torch.randn(shape), TEACHER)
    with pytest.raises(ValueError, match=r"teacher_embeddings must have shape \(N, D\)"):
        loss(STUDENT, torch.randn(shape))


def test_features_without_a_dimension_behind_the_samples_are_named():
    with pytest.raises(ValueError, match=r"^student_features must have shape \(N, …\), got \(3,\)"):
        relational.similarity_preserving_loss(torch.zeros(3), TEACHER)
    with pytest.raises(ValueError, match=r"^teacher_features must have shape \(N, …\), got \(3,\)"):
        relational.similarity_preserving_loss(STUDENT, torch.zeros(3))


@every_loss
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_named(loss, dtype):
    with pytest.raises(ValueError, match=r"student_\w+ must be floating point"):
        loss(torch.zeros(N, D, dtype=dtype), TEACHER)
    with pytest.raises(ValueError, match=r"teacher_\w+ must be floating point"):
        loss(STUDENT, torch.zeros(N, D, dtype=dtype))


@every_loss
def test_what_is_no_tensor_is_a_type_error(loss):
    with pytest.raises(TypeError, match="student_"):
        loss([[1.0, 2.0]], TEACHER)
    with pytest.raises(TypeError, match="teacher_"):
        loss(STUDENT, None)


coordinates = st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@every_loss
@given(data=st.data(), samples=st.integers(3, 5), width=st.integers(1, 3))
def test_any_embeddings_give_finite_values_and_gradients(loss, data, samples, width):
    rows = st.lists(coordinates, min_size=samples * width, max_size=samples * width)
    s, t = (torch.tensor(data.draw(rows)).view(samples, width) for _ in range(2))
    s.requires_grad_()
    value = loss(s, t)
    value.backward()
    assert value.isfinite()
    assert value.item() >= 0
    assert s.grad.isfinite().all()
