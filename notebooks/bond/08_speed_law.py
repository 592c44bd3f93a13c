# %% [markdown]
# # How fast does J-BOND's anchor run, and what slows it down?
#
# In [BOND](https://arxiv.org/abs/2407.14622)'s Figure 7 the KL of J-BOND rises along a straight
# line, which the authors call stable and leave at that. There is a law behind the line, and it has
# no free constant: if the policy keeps being the best of two of its anchor, and the anchor follows
# by a moving average with rate $\eta$, then KL grows by $\log(1+\eta)$ nats with every update,
# whatever the model, the data or the reward. A law as bold as this should be put to the test, first
# on tables, then on a transformer whose KL we know exactly; and we look for the places where it
# breaks.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "table.eta0.02", "table.eta0.05", "table.eta0.1", "few.eta0.05",
    "lm.eta0.02", "lm.eta0.05", "lm.eta0.1", "slow.eta0.05"]  # policy and rate  # fmt: skip
seeds: int | None = None  # trainings of an arm, on one task
reach: float | None = None  # updates in units of 1 / log(1 + eta): N grows by exp(reach)
answers: list[int] | None = None  # of the two tables
samples: int | None = None  # of a table's one prompt in a batch
reference_steps: int | None = None  # updates of the language model's reference
width: int | None = None  # of the transformer, which has two layers
repeats: int | None = None  # of the 8 prompts in a batch
learning_rates: list[float] | None = None  # of tables, of the transformer, and of the slow one
sizes = {
    "smoke": {"seeds": 2, "reach": 0.2, "answers": [32, 4], "samples": 16, "reference_steps": 4,
              "width": 8, "repeats": 1, "learning_rates": [0.1, 0.01, 0.001]},
    "laptop": {"seeds": 5, "reach": 3.3, "answers": [512, 4], "samples": 1024,
               "reference_steps": 300, "width": 16, "repeats": 4,
               "learning_rates": [0.2, 0.01, 0.001]},
    "gpu": {"seeds": 20, "reach": 3.3, "answers": [4096, 4], "samples": 16384,
            "reference_steps": 2000, "width": 64, "repeats": 32,
            "learning_rates": [0.1, 0.003, 0.0003]}}  # fmt: skip

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
from matchbook.bond import (
    algorithms, continuous, enumerable_lm, exact, jbond_speed, policies, sequences, speed,
)  # fmt: skip
from matchbook.bond.algorithms.arguments import bound
from matchbook.lab import style

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, reach=reach, answers=answers, samples=samples,
    reference_steps=reference_steps, width=width, repeats=repeats, learning_rates=learning_rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
experiment = lab.Experiment("bond/08_speed_law", version=1, profile=profile)

# %% [markdown]
# ## The law in one equation
#
# Let the anchor be Best-of-$N$ of the reference and the policy Best-of-2 of the anchor, that is
# Best-of-$2N$. Where answers hardly ever come twice, Best-of-$N$ is the reference times $q^{N-1}$,
# $q$ the quantile, so that an average of the two in logits is again Best-of-something:
#
# $$(1-\eta)(N-1)+\eta(2N-1)=(1+\eta)N-1\quad\Longrightarrow\quad N_t=(1+\eta)^t,\qquad
# \mathrm{KL}(\pi_t\|\pi_{ref})=\log 2N_t-1+\frac1{2N_t}.$$
#
# Compound interest in $N$ is a straight line in KL. Four things were supposed on the way: that the
# policy **keeps up** with a moving target; that the target is Best-of-2, while J-BOND's
# **two-valued reward** aims a little beside it; that averaging weights averages **logits**, true
# for a table only; and that there is **always a better answer** to move to.
#
# ## What the second supposition costs
#
# It can be computed. With the policy at J-BOND's exact fixed point at every step, which takes no
# samples, the line is straight, too, and a little flatter. Where no sampling error, no lag and no
# transformer is involved, this is the line to expect of J-BOND.

# %%
ETAS = [0.02, 0.05, 0.1]
ENOUGH = 2000  # answers of the simulated anchor


def updates(eta):
    return max(2, round(knobs.reach / np.log1p(eta)))


# %%
@functools.cache
def with_reward(eta):
    return jbond_speed.simulate(updates(eta), eta, ENOUGH)


# %% [markdown]
# ## Tables
#
# One prompt, equally likely answers, one free logit for each, ordinary J-BOND on samples. `table`
# has many answers; `few` is so short that the best one is soon found.

# %%
judge = jax.jit(
    lambda policy, reference, rewards: exact.numbers(policy, reference, reference, rewards)
)


