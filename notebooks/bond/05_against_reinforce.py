# %% [markdown]
# # Figure 7: is J-BOND's reward cheaper in KL than REINFORCE's?
#
# Any trainer can raise a reward if it may forget what it was before. What counts is how much reward
# it gets for its distance from the reference. Figure 7 of [BOND](https://arxiv.org/abs/2407.14622)
# trains Gemma 7B with J-BOND and with REINFORCE at four strengths of its KL penalty, and J-BOND
# gets more reward at every distance. We repeat it five times over with a language model so small
# that all its 32,768 answers can be listed. Every KL and every mean reward below is therefore
# exact, and there is a line that no policy whatever can pass.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "jbond", "reinforce.0.001", "reinforce.0.01", "reinforce.0.1", "reinforce.1",
    "best_of_n", "optimum"]  # a trainer and its KL penalty; the last two are computed  # fmt: skip
seeds: int | None = None  # rewards, each with its own training
steps: int | None = None  # updates
width: int | None = None  # of the transformer
pretraining: int | None = None  # updates that make the reference
prompts: list[int] | None = None  # in a batch, of J-BOND (3 answers each) and REINFORCE (2 each)
eta: float | None = None  # share of the policy that J-BOND's anchor takes up in each step
learning_rates: list[float] | None = None  # of J-BOND and REINFORCE, each the best of one grid
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "width": 8, "pretraining": 5, "prompts": [16, 24],
              "eta": 0.02, "learning_rates": [0.003, 0.0003]},
    "laptop": {"seeds": 5, "steps": 300, "width": 16, "pretraining": 150, "prompts": [64, 96],
               "eta": 0.02, "learning_rates": [0.003, 0.0003]},
    "gpu": {"seeds": 20, "steps": 1000, "width": 64, "pretraining": 1000, "prompts": [256, 384],
            "eta": 0.02, "learning_rates": [0.003, 0.0003]}}  # fmt: skip

# %%
import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.bond import algorithms, enumerable_lm, enumerable_task, frontier
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, width=width, pretraining=pretraining,
    prompts=prompts, eta=eta, learning_rates=learning_rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
experiment = lab.Experiment("bond/05_against_reinforce", version=1, profile=profile)
if "jbond" not in arms:
    raise ValueError(f"all others are compared with jbond: keep it among the arms; got {arms}")

# %% [markdown]
# ## What the paper says
#
# Gemma 7B, conversational prompts, one run of each setting; the picture has curves and no numbers.
# These are the settings it gives.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger}
printed["bond-figure-07"]

# %% [markdown]
# Section 6 gives the other numbers. `algorithms.published` holds them, ready for whoever has
# weights of that size; here is what that optimizer and that anchor really do to a weight at 0 whose
# gradient is always 1: the length of a step once it no longer grows, how many steps that takes, and
# how far the anchor follows. A transformer of this notebook learns at a rate a thousand times as
# high.


# %%
def published_numbers(number=150):
    adam, gradient, sizes = algorithms.published.adam(), jnp.ones(()), []
    state = adam.init(jnp.zeros(()))
    for _ in range(number):
        update, state = adam.update(gradient, state)
        sizes.append(-float(update))
    followed = algorithms.ema(algorithms.published.ETA)(jnp.zeros(()), gradient, jnp.int32(1))
    found = {"lr": sizes[-1], "eta_7b": float(followed), "beta": algorithms.published.BETA}
    warmup = int(np.argmax(np.isclose(sizes, sizes[-1], rtol=1e-4)))
    return found | {"batch": algorithms.published.BATCH, "warmup_steps": warmup}


# %%
published = published_numbers()
pd.concat([printed["bond-hyperparameters"], pd.DataFrame([published])], keys=["paper", "ours"])

# %% [markdown]
# ## The idea in one equation
#
# REINFORCE climbs a reward and pays for its distance from a *fixed* reference,
#
# $$\max_\pi\;E_\pi[r(y)]-\beta_{RL}\,\mathrm{KL}(\pi\,\|\,\pi_{ref}),$$
#
# with two answers to each prompt, each the other's baseline. J-BOND has no such number to choose.
# It imitates the better of two answers of an *anchor*, is fined $\log 16$ for an answer worse than
# both, and the anchor walks after the policy, $\eta$ of the way in each step. REINFORCE reads the
# size of rewards, J-BOND their order alone.
#
# ## The model and its reference
#
# A Gemma 2 transformer with a vocabulary of 8 answers each of 8 one-token prompts with 5 tokens.
# The reference has learnt a random Markov source. The reward has a part that a transformer can
# learn (which tokens go well together) and a part of pure luck; each seed draws another reward.


