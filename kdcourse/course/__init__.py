"""What serves the course: claims, figures, widgets, notebooks, benchmarks, site, self-test."""
