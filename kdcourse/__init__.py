"""Knowledge distillation, taught and measured: ``min_f L(f) + λ · dist(f, f_large)``."""
