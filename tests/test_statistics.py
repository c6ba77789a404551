"""The figures against outside ones: a textbook's example, R's answers, the paired t-test, simulations of false alarms."""

import math

import numpy as np
import pytest
from scipy import stats

from harness import statistics
from harness.statistics import Cell, Estimate

# Montgomery, Design and Analysis of Experiments, the hardness testing experiment: four tips on four coupons of metal
HARDNESS = {
    "tip1": [9.3, 9.4, 9.6, 10.0],
    "tip2": [9.4, 9.3, 9.8, 9.9],
    "tip3": [9.2, 9.4, 9.5, 9.7],
    "tip4": [9.7, 9.6, 10.0, 10.2],
}


def cells_of(logs):
    """Return cells whose logarithms are known; None is missing."""
    return [
        Cell(name, number, math.exp(value))
        for name, values in logs.items()
        for number, value in enumerate(values, 1)
        if value is not None
    ]


def interval(estimate):
    return [math.log(x) for x in (estimate.ratio, estimate.low, estimate.high)]


def test_sums_of_squares_of_the_textbook():
    """Published for the values less 9.5, times 10: treatments 38.50, blocks 82.50, error 8.00 with 9 degrees of freedom."""
    cells = cells_of(HARDNESS)
    fit = statistics.fit_additive(cells)
    assert fit.df == 9
    assert fit.squares * 100 == pytest.approx(8.00)
    tips_only = statistics.fit_additive([Cell(c.script, 1, c.seconds) for c in cells])
    assert (tips_only.squares - fit.squares) * 100 == pytest.approx(82.50)
    coupons_only = statistics.fit_additive([Cell("all", c.round, c.seconds) for c in cells])
    assert (coupons_only.squares - fit.squares) * 100 == pytest.approx(38.50)


# R 4.2.2: d <- data.frame(y=y, tip=factor(rep(1:4, each=4)), coupon=factor(rep(1:4, 4))); y the values above, row by row
# TukeyHSD(aov(y ~ tip + coupon, d), "tip"): diff, lwr, upr
TUKEY_HSD = {
    ("tip2", "tip1"): (0.025, -0.18311991641, 0.23311991641),
    ("tip3", "tip1"): (-0.125, -0.33311991641, 0.08311991641),
    ("tip4", "tip1"): (0.300, 0.09188008359, 0.50811991641),
    ("tip3", "tip2"): (-0.150, -0.35811991641, 0.05811991641),
    ("tip4", "tip2"): (0.275, 0.06688008359, 0.48311991641),
    ("tip4", "tip3"): (0.425, 0.21688008359, 0.63311991641),
}
# m <- d[-c(3, 8, 14),]; fit <- lm(y ~ tip + coupon, m); m$tip <- relevel(m$tip, "3"); summary(lm(y ~ tip + coupon, m))
MISSING = [("tip1", 3), ("tip2", 4), ("tip4", 2)]
SIGMA_AND_DF = (0.1015038438, 6)
AGAINST_TIP3 = {
    "tip1": (0.15454545455, 0.07951298038),
    "tip4": (0.45454545455, 0.07951298038),
}  # estimate, standard error
AGAINST_TIP1 = {"tip4": (0.3, 0.08790490730)}
# nd <- expand.grid(tip=factor(1:4), coupon=factor(1:4)); tapply(predict(fit, nd), nd$tip, mean)
LEAST_SQUARES_MEANS = {"tip1": 9.604545455, "tip2": 9.604545455, "tip3": 9.450000000, "tip4": 9.904545455}
TUKEY_KRAMER = 3.461711381  # qtukey(0.95, 4, 6) / sqrt(2)


@pytest.mark.parametrize(("pair", "expected"), TUKEY_HSD.items())
def test_intervals_are_those_of_tukey_hsd(pair, expected):
    analysis = statistics.analyse(cells_of(HARDNESS), {})
    assert interval(statistics.pair_of(analysis, *pair)) == pytest.approx(expected, abs=1e-5)


