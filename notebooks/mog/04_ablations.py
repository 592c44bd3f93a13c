# %% [markdown]
# # Ablations: which of the mixture's settings matter, and is drawing returns worth its price?
#
# A mixture critic has no support to choose. It still has settings: how many components, how wide
# they begin and where, how its loss is estimated. Notes by a reader of
# [Shahriari et al. 2022](https://arxiv.org/abs/2204.10256) report three ablations on control tasks:
# three components are much better than one and more add little; a narrow start is best; where
# components start does not matter. And the loss in the authors' code draws 2,560 returns for each
# transition, without saying why so many.
#
# We repeat all of them where answers are known: on five problems whose return is a formula, and on
# a pendulum of dm-control whose controller never learns, so that its values can be simulated.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] | None = None  # who is compared; see below
seeds: int | None = None  # repetitions of an arm
steps: int | None = None  # in the tables of the five problems
updates: int | None = None  # of the network that learns the pendulum's values
episodes: int | None = None  # of 200 decisions each that it learns from
rollouts: int | None = None  # simulated for each of the values it is judged by
repeats: int | None = None  # draws of a gradient
table_learning_rate: float = 0.5  # Adam's first one in the tables; a cosine takes it to zero
learning_rate: float = 1e-3  # Adam's in the network
noise_std: float = 1.5  # of rewards, where they are noisy
sizes = {
    "smoke": {"seeds": 2, "steps": 20, "updates": 40, "episodes": 4, "rollouts": 4, "repeats": 2,
              "arms": ["gradients", "K5"]},
    "laptop": {"seeds": 10, "steps": 1500, "updates": 2000, "episodes": 64, "rollouts": 32,
               "repeats": 16,
               "arms": ["gradients", "K1", "K3", "K5", "K10", "init_1", "init_0.1", "init_0.01",
                        "init_0.0001", "spread", "sampled_1", "sampled_10", "quadrature_2"]},
    "gpu": {"seeds": 20, "steps": 20_000, "updates": 40_000, "episodes": 512, "rollouts": 256,
            "repeats": 64,
            "arms": ["gradients", "K1", "K3", "K5", "K10", "init_1", "init_0.1", "init_0.01",
                     "init_0.0001", "spread", "sampled_1", "sampled_10", "quadrature_2"]},
}  # fmt: skip

# %%
import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.control import PolicyEvaluation, swing_up, tabular
from matchbook.control.transitions import Transition
from matchbook.critics import MixtureOfGaussians, estimators
from matchbook.critics.problems import all_problems
from matchbook.lab import style

# %%
chosen = {"seeds": seeds, "steps": steps, "updates": updates, "episodes": episodes}
knobs = lab.knobs(profile, sizes, rollouts=rollouts, repeats=repeats, arms=arms, **chosen)
settings = {name: value for name, value in vars(knobs).items() if name not in ("seeds", "arms")}
settings |= {"table_learning_rate": table_learning_rate, "learning_rate": learning_rate}
settings |= {"noise_std": noise_std}
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
# `K5` is the standard: five components that begin at the origin and 0.001 wide, as in the authors'
# code, with the stratified loss and two returns on each component. Every other arm changes one
# thing. `sampled_10` looks at as many returns as `K5` and `quadrature_2` do, `sampled_1` at a tenth
# of them. In `spread` the components begin evenly over the returns that are possible (0 to 20 on
# the pendulum), which somebody has to know.

# %%
STANDARD = MixtureOfGaussians(num_nodes=2)
CRITICS = {"K5": STANDARD} | {f"K{k}": replace(STANDARD, components=k) for k in (1, 3, 10)}
CRITICS |= {f"init_{s:g}": replace(STANDARD, init_scale=s) for s in (1.0, 0.1, 0.01)}
CRITICS["init_0.0001"] = replace(STANDARD, init_scale=1e-4, min_scale=1e-5)
CRITICS |= {f"sampled_{n}": replace(PAPER, num_samples=n) for n in (1, 10, 128)}
CRITICS["quadrature_2"] = replace(STANDARD, estimator="quadrature")
CRITICS["spread"] = STANDARD


