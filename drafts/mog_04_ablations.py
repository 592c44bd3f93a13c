# %% [markdown]
# # Ablations: which of the mixture's settings matter, and is drawing returns worth its price?
#
# A mixture critic has no support to choose. It still has settings: how many components, how wide
# they begin, how its loss is estimated. Notes on
# [Shahriari et al. 2022](https://arxiv.org/abs/2204.10256) report two ablations on control tasks:
# three components are much better than one and more add little; a narrow start is best. And the
# paper's loss draws 2,560 returns for each transition, without saying why so many.
#
# We repeat all three where answers are known: on five problems whose return is a formula, and with
# a network that learns a value which is one. The last section mends what the
# mixture leaves open, its dependence on the *unit* of reward.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] | None = None  # who is compared; see below
seeds: int | None = None  # repetitions of an arm
steps: int | None = None  # in the tables of the five problems
updates: int | None = None  # of the network that learns a value
repeats: int | None = None  # draws of a gradient
table_learning_rate: float = 0.5  # Adam's first one in the tables; a cosine takes it to zero
learning_rate: float = 1e-3  # Adam's in the network
normalization_rate: float = 0.01  # of the mended arms
sizes = {
    "smoke": {"seeds": 2, "steps": 20, "updates": 24, "repeats": 2,
              "arms": ["gradients", "K1", "K5", "mended.x1", "mended.x100"]},
    "laptop": {"seeds": 5, "steps": 1500, "updates": 3000, "repeats": 16,
               "arms": ["gradients", "K1", "K3", "K5", "K10", "init_1", "init_0.01", "init_0.0001",
                        "sampled_1", "sampled_16", "quadrature_2", "paper.x0.01", "paper.x100",
                        "mended.x0.01", "mended.x1", "mended.x100"]},
    "gpu": {"seeds": 10, "steps": 20_000, "updates": 20_000, "repeats": 64,
            "arms": ["gradients", "K1", "K3", "K5", "K10", "init_1", "init_0.01", "init_0.0001",
                     "sampled_1", "sampled_16", "quadrature_2", "paper.x0.01", "paper.x100",
                     "mended.x0.01", "mended.x1", "mended.x100"]}}  # fmt: skip

# %%
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.control import LinearQuadratic, PolicyEvaluation, tabular
from matchbook.critics import MixtureOfGaussians, estimators
from matchbook.critics.problems import all_problems
from matchbook.lab import style

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, updates=updates, repeats=repeats, arms=arms
)
settings = {name: value for name, value in vars(knobs).items() if name not in ("seeds", "arms")}
settings |= {"table_learning_rate": table_learning_rate, "learning_rate": learning_rate}
settings |= {"normalization_rate": normalization_rate}
experiment = lab.Experiment("mog/04_ablations", version=1, profile=profile)

# %% [markdown]
# ## Three ways to estimate one loss
#
# The loss is a cross-entropy to the Bellman target, itself a mixture: 20 actions, five components
# of each. Its expectation has no closed form, because of the logarithm of a sum:
#
# $$L=-\sum_{i,k}\frac{w_{ik}}{20}\;\mathbb E_{z\sim\mathcal N(0,1)}
# \log p_\theta\big(r+\gamma(\mu_{ik}+\sigma_{ik}z)\big).$$
#
# - **sampled**, the paper's: draw a component and a $z$, 128 times for every action.
# - **quadrature**: $z$ at Gauss-Hermite nodes, weighted. No noise; exact for smooth functions, but
#   $\log p_\theta$ is not smooth where one of the model's components is narrow.
# - **stratified**: cut the normal distribution into $n$ equally likely slices and draw one $z$ from
#   each, in mirrored pairs. Right on average, whatever the function.
#
# We hold all three against an exact gradient (a formula, summed over a fine grid in float64), at
# three moments: *fresh*, where all components are still at the origin; *narrow*, where means have
# moved and widths are a tenth of them; *matched*, where model and target are alike and some
# components are narrower than others.

