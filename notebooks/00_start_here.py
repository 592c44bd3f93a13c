# %% [markdown]
# # What do Gemma 2, BOND and mixture-of-Gaussians critics have in common?
#
# Three papers, from three corners of machine learning. Read side by side they do one thing: they
# move a *model distribution* toward a *target distribution*. They differ in what the two are, and
# in the divergence between them.
#
# | paper | model distribution | its target | divergence |
# |---|---|---|---|
# | [Gemma 2] | student's next token | the teacher's | forward KL |
# | [BOND] | policy over whole answers | its own Best-of-N | Jeffreys: forward + backward KL |
# | [MoG critics] | critic's return distribution | Bellman target | cross-entropy on samples |
#
# [Gemma 2]: https://arxiv.org/abs/2408.00118
# [BOND]: https://arxiv.org/abs/2407.14622
# [MoG critics]: https://arxiv.org/abs/2204.10256
#
# This page shows, on the smallest example there is, why the divergence matters, and when it does
# not. After that it lists every notebook, and what we could confirm of the papers so far.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: a column of the table below
arms: list[str] | None = None  # weights of the backward KL; 0, 0.5 and 1 are drawn as shapes
starts: int | None = None  # fits of each kind, each from its own random start
powers: int | None = None  # fits see 4^3, 4^4, ... samples of the target, up to this power
sizes = {
    "smoke": {"arms": ["beta=0", "beta=0.5", "beta=1"], "starts": 2, "powers": 5},
    "laptop": {
        "arms": ["beta=0", "beta=0.25", "beta=0.5", "beta=0.75", "beta=0.9", "beta=1"],
        "starts": 10,
        "powers": 8,
    },
    "gpu": {
        "arms": ["beta=0", "beta=0.25", "beta=0.5", "beta=0.75", "beta=0.9", "beta=1"],
        "starts": 10,
        "powers": 8,
    },
    "paper": {
        "arms": ["beta=0", "beta=0.25", "beta=0.5", "beta=0.75", "beta=0.9", "beta=1"],
        "starts": 10,
        "powers": 8,
    },
}

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.optimize
from IPython.display import Markdown, display

from matchbook import divergences, lab
from matchbook.lab import style
from matchbook.lab.claims import format_table, ledger, ledger_table
from matchbook.lab.notebook import all_notebooks
from matchbook.lab.planning import cost

knobs = lab.knobs(profile, sizes, arms=arms, starts=starts, powers=powers)
experiment = lab.Experiment("00_start_here", version=1, profile=profile)

# %% [markdown]
# ## Two ways to be wrong
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \log \frac{p(x)}{q(x)}$$
#
# With target $p$ and model $q$ this is the *forward* KL: an average over the target. It punishes a
# model that gives no chance to something the target does. Swapped, $\mathrm{KL}(q \,\|\, p)$ is the
# *backward* KL: an average over the model, which punishes a model that does what the target never
# does. BOND mixes the two, and we follow its notation:
#
# $$J_\beta = (1 - \beta)\,\mathrm{KL}(p \,\|\, q) + \beta\,\mathrm{KL}(q \,\|\, p).$$
#
# Our model is a family: one Gaussian, or two. Everything lives on a grid, so all sums are exact.

# %%
grid = np.linspace(-6, 6, 241, dtype=np.float32)


@jax.jit
def log_mixture(parameters):
    weights, means, scales = jnp.asarray(parameters, jnp.float32).reshape(3, -1)
    z = (grid[:, None] - means[None, :]) / jnp.exp(scales)[None, :]
    parts = (jax.nn.log_softmax(weights) - scales)[None, :] - 0.5 * z**2
    return jax.nn.log_softmax(jax.nn.logsumexp(parts, axis=1))


# %% [markdown]
# Our target has two bumps, the left one larger and wider. One Gaussian cannot be like it. Two can.

# %%
two_bumps = [np.log(0.6), np.log(0.4), -2, 2, np.log(0.7), np.log(0.5)]
target = log_mixture(jnp.array(two_bumps))

# %% [markdown]
# To match is to minimise. `divergences.jeffreys` is the library's function for it: one line, the
# same that trains the policies of BOND. JAX gives the gradient, and a quasi-Newton method from
# SciPy walks down.


# %%
@partial(jax.jit, static_argnames="beta")
@jax.value_and_grad
def jeffreys(parameters, p, beta):
    return divergences.jeffreys(p, log_mixture(parameters), beta=beta)


