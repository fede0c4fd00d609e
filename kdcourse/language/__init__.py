"""Language models: texts, their vocabulary, and how a model writes."""

from kdcourse.language.definitions import END, Definitions, lessons, wordnet
from kdcourse.language.judging import distinct, nats_by_place, nats_per_token
from kdcourse.language.sources import OnPolicy, Written
from kdcourse.language.vocabulary import Characters
from kdcourse.language.writing import beam_search, sample