# %%
def spread_out(state, low=0.0, high=20.0):
    """The same fresh network, its components' means at even distances from `low` to `high`."""
    k, network = STANDARD.components, state.online.critic
    bias = network.head.bias.at[k : 2 * k].set(np.linspace(low, high, k, dtype=np.float32))
    both = state.online._replace(critic=network._replace(head=network.head._replace(bias=bias)))
    return state._replace(online=both, target=both)


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
# Then a **network**, the critic of the agent, on the suite's pendulum. A controller with noise
# swings it up and tries to hold it; sometimes it falls. So from many states returns have two peaks,
# as the paper's bodies' may have. Data is recorded once a seed and does not depend on what was
# learned, and nothing but the critic can be at fault. A policy reads a critic's mean only, so the
# score is the error of the *value* at held-out states and actions, each simulated many times (what
# the simulations themselves are off by is taken out), over the values' standard deviation: who
# knows nothing but the average value scores 1.


# %%
def in_network(arm, seed, noise):
    about = {"observation_size": 3, "action_size": 1, "learning_rate": learning_rate}
    one, n = PolicyEvaluation(critic=CRITICS[arm], **about), knobs.updates
    data = Transition(**swing_up.record(knobs.episodes, 200, seed))
    data = swing_up.noisy(data, noise, noise_std, seed)
    start = spread_out(one.init(seed)) if arm == "spread" else one.init(seed)
    watch = {"evaluate": lambda state: judged(one, state), "eval_every": max(1, n // 16)}
    watch |= {"log_every": max(1, n // 32), "name": f"network.{noise}"}
    batches = swing_up.batches(data, seed)
    return lab.fit(one.step, start, batches, num_steps=n, **watch)[1]["value_error"]


# %%
@cache
def truth():
    about = {"num": 256, "rollouts": knobs.rollouts, "horizon": 100, "seed": 0}
    return swing_up.Values(**lab.artifact("values", swing_up.judge, **about))


def judged(one, state):
    ours = one.values(state, truth().observations, truth().actions)
    return {"value_error": swing_up.value_error(ours, truth())}


# %%
NOISES = ["none", "even"]


def measure(arm, seed, **_):
    if arm == "gradients":
        return gradients(seed)
    laws = in_tables(CRITICS[arm], seed) if arm != "spread" else {}
    curves = {f"value.{noise}": in_network(arm, seed, noise) for noise in NOISES}
    return lab.Measured(laws | {name: y[-1] for name, (_, y) in curves.items()}, curves)


# %%
runs = experiment.run(measure, arms=knobs.arms, seeds=knobs.seeds, **settings)
errors, noisy = (runs.numbers(f"value.{noise}") for noise in NOISES)
PROBLEMS = [problem.name for problem in all_problems()]


# %%
def w1(arm):
    """Geometric mean over the five problems, in standard deviations of each law: [seeds]."""
    return np.exp(np.mean([np.log(runs.numbers(f"w1.{p}")[arm]) for p in PROBLEMS], axis=0))


ran = [arm for arm in CRITICS if arm in errors]
laws = {arm: w1(arm) for arm in ran if arm != "spread"}

# %% [markdown]
# ## What an estimator costs, and what it is worth
#
# Its cost is the number of returns at which the mixture is evaluated for one transition: almost all
# of the work of the loss. Its worth is the distance of one gradient from the exact one. Down and to
# the left is better; the cross is what the authors' code does.


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
best, gains = estimators.points(MixtureOfGaussians()), {}
LABELS = {"stratified": best, "quadrature": best, "sampled": estimators.points(PAPER)}
for name in MOMENTS if have_gradients else []:
    found = {
        kind: np.log10(np.maximum(runs.numbers(f"error.{name}.{kind}.{n}")["gradients"], 1e-7))
        for kind, n in LABELS.items()
    }
    for kind in ("stratified", "quadrature"):
        gains[f"{name}.{kind}"] = lab.paired_difference(found[kind], found["sampled"])
pd.DataFrame({name: vars(gain) for name, gain in gains.items()}).T.round(3)

# %% [markdown]
# The table compares errors at 800 points with those of the paper's 2,560: decimal logarithm of the
# ratio, below 0 is better. Quadrature is best where the logarithm is smooth. Where a component of
# the model is narrow it has a *bias*, which no number of updates averages away, and nobody knows
# beforehand. Stratified draws are right on average at every moment, and so the library's default.
#
# ## Components, start, and estimator
#
# First row: how well laws are learned in the tables. Then: how well the network learns the
# pendulum's values, without and with noise on the rewards. Dots are seeds, bars 95 % intervals of
# the mean.

# %%
GROUPS = {
    "components": {"K1": "1", "K3": "3", "K5": "5", "K10": "10"},
    "start": {"init_1": "1", "init_0.1": ".1", "init_0.01": ".01", "K5": ".001",
              "init_0.0001": ".0001", "spread": "spread"},
    "estimator": {"sampled_1": "sampled\n1", "sampled_10": "sampled\n10",
                  "quadrature_2": "quadr.\n2", "K5": "stratified\n2"},
}  # fmt: skip


# %%
def dots(ax, place, values, color):
    mean = lab.mean_interval(values)
    ax.plot(np.full(len(values), place + 0.14), values, ".", ms=4, color=color, alpha=0.6)
    ax.plot([place, place], [max(mean.low, 1e-2), mean.high], color=color, lw=2)
    ax.plot(place, mean.value, "o", ms=7, color=color, mec="white")


# %%
rows = {"law: $W_1$ / std": laws, "value: error / std": errors}
rows |= {"value, rewards noisy": noisy}
fig, axes = lab.subplots(3, 3, height=2.2, width=11)
for line, (title, values) in zip(axes, rows.items()):
    for ax, (group, members) in zip(line, GROUPS.items()):
        shown = [arm for arm in members if arm in values]
        for place, arm in enumerate(shown):
            dots(ax, place, values[arm], style.PALETTE["blue"])
        ax.set(yscale="log", xticks=range(len(shown)), xlim=(-0.5, max(3.5, len(shown) - 0.5)))
        ax.set(ylim=(0.1, 1.5), yticks=[0.1, 0.2, 0.5, 1])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xticklabels([members[arm] for arm in shown], fontsize=8)
        ax.set_title(group if values is laws else "")
    line[0].set_ylabel(title)
alt = "Errors of laws and values by components, start and estimator: " + "; ".join(
    f"{arm} W1 {laws[arm].mean():.2f}, value {errors[arm].mean():.2f}" for arm in laws
)
drawn = {f"{k.split(':')[0]}.{a}": v for k, of in rows.items() for a, v in of.items()}
experiment.figure(fig, "ablations", numbers=pd.DataFrame(drawn).rename_axis("seed"), alt=alt)


# %%
def gap(values, first, second):
    """Decimal logarithm of the ratio of two arms' scores, seed by seed; below 0 the first wins."""
    floored = (np.log10(np.maximum(values[arm], 1e-3)) for arm in (first, second))
    return lab.paired_difference(*floored)


# %%
PAIRS = [("K3", "K1"), ("K5", "K3"), ("K10", "K3")]
PAIRS += [("init_0.0001", arm) for arm in ("K5", "init_0.01", "init_0.1", "init_1")]
PAIRS += [("init_1", arm) for arm in ("init_0.1", "init_0.01", "K5")]
PAIRS += [("spread", "K5"), ("K5", "sampled_10"), ("K5", "sampled_1"), ("K5", "quadrature_2")]
gaps = {
    f"{name}.{first}-{second}": gap(values, first, second)
    for name, values in {"w1": laws, "value": errors, "noisy": noisy}.items()
    for first, second in PAIRS
    if first in values and second in values
}
pd.DataFrame({name: vars(interval) for name, interval in gaps.items()}).T.round(3)

# %% [markdown]
# How values are learned from noisy rewards:

# %%
curves = runs.curve("value.even")
PANELS = {"components": ["K1", "K3", "K5", "K10"],
          "start": ["init_1", "init_0.1", "init_0.01", "K5", "init_0.0001"]}  # fmt: skip
fig, axes = lab.subplots(1, 2, height=3.2, width=10)
for ax, (group, members) in zip(axes, PANELS.items()):
    drawn = {GROUPS[group][arm]: curves[arm] for arm in members if arm in curves}
    lab.plot_curves(ax, drawn, colors=style.shades(drawn))
    ax.set(yscale="log", title=group, xlabel="updates", ylabel="value: error / std")
    ax.set(ylim=(0.1, 2), yticks=[0.1, 0.2, 0.5, 1, 2])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
alt = "Errors of values while learning from noisy rewards, by components and initial width."
ends = {f"{arm}.seed{i}": v for arm, (_, y) in curves.items() for i, v in enumerate(y)}
x = next(iter(curves.values()))[0]
experiment.figure(fig, "learning", numbers=pd.DataFrame(ends, x).rename_axis("updates"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(name):
    if name not in gaps:
        return "(not run)"
    side = "better" if gaps[name].high < 0 else "worse" if gaps[name].low > 0 else "not told apart"
    return f"**{side}** ({gaps[name]})"


found = f"""
Decimal logarithms of ratios of errors; below 0 the first is better.

- Three components against one: laws {told("w1.K3-K1")}, values {told("value.K3-K1")}. Ten against
  three: laws {told("w1.K10-K3")}, values {told("value.K10-K3")}.
- A start of 0.0001 against 1: laws {told("w1.init_0.0001-init_1")}, values
  {told("value.init_0.0001-init_1")}, and where rewards are noisy
  {told("noisy.init_0.0001-init_1")}.
- Means spread at the start against all at the origin: values {told("value.spread-K5")}.
- Two stratified returns on each component against ten draws of each action: laws
  {told("w1.K5-sampled_10")}, values {told("value.K5-sampled_10")}; against one draw: laws
  {told("w1.K5-sampled_1")}, values {told("value.K5-sampled_1")}.
"""
display(Markdown(found))

# %%
numbers = {f"gain_log10.{name}": gain for name, gain in gains.items()} | gaps
numbers |= {f"w1.{arm}": lab.mean_interval(values) for arm, values in laws.items()}
for noise, of in zip(NOISES, (errors, noisy)):
    numbers |= {f"value.{noise}.{arm}": lab.mean_interval(v) for arm, v in of.items()}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# The paper's ablations are on policies of large bodies; here no policy is learned. A claim about
# policies is judged by the values that a policy would read, on one task of the suite, with a
# network of two layers of 64, a few thousand updates and one learning rate: what a narrow start
# needs may be time, or longer steps. The suite's own rewards have no noise, which is why the third
# row is no verdict on the paper; whoever has noisy rewards should look at it all the same. There,
# from a narrow start, hardly anything is learned with any number of components, so this row cannot
# say how many one needs: `mog/05_why` compares one with five from a wide start. The tables say what
# components and widths do to a *law*; a policy reads only its mean.
#
# ## What to try next
#
# - `-p 'arms=["K5","init_1"]' -p updates=40000`: does the difference between starts survive?
# - `-p 'arms=["K5","sampled_1","sampled_128"]'`: the paper's number of returns for each action.
# - `-p table_learning_rate=0.05`: who needs long steps?
# - `-p 'arms=["gradients","K1","K5"]' -p repeats=64`: the estimators, in a minute.