def fit(p, start, beta):
    def in_numpy(parameters):
        value, slope = jeffreys(jnp.asarray(parameters, jnp.float32), p, beta)
        return float(value), np.asarray(slope, float)

    return scipy.optimize.minimize(in_numpy, start, jac=True, method="L-BFGS-B").x


# %% [markdown]
# Where the walk begins is drawn at random.


# %%
def random_start(count, number):
    means = np.random.default_rng(number).uniform(-4, 4, count)
    return np.concatenate([np.zeros(count), means, np.zeros(count)])


# %% [markdown]
# What it finds is judged by both divergences, whichever of the two it minimised.


# %%
@jax.jit
def both_kls(parameters):
    model = log_mixture(parameters)
    kls = {"forward": divergences.forward_kl, "backward": divergences.backward_kl}
    return {name: kl(target, model) for name, kl in kls.items()}


# %% [markdown]
# A critic never sees its target whole, only samples of it. So we also fit to samples: values that
# were never drawn have log-probability $-\infty$ and count nothing in a forward KL.


# %%
def excess(count, number):
    p = np.exp(np.asarray(target, float))
    drawn = np.random.default_rng([number, count]).multinomial(count, p / p.sum())
    with np.errstate(divide="ignore"):
        seen = jnp.asarray(np.log(drawn / count), jnp.float32)
    return float(both_kls(fit(seen, two_bumps, beta=0.0))["forward"])


# %% [markdown]
# And a large model's next-token distribution has as many outcomes as its vocabulary. Gemma 2 writes
# its distillation loss as a cross-entropy, $-\sum_x p(x) \log q(x)$. On one random teacher and
# student at its real vocabulary we compare it, and its gradient, with the forward KL.


# %%
@partial(jax.jit, static_argnames="loss")
def value_and_slope(student, teacher, loss):
    return jax.value_and_grad(lambda q: loss(teacher, jax.nn.log_softmax(q)))(student)


# %%
def identity(seed):
    logits = 3 * jax.random.normal(jax.random.key(seed), (2, 256_128))
    student, teacher = logits[0], jax.nn.log_softmax(logits[1])
    ce, of_ce = value_and_slope(student, teacher, divergences.cross_entropy)
    kl, of_kl = value_and_slope(student, teacher, divergences.forward_kl)
    entropy, _ = value_and_slope(teacher, teacher, divergences.cross_entropy)
    return {"identity": ce - kl - entropy, "slopes": abs(of_ce - of_kl).max() / abs(of_ce).max()}


# %% [markdown]
# One run is one weight $\beta$. It fits one Gaussian and two, from every start; the run of the
# forward KL also carries the two side experiments.


# %%
def measure(arm, seed, starts, powers):
    beta, tries, curves = float(arm.removeprefix("beta=")), range(starts), {}
    for n, name in ((1, "one"), (2, "two")):
        found = [fit(target, random_start(n, k), beta) for k in tries]
        curves[name] = np.arange(3 * n * starts), np.concatenate(found)
        kls = pd.DataFrame([both_kls(parameters) for parameters in found]).astype(float)
        curves |= {f"{name}.{kl}": (tries, kls[kl]) for kl in kls}
    return lab.Measured({}, curves) if beta else with_side_experiments(curves, seed, tries, powers)


def with_side_experiments(curves, seed, tries, powers):
    samples = 4 ** np.arange(3, powers + 1)
    left_over = [excess(count, k) for k in tries for count in samples]
    curves["excess"] = np.tile(samples, len(tries)), left_over
    return lab.Measured(identity(seed), curves)


fixed = {"starts": knobs.starts, "powers": knobs.powers}
runs = experiment.run(measure, arms=knobs.arms, seeds=1, **fixed)

# %% [markdown]
# ## Covering modes, or seeking one
#
# Top row: one Gaussian cannot be two bumps, so it must choose how to be wrong. The forward KL
# *covers*. It spreads over both bumps and puts mass between them, where the target has none. The
# backward KL *seeks*. It sits on one bump and forgets the other; which one depends on the start.
# Jeffreys at one half stands between, here on the covering side. Bottom row: two Gaussians can be
# the target itself, and from most starts all three divergences find it.

# %%
PANELS = {"forward KL": "beta=0", "Jeffreys, half and half": "beta=0.5", "backward KL": "beta=1"}
COLOR = [style.ROLES[role] for role in ("forward_kl", "jeffreys", "backward_kl")]
fits = {}
for family in ("one", "two"):
    found = {arm: values[0] for arm, (_, values) in runs.curve(family).items()}
    fits[family] = {arm: values.reshape(knobs.starts, -1) for arm, values in found.items()}
