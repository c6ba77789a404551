"""The figures: one additive least-squares fit a table, intervals that hold for the whole table, ranks, flags.

The unit is the run, a process. A round, one run of every script, is a block: log(seconds) = script + round (randomized complete block
design: Montgomery, Design and Analysis of Experiments, chapter 4; for benchmarks: Abedi and Brecht 2017, doi 10.1145/3030207.3030229).
What slows a whole round goes into the round, not into the error. Cells may be missing. Everything here is pure: no file, no clock.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats, which takes a second to load, only where there are intervals

LEVEL = 0.95  # of confidence, for a whole table
PRINTED = 0.01 / math.sqrt(12)  # seconds: standard deviation of what the two printed decimals hide
SPREAD_ROUNDS = 5  # from this many on a script's own spread is looked at
COMPARED_RUNS = 3  # of a script, in both files, for a comparison of two files
CHANCE = 0.1135  # accuracy of the one answer that is right most often in MNIST's test images, the digit 1
FLAG_POINTS = 0.01  # of accuracy below the table's median, at least
FLAG_ERRORS = 4  # standard errors below the table's median, at least
ROUND_EFFECT = 0.02  # of its time: a round that differs by less is not worth a word
MOST_ROUNDS = 1000  # that anybody would run to tell two scripts apart

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """A run as the fit sees it."""

    script: str
    round: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """A ratio of two scripts' seconds, with its interval if there is one."""

    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 1."""
        return self.low is not None and self.low > 1

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes 1."""
        return self.above or self.below


@dataclass(frozen=True)
class Difference:
    """A difference of two means of logarithms, with its standard error and the degrees of freedom of that."""

    log: float
    error: float
    df: float

    def estimate(self, multiplier: float) -> Estimate:
        """Return the ratio, with the interval of so many standard errors."""
        radius = multiplier * self.error
        return Estimate(math.exp(self.log), math.exp(self.log - radius), math.exp(min(self.log + radius, 700)))


@dataclass(frozen=True)
class Fit:
    """An additive fit of connected cells: coefficients of scripts, then of rounds."""

    scripts: tuple[str, ...]
    rounds: tuple[int, ...]
    cells: tuple[Cell, ...]
    logs: Vector  # of the cells' seconds
    solver: Vector  # turns logs into coefficients: the design's pseudo-inverse
    coefficients: Vector
    squares: float  # sum of squared residuals
    df: int  # degrees of freedom of the residuals

    def weights(self, contrast: Mapping[str | int, float]) -> Vector:
        """Return the weights of the cells in a contrast of scripts (by name) and rounds (by number)."""
        names: list[str | int] = [*self.scripts, *self.rounds]
        places = {name: i for i, name in enumerate(names)}
        vector = np.zeros(len(places))
        for name, weight in contrast.items():
            vector[places[name]] = weight
        return np.asarray(vector @ self.solver)

    def log_mean(self, script: str) -> float:
        """Return a script's least-squares mean of log(seconds), over the rounds with equal weight."""
        contrast: dict[str | int, float] = {number: 1 / len(self.rounds) for number in self.rounds}
        contrast[script] = 1.0
        return float(self.weights(contrast) @ self.logs)

    def rounding(self, weights: Vector) -> float:
        """Return the standard error that the printed decimals alone give to a contrast."""
        seconds = np.array([cell.seconds for cell in self.cells])
        return float(np.sqrt(np.sum((weights * PRINTED / seconds) ** 2)))


def design(cells: Sequence[Cell]) -> tuple[tuple[str, ...], tuple[int, ...], Vector]:
    """Return scripts, rounds and the matrix of ones and zeros that has a row a cell and a column a script and round."""
    scripts = tuple(dict.fromkeys(cell.script for cell in cells))
    rounds = tuple(sorted({cell.round for cell in cells}))
    matrix = np.zeros((len(cells), len(scripts) + len(rounds)))
    for i, cell in enumerate(cells):
        matrix[i, scripts.index(cell.script)] = 1
        matrix[i, len(scripts) + rounds.index(cell.round)] = 1
    return scripts, rounds, matrix