def test_ranks_of_the_textbook_follow_from_the_intervals():
    """By seconds: 3, 1, 2, 4. Tip 3 is told apart from tip 4 alone."""
    analysis = statistics.analyse(cells_of(HARDNESS), {})
    assert analysis.rank == {"tip3": 1, "tip1": 1, "tip2": 1, "tip4": 2}


def test_missing_cells_are_those_of_r():
    cells = [cell for cell in cells_of(HARDNESS) if (cell.script, cell.round) not in MISSING]
    analysis = statistics.analyse(cells, {})
    assert (math.sqrt(analysis.variance), analysis.df) == (pytest.approx(SIGMA_AND_DF[0]), SIGMA_AND_DF[1])
    for tip, mean in LEAST_SQUARES_MEANS.items():
        assert math.log(analysis.seconds[tip]) == pytest.approx(mean)
    for reference, others in (("tip3", AGAINST_TIP3), ("tip1", AGAINST_TIP1)):
        for tip, (estimate, error) in others.items():
            half = TUKEY_KRAMER * error
            expected = [estimate, estimate - half, estimate + half]
            assert interval(statistics.pair_of(analysis, tip, reference)) == pytest.approx(expected, abs=1e-5)


def test_seconds_are_geometric_means_of_complete_rounds():
    analysis = statistics.analyse(cells_of(HARDNESS), {})
    for tip, values in HARDNESS.items():
        assert math.log(analysis.seconds[tip]) == pytest.approx(np.mean(values))


def test_two_scripts_are_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 0.1, 6), rng.normal(3.2, 0.1, 6)
    analysis = statistics.analyse(cells_of({"a": a, "b": b}), {})
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    # ± 1e-4: the quantile of the studentized range is found numerically
    assert interval(analysis.relative["b"]) == pytest.approx([np.mean(b - a), *expected], abs=1e-4)


def test_a_slow_round_is_not_in_the_ratios():
    """The machine changes speed by 20 % from round to round, and by 0.6 % within one: 5 % are told apart, to ± 0.01."""
    rng = np.random.default_rng(2)
    rounds = rng.normal(0, 0.2, 5)
    logs = {
        name: 3 + math.log(ratio) + rounds + rng.normal(0, 0.006, 5)
        for name, ratio in (("a", 1), ("b", 1.05), ("c", 1.2))
    }
    analysis = statistics.analyse(cells_of(logs), {})
    assert [analysis.rank[name] for name in "abc"] == [1, 2, 3]
    for name, ratio in (("b", 1.05), ("c", 1.2)):
        found = analysis.relative[name]
        assert found.low < ratio < found.high
        assert (found.high - found.low) / 2 < 0.02


def test_missing_cells_do_not_bend_the_means():
    """The slow rounds are those that c missed: its plain mean would be the lowest."""
    logs = {"a": [1.0, 1.0, 2.0, 2.0], "b": [1.1, 1.1, 2.1, 2.1], "c": [1.05, 1.05, None, None]}
    analysis = statistics.analyse(cells_of(logs), {})
    assert math.log(analysis.seconds["c"]) == pytest.approx(1.55)
    assert analysis.order == ("a", "c", "b")


