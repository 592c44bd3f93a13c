# %% [markdown]
# # Figure 9: can a learned quantile replace counting?
#
# BOND scores an answer by its quantile: the share of the reference's answers that are no better.
# The plain way to find it is to draw $k$ answers of the reference and count.
# [The paper](https://arxiv.org/abs/2407.14622) shows in its appendix that a model can learn the
# quantile instead, from a single comparison an answer, and that training goes as well. We ask it
# where the true quantile of every answer is known, so that a third trainer can join: one that is
# *told* the truth. It shows how much there is to lose at all.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["counted", "learned", "exact"]  # where log p comes from
seeds: int | None = None  # rewards, each with its own training
steps: int | None = None  # updates
n: int | None = None  # of Best-of-N
k: int | None = None  # samples that the counting trainer counts on
width: int | None = None  # of the transformers: policy, reference, trunk of the quantile model
pretraining: int | None = None  # updates that make the reference
prompts: int | None = None  # in a batch
drawn: int | None = None  # answers to each prompt that learned quantiles are checked on
learning_rates: list[float] | None = None  # of the policy and of the quantile model
sizes = {
    "smoke": {"seeds": 2, "steps": 4, "n": 8, "k": 16, "width": 8, "pretraining": 5, "prompts": 8,
              "drawn": 32, "learning_rates": [0.001, 0.003]},
    "laptop": {"seeds": 5, "steps": 480, "n": 8, "k": 16, "width": 16, "pretraining": 150,
               "prompts": 64, "drawn": 512, "learning_rates": [0.001, 0.003]},
    "gpu": {"seeds": 20, "steps": 2000, "n": 8, "k": 16, "width": 64, "pretraining": 1000,
            "prompts": 256, "drawn": 4096, "learning_rates": [0.0005, 0.001]}}  # fmt: skip

# %%
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.bond import algorithms, best_of_n, counted_target, enumerable_lm
from matchbook.bond import enumerable_task, learned_quantile, quantile_estimates
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, n=n, k=k, width=width, pretraining=pretraining,
    prompts=prompts, drawn=drawn, learning_rates=learning_rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
