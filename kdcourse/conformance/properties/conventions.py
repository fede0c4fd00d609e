"""Conventions: what the factor between a loss and ours says of its reduction and its τ²."""

from kdcourse.conformance.trial import DIFFERS, HOLDS, NOT_HERE, Observation, Trial


def temperature_factor(trial: Trial) -> Observation:
    r"""λ keeps its meaning when τ changes: the factor to ours, with its τ², has no τ in it."""
    name, factor = "temperature", trial.convention.factor
    if not trial.call.takes_temperature:
        if not trial.reference.takes_temperature:
            return Observation(name, NOT_HERE, "ours takes none")
        tau = float(trial.call.temperature)
        return Observation(name, NOT_HERE, f"it takes none, and is checked at τ = {tau:g}")
    if factor is None:
        return Observation(name, NOT_HERE, "there is no factor to compare by")
    words = factor.phrases().get("τ")
    return Observation(name, DIFFERS, f"it {words}") if words else Observation(name, HOLDS)


def reduction(trial: Trial) -> Observation:
    r"""Sums and means go over what ours go over: the factor has no N, K, C, … and no constant."""
    name, factor = "reduction", trial.convention.factor
    if factor is None:
        return Observation(name, NOT_HERE, "there is no factor to compare by")
    words = [phrase for base, phrase in factor.phrases().items() if base != "τ"]
    return (
        Observation(name, DIFFERS, f"it {', '.join(words)}") if words else Observation(name, HOLDS)
    )