def test_ranks_never_run_against_seconds():
    """Whatever is missing: ranks rise with the seconds, and a row that is told apart from the first of a rank is not of it."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        logs = {f"s{i}": list(1 + 0.02 * i + rng.normal(0, 0.02, 4)) for i in range(6)}
        for values in logs.values():
            if rng.random() < 0.5:
                values[rng.integers(4)] = None
        analysis = statistics.analyse(cells_of(logs), {})
        seconds = [analysis.seconds[name] for name in analysis.order]
        ranks = [analysis.rank[name] for name in analysis.order]
        assert seconds == sorted(seconds)
        assert ranks == sorted(ranks)
        for rank in set(ranks):
            first, *others = [name for name in analysis.order if analysis.rank[name] == rank]
            assert not any(statistics.pair_of(analysis, other, first).told_apart for other in others)


def test_one_round_gives_plain_ratios():
    analysis = statistics.analyse([Cell("a", 1, 100.0), Cell("b", 1, 112.0), Cell("c", 1, 300.0)], {})
    assert analysis.relative == {"b": Estimate(pytest.approx(1.12)), "c": Estimate(pytest.approx(3.0))}
    assert analysis.rank == {}


def test_two_runs_in_one_round_are_no_rounds():
    """Two runs of one script tell of no block: neither intervals nor ranks."""
    analysis = statistics.analyse([Cell("a", 0, 10.0), Cell("a", 0, 10.1), Cell("b", 0, 12.0)], {})
    assert analysis.relative["b"].low is None
    assert analysis.rank == {}


def test_a_ring_of_rounds_is_no_block():
    """Three rounds of two scripts, no two of which share both: connected, but nothing to make an error of."""
    pairs = [("a", 1), ("b", 1), ("b", 2), ("c", 2), ("c", 3), ("a", 3)]
    analysis = statistics.analyse([Cell(name, number, 10.0 + i) for i, (name, number) in enumerate(pairs)], {})
    assert analysis.fit.df == 1
    assert analysis.unconnected == ()
    assert analysis.rank == {}


def test_scripts_that_no_chain_of_rounds_connects_get_no_ratio():
    cells = [Cell(name, number, 10.0 + number) for name in "ab" for number in (1, 2)] + [
        Cell("c", 3, 9.0),
        Cell("c", 4, 9.1),
    ]
    analysis = statistics.analyse(cells, {})
    assert analysis.unconnected == ("c",)
    assert "c" not in analysis.relative
    assert "c" not in analysis.order
    assert analysis.seconds["c"] == pytest.approx(math.sqrt(9.0 * 9.1))


def test_a_chain_of_rounds_connects():
    """a and c share no round, but both share one with b."""
    cells = [Cell("a", 1, 10.0), Cell("b", 1, 20.0), Cell("b", 2, 22.0), Cell("c", 2, 44.0)]
    analysis = statistics.analyse(cells, {})
    assert analysis.unconnected == ()
    assert analysis.relative["c"].ratio == pytest.approx(4.0)


def test_no_error_is_smaller_than_the_rounding():
    """Three runs that print 0.03 s and three that print 0.04 s: each may be off by 0.005 s, evenly spread."""
    analysis = statistics.analyse([Cell(name, n, s) for name, s in (("a", 0.03), ("b", 0.04)) for n in (1, 2, 3)], {})
    found = statistics.difference(analysis.fit, "b", "a", 0.0, 2, ())
    sd = 0.01 / math.sqrt(12)
    assert found.error == pytest.approx(math.sqrt((sd / 0.03) ** 2 / 3 + (sd / 0.04) ** 2 / 3))


def test_flagged_scripts_are_no_reference_and_not_counted():
    cells = cells_of({"a": [1.0, 1.05], "b": [1.1, 1.08], "fast": [0.1, 0.12]})
    with_all = statistics.analyse(cells, {})
    without = statistics.analyse(cells, {"fast": "accuracy 0.1"})
    assert with_all.order[0] == "fast"
    assert without.order == ("a", "b")
    assert without.rank == {"a": 1, "b": 1}
    assert without.fit.scripts == with_all.fit.scripts


@pytest.mark.parametrize(
    ("accuracies", "flagged"),
    [
        ({"a": [0.98], "b": [0.98], "c": [0.11]}, {"c"}),
        ({"a": [0.985, 0.984], "b": [0.983, 0.982], "c": [0.976, 0.975]}, set()),  # less than one point
        ({"a": [0.985] * 3, "b": [0.984] * 3, "c": [0.973] * 3}, {"c"}),
        ({"a": [0.985] * 3, "b": [0.984] * 3, "c": [0.99, 0.95, 0.97]}, set()),  # its own error is 0.0115
        ({"a": [0.1135], "b": [0.098]}, {"a", "b"}),  # chance, all of them
        ({"a": [0.2], "b": [0.21]}, set()),
    ],
)
def test_accuracy_flags(accuracies, flagged):
    assert statistics.flag_accuracies(accuracies, 10_000).keys() == flagged


def test_accuracy_flags_need_more_of_few_test_images():
    """At 0.98 of 200 images four standard errors are 4 points."""
    accuracies = {"a": [0.98], "b": [0.98], "c": [0.95]}
    assert statistics.flag_accuracies(accuracies, 200) == {}
    assert statistics.flag_accuracies(accuracies, 10_000).keys() == {"c"}


def wide_table(seed, factor, rounds=6, scripts=6):
    rng = np.random.default_rng(seed)
    logs = {f"s{i}": 3 + rng.normal(0, 0.01, rounds) for i in range(scripts)}
    logs["s0"] = 3 + rng.normal(0, 0.01 * factor, rounds)
    return cells_of(logs)


def test_a_script_that_spreads_more_is_named_and_treated_apart():
    cells = wide_table(4, 12)
    analysis = statistics.analyse(cells, {})
    assert analysis.wide == ("s0",)
    other = next(name for name in analysis.order if name != "s0")
    logs = {name: np.array([math.log(c.seconds) for c in cells if c.script == name]) for name in ("s0", other)}
    differences = logs["s0"] - logs[other]
    found = statistics.pair_of(analysis, "s0", other)
    half = stats.studentized_range.ppf(0.95, 6, 5) / math.sqrt(2) * differences.std(ddof=1) / math.sqrt(6)
    assert interval(found) == pytest.approx(
        [differences.mean(), differences.mean() - half, differences.mean() + half], abs=1e-6
    )


def test_spread_is_looked_at_from_five_rounds_on():
    assert statistics.analyse(wide_table(4, 12, rounds=4), {}).wide == ()
    assert not statistics.analyse(wide_table(4, 12, rounds=4), {}).spread_checked
    assert statistics.analyse(wide_table(4, 12, rounds=5), {}).spread_checked


def test_spread_f_test_is_that_of_the_differences_to_the_others_mean():
    """In complete rounds it is a variance ratio: differences to the mean of the others against a fit of the others alone."""
    cells = wide_table(5, 1)
    logs = np.array([[math.log(c.seconds) for c in cells if c.script == f"s{i}"] for i in range(6)])
    k, b = logs.shape
    differences = logs[0] - logs[1:].mean(axis=0)
    own = differences.var(ddof=1) * (k - 1) / k
    others = logs[1:]
    residuals = others - others.mean(axis=0) - others.mean(axis=1, keepdims=True) + others.mean()
    rest = (residuals**2).sum() / ((k - 2) * (b - 1))
    assert statistics.spread_p_value(statistics.fit_additive(cells), "s0") == pytest.approx(
        stats.f.sf(own / rest, b - 1, (k - 2) * (b - 1))
    )


def false_alarms(tables, rounds, sigmas, missing=0.0, seed=0):
    """Return the part of simulated tables of alike scripts in which a difference is claimed."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(tables):
        blocks = rng.normal(0, 0.1, rounds)
        logs = {f"s{i}": list(4 + blocks + rng.normal(0, sigma, rounds)) for i, sigma in enumerate(sigmas)}
        for values in logs.values():
            for j in range(rounds):
                if rng.random() < missing:
                    values[j] = None
        wrong += max(statistics.analyse(cells_of(logs), {}).rank.values(), default=1) > 1
    return wrong / tables


