"""The loops of docs/loops.md, as they stand there, end with the weights that they should."""

import subprocess
import sys
from functools import partial

import accelerated
import pytest
import torch
import transformers
from test_processes import environment
from test_readme import programs
from torch.utils.data import DataLoader, TensorDataset
from toys import images, net, same, weights

from kdcourse import CrossEntropy, FeatureHint, LogitKD, fit
from kdcourse.places import COURSE
from kdcourse.training.schedules import constant

PLAIN, TRAINER, LIGHTNING, ACCELERATE = programs(COURSE / "docs/loops.md")
SGD = partial(torch.optim.SGD, lr=0.1)
OPTIONS = {"optimizer": SGD, "scheduler": constant, "device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """On the CPU, in a folder of its own, and without a trace in torch's generator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with torch.random.fork_rng():
        yield


def objective():
    return CrossEntropy() + 4.0 * LogitKD(temperature=4)


# --- bit by bit: a plain loop, and Lightning


def small_nets():
    """With batch norm, by which train mode and eval mode differ."""
    seen = images(48)
    loader = DataLoader(TensorDataset(seen.inputs(), seen.target), batch_size=20)
    return {"my_student": net(2, seed=1), "my_teacher": net(4, seed=2), "my_loader": loader}


def test_a_plain_loop_with_a_hint():
    names, expected = small_nets(), small_nets()
    exec(PLAIN, names)
    aim = objective() + FeatureHint("stage2")
    student, teacher, batches = expected.values()
    fit(student, batches, aim, teacher=teacher, epochs=1, **OPTIONS)
    assert same(weights(names["my_student"]), weights(student))
    assert same(weights(names["objective"]), weights(aim))


def test_lightning():
    names, expected = small_nets(), small_nets()
    quiet = "logger=False, enable_checkpointing=False, enable_progress_bar=False"
    quiet += ", enable_model_summary=False, accelerator='cpu'"
    names["my_student"].eval()  # as it comes from a file
    exec(LIGHTNING.replace("max_epochs=2", f"max_epochs=2, {quiet}"), names)
    student, teacher, batches = expected.values()
    fit(student, batches, objective(), teacher=teacher, epochs=2, **OPTIONS)
    assert same(weights(names["my_student"]), weights(student))
    assert same(weights(names["my_teacher"]), weights(teacher))


# --- up to rounding: parts of a batch that hold different numbers of samples, or of tokens


def learned_by_fit(batch):
    """What ``fit`` learns from whole batches of so many samples."""
    student, teacher, loader = accelerated.names().values()
    inputs, target = loader.dataset.tensors
    batches = list(zip(inputs.split(batch), target.split(batch), strict=True))
    fit(student, batches, objective(), teacher=teacher, epochs=1, **OPTIONS)
    return weights(student)


def test_accelerate():
    names = accelerated.names()
    exec(ACCELERATE, names)
    torch.testing.assert_close(weights(names["my_student"]), learned_by_fit(batch=16))


def test_accelerate_in_two_processes(tmp_path):
    command = [sys.executable, accelerated.__file__, ACCELERATE, tmp_path]
    subprocess.run(command, check=True, env=environment(), timeout=400)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, learned_by_fit(batch=32))


def test_accelerate_by_a_mean_of_means():
    """The page's warning is true: without the share, the weights are others."""
    share = " * len(target) * accelerator.num_processes / whole"
    assert share in ACCELERATE
    names = accelerated.names()
    exec(ACCELERATE.replace(share, " / len(parts)"), names)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(weights(names["my_student"]), learned_by_fit(batch=16))


WORDS, TEXTS, EPOCHS = 20, 8, 3


def gpt2(width, **quiet):
    sizes = {"n_positions": 12, "n_embd": width, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(
        vocab_size=WORDS, **sizes, **quiet, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(width)
    return transformers.GPT2LMHeadModel(config)


def texts():
    """Of 2 to 9 tokens that count, behind one that is given."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(WORDS, (TEXTS, 10), generator=draw)
    number, place = torch.arange(TEXTS)[:, None], torch.arange(10)
    labels = ids.masked_fill((place == 0) | (place > number + 2), -100)
    return {"input_ids": ids, "attention_mask": (place < number + 3).long(), "labels": labels}


def trained_by_transformers(program):
    """Three steps, each of all texts in two parts."""
    given = texts()
    names = {
        "my_student": gpt2(8, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
        "my_teacher": gpt2(16),
        "my_texts": [{name: value[n] for name, value in given.items()} for n in range(TEXTS)],
        "my_arguments": transformers.TrainingArguments(
            "runs",
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=TEXTS // 2,
            gradient_accumulation_steps=2,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
    }
    exec(program, names)
    return weights(names["my_student"])


def naive_steps():
    """The same, token by token in float64."""
    student = gpt2(8, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).double()
    teacher, given = gpt2(16).double().eval(), texts()
    labels = given.pop("labels")
    optimizer = SGD(student.parameters())
    for _ in range(EPOCHS):
        own = student(**given).logits
        with torch.no_grad():
            theirs = teacher(**given).logits
        losses = []
        for text, place in (labels[:, 1:] != -100).nonzero().tolist():
            predicted, taught = own[text, place], (theirs[text, place] / 4).softmax(0)
            hard = -predicted.log_softmax(0)[labels[text, place + 1]]
            soft = (taught * (taught.log() - (predicted / 4).log_softmax(0))).sum()
            losses.append(hard + 4.0 * 16 * soft)
        optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        optimizer.step()
    return {name: value.float() for name, value in weights(student).items()}


def test_transformers():
    torch.testing.assert_close(trained_by_transformers(TRAINER), naive_steps())


def test_transformers_by_a_mean_of_means():
    share = "kd * counted.sum() * self.accelerator.num_processes / num_items_in_batch"
    assert share in TRAINER
    mean = TRAINER.replace(share, "kd / self.args.gradient_accumulation_steps")
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(trained_by_transformers(mean), naive_steps())
