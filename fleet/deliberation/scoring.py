"""One number for what the checks found."""

from fleet.models import Checks, LintCheck

# Whether the code parses counts most, then whether there is something to read, then whether it is the author's own.
WEIGHTS = {"lint": 3.0, "policy": 3.0, "dryrun": 3.0, "content": 3.0, "original": 2.0, "artifact_path": 1.0}
_OTHER = 1.0


def check_score(checks: Checks) -> float:
    """The mean of what ran, by `WEIGHTS` (1 for an unknown check), from 0 to 1; 0 when nothing ran.

    Lint that failed with n errors is worth 1 / (1 + n), a failed policy or dry run 0, any other check its own score. A
    check that did not run is left out: it neither helps nor harms.
    """
    parts = [(WEIGHTS.get(check.check_type, _OTHER), check.score) for check in checks.additional_checks]
    if checks.lint is not None:
        parts.append((WEIGHTS["lint"], _lint(checks.lint)))
    if checks.policy is not None:
        parts.append((WEIGHTS["policy"], float(checks.policy.passed)))
    if checks.dryrun is not None:
        parts.append((WEIGHTS["dryrun"], float(checks.dryrun.passed)))
    total = sum(weight for weight, _ in parts)
    return round(sum(weight * score for weight, score in parts) / total, 6) if total else 0.0


def _lint(check: LintCheck) -> float:
    return 1.0 if check.passed else 1 / (1 + max(1, check.error_count))
