# %% [markdown]
# # Figures 4 to 7 on real text: does a distilled summariser win beyond its own reward?
#
# [BOND](https://arxiv.org/abs/2407.14622) is tried on summaries of news (XSum) and on
# conversations. Here is a real summarisation task that every machine carries: the functions of the
# installed packages, each with the line that its author wrote about it. A small Gemma 2 learns to
# imitate such lines, a reward model learns to tell them from its imitations, and then J-BOND,
# REINFORCE and Best-of-N sampling all go after that reward. The judge is another reward model, of
# other functions and another seed, that no policy ever sees: what wins with it is better, what wins
# only with the reward is flattery.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "jbond", "fixed", "reinforce.0.1",
    "best_of_n"]  # J-BOND by its anchor, or hard, gamma; REINFORCE at a penalty  # fmt: skip
corpus: str = "environment"  # pairs; or a .jsonl, .parquet or datasets folder of your own
columns: list[str] = ["prompt", "answer"]  # of your own data: what to summarise, and its summary
seeds: int | None = None  # repetitions of the training on a reward
model: list[int] | None = None  # width and layers of policy, reward and judge
steps: list[int] | None = None  # updates: imitator, reward model, training on the reward
rows: list[int] | None = None  # in a batch of learning, of J-BOND, of REINFORCE; prompts judged
text: list[int] | None = None  # pairs read, tokens of prompt and answer, pieces of the tokenizer
eta: float | None = None  # share of the policy that the anchor takes up in each step
rates: list[float] | None = None  # learning rates: imitator, reward model, J-BOND, REINFORCE
sizes = {
    "smoke": {"seeds": 2, "model": [64, 2], "steps": [3, 3, 2], "rows": [8, 4, 6, 8],
              "text": [1500, 32, 24, 400], "eta": 0.05, "rates": [0.01, 0.003, 0.002, 0.0005]},
    "laptop": {"seeds": 3, "model": [64, 2], "steps": [1000, 300, 120], "rows": [32, 16, 24, 96],
               "text": [24000, 48, 24, 1024], "eta": 0.05, "rates": [0.01, 0.003, 0.001, 0.0005]},
    "gpu": {"seeds": 5, "model": [768, 12], "steps": [4000, 2000, 400], "rows": [128, 64, 96, 512],
            "text": [100000, 256, 32, 8192], "eta": 0.02,
            "rates": [0.001, 0.0003, 0.0001, 0.00003]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.bond import algorithms, frontier, judged, reward_checks, rewards, sequences
from matchbook.bond.scalar_head import head_on_trunk, scalar_head
from matchbook.lab import style

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, model=model, steps=steps, rows=rows, text=text, eta=eta,
    rates=rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
named = dict(zip(("prompt", "answer"), columns, strict=True))
settings |= {"source": texts.pairs_identity(corpus, **named)}
s = SimpleNamespace(**settings)
most_pairs, width, new, pieces = s.text
experiment = lab.Experiment("bond/10_summarisation", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Its summaries are scored by a model of *entailment*: does the article support the summary? On
# XSum, iterated BOND goes on gaining where a fixed anchor levels off (Figure 4). On conversations,
# an anchor that moves smoothly drifts less than one that jumps (Figure 5), a pull towards the
# anchor gives more reward for its distance (Figure 6), and J-BOND gives more than REINFORCE
# (Figure 7). All of it is measured with the very reward that was trained on. No figure asks a
# second judge.
#
# ## The task
#
# The prompt is the beginning of a function's code, its docstring taken out, and an opening `"""`.
# The answer is the docstring's first line. Packages, not functions, are split into train,
# validation and test, and a line that several functions share counts once: so no tested answer was
# ever seen.


# %%
@functools.cache
def data():
    options = {"max_pairs": most_pairs, "cache": lab.session().runs / "corpus", "ask": '\n"""'}
    limits = {"vocab_size": pieces, "max_prompt": width, "max_answer": new}
    return texts.pair_dataset(corpus, **named, **limits, **options)


# %%
SHARES = {"imitation": slice(0, None, 2), "proxy": slice(1, None, 4), "judge": slice(3, None, 4)}


def spread():
    """Test rows at equal distances: neighbours come from one file."""
    step = max(1, len(data().test.tokens) // s.rows[3])
    return slice(0, step * s.rows[3], step)


@functools.cache
def rows_of(part):
    if part == "test":
        return texts.take(data().test, spread())
    return texts.take(data().train, SHARES[part])


# %% [markdown]
# ## An imitator, a reward and a judge
#
# Half of the training pairs makes the imitator, by supervised fine-tuning; all policies start from
# it. A quarter makes the reward: a scalar head on a copy of the imitator, trained on pairs in the
# manner of Bradley and Terry,
#
# $$-\log\sigma\big(r(x,y)-r(x,y')\big),\qquad y\ \text{the author's line},\ y'\ \text{an
# imitation.}$$
#
# The last quarter makes the judge in the same way, with another seed. All three are artifacts,
# trained once and kept.


# %%
config = distill.small_gemma(pieces, *s.model, window=width // 2)
graph, stop = distill.static_part(config), (1,)  # the tokenizer's eos
policy = sequences.transformer_policy(graph, new, stop)
score = scalar_head(graph, stop)


# %%
def imitation(**_):
    optimizer, part = distill.adamw(s.rates[0], s.steps[0]), rows_of("imitation")
    _, weights = distill.new_model(config, seed=0)
    state = algorithms.policy_state(weights, optimizer, seed=0)
    stream = texts.batches(part, s.rows[0], seed=0)
    pairs = ((rows.prompts, rows.answers[:, None]) for rows in stream)
    step = algorithms.sft_step(policy, optimizer)
    return {"weights": lab.fit(step, state, pairs, num_steps=s.steps[0])[0].weights}


# %%
def preferring(part, **_):
    optimizer, seed = distill.adamw(s.rates[1], s.steps[1]), len(part)
    start, key = kept("imitation"), jax.random.key(seed)
    chosen = rewards.against_samples(policy, start, rows_of(part), NS[-1], key, s.rows[3])
    pairs = (rows.batch for rows in texts.batches(chosen, s.rows[0], seed))
    state = rewards.reward_state(head_on_trunk(start, s.model[0]), optimizer)
    step = rewards.preference_step(score, optimizer)
    return {"weights": lab.fit(step, state, pairs, num_steps=s.steps[1], name=part)[0].weights}


# %%
@functools.cache
def kept(part):
    about = {name: settings[name] for name in ("model", "rows", "text", "rates", "source")}
    about |= {"part": part, "digest": data().digest, "steps": s.steps[:2]}
    make = imitation if part == "imitation" else preferring
    return lab.artifact(part, make, **about)["weights"]


# %% [markdown]
# ## The contest
#
# All are judged on functions of packages that nobody has seen: one answer to each, against eight of
# the imitator that training began with. A win is a higher score. The lines that the functions'
# authors wrote are judged too. Before any training the library is asked whether the reward tells
# answers apart at all; a reward that is constant, not a number, or nearly all ties is refused.


# %%
NS, draw = (1, 2, 4, 8), jax.jit(policy.sample, static_argnums=3)


@functools.cache
def opponent():
    start, prompts = kept("imitation"), rows_of("test").prompts
    return judged.Opponent(start, prompts, draw(start, prompts, jax.random.key(9), NS[-1])[0])


# %%
@functools.cache
def judges():
    told = jax.jit(score)(kept("proxy"), *opponent()[1:])
    reward_checks.check_rewards(np.asarray(told))
    return {name: judged.Judge(score, kept(name)) for name in ("proxy", "judge")}


# %% [markdown]
# ## Anchors and penalties
#
# `jbond` is the paper's, its anchor a moving average. `fixed` never moves it, `hard` replaces it
# as often as the average forgets, `gamma` adds a pull towards it; the last two are for you to ask
# for. REINFORCE pays 0.1 per nat. It draws two answers a prompt where J-BOND draws three, and gets
# half as many prompts again: a step costs all of them the same number of answers. Settings are
# arguments of two compiled programs.

# %%
warmup = max(1, s.steps[2] // 12)
adams = {"jbond": algorithms.adam(s.rates[2], warmup)}
adams["reinforce"] = algorithms.adam(s.rates[3], warmup)
period = round(1 / s.eta)
ANCHORS = {"jbond": (s.eta, 1, 0), "fixed": (0, 1, 0), "hard": (1, period, 0)}
ANCHORS["gamma"] = (s.eta, 1, 1)


# %%
def jbond(weights, eta, period, gamma):
    reward, anchor = functools.partial(score, weights), algorithms.moving(eta, period)
    return algorithms.jbond_step(policy, adams["jbond"], reward, anchor, gamma=gamma)


def reinforce(weights, beta_rl):
    reward = functools.partial(score, weights)
    return algorithms.reinforce_step(policy, adams["reinforce"], reward, beta_rl=beta_rl)


# %%
def step_of(arm):
    weights = kept("proxy")
    if arm not in ANCHORS:
        beta = jnp.float32(arm.removeprefix("reinforce."))
        return algorithms.bound(reinforce, weights=weights, beta_rl=beta), "reinforce", s.rows[2]
    eta, every, gamma = ANCHORS[arm]
    given = {"eta": jnp.float32(eta), "period": jnp.int32(every), "gamma": jnp.float32(gamma)}
    return algorithms.bound(jbond, weights=weights, **given), "jbond", s.rows[1]


# %%
def trained(arm, seed):
    step, kind, number = step_of(arm)
    state = algorithms.policy_state(kept("imitation"), adams[kind], seed)
    stream = (rows.prompts for rows in texts.batches(rows_of("imitation"), number, seed))
    watch = {"evaluate": judged.judging(policy, judges(), opponent(), 4)}
    watch |= {"eval_every": max(1, s.steps[2] // 4), "name": arm}
    return lab.fit(step, state, stream, num_steps=s.steps[2], **watch)


# %% [markdown]
# Best-of-N needs no training: it draws $N$ answers of the imitator and lets the reward choose. Its
# distance is at most $\log N-(N-1)/N$ nats, and just that where no two draws are alike.


# %%
def chosen(seed):
    key = jax.random.key(100 + seed)
    found = judged.best_of_n_judged(policy, judges(), opponent(), "proxy", NS, key)
    found["kl"] = [np.log(n) - (n - 1) / n for n in NS]
    return {name: (np.array(NS), np.array(values)) for name, values in found.items()}


# %%
def says(weights):
    """What the first functions are told; records hold numbers, so it is spelled in them."""
    answers = draw(weights, opponent().prompts, jax.random.key(7), NS[-1])[0][:6, 0]
    lines = [data().tokenizer.decode([t for t in row if t > 1]) for row in answers.tolist()]
    return {f"says.{i}": texts.letters(line) for i, line in enumerate(lines)}


def shown():
    kept, parts = enumerate(data().examples["test"][spread()][:6]), ("prompt", "answer")
    return {f"{part}.{i}": texts.letters(getattr(p, part)) for i, p in kept for part in parts}


# %%
def found(arm, seed):
    if arm == "best_of_n":
        return chosen(seed) | shown(), opponent().reference
    state, curves = trained(arm, seed)
    return curves, state.weights


def measure(arm, seed, **_):
    curves, weights = found(arm, seed)
    curves |= says(weights) if seed == 0 else {}
    numbers = {f"last.{name}": curves[name][1][-1] for name in WATCHED}
    people = judged.answers_judged(judges(), opponent(), rows_of("test").answers[:, None])
    numbers |= {f"people.{name}": people[name] for name in WATCHED[1:]}
    return lab.Measured(numbers, curves, data=data().digest)


# %%
WATCHED = ("kl", "proxy_win", "judge_win")
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
last = {name: runs.numbers(f"last.{name}") for name in WATCHED}
means = {name: {a: lab.mean_interval(v) for a, v in of.items()} for name, of in last.items()}
people = {name: runs.numbers(f"people.{name}")[arms[0]][0] for name in WATCHED[1:]}
heads = ["KL, nats", "wins with the reward", "wins with the judge"]
pd.DataFrame(dict(zip(heads, means.values())))

# %% [markdown]
# ## Wins for distance
#
# Left what was trained on, in the middle what was not, over the distance from the imitator; right
# how that distance grows. One half is the imitator's own level, the dashed line that of the
# functions' authors. Best-of-N stands at its points of 1, 2, 4 and 8 draws.

# %%
LOOKS = dict(zip(arms, style.arm_colors(arms).values())) | {"jbond": style.ROLES["jeffreys"]}
LOOKS |= {"best_of_n": style.ROLES["best_of_n"]}
NAMES = {"jbond": "J-BOND", "fixed": "fixed anchor", "hard": "jumping anchor"}
NAMES |= {"gamma": r"J-BOND, $\gamma$ = 1", "best_of_n": "Best-of-N"}
NAMES |= {arm: arm.replace("reinforce.", r"REINFORCE ") for arm in arms if "." in arm}
trainers = [arm for arm in arms if arm != "best_of_n"]
curves = {name: runs.curve(name) for name in WATCHED}

# %%
fig, axes = lab.subplots(1, 3, height=3.6, width=11.5)
for ax, name in zip(axes, WATCHED[1:]):
    for arm in arms:
        path = curves["kl"][arm][1].mean(0), curves[name][arm][1].mean(0)
        mark = "o" if arm == "best_of_n" else "-"
        ax.plot(*path, mark, color=LOOKS[arm], ms=5, lw=1.8, label=NAMES[arm])
    ax.axhline(0.5, color=style.GREY, lw=1, ls=":")
    ax.axhline(people[name], color=style.GREY, lw=1.2, ls="--")
    ax.set(xlabel="KL to the imitator, nats", ylim=(0.4, 1))
drawn = {NAMES[arm]: curves["kl"][arm] for arm in trainers}
lab.plot_curves(axes[2], drawn, colors={NAMES[arm]: LOOKS[arm] for arm in trainers})
axes[0].set(title="the reward that was trained on", ylabel="share of wins against the imitator")
axes[1].set(title="the judge that was not")
axes[2].set(title="distance", xlabel="updates", ylabel="KL to the imitator, nats")
axes[0].legend(loc="lower right", fontsize=8)
alt = "Share of wins with reward and judge over KL, and KL over updates. In the end: " + "; ".join(
    f"{NAMES[a]} {means['proxy_win'][a].value:.2f} and {means['judge_win'][a].value:.2f} at "
    f"{means['kl'][a].value:.2f} nats" for a in arms
)  # fmt: skip
numbers = pd.DataFrame({
    f"{arm}_{name}": pd.Series(curves[name][arm][1].mean(0)) for arm in arms for name in WATCHED
})  # fmt: skip
experiment.figure(fig, "wins_for_distance", numbers=numbers.rename_axis("point"), alt=alt)

# %% [markdown]
# ## What the reward promises and what the judge keeps
#
# Open circles are wins with the reward, full ones with the judge, at the last update. The way
# between them is over-optimisation: wins that nobody else sees.

# %%
fig, ax = lab.subplots(height=3.2)
for row, arm in enumerate(arms):
    promised, held = (means[name][arm] for name in WATCHED[1:])
    ax.plot([promised.value, held.value], [row, row], color=LOOKS[arm], lw=1.2, ls=":")
    ax.plot([held.low, held.high], [row, row], color=LOOKS[arm], lw=3)
    ax.plot(held.value, row, "o", color=LOOKS[arm], ms=7)
    ax.plot(promised.value, row, "o", color=LOOKS[arm], mfc="white", ms=7)
ax.axvline(0.5, color=style.INK, lw=1)
ax.set(yticks=range(len(arms)), yticklabels=[NAMES[arm] for arm in arms])
ax.set(ylim=(len(arms) - 0.5, -0.5), xlim=(0.35, 1), xlabel="share of wins against the imitator")
ax.grid(visible=False)
alt = "Wins with the judge and, open, with the reward: " + "; ".join(
    f"{NAMES[a]} {means['judge_win'][a]}, {means['proxy_win'][a].value:.2f}" for a in arms
)
drawn = {(a, n): vars(means[n][a]) for a in arms for n in WATCHED[1:]}
drawn = pd.DataFrame({f"{a}_{n}": v for (a, n), v in drawn.items()}).T.rename_axis("arm")
experiment.figure(fig, "promised_and_kept", numbers=drawn, alt=alt)

# %% [markdown]
# ## Read for yourself
#
# One sample each for the first functions of the test set; nothing was chosen. Look for lines that
# name what the code does, and for phrases that would suit any function.


# %%
first = {record.arm: record.curves for record in reversed(runs.records)}
plain, cards = first.get("best_of_n", {}), []
for i in range(sum(name.startswith("prompt.") for name in plain)):
    lines = {"its author": plain[f"answer.{i}"], "imitator": plain[f"says.{i}"]}
    lines |= {NAMES[arm]: first[arm][f"says.{i}"] for arm in trainers}
    said = "\n".join(f"- {who}: {texts.spelled(line)}" for who, line in lines.items())
    cards.append(f"```python\n{texts.spelled(plain[f'prompt.{i}'])}\n```\n{said}\n")
display(Markdown("\n".join(cards)))

# %% [markdown]
# ## What we found


# %%
def differ(name, one, other):
    if {one, other} - set(arms):
        return None
    return lab.paired_difference(last[name][one], last[name][other])


def told(gap, more, less):
    if gap is None:
        return "not run"
    side = more if gap.low > 0 else less if gap.high < 0 else "not told apart"
    return f"**{side}** ({gap})"


def at(arm, level):
    kl, wins = curves["kl"][arm][1], curves["proxy_win"][arm][1]
    return [frontier.at_kl(*run, level) for run in zip(kl, wins)]


def equal_kl(one, other, level=0.5):
    if {one, other} - set(arms):
        return None
    return lab.paired_difference(at(one, level), at(other, level))


# %%
gaps = {
    "figure4": differ("proxy_win", "jbond", "fixed"),
    "figure5": differ("kl", "hard", "jbond"),
    "figure6": equal_kl("gamma", "jbond"),
    "figure7": equal_kl("jbond", "reinforce.0.1"),
}
flattery = {a: lab.paired_difference(last["proxy_win"][a], last["judge_win"][a]) for a in arms}

# %%
said = f"""
- The lines that people wrote win {people["proxy_win"]:.0%} with the reward and
  {people["judge_win"]:.0%} with the judge, on packages that neither has seen.
- Figure 4: with a moving anchor the reward ends {told(gaps["figure4"], "higher", "lower")} than
  with a fixed one.
- Figure 5: a jumping anchor ends {told(gaps["figure5"], "farther away", "nearer")}, in nats.
- Figure 6: at half a nat, the pull gives {told(gaps["figure6"], "more", "less")} wins.
- Figure 7: at half a nat, J-BOND has {told(gaps["figure7"], "more", "fewer")} wins than REINFORCE.
- The judge takes back, of J-BOND's share of wins, {flattery.get("jbond", "not run")}.
"""
display(Markdown(said))

# %%
numbers = {f"{name}.{arm}": mean for name, of in means.items() for arm, mean in of.items()}
numbers |= {f"people.{name}": value for name, value in people.items()}
numbers |= {f"gap.{name}": gap for name, gap in gaps.items() if gap is not None}
numbers |= {f"flattery.{arm}": gap for arm, gap in flattery.items()}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# A policy of this size writes lines that sound like docstrings and are often wrong, and its judge
# is as small as its reward: it is another opinion, not the truth. The intervals speak of the
# training on one reward, with one imitator, one judge and one set of functions. The judge shares
# its first weights with the reward and the imitator. The KL of Best-of-N
# is its bound. Of a long function the policies read the beginning only.
# Rates were chosen by the reward at half a nat, from one grid for both trainers.
#
# ## What to try next
#
# - `-p corpus=my.jsonl -p 'columns=["document","summary"]'`: your own summaries.
# - `-p 'steps=[400,300,300]'`: when does the judge turn away while the reward still rises?
# - `-p eta=0.2`: a faster anchor. Does it flatter more?
# - `-p 'arms=["jbond","hard","gamma"]'`: Figures 5 and 6 on text.
# - `-p 'rates=[0.01,0.003,0.01,0.003]'`: what haste costs at equal distance.
