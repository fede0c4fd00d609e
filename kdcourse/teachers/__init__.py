"""Which teacher? One module per scheme of the lecture."""

from kdcourse.teachers.answers import WrongCacheError
from kdcourse.teachers.assistant import distill_through
from kdcourse.teachers.born_again import born_again
from kdcourse.teachers.cached import CachedLessons, RecordedTeacher
from kdcourse.teachers.cached_texts import CachedTexts, answer_bytes
from kdcourse.teachers.choice import rank_teachers
from kdcourse.teachers.closed import ClosedTeacher
from kdcourse.teachers.compressed import (
    count_nonzero,
    fold,
    pack,
    prune,
    prune_width,
    quantize,
    size_on_disk,
    unpack,
)
from kdcourse.teachers.context import ContextLessons, ContextTeacher
from kdcourse.teachers.correction import correct, correct_online
from kdcourse.teachers.ensemble import Ensemble
from kdcourse.teachers.inherited import every_other_layer, narrowed
from kdcourse.teachers.momentum import MomentumTeacher, cosine_momentum, mean_teacher_momentum
from kdcourse.teachers.multi_view import PatchNet, TwoViews, learned_views
from kdcourse.teachers.mutual import mutual_learning
from kdcourse.teachers.self_supervised import (
    ProjectionHead,
    SelfDistillation,
    Spread,
    self_distill,
    spread,
    with_head,
)
from kdcourse.teachers.shipped import pretrained
from kdcourse.teachers.vote import majority_vote_accuracy, majority_vote_bounds, right_votes
from kdcourse.tips import CrossedViews
from kdcourse.training.teacher import FoldedTeacher, FrozenTeacher, Teacher, as_teacher