def fit_additive(cells: Sequence[Cell]) -> Fit:
    """Fit log(seconds) = script + round by least squares."""
    scripts, rounds, matrix = design(cells)
    logs: Vector = np.log(np.array([cell.seconds for cell in cells], np.float64))
    u, singular, v = np.linalg.svd(matrix, full_matrices=False)
    kept = singular > singular[0] * len(cells) * np.finfo(np.float64).eps  # scripts and rounds share a constant
    solver: Vector = (v[kept].T / singular[kept]) @ u[:, kept].T
    coefficients: Vector = solver @ logs
    squares = float(np.sum((logs - matrix @ coefficients) ** 2))
    df = len(cells) - int(kept.sum())
    return Fit(scripts, rounds, tuple(cells), logs, solver, coefficients, squares, df)


def connect(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells in groups that no shared round connects, the group of most scripts, then most cells first."""
    groups: list[list[Cell]] = []
    for cell in cells:
        touched = [g for g in groups if any(cell.script == other.script or cell.round == other.round for other in g)]
        rest = [g for g in groups if g not in touched]
        groups = [*rest, [*(other for g in touched for other in g), cell]]
    return sorted(groups, key=lambda g: (-len({cell.script for cell in g}), -len(g)))


def variance_of(fit: Fit) -> float:
    """Return the residual variance of a fit, not below that of the rounding."""
    rounding = float(np.mean([(PRINTED / cell.seconds) ** 2 for cell in fit.cells]))
    return max(fit.squares / max(fit.df, 1), rounding)


def has_blocks(cells: Sequence[Cell]) -> bool:
    """Tell whether two rounds share two scripts: else no error can be told from what a round does to all."""
    scripts = [{cell.script for cell in cells if cell.round == number} for number in {cell.round for cell in cells}]
    return any(len(a & b) > 1 for i, a in enumerate(scripts) for b in scripts[i + 1 :])


def error_variance(cells: Sequence[Cell]) -> tuple[float, int]:
    """Return the variance from which intervals are made, and its degrees of freedom; 0 where there are no blocks."""
    fit = fit_additive(cells)
    return variance_of(fit), fit.df if has_blocks(cells) else 0


def spread_p_value(whole: Fit, script: str) -> float:
    """Return the probability of a residual variance as large as a script's, were all alike.

    The F test of what the script's cells add to the sum of squares of a fit without them (Russell and Bradley 1958, Biometrika
    45:111, One-way variances in a two-way classification; with cells missing by the same two nested fits).
    """
    others = fit_additive([cell for cell in whole.cells if cell.script != script])
    added = whole.df - others.df
    if others.df < 1 or added < 1:
        return 1.0
    ratio = max(whole.squares - others.squares, 0.0) / added / variance_of(others)
    return float(special.fdtrc(added, others.df, ratio))


def find_wide(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Return the scripts that spread more than the others, the widest first; Bonferroni over the table."""
    found: list[str] = []
    rest = list(cells)
    scripts = {cell.script for cell in cells}
    while len({cell.script for cell in rest}) > 2 and len({cell.round for cell in rest}) >= SPREAD_ROUNDS:
        whole = fit_additive(rest)
        values = {script: spread_p_value(whole, script) for script in sorted(whole.scripts)}
        widest = min(values, key=lambda script: values[script])
        if values[widest] >= (1 - LEVEL) / len(scripts):
            break
        found.append(widest)
        rest = [cell for cell in rest if cell.script != widest]
    return tuple(found)


def paired(cells: Sequence[Cell], a: str, b: str) -> Difference | None:
    """Return the mean of the differences log a - log b within rounds, with their own error; None below two rounds.

    This is the paired t-test; no error is below that of the rounding.
    """
    means = {}
    for script in (a, b):
        numbers = {cell.round for cell in cells if cell.script == script}
        means[script] = {n: [x.seconds for x in cells if (x.script, x.round) == (script, n)] for n in numbers}
    shared = sorted(means[a].keys() & means[b].keys())
    if len(shared) < 2:
        return None
    logs = np.array([np.log(means[a][n]).mean() - np.log(means[b][n]).mean() for n in shared])
    rounding = [(PRINTED / x) ** 2 for n in shared for x in (np.mean(means[a][n]), np.mean(means[b][n]))]
    least = math.sqrt(sum(rounding)) / len(shared)
    error = max(float(logs.std(ddof=1)) / math.sqrt(len(shared)), least)
    return Difference(float(logs.mean()), error, len(shared) - 1)