# The limits are 5 % and three standard errors of so many tables
@pytest.mark.parametrize(
    ("rounds", "tables", "missing"), [(2, 1000, 0.0), (3, 1500, 0.0), (3, 1000, 0.1), (5, 400, 0.05)]
)
def test_alike_scripts_are_told_apart_in_one_table_of_twenty(rounds, tables, missing):
    error = 3 * math.sqrt(0.05 * 0.95 / tables)
    assert abs(false_alarms(tables, rounds, [0.01] * 6, missing) - 0.05) < error + 0.005


def test_one_wide_script_does_not_raise_the_false_alarms():
    """With a script that spreads four times as wide 13 to 15 % would be wrong if it were not treated apart."""
    assert false_alarms(300, 8, [0.04, *[0.01] * 5]) < 0.09


def test_against_one_device_is_a_contrast_with_bonferroni():
    """Two pairs in complete rounds: the pooled error of all four rows, Student's t at 1 - 0.05 / 2 / 2."""
    rng = np.random.default_rng(6)
    logs = {name: 3 + rng.normal(0, 0.02, 4) for name in ("a", "a2", "b", "b2")}
    cells = cells_of(logs)
    found = statistics.against(cells, (), [("a2", "a"), ("b2", "b")], 2)
    values = np.array(list(logs.values()))
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    error = math.sqrt((residuals**2).sum() / 9 * 2 / 4)
    for pair, one in (("a2", "a"), ("b2", "b")):
        middle = logs[pair].mean() - logs[one].mean()
        half = stats.t.ppf(1 - 0.05 / 4, 9) * error
        assert interval(found[pair]) == pytest.approx([middle, middle - half, middle + half])


