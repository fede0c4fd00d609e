"""The properties of a loss: each a function that looks for an input at which it does not hold.

A property is asked of a loss if ours has it, by the same measurement; what no loss may be without
is asked anyway. A public function of one of these files is a property, in the order of the report.
"""

import inspect
from collections.abc import Callable

from kdcourse.conformance.properties import conventions, extremes, invariances, values
from kdcourse.conformance.trial import Observation, Trial

Property = Callable[[Trial], Observation]
PROPERTIES: tuple[Property, ...] = tuple(
    function
    for file in (values, conventions, invariances, extremes)
    for name, function in vars(file).items()
    if inspect.isfunction(function)
    and function.__module__ == file.__name__
    and not name.startswith("_")
)