def student_quantile(comparisons: int, df: float) -> float:
    """Return Student's two-sided quantile for so many comparisons that are to hold together (Bonferroni)."""
    return float(special.stdtrit(df, 1 - (1 - LEVEL) / 2 / comparisons))


@functools.cache
def studentized_range(k: int, df: float) -> float:
    """Return the quantile of the studentized range of k means, as a multiple of a difference's standard error.

    Tukey-Kramer: q / sqrt(2) standard errors of a difference (Kramer 1956; Hayter 1984 for unequal numbers).
    """
    from scipy.stats import studentized_range as distribution

    return float(distribution.ppf(LEVEL, k, df)) / math.sqrt(2)


@dataclass(frozen=True)
class Analysis:
    """What the fit says of one table's scripts."""

    fit: Fit  # of the scripts that shared rounds connect
    flagged: Mapping[str, str]  # script: why it has learnt something else
    unconnected: tuple[str, ...]  # scripts that no chain of shared rounds connects to the others
    wide: tuple[str, ...]  # scripts that spread more than the others
    spread_checked: bool
    variance: float  # of the residuals of log(seconds), wide scripts apart
    df: int  # of that variance; 0: there is none
    seconds: Mapping[str, float]  # of every script: exp of the least-squares mean
    order: tuple[str, ...]  # the compared scripts, by seconds
    relative: Mapping[str, Estimate]  # to the fastest
    rank: Mapping[str, int]

    @property
    def k(self) -> int:
        """The number of scripts that are compared."""
        return len(self.order)


def difference(fit: Fit, a: str, b: str, variance: float, df: int, wide: Sequence[str]) -> Difference | None:
    """Return log a - log b by the fit; with a wide script by the paired differences' own error. None: no error known."""
    weights = fit.weights({a: 1.0, b: -1.0})
    log = float(weights @ fit.logs)
    if a in wide or b in wide:
        pairs = paired(fit.cells, a, b)
        return None if pairs is None else Difference(log, pairs.error, pairs.df)
    if df < 1:
        return None
    error = math.sqrt(variance) * float(np.linalg.norm(weights))
    return Difference(log, max(error, fit.rounding(weights)), df)


def compare_pair(fit: Fit, a: str, b: str, k: int, variance: float, df: int, wide: Sequence[str]) -> Estimate:
    """Return the ratio of a's seconds to b's, with an interval that holds for all pairs of k scripts (Tukey-Kramer)."""
    found = difference(fit, a, b, variance, df, wide)
    if found is None:
        return Estimate(math.exp(float(fit.weights({a: 1.0, b: -1.0}) @ fit.logs)))
    return found.estimate(studentized_range(k, found.df))


def pair_of(analysis: Analysis, a: str, b: str) -> Estimate:
    """Return the ratio of a's seconds to b's in a table."""
    return compare_pair(analysis.fit, a, b, analysis.k, analysis.variance, analysis.df, analysis.wide)


def rank_in_order(order: Sequence[str], told_apart: Callable[[str, str], bool]) -> dict[str, int]:
    """Return ranks that never run against the order: a script that is told apart from the first of a rank opens the next."""
    ranks: dict[str, int] = {}
    first = ""
    for script in order:
        if not ranks:
            first, ranks[script] = script, 1
        elif told_apart(script, first):
            first, ranks[script] = script, ranks[first] + 1
        else:
            ranks[script] = ranks[first]
    return ranks


