"""Hidden states, queries, keys and values of other people's transformers, made small."""

from functools import cache

import pytest
import timm
import torch
import torchvision
import transformers
from packaging.version import Version

from kdcourse import models
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.feature import AttentionTransfer, FeatureHint
from kdcourse.methods.attention_relation import AttentionRelation, attention_relation_loss
from kdcourse.objective import Lesson, Outputs
from kdcourse.relational import RKDDistance, SimilarityPreserving

WORDS = torch.arange(18).view(3, 6)
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bert(width, layers):
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    return transformers.BertModel(config)


def gpt2(width, layers):
    config = transformers.GPT2Config(
        vocab_size=20,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        n_positions=8,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2Model(config)


def timms(width, layers, patch=8):
    return timm.models.VisionTransformer(
        img_size=32, patch_size=patch, embed_dim=width, depth=layers, num_heads=2, num_classes=4
    )


def torchvisions(width, layers, patch=8):
    return torchvision.models.VisionTransformer(
        32, patch, layers, num_heads=2, hidden_dim=width, mlp_dim=16, num_classes=4
    )


MAKE = {"bert": bert, "gpt2": gpt2, "timm": timms, "torchvision": torchvisions}
LAYERS = {  # the last layer, by its place and by its name in a net of three
    "bert": ("encoder.layer.-1", "encoder.layer.2"),
    "gpt2": ("h.-1", "h.2"),
    "timm": ("blocks.-1", "blocks.2"),
    "torchvision": ("encoder.layers.-1", "encoder.layers.encoder_layer_2"),
}
every_kind = pytest.mark.parametrize("kind", MAKE)


@cache
def made(kind, width, layers, **options):
    with models.seeded(0):
        return MAKE[kind](width, layers, **options).eval()


def inputs(kind):
    return WORDS if kind in ("bert", "gpt2") else IMAGES


def lesson(pair, names, batch):
    """What the student and the teacher of a pair show, each by one layer."""
    shown = []
    for net, name in zip(pair, names, strict=True):
        with models.capture(net, [name]) as features:
            net(batch)
        shown.append(Outputs(features=dict(features)))
    return Lesson(shown[0], torch.zeros(3, dtype=torch.int64), shown[1])


def of_one_kind(kind, name):
    """A narrow student of two layers and a wide teacher of three."""
    return lesson((made(kind, 8, 2), made(kind, 12, 3)), (name, name), inputs(kind))


@every_kind
def test_a_layer_is_found_by_its_place(kind):
    by_place, by_name = LAYERS[kind]
    with models.capture(made(kind, 12, 3), [by_place, by_name]) as shown:
        made(kind, 12, 3)(inputs(kind))
    assert shown[by_place] is shown[by_name]
    assert shown[by_name].shape == (3, 6 if kind in ("bert", "gpt2") else 17, 12)


@every_kind
def test_hidden_states_teach(kind):
    name = LAYERS[kind][0]
    shown = of_one_kind(kind, name)
    own, theirs = shown.student.features[name], shown.teacher.features[name]
    hint = FeatureHint(name, channel_dim=-1)
    value = hint.loss(shown)
    projection = hint.hint.projection
    expected = (own @ projection.weight[..., 0].T + projection.bias - theirs).square().mean()
    torch.testing.assert_close(value, expected)
    for term in (
        AttentionTransfer([name], channel_dim=-1),
        SimilarityPreserving([name]),
        RKDDistance([name]),
        hint,
    ):
        weights = [p for p in made(kind, 8, 2).parameters() if p.requires_grad]
        found = torch.autograd.grad(term.loss(shown), weights, allow_unused=True, retain_graph=True)
        assert any(g is not None and g.any() for g in found)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("bert", "encoder.layer.0.attention.self"),
        ("bert", "encoder"),
        ("gpt2", "h.0.attn"),
        ("torchvision", "encoder.layers.encoder_layer_0.self_attention"),
    ],
)
def test_of_several_outputs_the_first_is_taken(kind, layer):
    """Hidden states, beside which attentions may be returned."""
    net, returned = made(kind, 8, 2), []
    module = net.get_submodule(layer)
    with (
        module.register_forward_hook(lambda module, inputs, output: returned.append(output)),
        models.capture(net, [layer]) as shown,
    ):
        net(inputs(kind))
    assert not isinstance(returned[0], torch.Tensor)
    assert shown[layer] is returned[0][0]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_attention_matrices_are_features(kind):
    if kind == "bert" and Version(transformers.__version__) < Version("5"):
        pytest.skip("unless it is asked to, BERT showed no attention then")
    with models.seeded(0):
        nets = [MAKE[kind](width, 2) for width in (8, 12)]
    for net in nets:
        net.eval().set_attn_implementation("eager")
    name = {"bert": "encoder.layer.-1.attention.self[1]", "gpt2": "h.-1.attn[1]"}[kind]
    shown = lesson(nets, (name, name), WORDS)
    attended = shown.teacher.features[name]
    assert attended.shape == (3, 2, 6, 6)
    torch.testing.assert_close(attended.sum(dim=-1), torch.ones(3, 2, 6))
    assert torch.equal(attended, nets[1](WORDS, output_attentions=True).attentions[-1])
    value = FeatureHint(name).loss(shown)
    assert any(
        g is not None for g in torch.autograd.grad(value, nets[0].parameters(), allow_unused=True)
    )


def test_what_a_layer_does_not_return_is_named():
    with pytest.raises(
        ArgumentTypeError, match=r"'encoder.layer.0\[5\]' returns a \w+, which holds no"
    ):
        lesson([made("bert", 8, 2)] * 2, ["encoder.layer.0[5]"] * 2, WORDS)
    with pytest.raises(ArgumentError, match=r"has no layer 'encoder.lager\[1\]'; among"):
        lesson([made("bert", 8, 2)] * 2, ["encoder.lager[1]"] * 2, WORDS)


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_relations_of_a_bert(part):
    name = f"encoder.layer.-1.attention.self.{part}"
    shown = of_one_kind("bert", name)
    expected = attention_relation_loss(
        shown.student.features[name], shown.teacher.features[name], 4
    )
    torch.testing.assert_close(AttentionRelation([name], 4).loss(shown), expected)
    assert expected > 0


@pytest.mark.parametrize(
    ("kind", "name"), [("gpt2", "h.-1.attn.c_attn"), ("timm", "blocks.-1.attn.qkv")]
)
def test_relations_of_joined_queries_keys_and_values(kind, name):
    shown = of_one_kind(kind, name)
    parts = (
        one.features[name].split(width, dim=2)
        for one, width in ((shown.student, 8), (shown.teacher, 12))
    )
    expected = sum(attention_relation_loss(*pair, 4) for pair in zip(*parts, strict=True))
    torch.testing.assert_close(AttentionRelation([name], 4, joined=True).loss(shown), expected)


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
@pytest.mark.parametrize("term", [AttentionTransfer, FeatureHint])
def test_a_convolutional_net_learns_from_a_vision_transformer(kind, term):
    student, teacher = models.plain(4, channels=3, seed=0), made(kind, 12, 3, patch=4)
    pair = ("stage1", LAYERS[kind][0])
    layout = {"channel_dim": (1, -1), "class_token": (False, True)}
    term = term([pair] if term is AttentionTransfer else pair, **layout)
    shown = lesson((student, teacher), pair, IMAGES)
    assert shown.student.features["stage1"].shape[2:] == (16, 16)
    assert shown.teacher.features[pair[1]].shape == (3, 65, 12)
    value = term.loss(shown)
    value.backward()
    assert value > 0
    assert student.stem[0].weight.grad.any()
