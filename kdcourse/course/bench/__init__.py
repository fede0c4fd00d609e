"""What the package costs, as ratios measured side by side: ``python -m kdcourse bench``."""
