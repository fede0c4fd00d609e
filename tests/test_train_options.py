"""Every mistake in an option is found before any data are read, and named."""

from dataclasses import fields, replace

import pytest
from safetensors.torch import save_file

from kdcourse import models
from kdcourse.__main__ import main
from kdcourse.teachers import FoldedTeacher
from kdcourse.train import command, options
from kdcourse.train.images import SHAPES, data_set
from kdcourse.train.options import OptionError, Options, dashed, from_toml, read_toml
from kdcourse.train.parser import parser
from kdcourse.train.plan import prepare


@pytest.fixture(autouse=True)
def unread(monkeypatch):
    """No data may be read, and no net be trained."""

    def refuse(*_, **__):
        raise AssertionError("data were read")

    monkeypatch.setattr(command, "from_torchvision", refuse)
    monkeypatch.setattr(command, "fit", refuse)


TAUGHT = ["--teacher", "res16", "--loss"]


REUSED = "reuse_classifier(by_name('plain2'), teacher)"
LAYER = "AttentionTransfer(['stage1'])"
CACHED = ["--loss", "LogitKD()", "--cache", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "plain"], "--student: unknown model 'plain'"),
        (["--student", "resnet21"], "--student: depth of a CIFAR ResNet"),
        (["--student", "LogitKD()"], "--student: 'LogitKD()' makes none of the nets that --help"),
        (["--loss", "LogitKDD()"], "--loss: 'LogitKDD' at character 1: there is no such name; did"),
        (["--loss", "ce + 4*kd"], "--loss: 'ce' at character 1: there is no such name"),
        (["--loss", "Flip()"], "--loss: 'Flip()' makes none of the terms that --help lists"),
        ([*TAUGHT, "CrossEntropy() + LogitKD(0)"], "at character 18: temperature must be"),
        ([*TAUGHT, "CrossEntropy() - LogitKD()"], "at character 1: understood are calls"),
        ([*TAUGHT, "LogitKD(temprature=2)"], "argument 'temprature'; did you mean temperature?"),
        ([*TAUGHT, "AttentionTransfer(['stage9'])"], "--loss: ConvNet has no layer 'stage9'"),
        (
            [*TAUGHT, "FeatureHint('embedding', kernel_size=3)"],
            "--loss: student_features must be at",
        ),
        ([*TAUGHT, "FeatureHint('stage1', kernel_size=99)"], "--loss: student_features must be at"),
        ([*TAUGHT, "FeatureHint('stage1', nonlinearity='gelu')"], "nonlinearity must be one of"),
        (["--loss", "CrossEntropy() + LogitKD()"], "--teacher: the objective"),
        (["--teacher", "res16"], "--teacher: there is a teacher, but the objective"),
        (["--student", "res8", "--drop-last", "--batch-size", "60000"], "--drop-last: drop_last"),
        (["--student", "res8", "--channels-last", "--device", "cpu"], "--channels-last: "),
        (["--teacher", "nosuch", "--loss", "LogitKD()"], "unknown model 'nosuch'"),
        (["--teacher", "res16(3)", "--loss", "LogitKD()"], "--teacher: 'res16' at character 1"),
        (["--teacher", "Ensemble()", "--loss", "LogitKD()"], "an ensemble needs at least one"),
        (["--teacher", "Ensemble(3)", "--loss", "LogitKD()"], "--teacher: 'Ensemble(3)' at char"),
        (["--teacher", "ClosedTeacher()", "--loss", "LogitKD()"], "missing 1 required positional"),
        (
            ["--teacher", "RecordedTeacher()", "--loss", "LogitKD()"],
            "--teacher: a recorded teacher answers the lessons it belongs to only",
        ),
        (["--teacher", "CrossEntropy()", "--loss", "LogitKD()"], "--teacher: 'CrossEntropy()' ma"),
        (
            ["--teacher", "ClosedTeacher(pretrained('res16'))", "--loss", "FeatureHint('stage1')"],
            "--loss: a closed teacher shows probabilities only, not the layers stage1",
        ),
        (
            ["--teacher", "MomentumTeacher(momentum=2)", "--loss", "LogitKD()"],
            "at character 1: momentum must be finite",
        ),
        (
            ["--teacher", "MomentumTeacher(momentum=Flip())", "--loss", "LogitKD()"],
            "--teacher: pixels must be a dense torch.Tensor, got int 1",
        ),
        (["--teacher", "MomentumTeacher(0.9)", "--loss", "LogitKD()"], "student must be a torch"),
        (
            ["--teacher", "res16", "--loss", "LogitKD()", "--data", "cifar10"],
            "--teacher: res16 was",
        ),
        (["--teacher", "resnet8", "--loss", "LogitKD()"], "--teacher-weights: 'resnet8' makes 1 n"),
        (["--teacher-weights", "x"], "--teacher-weights: there is no --teacher"),
        ([*TAUGHT, "LogitKD()", "--teacher-weights", "x"], "--teacher-weights: x cannot be read"),
        (["--student-weights", "x"], "--student-weights: x cannot be read: there is no such file"),
        (["--student", REUSED], "--student: there is no --teacher that it could be made of"),
        (
            ["--student", "reuse_classifier('res8', teacher)", *TAUGHT, "LogitKD()"],
            "--student: \"reuse_classifier('res8', teacher)\" at character 1: body must be a",
        ),
        (
            ["--student", REUSED, "--teacher", "MomentumTeacher()", "--loss", "LogitKD()"],
            "--teacher: 'MomentumTeacher()' at character 1: MomentumTeacher.__init__() missing",
        ),
        (["--data", "cifar1000"], "--data: unknown data set 'cifar1000'"),
        (["--data", "VisionDataset"], "--data: VisionDataset is not among the classification sets"),
        (["--data", "photo-tour"], "--data: PhotoTour is not among the classification sets"),
        (["--images", "0"], "--images: the value must"),
        (["--images", "55001"], "--images: there are 55000 to train on"),
        (["--validation", "60000"], "--validation: FashionMNIST has 60000"),
        (["--validation", "-1"], "--validation: the value must"),
        (["--image-size", "0"], "--image-size: the value must"),
        (
            ["--augment", "pad_crop_flop()"],
            "--augment: 'pad_crop_flop' at character 1:",
        ),
        (["--augment", "PadCrop(-3)"], "--augment: "),
        (["--texts", "Written()"], "--texts: is for texts, and --data fashion-mnist are images"),
        (["--augment", "2*Flip()"], "--augment: '2*Flip()' at character 1: only numbers"),
        (["--augment", "3"], "--augment: '3' makes none of the augmentations that --help lists"),
        (["--augment", "Consistent(Flip())"], "--augment: 'Consistent(Flip())' makes none of the"),
        (["--augment", "one_cycle"], "--augment: 'one_cycle' makes none of the augmentations"),
        (["--views", "same"], "--views: 'same' at character 1: there is no such name"),
        (["--views", "Consistent(Flip())"], "--views: there is no teacher"),
        (
            [*TAUGHT, "LogitKD()", "--views", "Consistent(Flip())", "--augment", "Flip()"],
            "--views: augment and views were both given",
        ),
        (
            [*TAUGHT, "DecoupledKD()", "--views", "FunctionMatching(Flip())"],
            "--views: FunctionMatching(augment=Flip(probability=0.5)) shows no labels, which",
        ),
        ([*TAUGHT, "LogitKD()", "--cache", "-1"], "--cache: the value must"),
        (["--cache", "3"], "--cache: there is no --teacher whose answers could be kept"),
        (
            ["--teacher", "MomentumTeacher()", *CACHED],
            "--teacher: a teacher that follows its student cannot be cached: it says",
        ),
        (
            ["--teacher", "ClosedTeacher(pretrained('res16'))", *CACHED],
            "--teacher: the teacher shows probabilities only",
        ),
        ([*TAUGHT, LAYER, "--cache", "3"], "--loss: only logits were recorded, not the layers"),
        (["--epochs", "0"], "--epochs: the value must"),
        (["--steps", "0"], "--steps: the value must"),
        (["--steps", "9", "--epochs", "2"], "--steps: is instead of --epochs"),
        (["--keep", "first"], "--keep: keep must be one of 'last', 'best'"),
        (["--keep", "best", "--validation", "0"], "--keep: the best is found by images"),
        (["--batch-size", "0"], "--batch-size: the value must"),
        (["--accumulate", "0"], "--accumulate: the value must"),
        (["--accumulate", "99"], "--batch-size: the last batch of an epoch holds 88 sample(s)"),
        (["--learning-rate", "nan"], "--learning-rate: the value must"),
        (["--optimizer", "adam"], "--optimizer: optimizer must be one of 'sgd', 'adamw'"),
        (["--weight-decay", "-1"], "--weight-decay: the value must"),
        (["--momentum", "1"], "--momentum: the value must"),
        (["--momentum", "0"], "--nesterov: needs a momentum above 0"),
        (["--schedule", "stairs"], "--schedule: 'stairs' at character 1: there is no such name"),
        (["--schedule", "3"], "--schedule: '3' makes none of the schedules that --help lists"),
        (["--schedule", "Flip()"], "--schedule: 'Flip()' makes none of the schedules"),
        (["--schedule", "at_epochs"], "--schedule: 'at_epochs' at character 1: write at_epochs()"),
        (["--schedule", "one-cycle"], "--help lists the names; did you mean one_cycle?"),
        (["--clip", "0"], "--clip: clip must be finite and lie in (0.0, inf), got 0.0"),
        (
            ["--schedule", "at_epochs()"],
            "'at_epochs()' at character 1: at_epochs() mis",
        ),
        (["--schedule", "at_epochs([0])"], "at character 1: milestones must"),
        (
            ["--schedule", "at_epochs([1], 'x')"],
            "at character 1: factor must be a finite real number",
        ),
        (["--seed", "-1"], "--seed: the value must"),
        (["--seeds", "3-1"], "--seeds: the last seed must not be below the first, got '3-1'"),
        (["--seeds", "0-9", "--jobs", "0"], "--jobs: the value must"),
        (["--jobs", "2"], "--jobs: is for --seeds"),
        (["--device", "nosuch"], "--device: "),
        (["--device", "cuda:77"], "--device: "),
        (["--device", "meta"], "--device: nothing can be computed on the meta device"),
        (["--autocast", "int8"], "--autocast: unknown dtype 'int8'"),
        (["--autocast", "float16", "--device", "cpu"], "--autocast: float16 needs a GPU"),
        ([*TAUGHT, "Saliency()", "--compile"], "--compile: torch.compile cannot"),
        (["--method", "kd"], "--method: there is no recipe"),
        (["nosuch"], "RECIPE: unknown recipe 'nosuch'"),
        (["resnet56-resnet20"], "--method: say which"),
        (["resnet56-resnet20", "--method", "kdd"], "--method: unknown method 'kdd'; did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_names_its_option_and_leaves_nothing_behind(arguments, message, tmp_path, capsys):
    given = ["train", "--student", "plain2", "--out", str(tmp_path / "run"), *arguments]
    assert main(given) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("kdcourse: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_option_is_tried_above():
    (mark,) = test_a_mistake_names_its_option_and_leaves_nothing_behind.pytestmark
    tried = {word for arguments, _ in mark.args[1] for word in arguments}
    harmless = {"data-root", "download", "tensorboard", "out", "nesterov", "sync-batch-norm"}
    harmless |= {"capture"}
    known = {dashed(spec.name) for spec in fields(Options)}
    assert known - {word[2:] for word in tried} == harmless


def test_batch_norm_of_all_processes_needs_gpus(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun says it
    given = ["--student", "plain2", "--sync-batch-norm", "--device", "cpu"]
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "kdcourse: --sync-batch-norm: sync_batch_norm needs a GPU in every process "
        "(torch.nn.SyncBatchNorm), got 2 processes on cpu: leave it out, or train in one process\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--epochs", "x"], ["--epochs", "1.5"], ["--learning-rate", "x"], ["--epoch", "3"], ["--x"]],
    ids=" ".join,
)
def test_misuse_exits_with_2_and_names_the_option(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--student", "plain2", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_weights_of_another_net_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(models.by_name("plain2").state_dict(), file)
    given = {
        "student": "plain2",
        "loss": "LogitKD()",
        "device": "cpu",
        "teacher_weights": (str(file),),
    }
    prepare(Options(**given, teacher="plain2"))
    for teacher in ("plain3", "plain1", "res2"):
        with pytest.raises(OptionError, match=r"--teacher-weights: .* another net: .*\bst\w+\.0"):
            prepare(Options(**given, teacher=teacher))
    with pytest.raises(
        OptionError, match=r"--teacher-weights: .* 2 net\(s\) and takes as many .* got 1"
    ):
        prepare(Options(**given, teacher="Ensemble(plain(2), by_name('plain2'))"))
    with pytest.raises(OptionError, match=r"--teacher-weights: 'plain2' makes 1 .* got 2"):
        prepare(Options(**{**given, "teacher_weights": (str(file),) * 2}, teacher="plain2"))


def test_teachers_by_name(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(models.by_name("plain2", seed=7).state_dict(), file)

    def teacher(text, *weights):
        return prepare(
            Options("plain4", teacher=text, teacher_weights=weights, loss="LogitKD()", device="cpu")
        ).teacher

    net = teacher("plain2", str(file))
    assert isinstance(net, FoldedTeacher)
    assert net.model.stem[0].weight.equal(models.by_name("plain2", seed=7).stem[0].weight)
    assert not net.model.training
    text = "Ensemble(plain(2), ClosedTeacher(pretrained('res16'), top_k=3), combine='vote')"
    both = teacher(text, str(file))
    assert len(both.members) == 2
    assert both.combine == "vote"
    assert both.members[1].top_k == 3
    assert isinstance(both.members[0], FoldedTeacher)
    assert isinstance(both.members[1].model, FoldedTeacher)
    assert teacher("MomentumTeacher(momentum=0.9)").momentum == 0.9
    assert teacher("MomentumTeacher(student, 0.9)").momentum == 0.9
    assert teacher("MomentumTeacher(momentum=mean_teacher_momentum(0.99))").momentum(1) == 0.5
    steps = 15 * 430  # of the default options on all of Fashion-MNIST
    rising = teacher("MomentumTeacher(momentum=cosine_momentum(0.5))").momentum
    assert rising(steps) == 1
    assert rising(steps // 2) == pytest.approx(0.75)


def test_a_teacher_that_is_looked_into_is_not_folded():
    options = Options("plain2", teacher="res16", loss="LogitKD()", device="cpu")
    assert isinstance(prepare(options).teacher, FoldedTeacher)
    for term in (LAYER, "Saliency()"):
        plan = prepare(replace(options, loss=f"LogitKD() + {term}"))
        assert not isinstance(plan.teacher, FoldedTeacher)


def test_a_view_holds_its_augmentation():
    views = "FunctionMatching(Compose(PadCrop(3), Noise(0.2)))"
    plan = prepare(Options("plain2", teacher="res16", loss="LogitKD()", views=views, device="cpu"))
    assert plan.knobs["augment"] is None
    assert repr(plan.knobs["views"]) == (
        "FunctionMatching(augment=Compose(PadCrop(padding=3), Noise(deviation=0.2)))"
    )


def test_terms_size_themselves_before_any_work():
    loss = "CrossEntropy() + FeatureHint('stage2') + SEED() + WarmUp(LogitKD(), epochs=2)"
    given = Options("plain2", teacher="res16", loss=loss, seed=3, accumulate=2, device="cpu")
    _, hint, seed, rising = prepare(given).objective.terms
    assert hint.hint.projection.weight.shape == (32, 4, 1, 1)
    assert seed.queue.shape == (2048, 64)
    assert rising.steps == 2 * 430 * 2


@pytest.mark.parametrize("name", ["fashion-mnist", "FashionMNIST", "CIFAR-10", "cifar100", "svhn"])
def test_data_sets_by_name(name):
    assert data_set(name) in SHAPES


# --- TOML


def test_a_file_says_what_the_command_line_says(tmp_path):
    given = Options(
        "resnet20",
        teacher="Ensemble(pretrained('res16'), pretrained('res16'))",
        teacher_weights=("a b.safetensors", 'c"\\.safetensors'),
        loss='CrossEntropy() + 0.9 * LogitKD(temperature=4, divergence="reverse")',
        images=100,
        learning_rate=1e-3,
        nesterov=False,
    )
    path = tmp_path / "options.toml"
    path.write_text(given.toml(), encoding="utf-8")
    assert Options(**from_toml(read_toml(path), str(path))) == given


def test_the_command_line_goes_before_the_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text('student = "plain2"\nepochs = 7\nlearning-rate = 1\n')
    seen = []
    monkeypatch.setattr(command, "run", lambda options: seen.append(options))
    assert main(["train", str(path), "--epochs", "3", "--no-nesterov", "--out", "x"]) == 0
    assert seen == [Options("plain2", epochs=3, learning_rate=1, nesterov=False, out="x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "student = 'plain2'\nteacher = 'res16'\nloss = 'ce + 4*kd(temperature=4)'",
            "--loss: 'ce' at character 1: there is no such name; understood are calls of public "
            "names, literals, sums and products, such as CrossEntropy() + 4 * LogitKD(temperature",
        ),
        ("student = 'plain2'\nschedule = 'one-cycle'", "--schedule: 'one-cycle' at character 1: "),
        ("student = 'plain2'\nschedule = 'one-cycle'", "did you mean one_cycle?"),
        ("student = 'plain2'\naugment = 'pad-crop-flip'", "did you mean pad_crop_flip?"),
        ("epoch = 3", "unknown option 'epoch'; did you mean epochs?"),
        ("learning_rate = 3", "unknown option 'learning_rate'; did you mean learning-rate?"),
        ("[nets]\nstudent = 'plain2'", "unknown option 'nets'"),
        ("student = plain2", "mine.toml: Invalid value"),
        ("student = 3", "--student: the value must be a string, got 3"),
        ("student = 'plain2'\nepochs = 1.5", "--epochs: the value must be an integer, got 1.5"),
        ("student = 'plain2'\nepochs = true", "--epochs: the value must be an integer"),
        ("student = 'plain2'\ncompile = 1", "--compile: the value must be true or false"),
        ("student = 'plain2'\nmomentum = '0'", "--momentum: the value must be a number"),
        ("student = 'plain2'\nteacher-weights = [1]", "--teacher-weights: the value must be a li"),
        (
            "student = 'plain2'\n[methods.a]\nloss = 'CrossEntropy()'",
            "--method: say which of mine: a",
        ),
        ("\xff", "mine.toml: "),
    ],
)
def test_mistakes_in_a_file(text, message, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_with_methods(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text('student = "plain2"\nepochs = 7\n[methods.a]\nepochs = 8\n[methods.b]\n')
    seen = []
    monkeypatch.setattr(command, "run", lambda options: seen.append(options))
    for method in "ab":
        assert main(["train", str(path), "--method", method]) == 0
    assert [given.epochs for given in seen] == [8, 7]


def test_help_explains_every_option_and_name(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for spec in fields(Options):
        assert f"--{dashed(spec.name)}" in shown
        assert spec.metadata["help"].split()[0] in shown
    assert "python -m kdcourse train --student" in shown
    assert "LogitKD(temperature=4.0, *, divergence='forward', scale=True" in shown


def test_the_parser_leaves_out_what_was_not_said():
    assert vars(parser().parse_args(["--epochs", "3", "--autocast"])) == {
        "recipe": None,
        "method": None,
        "recipes": False,
        "dry_run": False,
        "epochs": 3,
        "autocast": "auto",
    }


def test_free_options_are_no_settings():
    given = Options("plain2")
    assert replace(given, device="cpu", compile=True, data_root="x").settings == given.settings
    assert replace(given, epochs=3).settings != given.settings
    assert options.NAMES[0] == "student"