def test_round_effects_are_found():
    rng = np.random.default_rng(7)
    blocks = np.array([0.05, 0, 0, 0, 0])
    cells = cells_of({f"s{i}": 3 + i + blocks + rng.normal(0, 0.003, 5) for i in range(6)})
    [effect] = statistics.find_round_effects(cells)
    assert (effect.round, effect.all_scripts) == (1, True)
    assert effect.ratio == pytest.approx(1.05, abs=0.005)


def test_a_round_that_only_one_script_found_slow_is_not_called_slow_in_all():
    logs = {f"s{i}": [3.0, 3.001, 2.999, 3.0] for i in range(5)}
    assert statistics.find_round_effects(cells_of(logs)) == []
    logs = {f"s{i}": [3.06 if i < 4 else 2.99, 3.001, 2.999, 3.0] for i in range(5)}
    assert [effect.all_scripts for effect in statistics.find_round_effects(cells_of(logs))] == [False]


def test_rounds_to_tell_two_apart():
    """Checked by making so many rounds: with these two scripts the error of a round stays, so that the t-test can be asked."""
    d = [0.01 + 0.02, 0.01 - 0.02, 0.01 + 0.02, 0.01 - 0.02]  # mean 0.01, standard deviation 0.0231
    analysis = statistics.analyse(cells_of({"a": [3.0] * 4, "b": [3 + x for x in d]}), {})
    n = statistics.rounds_to_tell(analysis)
    sd = np.std(d, ddof=1)

    def told_apart(rounds):
        return stats.t.sf(0.01 / sd * math.sqrt(rounds), rounds - 1) < 0.025

    assert told_apart(n)
    assert not told_apart(n - 1)


def test_rounds_to_tell_nothing_where_they_are_told_apart():
    assert statistics.rounds_to_tell(statistics.analyse(cells_of({"a": [3, 3.01], "b": [4, 4.012]}), {})) is None


def test_expected_width_of_a_further_round_is_that_of_the_formula():
    """By the quantiles and the root of the rounds, with the error as measured; R's qtukey gives the same quantiles."""
    analysis = statistics.analyse(cells_of(HARDNESS), {})
    error = math.sqrt(0.08 / 9)
    now = stats.studentized_range.ppf(0.95, 4, 9) * error / math.sqrt(4)
    then = stats.studentized_range.ppf(0.95, 4, 12) * error / math.sqrt(5)
    assert statistics.widest(analysis) == pytest.approx(math.expm1(now))
    assert statistics.expect_widest(analysis) == pytest.approx(math.expm1(then))


def test_welch_is_scipys():
    old, new = [10.0, 10.2, 10.4], [10.9, 11.5, 11.0, 11.1]
    found = statistics.welch(old, new)
    expected = stats.ttest_ind(np.log(new), np.log(old), equal_var=False).confidence_interval(0.95)
    assert interval(found)[1:] == pytest.approx(list(expected))
    assert statistics.welch(old, new[:2]).low is None


def test_equal_seconds_spread_no_more_than_others():
    cells = [Cell(script, number, 1.0) for script in "abc" for number in range(1, 7)]
    assert statistics.find_wide(cells) == ()
