"""How sure a run's reward model may be, and how much of its accuracy is length, on the run's test pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from psychocounsel.evaluate.pairs.accuracy import length_scores
from psychocounsel.evaluate.pairs.calibration import length_probes
from psychocounsel.evaluate.statistics import Figure, count
from psychocounsel.records import Pair, Response, Speech
from psychocounsel.reward.calibrate import calibration_figures, draw_sides, read_calibration

MOST_DRAWS = 2_000  # behind figures of calibration


def sureness(
    model: Path,
    pairs: Sequence[Pair],
    scores: Mapping[str, float],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    *,
    bootstrap: int,
    seed: int,
) -> dict[str, Figure]:
    """Calibration at the temperature that was fitted on dev pairs (1 without), and accuracy by length; {} for no pair.

    The same functions as `eval rm`, by the same names with `reward.` for `rm.NAME.`.
    """
    if not pairs:
        return {}
    fitted = read_calibration(model)
    temperature = fitted.temperature if fitted else 1.0
    sides = draw_sides(pairs, scores, speeches, seed)
    held = calibration_figures(*sides, temperature, bootstrap=min(bootstrap, MOST_DRAWS), seed=seed)
    words = length_scores(responses)
    length = length_probes(
        [scores[pair.chosen] - scores[pair.rejected] for pair in pairs],
        [max(1.0, words[pair.chosen]) for pair in pairs],
        [max(1.0, words[pair.rejected]) for pair in pairs],
        [speeches[pair.speech_id].cluster or pair.speech_id for pair in pairs],
        bootstrap=bootstrap,
        seed=seed,
    )
    found = {
        f"reward.{key}": Figure(**getattr(held, key).model_dump(), n=held.n, unit=key)
        for key in ("nll", "brier", "ece")
    }
    return found | {
        "reward.temperature": count(temperature, "temperature", fitted.before.n if fitted else 0),
        "reward.length.longer": length.longer,
        "reward.length.shorter": length.shorter,
        "reward.length.within": length.within,
        "reward.length.slope": length.per_log_length,
        "reward.length_gap": length.apart,
    }
