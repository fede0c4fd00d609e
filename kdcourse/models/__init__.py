"""Students and teachers: the small nets of the course and the CIFAR nets of the literature.

Nothing in the package needs these classes: any ``nn.Module`` that maps a batch to logits works
wherever one of ours does. What a model computes besides its logits is captured by the name of a
layer (:func:`capture`), in our models as in anyone else's.
"""

from kdcourse.models.blocks import InvertedResidual, PadShortcut, ResidualBlock, WideBlock
from kdcourse.models.by_name import by_name
from kdcourse.models.capture import capture
from kdcourse.models.counts import count_parameters, multiply_adds
from kdcourse.models.course import plain, residual
from kdcourse.models.initial import seeded
from kdcourse.models.language_model import LanguageModel, language_model
from kdcourse.models.mobilenet import mobilenetv2
from kdcourse.models.resnets import resnet, resnet50, wide_resnet
from kdcourse.models.staged_net import ConvNet, StagedNet
from kdcourse.models.vgg import vgg
from kdcourse.models.vision_transformer import vision_transformer
