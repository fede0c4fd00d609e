"""Claims about language models: whose texts to learn from, by which distance, from which start."""

import re
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import CrossEntropy, LogitKD, logit, metrics, models
from kdcourse.course.claims.claim import NATS, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import Lab
from kdcourse.data import replay
from kdcourse.language import (
    Definitions,
    InTwoVocabularies,
    OnPolicy,
    Pieces,
    Vocabulary,
    Written,
    distinct,
    lessons,
    nats_per_token,
    sample,
    wordnet,
)
from kdcourse.methods.chunk_likelihood import ChunkLikelihood
from kdcourse.methods.top_k import TopKKD
from kdcourse.methods.universal_logit import UniversalLogitKD
from kdcourse.models import LanguageModel
from kdcourse.objective import Objective
from kdcourse.teachers import CachedTexts, correct, every_other_layer, narrowed
from kdcourse.training.schedules import one_cycle

# Rate and steps were chosen on validation data, for labels alone.
USUAL: dict[str, Any] = dict(
    teacher="definitions", depth=2, width=48, rate=0.01, texts=32, judged=500
)
TOY: dict[str, Any] = {
    **dict(words=32, few=16, many=32, importance=16, judged=20, texts=16),
    **dict(steps=2, few_steps=2, many_steps=2, begin=1, correction=1),
}


def claim(*effects: Effect, settings: dict[str, Any], reason: str) -> Any:
    """Return the decorator that registers a claim, with what is usual here."""
    settings = USUAL | settings
    toy = {name: TOY[name] for name in settings.keys() & TOY.keys()}
    return claims_of(notebook="8")(*effects, settings=settings, toy=toy, reason=reason)


labels = partial(CrossEntropy, class_dim=-1)
word_level = partial(LogitKD, 1.0, class_dim=-1, ignore_index=-1)
splits = cache(wordnet)
vocabulary = cache(lambda: splits().vocabulary)
dictionary = cache(lambda: {*words_of(text for part in splits() for text in part.texts)})
pieces = cache(lambda: Pieces.of((text for part in splits() for text in part.texts), size=512))


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the words of some texts, one after the other, without their punctuation."""
    return re.findall(r"[^\W\d_]+", " ".join(texts).lower())


def student(lab: Lab, width: int | None = None, tokens: Vocabulary | None = None) -> nn.Module:
    """Make a student with fresh weights."""
    count = len(vocabulary() if tokens is None else tokens)
    return models.language_model(width or lab["width"], lab["depth"], 4, count, seed=lab.seed)


def words(lab: Lab, count: int) -> Definitions:
    """Return definitions to learn from, for each seed others, as long as there are enough."""
    known = splits().train
    first = lab.seed * count % (len(known) - count)
    return known[first : first + count]


def judged(lab: Lab) -> Definitions:
    """Return definitions that nobody has learned from."""
    held_out = splits().validation if lab.claim.search else splits().test
    return held_out[: lab["judged"]]


def texts(
    lab: Lab, net: nn.Module, count: int, share: float = 0.0, tokens: Vocabulary | None = None
) -> OnPolicy:
    """Return definitions as batches, of which a net writes a share itself."""
    return OnPolicy(
        net,
        words(lab, count),
        vocabulary() if tokens is None else tokens,
        share=share,
        batch_size=lab["texts"],
        seed=lab.seed,
    )


def knobs(lab: Lab, rate: float | None = None) -> dict[str, Any]:
    """Return how nets learn from texts."""
    adam = partial(torch.optim.AdamW, lr=rate or lab["rate"], weight_decay=0.01)
    return {"optimizer": adam, "scheduler": one_cycle}


def taught(
    lab: Lab,
    net: nn.Module,
    source: Any,
    objective: Objective,
    steps: int | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Let a net learn from texts, and return it."""
    if objective.needs_teacher and teacher is None:
        teacher = lab.teacher
    steps = lab["steps"] if steps is None else steps
    return lab.fit(net, objective, source, teacher=teacher, steps=steps, **knobs(lab))


def nats(lab: Lab, net: nn.Module) -> float:
    """Coverage: what held-out definitions cost a net, per character."""
    return lab.note(nats_per_token(net, judged(lab).lessons(vocabulary())))