# %%
PAPER = MixtureOfGaussians(estimator="sampled")
ESTIMATORS = {
    "sampled": [replace(PAPER, num_samples=n) for n in (4, 16, 128)],
    "quadrature": [replace(PAPER, estimator="quadrature", num_nodes=n) for n in (2, 4, 8)],
    "stratified": [replace(PAPER, estimator="stratified", num_nodes=n) for n in (2, 4, 8)],
}
MOMENTS = list(estimators.MOMENTS)


# %%
def gradients(seed):
    """Bias, noise and error of one gradient, over the exact one's length."""
    numbers = {}
    for critic, name in itertools.product(itertools.chain(*ESTIMATORS.values()), MOMENTS):
        label = f"{name}.{critic.estimator}.{estimators.points(critic)}"
        found = estimators.errors(critic, name, knobs.repeats, seed)
        numbers |= {f"{quantity}.{label}": value for quantity, value in found.items()}
    return lab.Measured(numbers)


# %% [markdown]
# ## The critics that are compared
#
# `K5` is the standard: five components that begin 0.001 wide, the stratified loss with two returns
# on each component. Every other arm changes one thing.

# %%
STANDARD = MixtureOfGaussians(num_nodes=2)
CRITICS = {"K5": STANDARD} | {f"K{k}": replace(STANDARD, components=k) for k in (1, 3, 10)}
CRITICS |= {f"init_{s:g}": replace(STANDARD, init_scale=s) for s in (1.0, 0.01)}
CRITICS["init_0.0001"] = replace(STANDARD, init_scale=1e-4, min_scale=1e-5)
CRITICS |= {f"sampled_{n}": replace(PAPER, num_samples=n) for n in (1, 16, 128)}
NODES = replace(STANDARD, estimator="quadrature")
CRITICS |= {f"quadrature_{n}": replace(NODES, num_nodes=n) for n in (2, 8)}
MENDED = replace(STANDARD, widths="exp", init_scale=1.0)  # in units of the returns' spread


# %% [markdown]
# First the **tables**: five problems whose return's law is a formula (`mog/01_return_distributions`
# introduces them), one row a state. The score is $W_1$, the area between the learned cdf and the
# true one, over the law's standard deviation.


# %%
def in_tables(critic, seed):
    td = tabular.on_closed_forms(
        critic, (1.0,), steps=knobs.steps, batch_size=16,
        learning_rate=table_learning_rate, target_period=10,
    )  # fmt: skip
    state, _ = lab.fit(td.step, td.init(seed), itertools.repeat(()), num_steps=knobs.steps)
    found = td.evaluate(state)
    stds = {problem.name: problem.laws[0].std for problem in td.problems}
    return {f"w1.{name}": found[f"w1.{name}.x1"] / std for name, std in stds.items()}


# %% [markdown]
# Then a **network** with the critic of the agent, which learns the value of a *fixed* policy: the
# best spring of the linear system of `mog/08_lqr`, with some randomness. The exact value is a
# formula, data does not depend on what was learned, and nothing but the critic can be at fault.

# %%
SYSTEM = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)


