"""Language models: texts, their vocabulary, and how a model writes."""

from kdcourse.language.alignment import InTwoVocabularies
from kdcourse.language.definitions import Definitions, Texts, lessons, wordnet
from kdcourse.language.judging import Nats, distinct, nats_by_place, nats_per_token
from kdcourse.language.lines import Lines, read_lines
from kdcourse.language.pieces import Pieces
from kdcourse.language.sources import OnPolicy, Written
from kdcourse.language.vocabulary import END, Characters, Vocabulary
from kdcourse.language.writing import beam_search, sample
from kdcourse.methods.top_k import topk_kd_loss