def table_step(eta, rate, rewards):
    reward, anchor = exact.table_reward(rewards), algorithms.moving(eta)
    return algorithms.jbond_step(policies.TABULAR, optax.adam(rate), reward, anchor)


# %%
def table(count):
    rewards = jnp.arange(count, dtype=jnp.float32)[None]
    reference = jnp.full((1, count), -jnp.log(count))
    prompts = jnp.zeros(knobs.samples, jnp.int32)

    def evaluate(state):
        return judge(jax.nn.log_softmax(state.weights), reference, rewards)

    return table_step, jnp.zeros((1, count)), prompts, rewards, evaluate


# %% [markdown]
# ## A language model whose answers can be listed
#
# A Gemma 2 transformer over eight tokens and answers of five, 32,768 of them. The reference has
# learned a Markov chain, and the reward is partly luck, which no transformer of this size can know.
# Here the anchor is an average of *weights*, and nothing guarantees that this averages logits. The
# arm `slow` is the same with a tenth of the learning rate.

# %%
graph, initial = enumerable_lm.new_model(enumerable_lm.config(knobs.width), seed=0)
policy = sequences.transformer_policy(graph, enumerable_lm.LENGTH)
log_pmf = enumerable_lm.log_pmf(graph)
every_prompt = enumerable_lm.prompts()


# %%
def lm_step(eta, rate, rewards):
    reward, anchor = enumerable_lm.table_reward(rewards), algorithms.moving(eta)
    return algorithms.jbond_step(policy, optax.adam(rate), reward, anchor)


# %%
def make_reference(reference_steps, **_):
    source = enumerable_lm.markov_source(enumerable_lm.markov_transitions(seed=0))
    adam = optax.adam(optax.cosine_decay_schedule(0.01, reference_steps))
    step = algorithms.imitation_step(policy, adam, source, num_samples=16)
    state, prompts = algorithms.policy_state(initial, adam, 0), itertools.repeat(every_prompt)
    return lab.fit(step, state, prompts, num_steps=reference_steps, name="reference")[0].weights


# %%
@functools.cache
def language_model():
    about = {name: settings[name] for name in ("reference_steps", "width")}
    weights, rewards = (
        lab.artifact("reference", make_reference, **about),
        enumerable_lm.reward_table(0),
    )
    reference = jax.jit(log_pmf)(weights, every_prompt)
    evaluate = exact.evaluation(log_pmf, every_prompt, reference, rewards, n=2)
    return lm_step, weights, enumerable_lm.prompts(knobs.repeats), rewards, evaluate


# %% [markdown]
# ## Measuring
#
# Every arm runs for the time in which the law makes $N$ grow by the same factor, $e^{3.3}=27$ on a
# laptop, so that fast and slow anchors go the same distance. The number of an arm is the slope over
# the second half of its run, divided by the law's over the same half: 1 is the law.


# %%
def setting(arm):
    where, eta = arm.split(".eta")
    made = table(knobs.answers[where == "few"]) if where in ("table", "few") else language_model()
    rate = knobs.learning_rates[{"table": 0, "few": 0, "lm": 1, "slow": 2}[where]]
    return *made, float(eta), rate


