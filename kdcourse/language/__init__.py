"""Language models: texts, their vocabulary, and how a model writes."""

from kdcourse.language.alignment import InTwoVocabularies
from kdcourse.language.definitions import Definitions, wordnet
from kdcourse.language.pieces import Pieces
from kdcourse.language.sources import OnPolicy, Written
from kdcourse.language.vocabulary import Characters, Vocabulary
from kdcourse.language.writing import beam_search, sample