step = grid[1] - grid[0]
density = {"target": np.exp(target) / step}

# %%
fig, axes = lab.subplots(2, 3, height=1.9, width=9.6)
for row, family in zip(axes, fits):
    row[0].set_ylabel(f"{family} Gaussian{'s' if family == 'two' else ''}")
    for ax, (panel, arm), color in zip(row, PANELS.items(), COLOR):
        ax.fill_between(grid, density["target"], color="#dddddd", lw=0)
        for k, parameters in enumerate(fits[family][arm]):
            line = density[f"{family}.{arm}.{k}"] = np.exp(log_mixture(parameters)) / step
            ax.plot(grid, line, color=color, lw=1.4, alpha=0.7)
        ax.set(ylim=(0, 0.92), yticks=[], xticks=[-4, 0, 4], title=panel if family == "one" else "")
left = fits["one"]["beta=1"][:, 1] < 0
for x, count in ((-2, left.sum()), (2, (~left).sum())):
    axes[0, 2].text(x, 0.83, f"{count} of {len(left)} starts", ha="center", color=COLOR[2])
alt = "Six panels over a grey target with two bumps. One Gaussian: wide for forward KL, Jeffreys; "
alt += "narrow on one bump for backward KL. Two Gaussians: on the target for all three."
experiment.figure(fig, "modes", numbers=pd.DataFrame({"x": grid, **density}), alt=alt)

# %% [markdown]
# ## What each choice costs
#
# Both divergences of every fit with one Gaussian, as $\beta$ goes from forward to backward. At
# first a little of one is traded for a little of the other. Then the fit jumps onto a bump: the
# backward KL can fall at last, and the forward KL explodes, because the other bump of the target
# has become all but impossible. A policy that jumps like this has lost part of what it could say;
# the forward share in BOND's loss is there to prevent it.

# %%
KLS = [f"{family}.{kl}" for family in fits for kl in ("forward", "backward")]
costs = pd.DataFrame({name: np.ravel([y for _, y in runs.curve(name).values()]) for name in KLS})
costs.insert(0, "beta", np.repeat([float(arm[5:]) for arm in knobs.arms], knobs.starts))
_, means, log_scales = np.concatenate(list(fits["one"].values())).T
bump = np.where(means < 0, "on the left bump", "on the right bump")
costs["where"] = np.where(log_scales > 0, "over both bumps", bump)

# %%
colors = {"over both bumps": "vermillion", "on the left bump": "blue", "on the right bump": "sky"}
fig, axes = lab.subplots(1, 2, height=3.0, width=9.6)
for ax, kl in zip(axes, ("forward", "backward")):
    for place, at in costs.groupby("where"):
        color, line = style.PALETTE[colors[place]], at.groupby("beta")[f"one.{kl}"].median()
        label = place if place.startswith("on") and kl == "backward" else "_"
        ax.plot(line.index, line, "o-", ms=6, lw=1, color=color, label=label)
    ax.set(title=f"{kl} KL, nats", xlabel="β, weight of the backward KL", xlim=(-0.05, 1.05))
axes[0].set(yscale="log", ylim=(0.3, 30))
axes[0].set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"], minor=False)
axes[0].minorticks_off()
axes[1].set_ylim(0, 1.5)
axes[1].text(
    0.45, 1.13, "over both bumps", ha="center", color=style.ink(style.PALETTE["vermillion"])
)
lab.label_lines(axes[1])
alt = "Two panels against beta. Fits over both bumps change little; those on one bump, near 1, "
alt += "have a far larger forward KL and, on the better bump, a smaller backward KL."
experiment.figure(fig, "costs", numbers=costs, alt=alt)

# %% [markdown]
# ## When samples are all there is
#
# The forward KL needs the target only as an average, so samples will do: its sample version is the
# cross-entropy, minimised by maximum likelihood. That is what a mixture-of-Gaussians critic does.
# The backward KL needs the target's probabilities themselves, which a critic does not have. The
# price of samples is known: with $k$ free parameters, $n$ samples leave $k / 2n$ nats on average.
# Two Gaussians have five.

# %%
counts, left_over = (np.reshape(x, (knobs.starts, -1)) for x in runs.curve("excess")["beta=0"])
counts = counts[0]
expected = 5 / (2 * counts)
ratio = lab.mean_interval((left_over / expected).mean(axis=1))

