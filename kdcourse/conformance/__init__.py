"""Whether a loss of anybody's conforms: which convention it follows, and what breaks.

>>> print(check(my_kd_loss))
>>> assert_conforms(my_rkd_loss, like="rkd_distance")  # in a test
"""

from kdcourse.conformance.checking import assert_conforms, check
from kdcourse.conformance.report import ConformanceReport
