# %% [markdown]
# # Figure 4: one large N, or many rounds of a small one?
#
# Best-of-$N$ asks for a choice that nobody can make beforehand: how large should $N$ be? A large
# one is far from the reference, hard to estimate and dear to sample.
# [BOND](https://arxiv.org/abs/2407.14622) goes in rounds instead: distil the best of a few, make
# the result the next anchor, and repeat. Two rounds of four are one of sixteen; that is exact
# (notebook 01). But nobody distils exactly. Here a transformer does it, on samples, with estimated
# quantiles and with a family that cannot hold the target, and since all of its 32,768 answers can
# be listed, we see what each round really achieves.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "plain.N4", "plain.N8", "plain.N16", "iterated.n2", "iterated.n4"]  # of the anchor  # fmt: skip
seeds: int | None = None  # trainings of an arm, on one task
steps: int | None = None  # updates in all
period: int | None = None  # updates of a round
reference_steps: int | None = None  # updates of the reference
width: int | None = None  # of the transformer, which has two layers
repeats: int | None = None  # of the 8 prompts in a batch
k: int | None = None  # anchor samples: winners are chosen from the first n, quantiles use all
learning_rate: float | None = None  # of Adam, constant after a short warm-up
luck: float | None = None  # standard deviation of what no transformer can know of the reward
sizes = {
    "smoke": {"seeds": 2, "steps": 8, "period": 2, "reference_steps": 4, "width": 8, "repeats": 1,
              "k": 16, "learning_rate": 0.01, "luck": 0.7},
    "laptop": {"seeds": 15, "steps": 400, "period": 80, "reference_steps": 300, "width": 16,
               "repeats": 4, "k": 16, "learning_rate": 0.003, "luck": 0.7},
    "gpu": {"seeds": 20, "steps": 2000, "period": 400, "reference_steps": 2000, "width": 64,
            "repeats": 32, "k": 16, "learning_rate": 0.001, "luck": 0.7}}  # fmt: skip

# %%
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.bond import algorithms, enumerable_lm, exact, frontier, sequences
from matchbook.bond.algorithms.arguments import bound
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, period=period, reference_steps=reference_steps,
    width=width, repeats=repeats, k=k, learning_rate=learning_rate, luck=luck,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
