"""What the package costs, as ratios measured side by side: ``python -m kdcourse bench``."""

from kdcourse.course.bench import chunks, losses, overhead, startup, training
