"""What the package costs, as ratios measured side by side: ``python -m kdcourse bench``."""

from kdcourse.bench import losses, overhead

__all__ = ["losses", "overhead"]