def written(lab: Lab, net: nn.Module) -> tuple[Tensor, Tensor]:
    """Let a net define the judged words, and return its texts as lessons."""
    prompts = vocabulary().encode(judged(lab).prompts)
    made = sample(net, prompts, length=78, end=vocabulary().end, generator=replay(lab.seed, 8))
    return lessons(made, prompts, vocabulary())


def quality(lab: Lab, made: tuple[Tensor, Tensor]) -> float:
    """Return what a text costs the teacher, per character."""
    return lab.note(nats_per_token(lab.teacher, made))


def words_written(lab: Lab, made: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return what share of written words people use in definitions, and, among the first of
    these, the share of different ones (*variety*), in percent.
    """
    words = words_of(vocabulary().decode(made[1]))
    spelt = [word for word in words if word in dictionary()]
    different = distinct([" ".join(spelt[: lab["counted"]])])
    return lab.note((100 * len(spelt) / len(words), 100 * different))


def judge(lab: Lab, name: str, net: nn.Module, made: tuple[Tensor, Tensor]) -> Measured:
    """Measure what a net foresees, and what it has written."""
    spelt, variety = words_written(lab, made)
    yield f"{name}, nats", nats(lab, net)
    yield f"{name}, written", quality(lab, made)
    yield f"{name}, spelt", spelt
    yield f"{name}, variety", variety


def astray(lab: Lab, net: nn.Module, seen: tuple[Tensor, Tensor]) -> float:
    """Return how far a net is from its teacher at the places of some texts: KL per character."""
    inputs, target = seen
    said, wanted = metrics.predict(net, inputs), metrics.predict(lab.teacher, inputs)
    return lab.note(float(logit.kd_loss(said, wanted, 1.0, class_dim=-1, mask=target >= 0)))


def doubt(lab: Lab, seen: tuple[Tensor, Tensor]) -> float:
    """Return how uncertain the teacher is at the places of some texts: entropy per character."""
    log_p = metrics.predict(lab.teacher, seen[0])[seen[1] >= 0].log_softmax(dim=1)
    return lab.note(-float((log_p.exp() * log_p).sum(dim=1).mean()))


@claim(
    Effect("nats of labels − with KD (500 definitions)", "few labels", "few KD", NATS),
    Effect("nats of labels − with KD (4,000 definitions)", "many labels", "many KD", NATS),
    reason="Held-out nats per character. Each place of a text offers a whole prediction to "
    "learn from, not one character.",
    settings=dict(few=500, many=4000, few_steps=200, many_steps=500),
)
def word_level_kd(lab: Lab) -> Measured:
    """Word-level KD beats labels alone, with few texts and with many."""
    for name in ("few", "many"):
        for kind, objective in {"labels": labels(), "KD": labels() + word_level()}.items():
            net = student(lab)
            taught(lab, net, texts(lab, net, lab[name]), objective, lab[f"{name}_steps"])
            yield f"{name} {kind}", nats(lab, net)


@claim(
    Effect("held-out nats, people's texts − the teacher's", "people's, nats", "drawn, nats", NATS),
    Effect(
        "the teacher's nats on what they write, people's texts − its likeliest",
        "people's, written",
        "likeliest, written",
        NATS,
    ),
    reason="2,000 definitions of the same words, by people or by the teacher: drawn, or letter by "
    "letter the likeliest. The student sees the texts and nothing else of the teacher.",
    settings=dict(words=2000, steps=400, counted=500),
)
def sequence_level_kd(lab: Lab) -> Measured:
    """Sequence-level KD, on texts that the teacher has written, beats labels at equal numbers."""
    known = words(lab, lab["words"])
    how = {"batch_size": lab["texts"], "seed": lab.seed}
    for name, greedy in {"people's": None, "drawn": False, "likeliest": True}.items():
        net = student(lab)
        source: Any = texts(lab, net, lab["words"])
        if greedy is not None:
            source = Written(lab.teacher, known, vocabulary(), greedy=greedy, **how)
        made = written(lab, taught(lab, net, source, labels()))
        yield from judge(lab, name, net, made)


def begun(lab: Lab) -> dict[str, Tensor]:
    """Return the weights of a student that has learned from labels."""
    net = student(lab)
    taught(lab, net, texts(lab, net, lab["words"]), labels(), lab["begin"])
    return net.state_dict()


def go_on(
    lab: Lab, start: dict[str, Tensor], share: float, divergence: str = "forward"
) -> nn.Module:
    """Return a student that has gone on to learn from the teacher alone."""
    net = student(lab)
    net.load_state_dict(start)
    objective = word_level(divergence=divergence)
    return taught(lab, net, texts(lab, net, lab["words"], share), objective)


ON_POLICY = dict(words=2000, begin=400, steps=100, counted=500)


@claim(
    Effect("KL to the teacher, on its own texts − on people's", "off, own", "off, people's", NATS),
    Effect("KL on its own texts, off-policy − on-policy", "off, own", "on, own", NATS),
    Effect("the teacher's nats on what they write, off − on", "off, written", "on, written", NATS),
    reason="A student that has learned 2,000 definitions goes on by KD for 100 steps, on these or "
    "on its own texts. On those, the teacher is itself in more doubt, and a vague prediction may "
    "be easier to match. Nats per character.",
    settings=ON_POLICY,
)
def on_policy(lab: Lab) -> Measured:
    """On-policy distillation closes exposure bias: a student follows its teacher less well where
    its own words have led it than where people's have, unless it learns there.
    """
    start, people = begun(lab), judged(lab).lessons(vocabulary())
    for name, share in {"off": 0.0, "on": 1.0}.items():
        net = go_on(lab, start, share)
        made = written(lab, net)
        yield f"{name}, people's", astray(lab, net, people)
        yield f"{name}, own", astray(lab, net, made)
        yield f"{name}, doubt", doubt(lab, made)
        yield from judge(lab, name, net, made)
    yield "doubt", doubt(lab, people)


@claim(
    Effect(
        "the teacher's nats on what they write, forward − reverse",
        "forward, written",
        "reverse, written",
        NATS,
    ),
    Effect("words that exist, reverse − forward", "reverse, spelt", "forward, spelt"),
    Effect("different words, forward − reverse", "forward, variety", "reverse, variety"),
    Effect("held-out nats, reverse − forward", "reverse, nats", "forward, nats", NATS),
    reason="A student that has learned 2,000 definitions goes on for 100 steps on its own texts. "
    "Different words are counted among the first 500 that exist, in WordNet's definitions.",
    settings=ON_POLICY,
)
def reverse_kl(lab: Lab) -> Measured:
    """Reverse KL trades diversity for quality."""
    start = begun(lab)
    for name in ("forward", "reverse"):
        net = go_on(lab, start, 1.0, name)
        yield from judge(lab, name, net, written(lab, net))


TOP = 4, 16
OTHERS = {"rest": "tail", "renormalised": "none"}  # what they are of which nothing is known


@claim(
    Effect("nats of labels − of 16 log-probabilities and the rest", "labels", "16, rest", NATS),
    Effect("0.01 − what 16 and the rest cost", "0.01", "16, rest − all", NATS),
    Effect("nats of 4 renormalised − of 4 and the rest", "4, renormalised", "4, rest", NATS),
    reason="2,000 definitions, KD alone, from answers that were stored; there are 83 characters. "
    "The 16 hold so much of the teacher's mass that the rest hardly matters to them.",
    settings=dict(words=2000, steps=250),
)
def top_k_answers(lab: Lab) -> Measured:
    """The largest log-probabilities of each prediction are enough with the rest's mass (16), and
    biased without (4).
    """
    seen = words(lab, lab["words"]).lessons(vocabulary())
    found = {}
    kinds = {f"{k}, {kind}": (k, rest) for k in TOP for kind, rest in OTHERS.items()}
    for name, (k, rest) in {"all": (len(vocabulary()), "tail"), **kinds}.items():
        source = CachedTexts(lab.teacher, *seen, k=k, batch_size=lab["texts"], seed=lab.seed)
        term = TopKKD(rest=rest, class_dim=-1, ignore_index=-1)
        net = taught(lab, student(lab), source, term, teacher=source.teacher)
        found[name] = nats(lab, net)
    yield from found.items()
    net = student(lab)
    yield "labels", nats(lab, taught(lab, net, texts(lab, net, lab["words"]), labels()))
    yield "0.01", 0.01
    yield "16, rest − all", found["16, rest"] - found["all"]


def nats_of_pieces(lab: Lab, net: nn.Module) -> float:
    """Return what held-out definitions cost a net that reads pieces, per character."""
    seen = judged(lab)
    _, target = own = seen.lessons(pieces())
    characters = (seen.lessons(vocabulary())[1] >= 0).sum()
    return lab.note(nats_per_token(net, own) * float((target >= 0).sum() / characters))


@claim(
    Effect("nats of labels − with KD (pieces, by sorted predictions)", "pieces", "sorted", NATS),
    Effect("nats of labels − with KD (pieces, by chunks of text)", "pieces", "chunks", NATS),
    Effect("gain by characters − gain by chunks", "gain, characters", "gain, chunks", NATS),
    reason="2,000 definitions; the teacher reads characters. Nats per character, in whichever "
    "tokens. The weights, 0.1 and 1, were chosen on validation data.",
    settings=dict(words=2000, steps=250),
)
def another_vocabulary(lab: Lab) -> Measured:
    """A teacher can be asked in a vocabulary other than the student's, at a price."""
    both = pieces(), vocabulary()
    found = {}
    for name, term in {
        "pieces": None,
        "sorted": 0.1 * UniversalLogitKD(*both, class_dim=-1, ignore_index=-1),
        "chunks": ChunkLikelihood(*both, class_dim=-1, ignore_index=-1),
    }.items():
        net = student(lab, tokens=pieces())
        own: Any = texts(lab, net, lab["words"], tokens=pieces())
        if term is not None:
            own = InTwoVocabularies(own, *both)
        taught(lab, net, own, labels() if term is None else labels() + term)
        found[name] = nats_of_pieces(lab, net)
    for name, objective in {"characters": labels(), "word-level": labels() + word_level()}.items():
        net = student(lab)
        found[name] = nats(lab, taught(lab, net, texts(lab, net, lab["words"]), objective))
    yield from found.items()
    yield "gain, characters", found["characters"] - found["word-level"]
    yield "gain, chunks", found["pieces"] - found["chunks"]


@claim(
    Effect("nats, random − every other layer", "random", "layers", NATS),
    Effect("nats, random − every other layer, narrowed", "random, narrow", "narrowed", NATS),
    reason="2,000 definitions, KD alone. The layers are the teacher's first and last; narrowed "
    "ones keep the most important channels, heads and neurons.",
    settings=dict(words=2000, steps=100, wide=128, importance=256),
)
def start_from_layers(lab: Lab) -> Measured:
    """A student that starts from its teacher's layers beats one that starts at random."""
    assert isinstance(lab.teacher, LanguageModel)
    layers = every_other_layer(lab.teacher, lab["depth"])
    assert isinstance(layers, LanguageModel)
    sample = texts(lab, layers, lab["importance"])
    for name, net in {
        "random": student(lab, lab["wide"]),
        "layers": layers,
        "random, narrow": student(lab),
        "narrowed": narrowed(layers, lab["width"], sample),
    }.items():
        yield f"{name}, before", nats(lab, net)
        yield name, nats(lab, taught(lab, net, texts(lab, net, lab["words"]), word_level()))


@claim(
    Effect("nats, teacher as it was − corrected", "as it was", "corrected", NATS),
    reason="2,000 definitions with the part of speech before each word, which the teacher has not "
    "seen; the student learns from the teacher alone.",
    settings=dict(words=2000, steps=200, correction=100, rate_of_correction=0.0006),
)
def language_correction(lab: Lab) -> Measured:
    """Teacher correction: on texts other than its own, a teacher that has learned from them first
    teaches better.
    """
    known, held_out = (
        _short(part.in_context()) for part in (words(lab, lab["words"]), judged(lab))
    )
    source = partial(
        OnPolicy,
        definitions=known,
        vocabulary=vocabulary(),
        share=0.0,
        batch_size=lab["texts"],
        seed=lab.seed,
    )
    corrected = correct(
        lab.teacher,
        source(lab.teacher),
        labels(),
        steps=lab["correction"],
        **knobs(lab, lab["rate_of_correction"]),
        **lab.options,
    )
    seen = held_out.lessons(vocabulary())
    for name, teacher in {"as it was": lab.teacher, "corrected": corrected}.items():
        net = student(lab)
        taught(lab, net, source(net), word_level(), teacher=teacher)
        yield name, lab.note(nats_per_token(net, seen))
        yield f"{name}, teacher", lab.note(nats_per_token(teacher, seen))


def _short(definitions: Definitions) -> Definitions:
    """Return those that are no longer than the teacher reads."""
    kept = [n for n, text in enumerate(definitions.texts) if len(text) <= 78]
    return Definitions(
        *(tuple(column[n] for n in kept) for column in (definitions.words, definitions.meanings))
    )