experiment = lab.Experiment("bond/06_quantiles", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Figure 9: summaries, $N = 8$. Both KLs and the log-quantile of the learned model stay close to
# those of counting. Below, the numbers known about the *bias* of counting, from exact sums.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger}
printed["bond-quantile-bias"]

# %% [markdown]
# ## The idea in one equation
#
# The policy gradient rewards an answer with $(N-1)\log p_\le(y)$. Counting puts
# $\hat p = \tfrac1k\sum_i 1\{r(y_i)\le r(y)\}$ there, which is right on average, but its
# *logarithm* is not: $E\log\hat p\neq\log p$, and what stands for $\log 0$ must be invented. A
# policy gradient aims at $\pi_{ref}\,e^{\text{reward}/\beta}$, so the bias is felt in the target:
#
# $$\pi_k(y)\;\propto\;\pi_{ref}(y)\,\exp\!\big((N-1)\,E\log\hat p_k(y)\big)\;\neq\;\pi_{BoN}(y).$$
#
# That can be computed without training anything. Two rules for a count $j$ are in use: the floor,
# $\log\frac{\max(j,1/2)}{k}$, and plus-one, $\log\frac{j+1}{k+1}$.
#
# ## A quantile that is learned
#
# The quantile model is a transformer of the policy's size with one output, started as a copy of the
# reference. For each answer of the policy it gets one yes or no: is *one* answer of the reference
# no better? The chance of a yes is the quantile, so binary cross-entropy is least where the model
# is right (Equation 25). Every answer needs one sample instead of $k$, and there is no count of
# zero, since the model may say 0.003. The price: at first it knows nothing, and it is trained on
# what the *policy* says, which moves.
#
# ## One language model, three trainers
#
# A Gemma 2 transformer whose 32,768 answers can be listed; its reference has learnt a Markov
# source; each seed draws another reward. All three run BOND with $\beta = ½$ on the same seeds, at
# one learning rate. They differ in where $\log p$ comes from, and in what a step costs.


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


# %%
@functools.cache
def log_quantiles(seed):
    return best_of_n.log_quantiles(task_of(seed).reference, task_of(seed).rewards).less_equal


# %%
adam, quantile_adam = (algorithms.adam(rate, knobs.steps // 10) for rate in knobs.learning_rates)
policy, model = enumerable_task.policy(knobs.width), enumerable_task.quantile_model(knobs.width)
lookup = enumerable_lm.table_reward


# %%
def counted(table):
    return algorithms.bond_step(policy, adam, lookup(table), n=knobs.n, k=knobs.k)


def learned(table):
    adams = adam, quantile_adam
    return algorithms.learned_bond_step(policy, model, *adams, lookup(table), n=knobs.n)


def told(table, log_p):
    return algorithms.given_quantiles_step(policy, adam, lookup(table), lookup(log_p), n=knobs.n)


# %%
def learner(task, seed):
    """State of policy and quantile model, both of them the reference at first."""
    head = learned_quantile.head_on_trunk(task.weights, knobs.width)
    return algorithms.learned_bond_state(task.weights, head, adam, quantile_adam, seed)


def start(arm, seed):
    """Step and state."""
    task, make = task_of(seed), {"counted": counted, "learned": learned, "exact": told}[arm]
    tables = {"table": task.rewards}
    tables |= {"log_p": log_quantiles(seed)} if arm == "exact" else {}
    state = learner(task, seed) if arm == "learned" else task.state(adam, seed)
    return algorithms.bound(make, **tables), state


# %%
def trained(arm, seed):
    step, state = start(arm, seed)
    watch = {"evaluate": task_of(seed).evaluation(n=knobs.n), "name": arm}
    watch |= {"num_steps": knobs.steps, "eval_every": max(1, knobs.steps // 20)}
    return lab.fit(
        step, state, itertools.repeat(enumerable_lm.prompts(knobs.prompts // 8)), **watch
    )


# %% [markdown]
# After training we ask the learned model about answers of the reference and compare with the truth:
# bad answers, good ones, and everything between.


# %%
@jax.jit
def guesses(quantile, reference, log_p):
    shape = (knobs.drawn, len(reference))
    index = jax.random.categorical(jax.random.key(0), reference, shape=shape).T
    answers = enumerable_lm.all_answers()[index]
    guess = learned_quantile.log_quantile(model(quantile, enumerable_lm.prompts(), answers))
    return jnp.take_along_axis(log_p, index, axis=1).ravel(), guess.ravel()


# %%
def calibration(state, seed):
    found = guesses(state.quantile, task_of(seed).reference, log_quantiles(seed))
    truth, guess = (np.asarray(x, float) for x in found)
    groups = np.array_split(np.argsort(truth), 16)
    means = [np.array([x[group].mean() for group in groups]) for x in (truth, guess)]
    means = dict(zip(("calibration.true", "calibration.guess"), means))
    numbers = {"bias": np.mean(guess - truth), "rms": np.sqrt(np.mean((guess - truth) ** 2))}
    return numbers, {name: (np.arange(16), values) for name, values in means.items()}


# %%
METRICS = {"backward_kl": "backward KL, nats", "forward_kl": "forward KL, nats"}
METRICS |= {"log_quantile": "mean log-quantile"}


# %%
def measure(arm, seed, **_):
    state, history = trained(arm, seed)
    curves = {name: history[f"exact_{name}"] for name in METRICS}
    numbers = {name: y[3 * len(y) // 4 :].mean() for name, (_, y) in curves.items()}
    numbers |= {f"gain.{name}": numbers[name] - y[0] for name, (_, y) in curves.items()}
    numbers["answers_a_prompt"] = history["generations"][1][0] / knobs.prompts
    extra = calibration(state, seed) if arm == "learned" else ({}, {})
    return lab.Measured(numbers | extra[0], curves | extra[1])


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
ends = {name: runs.numbers(name) for name in METRICS}
cost = {arm: values[0] for arm, values in runs.numbers("answers_a_prompt").items()}
shown = {METRICS[m]: {a: lab.mean_interval(v) for a, v in ends[m].items()} for m in METRICS}
pd.DataFrame(shown | {"answers drawn for a prompt": cost})

# %% [markdown]
# ## What counting does to the target
#
# No training is needed for this: sums over all counts that may come, for an endless list.
# Left: counting flatters bad answers, badly so with few samples. Right: what that does to the
# target, and it is surprisingly little. At $N = 8$ two samples move it by a hundredth of a nat,
# sixteen by less than a thousandth. The answers that are misjudged are those that Best-of-8 hardly
# ever gives, and half a count to the seventh power is as good as none. The smaller $N$, the more
# bad answers matter: at $N = 2$ with two samples, which is all that J-BOND has, counting misses by
# 0.04 nats or more, and J-BOND's fine of $\log 16$ by 0.006 (notebook 01).

# %%
KS, RULES = [2, 4, 8, 16, 32, 64], {"floor": "-", "plus-one": ":"}
targets = {(k, rule): counted_target.counted_target(knobs.n, k, rule) for k in KS for rule in RULES}
two = {rule: counted_target.counted_target(2, 2, rule).forward_kl for rule in RULES}
sides = {"forward_kl": "KL(BoN ‖ target)", "backward_kl": "KL(target ‖ BoN)"}

# %%
fig, (ax, far) = lab.subplots(1, 2, height=3.4, width=9.6)
p = np.geomspace(0.01, 1, 80)
for k, color in zip([2, 4, 16, 64], style.shades(["2", "4", "16", "64"]).values()):
    bias = quantile_estimates.mean_log_estimate(p, k, "floor") - np.log(p)
    ax.plot(p[::-1], bias[::-1], color=color, label=f"k = {k}")
ax.axhline(0, color=style.INK, lw=1)
ax.set(xscale="log", xlim=(1, 0.01), title="bias of the logarithm, floor")
ax.set(xlabel="true quantile p, bad answers on the right", ylabel=r"mean $\log\hat p-\log p$, nats")
ax.set_xticks([1, 0.1, 0.01], ["1", ".1", ".01"])
lab.label_lines(ax)
for (side, name), (rule, dash) in itertools.product(sides.items(), RULES.items()):
    kl = [getattr(targets[k, rule], side) for k in KS]
    far.plot(KS, kl, dash, color=style.ROLES[side], label=f"{name}, {rule}")
far.set_xscale("log", base=2)
far.set(yscale="log", xticks=KS, xticklabels=KS, xlabel="samples k", ylabel="nats")
far.set(title=f"how far the target moves, N = {knobs.n}")
far.legend(fontsize=8)
alt = "Counting overrates bad answers. The target is " + ", ".join(
    f"{targets[k, 'floor'].forward_kl:.3f} nats off at k = {k}" for k in KS
)
table = {f"{s}.{r}": [getattr(targets[k, r], s) for k in KS] for s in sides for r in RULES}
experiment.figure(fig, "bias", numbers=pd.DataFrame(table | {"k": KS}), alt=alt)

# %% [markdown]
# ## Figure 9, with the truth beside it
#
# All numbers exact, over all answers; lines are means over rewards, bands their 95 % intervals. The
# paper's curves must begin where ours do, at $N-1-\log N$, $\log N-\frac{N-1}N$ and $-1$.

# %%
LOOKS = {"counted": style.PALETTE["blue"], "learned": style.PALETTE["orange"]}
LOOKS |= {"exact": style.INK}
fig, axes = lab.subplots(1, 3, height=3.4, width=11.5)
for ax, (name, label) in zip(axes, METRICS.items()):
    lab.plot_curves(ax, runs.curve(name), colors=LOOKS)
    ax.set(xlabel="updates", ylabel=label)
alt = "Both KLs and log-quantile over updates. At the end: " + "; ".join(
    f"{arm} {', '.join(f'{ends[m][arm].mean():.3f}' for m in METRICS)}" for arm in arms
)
table = {f"{a}_{m}": runs.curve(m)[a][1].mean(0) for a in arms for m in METRICS}
table = pd.DataFrame(table).set_axis(runs.curve("forward_kl")[arms[0]][0])
experiment.figure(fig, "figure_9", numbers=table.rename_axis("updates"), alt=alt)

# %% [markdown]
# ## Does the model know the quantiles?
#
# Answers of the reference, sorted into sixteen groups by their true quantile. On the diagonal the
# model is right. The blue line is what counting says on average, by exact sums. A model that cannot
# tell two answers apart gives both their *mean* quantile, and the logarithm of a mean lies above
# the mean of logarithms, so that it is too mild with bad answers. Some of that stays for ever,
# since luck cannot be learned; the rest is for want of comparisons.

# %%
fig, ax = lab.subplots(height=3.6, width=5.8)
p = np.geomspace(0.02, 1, 60)
mean = quantile_estimates.mean_log_estimate(p, knobs.k, "floor")
ax.plot(np.log(p), np.log(p), color=style.INK, lw=1.2, label="truth")
ax.plot(np.log(p), mean, color=LOOKS["counted"], label=f"counted, k = {knobs.k}")
if "learned" in arms:
    found = [runs.curve(f"calibration.{of}")["learned"][1].mean(0) for of in ("true", "guess")]
    ax.plot(*found, "o-", color=LOOKS["learned"], ms=4, label="learned")
ax.set(
    xlabel="true log-quantile, nats", ylabel="mean estimate, nats", xlim=(-4, 0.1), ylim=(-4, 0.1)
)
ax.legend()
alt = "Mean estimates over the true log-quantile; counting follows the diagonal down to about -3."
table = pd.DataFrame({"log_p": np.log(p), "counted": mean})
experiment.figure(fig, "calibration", numbers=table, alt=alt)

# %%
nodes = (np.arange(4000) + 0.5) / 4000  # the quantiles of the reference's own answers
errors = {
    f"counted, k = {k}": {
        "bias": np.mean(quantile_estimates.mean_log_estimate(nodes, k, "floor") - np.log(nodes)),
        "root mean square": np.sqrt(
            np.mean(quantile_estimates.rms_log_error(nodes, k, "floor") ** 2)
        ),
    }
    for k in (2, 8, 16)
}
if "learned" in arms:
    bias, rms = (lab.mean_interval(runs.numbers(name)["learned"]) for name in ("bias", "rms"))
    errors["learned"] = {"bias": bias, "root mean square": rms}
pd.DataFrame(errors).T

# %% [markdown]
# ## The differences, reward by reward
#
# And as shares: how much of what the one gains, from start to end, does the other gain? We call two
# trainers about as good where the whole interval of that share is between 90 and 110 %.

# %%
pairs = [("learned", "counted"), ("counted", "exact"), ("learned", "exact")]
pairs = [pair for pair in pairs if set(pair) <= set(arms)]
gaps, shares = {}, {}

# %%
for (one, other), name in itertools.product(pairs, METRICS):
    gain = runs.numbers(f"gain.{name}")
    gaps[one, other, name] = lab.paired_difference(ends[name][one], ends[name][other])
    shares[one, other, name] = lab.mean_interval(gain[one] / gain[other])
columns = {"difference": gaps, "share of the gain": shares}
pd.DataFrame({c: {key: str(v) for key, v in found.items()} for c, found in columns.items()})

# %% [markdown]
# ## What we found


# %%
def said(share):
    if share.low > 0.9 and share.high < 1.1:
        return "about as good"
    return "worse" if share.high < 0.9 else "better" if share.low > 1.1 else "not decided"


found = [
    f"- {METRICS[name]}: {one} against {other} **{said(share)}**: {share:.3f} of the gain, "
    f"difference {gaps[one, other, name]}."
    for (one, other, name), share in shares.items()
]
off = targets[16, "floor"], targets[4, "floor"]
found += [f"- Counting on 16 moves the target of N = {knobs.n} by {off[0].forward_kl:.4f} nats, on "
          f"4 by {off[1].forward_kl:.3f}; at N = 2 and k = 2 by {two['floor']:.3f} (floor) and "
          f"{two['plus-one']:.3f} (plus-one)."]  # fmt: skip
display(Markdown("\n".join(found)))

# %%
report = {f"share.{one}.{other}.{name}": v for (one, other, name), v in shares.items()}
report |= {f"gap.{one}.{other}.{name}": v for (one, other, name), v in gaps.items()}
report |= {
    f"target.{rule}.k{k}.{s}": getattr(t, s) for (k, rule), t in targets.items() for s in sides
}
report |= {f"two.{rule}": value for rule, value in two.items()}
report |= {"learned.bias": bias, "learned.rms": rms} if "learned" in arms else {}
experiment.report(report)

# %% [markdown]
# ## How far this goes
#
# The model learns beside a policy that moves little in so many updates; on a policy that runs far
# it would have to keep up. Its trunk is as large as the policy, as in the paper, and its cost in
# *computation* is not counted, only answers drawn. Its rate is the best of three (0.003, 0.01,
# 0.03) on a reward not used here; the paper's model begins as a large pretrained one, ours does
# not. The comparison is at equal updates, where the learned quantile draws about half as many
# answers. Counting reuses the samples that the winner is chosen from, which the paper does not say;
# drawing them anew would cost still more. Ninety to a hundred and ten per cent is our reading of
# "very close"; the paper gives no margin and no spread.
#
# ## What to try next
#
# - `-p k=2`: counting on two samples, as few as J-BOND draws.
# - `-p 'learning_rates=[0.001,0.0003]'`: a quantile model that learns too slowly.
# - `-p steps=1000`: does bias show up once noise has been averaged away?
# - `-p n=16`: errors of a quantile are raised to the fifteenth power.
