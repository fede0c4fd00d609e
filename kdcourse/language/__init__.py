"""Language models: texts, their vocabulary, and how a model writes."""

from kdcourse.language.definitions import Definitions, wordnet
from kdcourse.language.sources import OnPolicy, Written
from kdcourse.language.vocabulary import Characters
from kdcourse.language.writing import beam_search, sample