def analyse(cells: Sequence[Cell], flagged: Mapping[str, str]) -> Analysis:
    """Return what one table's cells say; flagged scripts stay in the fit but are not compared."""
    connected, *others = connect(cells)
    fit = fit_additive(connected)
    unconnected = tuple(dict.fromkeys(cell.script for group in others for cell in group))
    wide = find_wide(connected)
    variance, df = error_variance([cell for cell in connected if cell.script not in wide] or connected)
    seconds = {script: math.exp(fit.log_mean(script)) for script in fit.scripts}
    for group in others:
        alone = fit_additive(group)
        seconds |= {script: math.exp(alone.log_mean(script)) for script in alone.scripts}
    order = tuple(sorted((s for s in fit.scripts if s not in flagged), key=lambda s: (seconds[s], s)))

    def ratio(a: str, b: str) -> Estimate:
        return compare_pair(fit, a, b, len(order), variance, df, wide)

    relative = {script: ratio(script, order[0]) for script in order[1:]}
    rank = rank_in_order(order, lambda a, b: ratio(a, b).told_apart) if df > 0 and len(order) > 1 else {}
    return Analysis(
        fit=fit,
        flagged=flagged,
        unconnected=unconnected,
        wide=wide,
        spread_checked=len(fit.rounds) >= SPREAD_ROUNDS and len(fit.scripts) > 2,
        variance=variance,
        df=df,
        seconds=seconds,
        order=order,
        relative=relative,
        rank=rank,
    )


def against(
    cells: Sequence[Cell], wide: Sequence[str], pairs: Sequence[tuple[str, str]], shown: int
) -> dict[str, Estimate]:
    """Return the ratio of each pair's first script to its second, by name of the first, over the rows of two tables.

    Contrasts of one fit with quantiles of Student's t; they hold for all pairs shown together (Bonferroni). Pairs that no chain
    of shared rounds connects have none.
    """
    found: dict[str, Estimate] = {}
    for group in connect(cells):
        fit = fit_additive(group)
        variance, df = error_variance([cell for cell in group if cell.script not in wide] or group)
        for a, b in pairs:
            if a not in fit.scripts or b not in fit.scripts:
                continue
            apart = difference(fit, a, b, variance, df, wide)
            if apart is None:
                found[a] = Estimate(math.exp(float(fit.weights({a: 1.0, b: -1.0}) @ fit.logs)))
            else:
                found[a] = apart.estimate(student_quantile(shown, apart.df))
    return found


def flag_accuracies(accuracies: Mapping[str, Sequence[float]], test_images: int) -> dict[str, str]:
    """Return the scripts of a table that have learnt something else than the others, or nothing, each with the reason.

    Below the table's median by more than 1 point and 4 standard errors, the larger of a run's binomial one at the median and of the
    runs' own; or not above chance, by as many binomial ones. All runs score the same test images: more runs make the binomial one no smaller.
    """
    means = {script: float(np.mean(values)) for script, values in accuracies.items()}
    middle = median(means.values())
    binomial = math.sqrt(middle * (1 - middle) / test_images)
    chance = CHANCE + FLAG_ERRORS * math.sqrt(CHANCE * (1 - CHANCE) / test_images)
    found = {}
    for script, mean in means.items():
        values = accuracies[script]
        own = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        if mean <= chance:
            found[script] = f"accuracy {mean:.4f} is not above chance"
        elif middle - mean > max(FLAG_POINTS, FLAG_ERRORS * max(binomial, own)):
            found[script] = f"accuracy {mean:.4f}, where the table's median is {middle:.4f}"
    return found


@dataclass(frozen=True)
class RoundEffect:
    """A round that was slower or faster than the others."""

    round: int
    ratio: float  # of its time to the other rounds'
    all_scripts: bool  # whether every script that ran in it moved the same way


def find_round_effects(cells: Sequence[Cell]) -> list[RoundEffect]:
    """Return the rounds whose effect in the fit stands out, by Student's t (Bonferroni), the largest first."""
    cells = connect(cells)[0]
    fit = fit_additive(cells)
    variance, df = error_variance(cells)
    found: list[RoundEffect] = []
    rest = list(fit.rounds)
    while df > 0 and len(rest) > 1:
        contrasts = {n: {n: 1.0} | {m: -1 / (len(rest) - 1) for m in rest if m != n} for n in rest}
        weights = {n: fit.weights({key: w for key, w in contrasts[n].items()}) for n in rest}
        effects = {n: float(weights[n] @ fit.logs) for n in rest}
        number = max(rest, key=lambda n: (abs(effects[n]), effects[n]))
        error = max(math.sqrt(variance) * float(np.linalg.norm(weights[number])), fit.rounding(weights[number]))
        limit = student_quantile(len(fit.rounds), df) * error
        if abs(effects[number]) < max(limit, ROUND_EFFECT):
            break
        found.append(RoundEffect(number, math.exp(effects[number]), moved_together(fit, number, rest, effects[number])))
        rest.remove(number)
        if len(rest) == 1 or len(fit.rounds) == 2:
            break
    return found