experiment = lab.Experiment("bond/03_iterated", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Figure 4: summaries, $\beta=\frac12$, plain BOND with three values of $N$ against rounds with two
# values of $n$ whose anchor is renewed every 1000 steps. One run each, drawn as curves.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger}
printed["bond-figure-04"].T

# %% [markdown]
# ## The idea in one equation
#
# $$\pi_0=\pi_{ref},\qquad
# \pi_{M+1}=\arg\min_\pi J_{\frac12}\big(\pi\,\|\,\text{Best-of-}n(\pi_M)\big)
# \qquad\Longrightarrow\qquad \pi_M=\text{Best-of-}n^M(\pi_{ref})$$
#
# if each round is exact. Its price is $n$ samples of the anchor for a winner, whatever $n^M$ is,
# and each quantile is estimated among answers that are about as good as the policy's own. Figure 3
# is the drawing of this: best of two, distil, move on.
#
# ## A language model whose answers can be listed
#
# A Gemma 2 transformer over eight tokens, prompts of one token, answers of five. Its reference has
# learned a Markov chain; the reward scores neighbouring tokens, plus one random number for each
# answer, which nothing but a table could know.

# %%
graph, initial = enumerable_lm.new_model(enumerable_lm.config(knobs.width), seed=0)
policy = sequences.transformer_policy(graph, enumerable_lm.LENGTH)
log_pmf = enumerable_lm.log_pmf(graph)
rewards = enumerable_lm.reward_table(seed=0, luck=knobs.luck)
every_prompt = enumerable_lm.prompts()


# %%
def make_reference(reference_steps, **_):
    source = enumerable_lm.markov_source(enumerable_lm.markov_transitions(seed=0))
    adam = optax.adam(optax.cosine_decay_schedule(0.01, reference_steps))
    step = algorithms.imitation_step(policy, adam, source, num_samples=16)
    state, prompts = algorithms.policy_state(initial, adam, 0), itertools.repeat(every_prompt)
    return lab.fit(step, state, prompts, num_steps=reference_steps, name="reference")[0].weights


# %%
@functools.cache
def reference():
    about = {name: settings[name] for name in ("reference_steps", "width")}
    weights = lab.artifact("reference", make_reference, **about)
    return weights, jax.jit(log_pmf)(weights, every_prompt)


# %% [markdown]
# ## One program for all arms
#
# `bond_step` is the same for both: a plain run has an anchor that never moves, an iterated one an
# anchor that becomes the policy at the end of each round. $n$ and the period are arguments of the
# compiled program. All arms draw $k$ anchor samples and one of the policy to a prompt, so that at
# equal updates they have generated equally much.

# %%
adam = algorithms.adam(knobs.learning_rate, min(50, knobs.steps // 8))


def make_step(n, period, table):
    reward, anchor = enumerable_lm.table_reward(table), algorithms.moving(1.0, period)
    return algorithms.bond_step(policy, adam, reward, n=n, k=knobs.k, anchor=anchor)


# %%
def step_of(arm):
    kind, n = arm.split(".")
    period = knobs.period if kind == "iterated" else knobs.steps + 1
    given = {"n": jnp.float32(n.strip("Nn")), "period": jnp.int32(period)}
    return bound(make_step, **given, table=rewards)


# %%
METRICS = {"reward": "mean reward", "log_quantile": "mean log-quantile"}
METRICS |= {"kl_to_reference": "KL(policy ‖ reference), nats"}


def measure(arm, seed, steps, period, repeats, **_):
    weights, log_probs = reference()
    evaluate = exact.evaluation(log_pmf, every_prompt, log_probs, rewards, n=knobs.k)
    watch = {"evaluate": evaluate, "eval_every": max(1, period // 8), "name": "policy"}
    state = algorithms.policy_state(weights, adam, seed)
    prompts = itertools.repeat(enumerable_lm.prompts(repeats))
    history = lab.fit(step_of(arm), state, prompts, num_steps=steps, **watch)[1]
    lines = {f"best_of_n.{name}": line for name, line in best_of_n_lines().items()}
    return lab.Measured({}, {name: history[f"exact_{name}"] for name in METRICS} | lines)


# %% [markdown]
# What could be had without a family's limits is computed, too: Best-of-$N$ itself for $N$ from 1 to
# many thousand, a line in the plane of KL and reward that no sampling can pass.

# %%
NS = 2.0 ** np.arange(0, 11.1, 0.5)


@functools.cache
def best_of_n_lines():
    line = frontier.best_of_n_line(reference()[1], rewards, NS)
    values = {"reward": line.reward, "log_quantile": line.log_quantile, "kl_to_reference": line.kl}
    return {name: (NS, value) for name, value in values.items()}


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
curves = {name: runs.curve(name) for name in METRICS}
print(runs)

# %% [markdown]
# ## Figure 4
#
# Left and middle: reward and log-quantile over updates. Dotted verticals are where the anchors of
# iterated runs are renewed. Right: log-quantile over the KL that it cost; the black line is exact
# Best-of-$N$, for all $N$ at once, which no family but a table could follow. Means over seeds,
# bands are 95 % intervals.

# %%
PLAIN = {arm: arm.replace("plain.N", "plain, N = ") for arm in arms if arm.startswith("plain")}
NAMES = PLAIN | {arm: arm.replace("iterated.n", "rounds of ") for arm in arms if arm not in PLAIN}
SHADES = dict(zip(PLAIN, style.shades(PLAIN).values()))
ROUNDS = dict(zip((a for a in arms if a not in PLAIN), (style.PALETTE["vermillion"], "#7a1f00")))
COLORS = {NAMES[arm]: color for arm, color in (SHADES | ROUNDS).items()}
kl = {arm: values for arm, (_, values) in curves["kl_to_reference"].items()}

# %%
fig, axes = lab.subplots(1, 3, height=3.6, width=12)
for ax, name in zip(axes, ("reward", "log_quantile")):
    lab.plot_curves(ax, {NAMES[arm]: curves[name][arm] for arm in arms}, colors=COLORS)
    for renewed in range(knobs.period, knobs.steps, knobs.period):
        ax.axvline(renewed, color="#cccccc", lw=0.8, ls=":", zorder=0)
    ax.set(xlabel="updates", ylabel=METRICS[name])
for arm in arms:
    at = kl[arm].mean(0), curves["log_quantile"][arm][1].mean(0)
    axes[2].plot(*at, "o-", ms=3, lw=1.4, color=COLORS[NAMES[arm]])
exact_line = {name: runs.curve(f"best_of_n.{name}")[arms[0]][1][0] for name in METRICS}
axes[2].plot(exact_line["kl_to_reference"], exact_line["log_quantile"], color=style.INK, lw=1.2)
axes[2].set(xlabel=METRICS["kl_to_reference"], ylabel=METRICS["log_quantile"])
axes[2].set_xlim(0, 1.05 * max(values.mean(0).max() for values in kl.values()))

# %%
ends = {name: {arm: y[:, -8:].mean(1) for arm, (_, y) in curves[name].items()} for name in METRICS}
alt = "Reward and log-quantile over updates, and log-quantile over KL. At the end: " + "; ".join(
    f"{NAMES[arm]} reward {ends['reward'][arm].mean():.2f} at KL "
    f"{ends['kl_to_reference'][arm].mean():.2f}"
    for arm in arms
)
drawn = {f"{arm}_{name}": curves[name][arm][1].mean(0) for arm in arms for name in METRICS}
drawn = pd.DataFrame(drawn).set_axis(curves["reward"][arms[0]][0]).rename_axis("updates")
experiment.figure(fig, "figure_4", numbers=drawn, alt=alt)

# %% [markdown]
# ## How many answers is a round worth?
#
# The exact line turns every reward into an *effective* $N$: the $N$ whose true Best-of-$N$ would
# earn as much. A round should multiply it by $n$. Dashed, what exact rounds would give, $2^M$ and
# $4^M$; solid, what came out. A family that cannot hold its target falls short, in each round anew,
# and a plain run does so once. This is the paper's Figure 1, a drawing, with numbers to it: one
# answer of a distilled policy for the best of how many?


# %%
def effective_n(reward):
    """The N of exact Best-of-N with this mean reward."""
    return 2 ** np.interp(reward, exact_line["reward"], np.log2(NS))


fig, ax = lab.subplots(height=3.6, width=7.2)
for arm in arms:
    steps_, reward = curves["reward"][arm]
    lab.plot_curves(ax, {NAMES[arm]: (steps_, effective_n(reward))}, colors=COLORS)
    if arm not in PLAIN:
        rounds = np.arange(0, knobs.steps // knobs.period + 1)
        ax.step(rounds * knobs.period, float(arm[-1]) ** np.minimum(rounds + 1, rounds[-1]),
                where="post", color=COLORS[NAMES[arm]], lw=1, ls="--")  # fmt: skip

# %%
ax.set_yscale("log", base=2)
ax.set_yticks(4 ** np.arange(6), 4 ** np.arange(6))
ax.set(xlabel="updates", ylabel="effective N", ylim=(0.9, 3000))
worth = {arm: lab.mean_interval(effective_n(values)) for arm, values in ends["reward"].items()}
alt = "Effective N over updates. At the end: " + "; ".join(f"{NAMES[a]} {worth[a]}" for a in arms)
drawn = {arm: effective_n(y).mean(0) for arm, (_, y) in curves["reward"].items()}
drawn = pd.DataFrame(drawn).set_axis(curves["reward"][arms[0]][0]).rename_axis("updates")
experiment.figure(fig, "effective_n", numbers=drawn, alt=alt)

# %% [markdown]
# ## The paper's three sentences, as numbers
#
# **Plain runs level off, the sooner the smaller $N$ is.** Growth of reward in the last quarter of
# the run, and the time at which a run first has nine tenths of the rise that it will ever make.
# **Iterated runs go on rising.** Their growth in the same quarter, and it against that of every
# plain run. When a run has levelled off is a matter of taste, so the time of three quarters of the
# rise stands beside: a small $N$ is soon near its end, and then creeps. **Neither pays more KL for
# its reward.** Reward of the rounds where they pass the KL that a plain run settles at, less that
# run's own (where the rounds end before that KL, both are read at their end); we call it equal if
# the interval lies within a tenth of the reward's standard deviation.


# %%
def growth(arm):
    reward, quarter = curves["reward"][arm][1], max(1, len(curves["reward"][arm][0]) // 4)
    return reward[:, -quarter:].mean(1) - reward[:, -2 * quarter : -quarter].mean(1)


# %%
def settled(arm, share=0.9):
    x, ys = curves["reward"][arm]
    top = np.quantile(ys, 0.9, axis=1)
    return [frontier.at_kl(y, x, y[0] + share * (t - y[0])) for y, t in zip(ys, top)]


late = {arm: lab.mean_interval(growth(arm)) for arm in arms}
times = {arm: lab.mean_interval(settled(arm)) for arm in arms}
most = {arm: lab.mean_interval(settled(arm, 0.75)) for arm in arms}
named = {"to nine tenths of the rise": times, "to three quarters of it": most}
pd.DataFrame({"growth in the last quarter": late} | {f"updates {n}": t for n, t in named.items()})


# %%
def reward_at(arm, seed, wanted):
    x, y = np.maximum(kl[arm][seed], 0), curves["reward"][arm][1][seed]
    return frontier.at_kl(np.sqrt(x), y, np.sqrt(wanted))


def at_equal_kl(rounds, plain):
    """Reward of the rounds less that of each plain run, at the KL where the nearer of them ends."""
    tops, own = kl[rounds].max(axis=1), list(ends["reward"][plain])
    wanted = np.minimum(tops, ends["kl_to_reference"][plain])
    for seed in np.flatnonzero(tops < ends["kl_to_reference"][plain]):
        own[seed] = reward_at(plain, seed, wanted[seed])
    return lab.paired_difference([reward_at(rounds, *at) for at in enumerate(wanted)], own)


pairs = {(a, b): at_equal_kl(a, b) for a in arms if a not in PLAIN for b in PLAIN}
ahead = {(a, b): lab.paired_difference(growth(a), growth(b)) for a, b in pairs}
table = {f"{NAMES[a]} less {NAMES[b]}": (pairs[a, b], ahead[a, b]) for a, b in pairs}
pd.DataFrame(table, index=["reward at equal KL", "growth in the last quarter"]).T

# %%
fig, ax = lab.subplots(height=2.9, width=7.2)
ax.axvspan(-0.1, 0.1, color="#eeeeee", zorder=0)
ax.axvline(0, color=style.INK, lw=1)
for row, ((rounds, _), gap) in enumerate(pairs.items()):
    ax.plot([gap.low, gap.high], [row, row], color=COLORS[NAMES[rounds]], lw=3)
    ax.plot(gap.value, row, "o", ms=7, color=COLORS[NAMES[rounds]])
ax.set(yticks=range(len(pairs)), yticklabels=[f"{NAMES[a]}, against {NAMES[b]}" for a, b in pairs])
ax.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="reward at equal KL, standard deviations")
ax.grid(visible=False)
alt = "Differences of reward at equal KL: " + "; ".join(
    f"{a} {b} {g}" for (a, b), g in pairs.items()
)
drawn = pd.DataFrame({f"{a}_{b}": vars(gap) for (a, b), gap in pairs.items()}).T
experiment.figure(fig, "equal_kl", numbers=drawn.rename_axis("pair"), alt=alt)

# %% [markdown]
# ## What we found

# %%
sooner = {}
for a, b in (("plain.N4", "plain.N16"), ("iterated.n4", "iterated.n2")):
    for name, share in (("settled", 0.9), ("three_quarters", 0.75)):
        if {a, b} <= set(arms):
            sooner[f"{name}.{a}-{b}"] = lab.paired_difference(settled(a, share), settled(b, share))
display(Markdown("\n".join(
    f"- {NAMES[arm]}: ends at reward {ends['reward'][arm].mean():.2f} and KL "
    f"{ends['kl_to_reference'][arm].mean():.2f}, worth N = {worth[arm].value:.1f}; in the last "
    f"quarter it grew by {late[arm]}, nine tenths of the rise took {times[arm]} updates, "
    f"three quarters {most[arm]}." for arm in arms
)))  # fmt: skip
pd.Series({name: str(gap) for name, gap in sooner.items()}).to_frame("updates, one less other")

# %%
numbers = {f"late_growth.{arm}": gap for arm, gap in late.items()}
numbers |= {f"settled.{arm}": interval for arm, interval in times.items()}
numbers |= {f"effective_n.{arm}": interval for arm, interval in worth.items()}
numbers |= {f"equal_kl.{a}-{b}": gap for (a, b), gap in pairs.items()}
numbers |= {f"late_growth.{a}-{b}": gap for (a, b), gap in ahead.items()}
numbers |= sooner
for a, b in (("plain.N4", "plain.N16"), ("iterated.n4", "iterated.n2")):
    if {a, b} <= set(arms):
        difference = lab.paired_difference(ends["reward"][a], ends["reward"][b])
        numbers[f"reward.{a}-{b}"] = difference
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# One task, one reference, one small transformer; intervals speak of the trainer's randomness. The
# KL axis is exact here, and that matters: in the paper KL is estimated from the policy's own
# samples. The exact line shows what both kinds of run leave on the table, namely the luck in the
# reward, which no transformer of this size can learn. Winning in this figure is also not winning in
# life: reward goes on rising because nothing in it is a mistake of a reward model. On real text a
# proxy would be over-optimised long before (notebook 10).
#
# ## What to try next
#
# - `-p period=20`: are rounds that are not finished a waste?
# - `-p luck=0.0`: with nothing but skill in the reward, does a round double the effective $N$?
# - `-p k=32`: finer quantiles, for $N = 16$ above all.
# - `-p learning_rate=0.01`: how far do large steps overshoot a large $N$?