# %%
def measure(arm, seed, **_):
    make, weights, prompts, rewards, evaluate, eta, rate = setting(arm)
    given = {"eta": jnp.float32(eta), "rate": jnp.float32(rate), "rewards": rewards}
    rounds, state = updates(eta), algorithms.policy_state(weights, optax.adam(rate), seed)
    watch = {"evaluate": evaluate, "eval_every": max(1, rounds // 12), "name": "policy"}
    fitted = lab.fit(
        bound(make, **given), state, itertools.repeat(prompts), num_steps=rounds, **watch
    )
    return measured(fitted[1], eta)


# %%
def measured(history, eta):
    steps, kl = history["exact_kl_to_reference"]
    lines = {"law": speed.kl(steps, eta), "with_reward": with_reward(eta)[steps]}
    half = len(steps) // 2
    rise = {name: line[-1] - line[half] for name, line in (lines | {"kl": kl}).items()}
    numbers = {"slope": rise["kl"] / (steps[-1] - steps[half]), "ratio": rise["kl"] / rise["law"]}
    numbers["ratio.with_reward"] = rise["with_reward"] / rise["law"]
    curves = {"kl": (steps, kl)} | {name: (steps, line) for name, line in lines.items()}
    return lab.Measured(numbers, curves | {"to_anchor": history["kl_to_anchor"]})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
ratios, curves = runs.numbers("ratio"), runs.curve("kl")
means = {arm: lab.mean_interval(values) for arm, values in ratios.items()}
print(runs)

# %% [markdown]
# ## The lines
#
# Black: the law. Grey: the law with J-BOND's own reward. Colours: what training did, mean over
# seeds, with a band that is often thinner than the line. All panels have the same axes: updates in
# units of $1/\log(1+\eta)$, so that one law serves all rates. Dotted: the KL of always giving the
# best of the few answers, beyond which nothing goes.

# %%
PANELS = {"table": "many answers, a table", "lm": "language model"}
PANELS |= {"few": f"{knobs.answers[1]} answers", "slow": "learning rate / 10"}
SHADES = dict(zip(map(str, ETAS), style.shades(map(str, ETAS)).values()))


# %%
def draw(ax, where, eta):
    x, y = curves[f"{where}.eta{eta}"]
    scale = np.log1p(float(eta))
    lab.plot_curves(ax, {f"η = {eta}": (x * scale, y)}, colors={f"η = {eta}": SHADES[eta]})
    for name, color in (("law", style.INK), ("with_reward", style.GREY)):
        steps, line = runs.curve(name)[f"{where}.eta{eta}"]
        ax.plot(steps * scale, line[0], color=color, lw=1.2, dashes=(4, 2.5))


# %%
fig, axes = lab.subplots(1, 4, height=3.2, width=12)
for ax, (where, title) in zip(axes, PANELS.items()):
    for arm in (arm for arm in arms if arm.startswith(f"{where}.")):
        draw(ax, where, arm.split(".eta")[1])
    ax.set(title=title, xlabel=r"updates $\times\,\log(1+\eta)$", ylim=(0, 3.4))

# %%
axes[2].axhline(np.log(knobs.answers[1]), color=style.INK, lw=1, ls=":")
axes[0].set_ylabel("KL(policy ‖ reference), nats")
alt = "KL rises along straight lines. Slopes as a share of the law's: " + "; ".join(
    f"{arm} {mean}" for arm, mean in means.items()
)
parts = {arm: pd.DataFrame({"updates": x, "kl": y.mean(0)}) for arm, (x, y) in curves.items()}
drawn = pd.concat(parts, names=["arm", "i"]).reset_index()
experiment.figure(fig, "lines", numbers=drawn, alt=alt)

# %% [markdown]
# ## A law for those who lag
#
# The trained lines are straight, as long as there are answers left, and too flat. Suppose that the
# policy is not Best-of-2 of its anchor but Best-of-$m$ with $m<2$, because it never quite catches
# up. Then the anchor's $N$ grows by $1+(m-1)\eta$ an update, and $m$ can be read off the distance
# between policy and anchor:
#
# $$\log m-1+\frac1m=\mathrm{KL}(\pi\|\pi_{anchor})\quad\Longrightarrow\quad
# \text{slope}=\log\big(1+(m-1)\,\eta\big).$$
#
# That is a prediction of one measured number from another, again without a free constant. The
# trainer measures the distance on its own samples; we take its mean over the second half of a run.

# %%
nearby = runs.curve("to_anchor")
distance = {arm: y[:, y.shape[1] // 2 :].mean(1) for arm, (_, y) in nearby.items()}


def predicted(arm):
    """The slope that the distance to the anchor foretells, over the law's."""
    eta = float(arm.split(".eta")[1])
    slope = jbond_speed.lagging_slope(np.maximum(distance[arm], 0), eta)
    return slope * ratios[arm] / runs.numbers("slope")[arm]


foretold = {arm: lab.mean_interval(predicted(arm)) for arm in arms}

# %% [markdown]
# ## Slopes, as shares of the law's
#
# The second half of each run. Left of the black line, the anchor is slower than the law says; the
# grey line is what J-BOND's two-valued reward alone would cost. Diamonds: the slope foretold by the
# distance to the anchor.

# %%
expected = float(np.mean([v[0] for v in runs.numbers("ratio.with_reward").values()]))
fig, ax = lab.subplots(height=3.2, width=7.2)
ax.axvline(1, color=style.INK, lw=1.2, dashes=(4, 2.5))
ax.axvline(expected, color=style.GREY, lw=1.2, dashes=(4, 2.5))
for row, (arm, mean) in enumerate(means.items()):
    color = SHADES[arm.split(".eta")[1]]
    ax.plot([mean.low, mean.high], [row, row], color=color, lw=3)
    ax.plot(mean.value, row, "o", ms=7, color=color)
    ax.plot(foretold[arm].value, row, "D", ms=6, mfc="white", mec=style.INK, zorder=4)
labels = [f"{PANELS[a.split('.eta')[0]]}, η = {a.split('.eta')[1]}" for a in means]
ax.set(yticks=range(len(means)), yticklabels=labels, ylim=(len(means) - 0.5, -0.5), xlim=(0, None))
ax.set(xlabel="measured slope of KL / slope of the law")
ax.grid(visible=False)

# %%
alt = "Slopes over the law's: " + "; ".join(f"{arm} {mean}" for arm, mean in means.items())
drawn = pd.DataFrame({arm: vars(mean) for arm, mean in means.items()}).T.rename_axis("arm")
experiment.figure(fig, "slopes", numbers=drawn, alt=alt)

# %% [markdown]
# ## Does the policy keep up?
#
# The law lives on the distance between policy and anchor: Best-of-2 is 0.193 nat away from what it
# is drawn from, and J-BOND's fixed point 0.201. A policy that lags is nearer, pulls its anchor
# less, and the line is flatter. Here is that distance, as the trainer itself measures it on its
# samples. Where the best answers have been found, it falls to zero: nothing is left to move to.

# %%
fig, axes = lab.subplots(1, 4, height=2.9, width=12)
for ax, (where, title) in zip(axes, PANELS.items()):
    for arm in (arm for arm in arms if arm.startswith(f"{where}.")):
        (x, y), eta = nearby[arm], arm.split(".eta")[1]
        shown = {f"η = {eta}": (x * np.log1p(float(eta)), y)}
        lab.plot_curves(ax, shown, colors={f"η = {eta}": SHADES[eta]})
    ax.axhline(continuous.kl_to_reference(2), color=style.INK, lw=1.2, dashes=(4, 2.5))
    ax.set(title=title, xlabel=r"updates $\times\,\log(1+\eta)$", ylim=(-0.02, 0.4))

# %%
axes[0].set_ylabel("KL(policy ‖ anchor), nats")
late = {arm: lab.mean_interval(values) for arm, values in distance.items()}
alt = "KL to the anchor over the second half of each run: " + "; ".join(
    f"{arm} {mean}" for arm, mean in late.items()
)
parts = {arm: pd.DataFrame({"updates": x, "kl": y.mean(0)}) for arm, (x, y) in nearby.items()}
drawn = pd.concat(parts, names=["arm", "i"]).reset_index()
experiment.figure(fig, "distance_to_anchor", numbers=drawn, alt=alt)

# %%
slopes = {arm: lab.mean_interval(values) for arm, values in runs.numbers("slope").items()}
table_ = {"slope, nats an update": slopes, "over the law": means, "foretold": foretold}
pd.DataFrame(table_ | {"KL to the anchor": late})

# %% [markdown]
# ## What we found

# %%
SAID = {
    "table": "A table with many answers runs at",
    "lm": "The language model runs at",
    "few": f"With {knobs.answers[1]} answers, of which the best is soon found:",
    "slow": "With a tenth of the learning rate:",
}


def line(where):
    found = [f"{means[a]} (η = {a.split('.eta')[1]})" for a in arms if a.startswith(f"{where}.")]
    return f"- {SAID[where]} {', '.join(found)} of the law's slope." if found else ""


# %%
words = "\n".join(filter(None, map(line, SAID)))
display(
    Markdown(f"""
- J-BOND's two-valued reward by itself makes {expected:.3f} of the law's slope.
{words}
""")
)

# %%
numbers = {f"ratio.{arm}": mean for arm, mean in means.items()} | {"ratio.with_reward": expected}
numbers |= {f"slope.{arm}": slope for arm, slope in slopes.items()}
numbers |= {f"foretold.{arm}": mean for arm, mean in foretold.items()}
numbers |= {f"foretold_error.{arm}": lab.paired_difference(predicted(arm), ratios[arm])
            for arm in arms}  # fmt: skip
experiment.report(numbers | {f"kl_to_anchor.{arm}": mean for arm, mean in late.items()})

# %% [markdown]
# ## How far this goes
#
# The law is a statement about time. It says how fast an anchor may run, not how good the answers
# become; that they are good is only as true as the reward. As it stands it is an upper bound: only
# a policy that keeps up reaches it, and keeping up is harder the faster the anchor moves. What
# survives in every run with answers left is the straight line, and the slope that goes with the
# distance to the anchor. With the paper's rate of $3\cdot10^{-6}$ for 7 billion weights nobody
# knows how near its policy was; the slope of Figure 7 over $\log 1.02$ would tell, a test that
# anyone with the logs can make. Intervals speak of seeds, on one task each. That an average of
# weights is nearly one of logits was found here, for one small transformer, and is not a theorem.
#
# ## What to try next
#
# - `-p reach=6`: when do the thirty thousand answers of the language model run out?
# - `-p learning_rates=[0.1,0.03,0.003]`: does the language model keep up better, or break?
# - `-p answers=[32,2]`: where does the table's line bend?
# - `-p repeats=1`: eight prompts a batch. Does noise cost speed?