def in_network(critic, seed, scale=1.0, rate=None):
    options = {"learning_rate": learning_rate, "normalization_rate": rate}
    one = PolicyEvaluation(critic=critic, problem=SYSTEM, **options)
    watch = {"evaluate": lambda state: one.value_error(state, scale), "name": "network"}
    batches, n = itertools.repeat(np.float32(scale)), knobs.updates
    watch |= {"eval_every": max(1, n // 12), "log_every": max(1, n // 12)}
    _, history = lab.fit(one.step, one.init(seed), batches, num_steps=n, **watch)
    return history["value_error"]


# %% [markdown]
# Its score is the error of the values, over their standard deviation: at 1 the critic knows nothing
# but the mean. In the arms on the unit of reward, `paper` has the paper's critic and `mended`
# normalised targets (last section); `.x100` says that all costs were multiplied by 100, which
# multiplies the exact values and nothing else.


# %%
def measure(arm, seed, **_):
    if arm == "gradients":
        return gradients(seed)
    kind, _, scale = arm.partition(".x") if ".x" in arm else (arm, "", "1")
    critic = MENDED if kind == "mended" else CRITICS.get(kind, STANDARD)
    rate = normalization_rate if kind == "mended" else None
    curve = in_network(critic, seed, float(scale), rate)
    scores = {"value_error": curve[1][-1]} | (in_tables(critic, seed) if kind in CRITICS else {})
    return lab.Measured(scores, {"value_error": curve})


# %%
runs = experiment.run(measure, arms=knobs.arms, seeds=knobs.seeds, **settings)
errors = runs.numbers("value_error")
PROBLEMS = [problem.name for problem in all_problems()]


# %%
def w1(arm):
    """Geometric mean over the five problems, in standard deviations of each law: [seeds]."""
    return np.exp(np.mean([np.log(runs.numbers(f"w1.{p}")[arm]) for p in PROBLEMS], axis=0))


ran = [arm for arm in CRITICS if arm in errors]
laws = {arm: w1(arm) for arm in ran}

# %% [markdown]
# ## What an estimator costs, and what it is worth
#
# Points evaluated for one transition, against the error of the gradient. Down and to the left is
# better. The cross is what the authors' code does.


# %%
def errors_of(estimator, name):
    points = [estimators.points(critic) for critic in ESTIMATORS[estimator]]
    found = [runs.numbers(f"error.{name}.{estimator}.{n}")["gradients"] for n in points]
    return np.array(points), np.stack(found, axis=1)


# %%
KINDS = {"sampled": "orange", "quadrature": "green", "stratified": "blue"}
have_gradients = "gradients" in knobs.arms
fig, axes = lab.subplots(1, 3, height=3.3, width=11)
for ax, name in zip(axes, MOMENTS if have_gradients else []):
    drawn = {kind: errors_of(kind, name) for kind in KINDS}
    drawn = {kind: (x, np.maximum(y, 1e-6)) for kind, (x, y) in drawn.items()}
    lab.plot_curves(ax, drawn, colors={k: style.PALETTE[c] for k, c in KINDS.items()})
    x, y = drawn["sampled"]
    ax.plot(x[-1], y[:, -1].mean(), "x", ms=9, mew=2, color=style.INK)
    ax.set(xscale="log", yscale="log", title=name, xlabel="returns for one transition")
axes[0].set_ylabel("error of the gradient / its length")
alt = "Error of the gradient over the returns evaluated for a transition, three estimators, at "
alt += "three moments of training."
columns = [c for c in runs.table() if c.split(".")[0] in ("error", "bias", "noise")]
drawn = runs.table().query("arm == 'gradients'")[["seed", *columns]]
experiment.figure(fig, "estimators", numbers=drawn.set_index("seed"), alt=alt)

# %%
best, paper_points = MixtureOfGaussians(), estimators.points(PAPER)
gains = {}
for name in MOMENTS if have_gradients else []:
    ours, theirs, nodes = (
        np.maximum(runs.numbers(f"error.{name}.{label}")["gradients"], 1e-7)
        for label in (f"stratified.{estimators.points(best)}", f"sampled.{paper_points}",
                      f"quadrature.{estimators.points(best)}")
    )  # fmt: skip
    gains[name] = lab.paired_difference(np.log10(ours), np.log10(theirs))
    gains[f"{name}.quadrature"] = lab.paired_difference(np.log10(nodes), np.log10(theirs))
pd.DataFrame({name: vars(gain) for name, gain in gains.items()}).T.round(3)

# %% [markdown]
# The table compares errors at 800 points with the paper's 2,560: decimal logarithm of the ratio,
# below 0 is better. Quadrature is best where the logarithm is smooth. Where a component of the
# model is narrow it has a *bias*, which no number of updates averages away, and nobody knows
# beforehand. Stratified draws are right on average at every moment, and so the library's default.
#
# ## Components, width of the start, and estimator
#
# Above: how well laws are learned in the tables. Below: how well the network learns a value. Dots
# are seeds, bars 95 % intervals of the mean.

# %%
GROUPS = {
    "components": ["K1", "K3", "K5", "K10"],
    "width of the start": ["init_1", "init_0.01", "K5", "init_0.0001"],
    "estimator": ["sampled_1", "sampled_16", "quadrature_2", "K5"],
}
NAMES = {"K5": {"width of the start": "0.001", "estimator": "stratified 2"}}


def label(arm, group):
    return NAMES.get(arm, {}).get(group, arm.removeprefix("init_").replace("_", " "))


# %%
def dots(ax, place, values, color):
    mean = lab.mean_interval(values)
    ax.plot(np.full(len(values), place + 0.12), values, ".", ms=4, color=color, alpha=0.6)
    ax.plot([place, place], [max(mean.low, 1e-6), mean.high], color=color, lw=2)
    ax.plot(place, mean.value, "o", ms=7, color=color, mec="white")


# %%
rows = {"law: $W_1$ / std": laws, "value: error / std": errors}
fig, axes = lab.subplots(2, 3, height=2.3, width=11)
for line, (title, values) in zip(axes, rows.items()):
    for ax, (group, members) in zip(line, GROUPS.items()):
        shown = [arm for arm in members if arm in values]
        for place, arm in enumerate(shown):
            dots(ax, place, np.maximum(values[arm], 1e-5), style.PALETTE["blue"])
        ax.set(yscale="log", xticks=range(len(shown)), xlim=(-0.5, 3.5))
        ax.set_xticklabels([label(arm, group) for arm in shown], fontsize=8)
        ax.set_title(group if title.startswith("law") else "")
        ax.yaxis.set_major_formatter("{x:g}")
    line[0].set_ylabel(title)
alt = "Errors of laws and values by components, initial width and estimator: " + "; ".join(
    f"{arm} W1 {laws[arm].mean():.2f}" for arm in ran
)
drawn = pd.DataFrame({f"{k.split(':')[0]}.{a}": v[a] for k, v in rows.items() for a in ran})
experiment.figure(fig, "ablations", numbers=drawn.rename_axis("seed"), alt=alt)


# %%
def gap(values, first, second):
    """Decimal logarithm of the ratio of two arms' scores, seed by seed; below 0 the first wins."""
    floored = (np.log10(np.maximum(values[arm], 1e-5)) for arm in (first, second))
    return lab.paired_difference(*floored)


# %%
PAIRS = [("K3", "K1"), ("K5", "K3"), ("K10", "K5"), ("init_0.0001", "init_1")]
PAIRS += [("K5", "init_1"), ("init_0.0001", "K5"), ("K5", "sampled_16"), ("K5", "sampled_1")]
PAIRS = [pair for pair in PAIRS if set(pair) <= set(ran)]
gaps = {
    f"{name}.{first}-{second}": gap(values, first, second)
    for name, values in {"w1": laws, "value": errors}.items()
    for first, second in PAIRS
}
pd.DataFrame({name: vars(interval) for name, interval in gaps.items()}).T.round(3)

# %% [markdown]
# ## The unit of reward
#
# Multiply all rewards by 100 and the best mixture is multiplied too. But the critic begins with
# widths of 0.001, Adam moves its outputs so far and no further, and the agent's temperature begins
# at 10: all of them lengths in units of return. The mended version learns
# $z=(\text{return}-m)/s$ with a running mean $m$ and spread $s$ of the Bellman targets. Whenever
# $m$ and $s$ move, the last layer is corrected so that no prediction changes (PopArt, van Hasselt
# et al. 2016). For a mixture that works exactly if widths are $e^x$ instead of a softplus.

# %%
UNITS = {"paper": ("paper.x0.01", "K5", "paper.x100")}
UNITS["mended"] = ("mended.x0.01", "mended.x1", "mended.x100")
SCALES = ["0.01", "1", "100"]
curves = runs.curve("value_error")
in_units = [arm for of in UNITS.values() for arm in of if arm in errors]

# %%
fig, axes = lab.subplots(1, 2, height=3.0, width=9)
for ax, (version, of) in zip(axes, UNITS.items()):
    drawn = {f"times {s}": curves[arm] for s, arm in zip(SCALES, of) if arm in curves}
    lab.plot_curves(ax, drawn, colors=dict(zip(drawn, style.PALETTE.values())))
    ax.set(yscale="log", title=version, xlabel="updates")
    ax.yaxis.set_major_formatter("{x:g}")
axes[0].set_ylabel("value: error / std")
alt = "Value error while learning, at three scales of reward, for the paper's and the mended "
alt += "critic: " + "; ".join(f"{arm} {errors[arm].mean():.2g}" for arm in in_units)
drawn = pd.DataFrame({arm: errors[arm] for arm in in_units})
experiment.figure(fig, "units", numbers=drawn.rename_axis("seed"), alt=alt)

# %%
whole = {version: of for version, of in UNITS.items() if set(of) <= set(errors)}
for version, (low, one, high) in whole.items():
    gaps |= {f"value.{version}.x0.01": gap(errors, low, one)}
    gaps |= {f"value.{version}.x100": gap(errors, high, one)}
    logs = np.log10([errors[arm] for arm in (low, one, high)])
    gaps[f"spread.{version}"] = lab.mean_interval(logs.max(axis=0) - logs.min(axis=0))
if len(whole) == 2:
    for scale, paper, mended in zip(SCALES, *whole.values()):
        gaps[f"value.mended-paper.x{scale}"] = gap(errors, mended, paper)
pd.DataFrame({n: vars(v) for n, v in gaps.items() if "mended" in n or "paper" in n}).T.round(3)

# %% [markdown]
# ## What we found


# %%
def told(name):
    if name not in gaps:
        return "(not run)"
    side = "better" if gaps[name].high < 0 else "worse" if gaps[name].low > 0 else "not told apart"
    return f"**{side}** (log10 ratio {gaps[name]})"


found = f"""
- Three components against one: laws {told("w1.K3-K1")}, values {told("value.K3-K1")}. Five against
  three: laws {told("w1.K5-K3")}, values {told("value.K5-K3")}.
- A start of 0.0001 against 1: laws {told("w1.init_0.0001-init_1")}, values
  {told("value.init_0.0001-init_1")}.
- Two stratified returns on each component against 16 draws of each action: laws
  {told("w1.K5-sampled_16")}, values {told("value.K5-sampled_16")}.
- Rewards times 100 against times 1: the paper's version {told("value.paper.x100")}, the mended one
  {told("value.mended.x100")}. At times 1, mended against paper's: {told("value.mended-paper.x1")}.
"""
display(Markdown(found))

# %%
numbers = {f"gain_log10.{name}": gain for name, gain in gains.items()} | gaps
numbers |= {f"w1.{arm}": lab.mean_interval(values) for arm, values in laws.items()}
numbers |= {f"value_error.{a}": lab.mean_interval(v) for a, v in errors.items()}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# The paper's ablations are on policies of simulated bodies, where returns have several peaks
# because falling is one. The linear system's returns have one peak: if one component serves a value
# as well as five *here*, that does not contradict the paper; it says where the gain does not come
# from. The tables, which do have several peaks, say what components and widths do to a *law*; a
# policy reads only its mean. No policy is learned in this notebook. Learning rates are the same in
# all arms of a section, and no arm was given its best one.
#
# ## What to try next
#
# - `-p 'arms=["K5","sampled_1","sampled_128"]'`: the paper's number of returns for each action.
# - `-p updates=10000`: do the differences between widths of the start survive?
# - `-p table_learning_rate=0.05`: who needs long steps?
# - `-p 'arms=["gradients","K1","K5"]' -p repeats=64`: the estimators, in a minute.
