"""What is different where texts are learned from: data, whose texts, and what is measured."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdcourse.batch import blaming_model, call
from kdcourse.data import replay
from kdcourse.language import (
    Characters,
    Definitions,
    Lines,
    Nats,
    OnPolicy,
    Written,
    nats_per_token,
    read_lines,
    sample,
    wordnet,
)
from kdcourse.language.vocabulary import NO_TOKEN
from kdcourse.models import LanguageModel
from kdcourse.modes import evaluation_mode
from kdcourse.objective import Objective
from kdcourse.train.language import Reader
from kdcourse.train.options import DEFINITIONS, OptionError, Options, blaming
from kdcourse.training.teacher import Teacher

Source = Written | OnPolicy
VOCABULARY = "vocabulary"  # in the metadata of weights, and in result.json
SHOWN, TEMPERATURE = 5, 0.7  # of the texts that a student writes in the end


@dataclass(frozen=True)
class Corpus:
    """Texts with their vocabulary: what images are, where pictures are learned from.

    Attributes:
        texts: What is to be written.
        vocabulary: Of all the texts there are, or the teacher's.
        length: Tokens of the longest text there is.
    """

    texts: Definitions | Lines
    vocabulary: Characters
    length: int

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, places: slice) -> "Corpus":
        return replace(self, texts=self.texts[places])

    def to(self, device: torch.device) -> "Corpus":
        """Stay: batches are moved one by one."""
        return self

    def steps(self, batch_size: int, *, drop_last: bool = False) -> int:
        """Return the number of batches of an epoch, of which none is left out."""
        return -(-len(self) // batch_size)

    @property
    def lessons(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of all texts."""
        return self.texts.lessons(self.vocabulary)

    @property
    def given(self) -> dict[str, Any]:
        """What the command knows of texts, by the names of parameters.

        These are the numbers of tokens, and where nets and terms have tokens and channels.
        """
        tokens = len(self.vocabulary)
        places = {"class_dim": -1, "ignore_index": NO_TOKEN, "channel_dim": -1}
        return {"classes": tokens, "vocabulary": tokens, **places}

    @property
    def rated(self) -> dict[str, Any]:
        """The options of ``fit`` by which students are rated on these texts, if there are any."""
        return {"validation": self.lessons, "metrics": {"nats": Nats()}} if len(self) else {}


@dataclass(frozen=True)
class CorpusSplits:
    """Texts to learn from, to choose settings by, and to test with."""

    train: Corpus
    validation: Corpus
    test: Corpus


def read(options: Options) -> CorpusSplits:
    """Read the course's definitions, or a file with a text a line."""
    with blaming("data"):
        parts = wordnet() if options.data == DEFINITIONS else read_lines(options.data)
    texts = [text for part in parts for text in part.texts]
    own = Characters.of(texts)
    vocabulary = _vocabulary_of(options) or own
    unknown = sorted(set(own.characters) - set(vocabulary.characters))
    if unknown:
        whose = "student" if options.student_weights else "teacher"
        raise OptionError(
            f"--data: {options.data} has characters that are not in the {whose}'s vocabulary: "
            f"{' '.join(map(repr, unknown[:10]))}"
        )
    longest = max(map(len, texts))
    train, validation, test = (Corpus(part, vocabulary, longest) for part in parts)
    return CorpusSplits(train, validation[: options.validation], test)


def _vocabulary_of(options: Options) -> Characters | None:
    """Return the vocabulary that is stored beside weights; None if there is none."""
    found: set[str] = set()
    files = (*options.teacher_weights, options.student_weights or "")
    for path in filter(Path.is_file, map(Path, files)):
        try:
            with safe_open(path, "pt") as weights:
                found |= {v for key, v in (weights.metadata() or {}).items() if key == VOCABULARY}
        except (OSError, SafetensorError):  # which is told where the weights are loaded
            pass
    name = "student-weights" if options.student_weights else "teacher-weights"
    if len(found) > 1:
        raise OptionError(f"--{name}: these nets have different vocabularies")
    with blaming(name):
        return Characters(found.pop()) if found else None


def try_out(model: nn.Module, corpus: Corpus, who: str) -> None:
    """Require a net that reads texts as long as these, of their characters."""
    longest, characters = corpus.length - 1, len(corpus.vocabulary)
    for part in model.modules():
        if not isinstance(part, LanguageModel):
            continue
        if part.length < longest:
            raise ValueError(
                f"the {who} reads {part.length} characters, and the longest text has {longest}: "
                'cut the texts, or make a net by "language_model(width, depth, heads, '
                f'length={longest})"'
            )
        if part.classifier.out_features != characters:
            raise ValueError(
                f"the {who} knows {part.classifier.out_features} characters, and the vocabulary "
                f"has {characters}"
            )
    inputs, _ = corpus[:2].lessons
    with blaming_model(who, inputs, "data"), evaluation_mode(model), torch.no_grad():
        if isinstance(model, Teacher):
            model.show(inputs)
        else:
            call(model, inputs, who)


def source(
    options: Options, corpus: Corpus, student: nn.Module, teacher: nn.Module | None
) -> Source:
    """Make what yields batches of the texts that are to be learned from."""
    given = {
        "student": student,
        "definitions": corpus.texts,
        "vocabulary": corpus.vocabulary,
        "length": corpus.length,
        "batch_size": options.batch_size,
        "seed": options.seed,
    }
    if teacher is not None:
        given |= {"teacher": teacher, "model": teacher}
    elif options.texts.startswith(Written.__name__):
        raise OptionError("--texts: there is no --teacher who could write them")
    text = "OnPolicy(share=0)" if options.texts == "data" else options.texts
    with blaming("texts"):
        return Reader(text, given, "texts").made


def check_labels(train: Source, objective: Objective) -> None:
    """Refuse a student that would learn its own words as if they were right."""
    if isinstance(train, OnPolicy) and train.share > 0 and not objective.needs_teacher:
        raise OptionError(
            "--texts: a student has no labels for the texts that it writes: let --loss compare it "
            "with a --teacher, as LogitKD(1) does"
        )


def check_parts(options: Options, corpus: Corpus, parts: int) -> None:
    """Refuse batches of which some part would have no text."""
    last = (len(corpus) - 1) % options.batch_size + 1
    if last < parts:
        raise OptionError(
            f"--batch-size: the last batch of an epoch holds {last} text(s), too few for {parts} "
            "parts"
        )


def tested(student: nn.Module, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Return what is measured of a student on test texts, and what it writes itself."""
    prompts = corpus.texts.prompts
    distinct = [*dict.fromkeys(prompts)]
    some = (distinct if len(distinct) > 1 else prompts)[:SHOWN]
    place = next(student.parameters()).device
    written = sample(
        student,
        corpus.vocabulary.encode(some).to(place),
        length=corpus.length,
        end=corpus.vocabulary.end,
        temperature=TEMPERATURE,
        generator=replay(seed, device=place),
    )
    return {
        "test_nats": round(nats_per_token(student, corpus.lessons), 6),
        VOCABULARY: corpus.vocabulary.characters,
        "written": [text.strip() for text in corpus.vocabulary.decode(written.cpu())],
    }