# %%
fig, ax = lab.subplots(height=3.0)
ax.plot(counts, expected, color=style.INK, lw=1.1, dashes=(4, 2.5), label="5 / 2n")
lab.plot_curves(ax, {"two Gaussians": (counts, left_over)}, colors={"two Gaussians": COLOR[0]})
ax.set(xscale="log", yscale="log", xlabel="samples seen", ylabel="forward KL to the target, nats")
alt = "Distance to the target against samples on logarithmic axes: it falls along the line 5 / 2n."
drawn = pd.DataFrame({"samples": counts, "theory": expected, **dict(enumerate(left_over))})
experiment.figure(fig, "samples", numbers=drawn, alt=alt)

# %% [markdown]
# ## One loss, two names
#
# Cross-entropy to soft targets and forward KL differ by the entropy of the target, which no student
# can change. So their gradients are the same, and distilling with either is the same training. What
# is left of the difference, in nats, and of the gradients', relative:

# %%
rounding = {name: abs(runs.numbers(name)["beta=0"][0]) for name in ("identity", "slopes")}
pd.Series(rounding, name="largest difference").to_frame()

# %%
summary = costs.groupby("beta")[["one.forward", "one.backward"]].median()
numbers = {f"{kl}.beta_{b:g}": x for kl, of in summary.items() for b, x in of.items()}
reached = costs[["two.forward", "two.backward"]].max(axis=1) < 1e-4
numbers |= {"two.reached": lab.wilson(reached.sum(), len(reached)), "samples.ratio": ratio}
moments = [density["one.beta=0.0"] * step @ grid**power for power in (1, 2)]
wanted = [np.exp(target) @ grid**power for power in (1, 2)]
apart = {f"moment.{k}": abs(a - b) for k, (a, b) in enumerate(zip(moments, wanted), 1)}
numbers |= {name: round(float(x), 4) for name, x in apart.items()}  # the rest is the processor's
numbers |= {f"identity.{name}": x for name, x in zip(("nats", "gradient"), rounding.values())}
experiment.report(numbers)

# %% [markdown]
# ## What we found

# %%
forward, backward = ({b: f"{x:.2f}" for b, x in of.items()} for _, of in summary.items())
found = f"""
- One Gaussian, from forward KL over Jeffreys to backward KL: the forward KL to the target is
  {forward[0.0]}, {forward[0.5]}, {forward[1.0]} nats, the backward KL
  {backward[0.0]}, {backward[0.5]}, {backward[1.0]} (medians over starts).
- Two Gaussians reach the target from {reached.sum()} of {len(reached)} starts. Where the family is
  rich enough, the divergence changes the way there, not the goal; the other starts got stuck.
- With samples, the distance left over is {ratio} times theory's 5 / 2n.
"""
display(Markdown(found))

# %% [markdown]
# The limits: one target, one dimension, and an optimiser that only finds local optima. How each
# divergence fares with transformers and critics is what the other notebooks are for.
#
# ## The notebooks
#
# Each asks one question. Minutes and devices come from the records of the published runs; without
# changes to its parameters a notebook replays these records in seconds.

# %%
# NBVAL_IGNORE_OUTPUT
root = lab.session().root
costs_of = {n: {p: cost(n, p, root) for p in ("laptop", "gpu")} for n in all_notebooks(root)}
rows = [[n.name, n.title, *(spent or "" for spent in of.values())] for n, of in costs_of.items()]
display(Markdown(format_table(["notebook", "question", "laptop", "gpu"], rows, "markdown")))

# %% [markdown]
# ## The ledger
#
# Every checkable statement of the three papers has a row in `notebooks/claims.toml`. Verdicts are
# worked out from the numbers that notebooks report, by interval, and never typed in. First the
# count, then every claim that some notebook tests; `matchbook claims` prints the rest too.

# %%
# NBVAL_IGNORE_OUTPUT
claims = ledger(root, lab.session().figures, profiles=[profile])
rows = [(row.claim.paper, row.claim.kind, str(row.verdicts[profile])) for row in claims]
pd.DataFrame(rows, columns=["paper", "kind", "verdict"]).value_counts().unstack(fill_value=0)

# %%
# NBVAL_IGNORE_OUTPUT
display(Markdown(ledger_table([row for row in claims if row.claim.tests], "markdown")))

# %% [markdown]
# ## What to try next
#
# - Give the target a third bump, or move the two together: from which distance on does one Gaussian
#   cover both, even at $\beta = 1$?
# - Add `beta=0.8` and `beta=0.85` to `arms`: where is the jump, and does it depend on the start?
# - `gemma2/01_anatomy` opens the first paper, `bond/01_best_of_n` the second,
#   `mog/01_return_distributions` the third.