# %%
def make_reference(width, pretraining):
    step, state = enumerable_task.pretraining(width)
    batches = itertools.repeat(enumerable_lm.prompts(8))
    state, _ = lab.fit(step, state, batches, num_steps=pretraining, name="reference")
    return {"weights": state.weights}


# %%
@functools.cache
def task_of(seed):
    made = {"width": knobs.width, "pretraining": knobs.pretraining}
    weights = lab.artifact("reference", make_reference, **made)["weights"]
    return enumerable_task.task(knobs.width, weights, reward_seed=seed)


# %% [markdown]
# ## The two trainers
#
# J-BOND draws three answers to a prompt, REINFORCE two. Generation is what training costs, so
# REINFORCE gets half as many prompts again, and **a step is the same number of generations for
# all**. Both use Adam with the paper's constant rate after a warm-up. Rates were chosen beforehand,
# on a reward not used here, from one grid for both: the rate with the most reward at 1 nat. The
# reward's table and $\beta_{RL}$ are arguments of the compiled program, so that four strengths and
# all seeds share one.

# %%
warmup = max(1, knobs.steps // 15)
adams = [algorithms.adam(rate, warmup) for rate in knobs.learning_rates]
policy = enumerable_task.policy(knobs.width)


# %%
def jbond(table):
    reward, anchor = enumerable_lm.table_reward(table), algorithms.ema(knobs.eta)
    return algorithms.jbond_step(policy, adams[0], reward, anchor, beta=0.5)


def reinforce(table, beta_rl):
    reward = enumerable_lm.table_reward(table)
    return algorithms.reinforce_step(policy, adams[1], reward, beta_rl=beta_rl)


# %%
def step_of(arm, table):
    if arm == "jbond":
        return algorithms.bound(jbond, table=table), adams[0], knobs.prompts[0]
    beta_rl = jnp.float32(arm.removeprefix("reinforce."))
    return algorithms.bound(reinforce, table=table, beta_rl=beta_rl), adams[1], knobs.prompts[1]


# %%
def trained(arm, seed):
    task = task_of(seed)
    step, optimizer, rows = step_of(arm, task.rewards)
    batches = itertools.repeat(enumerable_lm.prompts(rows // 8))
    watch = {"evaluate": task.evaluation(n=2), "eval_every": max(1, knobs.steps // 30)}
    state = task.state(optimizer, seed)
    return lab.fit(step, state, batches, num_steps=knobs.steps, name=arm, **watch)[1]


# %% [markdown]
# ## Two lines that nobody has to train
#
# For listed answers two families are known in closed form: Best-of-$N$ for every $N$, and the
# optimum of the equation above for every $\beta_{RL}$, which is $\pi_{ref}\,e^{r/\beta_{RL}}$. No
# policy can lie above the second line: it *is* the most reward at that distance.

# %%
NS, BETAS = 2 ** np.linspace(0, 6.5, 14), 1 / np.linspace(0.05, 3.5, 14)


def line(arm, seed):
    task = task_of(seed)
    if arm == "best_of_n":
        found = task.best_of_n(NS)
    else:
        found = frontier.rlhf_line(task.reference, task.rewards, BETAS)
    points, start = np.arange(len(found.kl)), task.best_of_n(np.ones(1)).reward
    return {"kl": (points, found.kl), "reward": (points, found.reward - start)}


# %% [markdown]
# ## Reward at equal KL
#
# From each run we read the reward, less that of the reference, where it first passes a given
# distance from the reference.

# %%
LEVELS = [0.1, 0.5, 1.0, 2.0]


def measure(arm, seed, **_):
    if arm in ("best_of_n", "optimum"):
        return lab.Measured({}, line(arm, seed))
    history = trained(arm, seed)
    kl, (done, reward) = history["exact_kl_to_reference"], history["exact_reward"]
    reward = done, reward - reward[0]
    numbers = {f"reward.kl{k}": frontier.at_kl(kl[1], reward[1], k) for k in LEVELS}
    numbers |= {"last_kl": kl[1][-1], "generations": history["generations"][1][0]}
    return lab.Measured(numbers, {"kl": kl, "reward": reward})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
trainers = [arm for arm in arms if arm not in ("best_of_n", "optimum")]
kls, rewards = runs.curve("kl"), runs.curve("reward")
generations = {arm: values[0] for arm, values in runs.numbers("generations").items()}
at = {k: runs.numbers(f"reward.kl{k}") for k in LEVELS}
table = {f"at {k} nats": {arm: lab.mean_interval(v) for arm, v in at[k].items()} for k in LEVELS}
pd.DataFrame(table | {"answers drawn in a step": generations})

# %% [markdown]
# (NaN: a run that never got that far.)
#
# ## Figure 7
#
# Left and middle: what happens in time, measured in answers drawn. Right: what matters, the reward
# against the distance; time is gone from it. The dotted line is Best-of-$N$ sampling, the solid
# black one the most that any policy could have, whatever its form. Both use the luck in the reward,
# which no transformer of this size knows, so that trained policies stay well below.

# %%
LOOKS = dict(zip(trainers[1:], list(style.shades(trainers[1:]).values()))) | {
    "jbond": style.ROLES["jeffreys"]
}


def named(arm):
    return "J-BOND" if arm == "jbond" else arm.replace("reinforce.", "β = ")


# %%
fig, axes = lab.subplots(1, 3, height=3.6, width=11.5)
for ax, found in zip(axes, (rewards, kls)):
    drawn = {named(a): (found[a][0] * generations[a] / 1000, found[a][1]) for a in trainers}
    lab.plot_curves(ax, drawn, colors={named(arm): LOOKS[arm] for arm in trainers})
    ax.set_xlabel("answers drawn, thousands")
DASHES = {"best_of_n": (":", "Best-of-N"), "optimum": ("-", "optimum")}
for arm in arms:
    dash, name = DASHES.get(arm, ("-", named(arm)))
    kl, reward = kls[arm][1].mean(0), rewards[arm][1].mean(0)
    shown = np.where(kl < 3, reward, np.nan)
    label = None if kl.max() < 0.5 else name  # held back, its name would stand among the lines
    axes[2].plot(kl, shown, dash, color=LOOKS.get(arm, style.INK), label=label)
axes[0].set(title="reward", ylabel="mean reward, less the reference's")
axes[1].set(title="distance", ylabel="KL to the reference, nats")
axes[2].set(title="reward for distance", xlabel="KL to the reference, nats", xlim=(0, 3))
lab.label_lines(axes[2])
alt = "Reward and KL over answers drawn, and reward over KL. At 1 nat: " + "; ".join(
    f"{arm} {np.nanmean(at[1.0][arm]):.2f}" for arm in trainers if np.isfinite(at[1.0][arm]).any()
)
numbers = {(a, n): c[a][1].mean(0) for a in trainers for n, c in (("kl", kls), ("reward", rewards))}
numbers = pd.DataFrame(numbers, index=kls[trainers[0]][0]).rename_axis("step")
numbers.columns = [f"{arm}_{name}" for arm, name in numbers.columns]
experiment.figure(fig, "figure_7", numbers=numbers, alt=alt)

# %% [markdown]
# ## The difference, reward by reward
#
# J-BOND minus REINFORCE at the same distance and on the same reward, seed by seed. Right of the
# line, J-BOND is ahead. A REINFORCE that its penalty holds back is also compared at the distance
# where it ends. That is a hard test. Such a run has stopped moving, and spends all its later steps
# on settling at the optimum of its own objective, which *is* the most reward that this transformer
# can have so near to the reference. J-BOND is only passing by.


# %%
def at_end(arm):
    """J-BOND's reward, at the distance where another arm ends, minus that arm's."""
    jbond = zip(kls["jbond"][1], rewards["jbond"][1], kls[arm][1][:, -1])
    there = [frontier.at_kl(*path) for path in jbond]
    return lab.paired_difference(there, rewards[arm][1][:, -1])


# %%
others = [arm for arm in trainers if arm != "jbond"]
at_levels = {(arm, f"at {k} nats"): (at[k]["jbond"], at[k][arm]) for arm in others for k in LEVELS}
gaps = {key: lab.paired_difference(*pair) for key, pair in at_levels.items()}
gaps |= {(arm, "at its end"): at_end(arm) for arm in others}
gaps = {key: gap for key, gap in sorted(gaps.items()) if np.isfinite(gap.value)}

# %%
fig, ax = lab.subplots(height=3.4)
ax.axvline(0, color=style.INK, lw=1)
for row, ((arm, _), gap) in enumerate(gaps.items()):
    ax.plot([gap.low, gap.high], [row, row], color=LOOKS[arm], lw=3)
    ax.plot(gap.value, row, "o", ms=6, color=LOOKS[arm])
ax.set(yticks=range(len(gaps)), yticklabels=[f"{named(arm)}, {place}" for arm, place in gaps])
ax.set(ylim=(len(gaps) - 0.5, -0.5), xlabel="reward of J-BOND minus that of REINFORCE")
ax.grid(visible=False)
alt = "J-BOND minus REINFORCE: " + "; ".join(f"{a} {place} {g}" for (a, place), g in gaps.items())
drawn = pd.DataFrame({f"{a} {place}": vars(g) for (a, place), g in gaps.items()}).T
experiment.figure(fig, "gaps", numbers=drawn.rename_axis("comparison"), alt=alt)

# %% [markdown]
# ## Is J-BOND's KL a straight line?
#
# The paper sees J-BOND's KL rise steadily and its reward go on rising. We fit a line to the second
# half of each run and ask for the share of the KL's variance that it explains; and we ask what the
# last quarter still adds to the reward.


# %%
def straightness(steps, kl):
    half = len(steps) // 2
    return np.corrcoef(steps[half:], kl[half:])[0, 1] ** 2


steps_done, path = kls["jbond"]
shape = {"linear": lab.mean_interval([straightness(steps_done, kl) for kl in path])}
last, quarter = rewards["jbond"][1][:, -1], rewards["jbond"][1][:, -1 - len(steps_done) // 4]
shape["still_rising"] = lab.paired_difference(last, quarter)
slopes = (path[:, -1] - path[:, len(steps_done) // 2]) / (steps_done[-1] - steps_done[-1] / 2)
shape["slope"] = lab.mean_interval(slopes)
pd.Series({name: str(value) for name, value in shape.items()}).to_frame("J-BOND")

# %% [markdown]
# ## What we found


# %%
def told(gap):
    side = "ahead" if gap.low > 0 else "behind" if gap.high < 0 else "not told apart"
    return f"**{side}** ({gap})"


found = [f"- Against {named(a)}, {place}: J-BOND {told(gap)}." for (a, place), gap in gaps.items()]
found += [
    f"- A line explains {shape['linear']} of the variance of J-BOND's KL in its second half; its "
    f"slope is {shape['slope']} nats a step, and perfect tracking would give "
    f"{np.log1p(knobs.eta):.4f}. The last quarter adds {shape['still_rising']} to its reward.",
]
display(Markdown("\n".join(found)))

# %%
names = {f"at {k} nats": f"kl{k}" for k in LEVELS} | {"at its end": "end"}
report = {f"gap.{a}.{names[place]}": gap for (a, place), gap in gaps.items()}
report |= {f"published.{name}": value for name, value in published.items()}
report |= {f"jbond.{name}": value for name, value in shape.items()}
ends = {a: lab.mean_interval(v) for a, v in runs.numbers("last_kl").items()}
report |= {f"last_kl.{arm}": value for arm, value in ends.items()}
report |= {
    f"{a}.kl{k}": lab.mean_interval(v)
    for k in LEVELS
    for a, v in at[k].items()
    if np.isfinite(v).all()
}
experiment.report(report)

# %% [markdown]
# ## How far this goes
#
# The verdict is about transformers of this size on rewards of this kind, each reward another seed;
# the reference is one. Rewards are scaled to variance 1, which makes $\beta_{RL}$ comparable with
# the paper's only in spirit: its reward model's scale is not known. Each trainer's rate comes from
# one grid of factors of three; a finer grid may move the small differences, and the large steps of
# an early REINFORCE show that its rate matters most. The paper does not say which rates it tried.
# Evaluation follows a run at thirty places, and in between we draw straight lines.
#
# ## What to try next
#
# - `-p learning_rates=[0.01,0.001]`: both three times as fast. Who minds more?
# - `-p eta=0.1`: a hasty anchor.
# - `-p steps=1000`: where does the straight line of J-BOND's KL bend?
# - `-p 'arms=["jbond","reinforce.0.3","best_of_n"]'`: is there a strength that beats J-BOND?
