"""Training from the command line: ``python -m kdcourse train``."""