def moved_together(fit: Fit, number: int, rounds: Sequence[int], effect: float) -> bool:
    """Tell whether every script was slower, or every one faster, in a round than in the mean of the other rounds."""
    for script in fit.scripts:
        own = {
            cell.round: math.log(cell.seconds) for cell in fit.cells if cell.script == script and cell.round in rounds
        }
        others = [log for n, log in own.items() if n != number]
        if number in own and others and (own[number] - float(np.mean(others))) * effect <= 0:
            return False
    return True


def widest(analysis: Analysis) -> float | None:
    """Return the half-width of the table's widest interval, as a part of 1; None if there is none."""
    widths = [half_width(estimate) for estimate in analysis.relative.values() if estimate.low is not None]
    return max(widths) if widths else None


def half_width(estimate: Estimate) -> float:
    """Return the half-width of an interval as a part of its ratio: exp of the half-width of the logarithm, less 1."""
    if estimate.low is None or estimate.high is None:
        return math.inf
    return math.sqrt(estimate.high / estimate.low) - 1


def expect_widest(analysis: Analysis) -> float | None:
    """Return what the widest interval's half-width is expected to be after one more complete round."""
    now = widest(analysis)
    if now is None or analysis.df < 1:
        return None
    rounds = len(analysis.fit.rounds)
    more = analysis.df + len(analysis.fit.scripts) - len(analysis.wide) - 1
    quantiles = studentized_range(analysis.k, more) / studentized_range(analysis.k, analysis.df)
    return math.expm1(math.log1p(now) * quantiles * math.sqrt(rounds / (rounds + 1)))


def rounds_to_tell(analysis: Analysis) -> int | None:
    """Return how many complete rounds would tell the two fastest apart, if they differ as measured.

    None if they are told apart already, or there are no intervals; MOST_ROUNDS + 1 stands for more.
    """
    if analysis.k < 2 or analysis.df < 1:
        return None
    a, b = analysis.order[:2]
    estimate = pair_of(analysis, b, a)
    apart = difference(analysis.fit, b, a, analysis.variance, analysis.df, analysis.wide)
    if apart is None or estimate.told_apart:
        return None
    from scipy.stats import studentized_range as distribution

    rounds = len(analysis.fit.rounds)
    one_round = apart.error * math.sqrt(rounds)  # the standard error of one round's difference
    scripts = 2 if a in analysis.wide or b in analysis.wide else len(analysis.fit.scripts) - len(analysis.wide)

    def enough(n: int) -> bool:
        statistic = apart.log * math.sqrt(n) / one_round * math.sqrt(2)
        return bool(distribution.sf(statistic, analysis.k, (scripts - 1) * (n - 1)) < 1 - LEVEL)

    low, high = rounds, MOST_ROUNDS + 1
    while low + 1 < high:  # low is too few, high is enough or one too many
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def welch(old: Sequence[float], new: Sequence[float]) -> Estimate:
    """Return the ratio of new to old seconds, by Welch's test of their logarithms; without interval below three runs.

    Two files share no rounds: each has its own variance, not below the rounding's (Welch 1947, Biometrika 34:28).
    """
    logs = [np.log(old), np.log(new)]
    log = float(logs[1].mean() - logs[0].mean())
    if min(len(old), len(new)) < COMPARED_RUNS:
        return Estimate(math.exp(log))
    least = [(PRINTED / float(np.exp(x.mean()))) ** 2 for x in logs]
    parts = [max(float(x.var(ddof=1)), floor) / len(x) for x, floor in zip(logs, least, strict=True)]
    df = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, logs, strict=True))
    return Difference(log, math.sqrt(sum(parts)), df).estimate(student_quantile(1, df))
