# %% [markdown]
# # Figures 4 to 7 on real text: does a distilled summariser win beyond its own reward?
#
# [BOND](https://arxiv.org/abs/2407.14622) is tried on summaries of news (XSum) and on
# conversations. Here is a summarisation task that every machine carries with it: the functions of
# the installed packages, each with the line that its author wrote about it. A small Gemma 2 learns
# to imitate such lines, a reward model learns to tell people's lines from its imitations, and then
# J-BOND, REINFORCE and Best-of-N sampling all go after that reward. The judge is another reward
# model, of other functions and another seed, that no policy ever sees. What wins with the judge is
# progress; what wins with the reward alone is flattery.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "jbond", "fixed", "hard", "gamma", "reinforce.0.1",
    "best_of_n"]  # J-BOND and three changes to its anchor; REINFORCE at a penalty  # fmt: skip
corpus: str = "environment"  # or a .jsonl or .parquet file, or a datasets folder, of your own
columns: list[str] = ["prompt", "answer"]  # of your own data: what to summarise, and its summary
ask: str = '\n"""'  # what follows each prompt; for your own data perhaps "\nIn short: "
seeds: int | None = None  # repetitions of the training on a reward
model: list[int] | None = None  # width and layers of policy, reward and judge
text: list[int] | None = None  # pairs read, tokens of prompt and of answer, pieces of the tokenizer
steps: list[int] | None = None  # updates: imitator, reward model, training on the reward
rows: list[int] | None = None  # in a batch of learning, of J-BOND, of REINFORCE; prompts judged
draws: int | None = None  # answers that Best-of-N chooses from at most; those to beat
eta: float | None = None  # share of the policy that the anchor takes up in each step
rates: list[float] | None = None  # learning rates: imitator, reward model, J-BOND, REINFORCE
sizes = {
    "smoke": {"seeds": 2, "model": [64, 2], "text": [1500, 24, 16, 1024], "steps": [3, 3, 4],
              "rows": [8, 2, 3, 8], "draws": 2, "eta": 0.05, "rates": [0.01, 0.003, 0.001, 0.0003]},
    "laptop": {"seeds": 5, "model": [64, 2], "text": [16000, 32, 16, 2048],
               "steps": [240, 120, 120], "rows": [32, 24, 36, 128], "draws": 8, "eta": 0.05,
               "rates": [0.01, 0.003, 0.001, 0.0003]},
    "gpu": {"seeds": 5, "model": [768, 12], "text": [100000, 256, 32, 8192],
            "steps": [4000, 2000, 400], "rows": [128, 64, 96, 512], "draws": 16, "eta": 0.02,
            "rates": [0.001, 0.0003, 0.00003, 0.00003]}}  # fmt: skip

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
ARMS = ["jbond", "fixed", "hard", "gamma", "best_of_n"]
knobs = lab.knobs(
    profile, sizes, seeds=seeds, model=model, text=text, steps=steps, rows=rows, draws=draws,
    eta=eta, rates=rates,
)  # fmt: skip
if len(columns) != 2:
    raise ValueError(f"columns are two, of prompts and of answers; got {columns}")
for arm in arms:
    if not arm.startswith("reinforce.") and arm not in ARMS:
        raise ValueError(f"an arm is one of {ARMS} or reinforce.<penalty>; got {arm!r}")
named = {"prompt": columns[0], "answer": columns[1]}
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"source": texts.pairs_identity(corpus, **named), "ask": ask}
s = SimpleNamespace(**settings)
most_pairs, width, new, pieces = s.text
experiment = lab.Experiment("bond/10_summarisation", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Its summaries are scored by a model of *entailment*: does the article support the summary? On
# XSum, BOND with an anchor that is renewed goes on gaining where a fixed one levels off (Figure 4).
# On conversations, an anchor that moves smoothly drifts less than one that jumps (Figure 5), a pull
# towards the anchor slows the drift (Figure 6), and J-BOND gets more reward for its distance than
# REINFORCE (Figure 7). All of it is measured with the very reward that was trained on; no
# figure asks a second judge. Section 3.3 supposes that BOND's reward, which punishes bad answers
# more than it praises good ones, might be harder to hack. The authors do not test it.
#
# ## The task
#
# The prompt is the beginning of a function's code, its docstring taken out, and an opening `"""`.
# The answer is the docstring's first line. Packages, not functions, are split into train,
# validation and test, and a line that several functions share counts once: so no tested answer was
# ever seen. Data of your own takes the same path, in three splits by prompt; a row that is empty,
# or too long for `text`, is refused by its number.


# %%
@functools.cache
def data():
    options = {"max_pairs": most_pairs, "cache": lab.session().runs / "corpus", "ask": ask}
    limits = {"vocab_size": pieces, "max_prompt": width, "max_answer": new}
    return texts.pair_dataset(corpus, **named, **limits, **options)


# %%
SHARES = {"imitation": slice(0, None, 2), "proxy": slice(1, None, 4), "judge": slice(3, None, 4)}


@functools.cache
def rows_of(part):
    if part != "test":
        return texts.take(data().train, SHARES[part])
    step = max(1, len(data().test.tokens) // s.rows[3])  # far apart: neighbours share a file
    return texts.take(data().test, slice(0, step * s.rows[3], step))


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
# The last quarter makes the judge in the same way, from other imitations. All three are artifacts,
# trained once and kept.

# %%
config = distill.small_gemma(pieces, *s.model, window=max(1, width // 2))
graph, stop = distill.static_part(config), (1,)  # the tokenizer's eos
policy = sequences.transformer_policy(graph, new, stop)
score, draw = scalar_head(graph, stop), jax.jit(policy.sample, static_argnums=3)


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
    optimizer, seed = distill.adamw(s.rates[1], s.steps[1]), ["proxy", "judge"].index(part) + 1
    start, key = kept("imitation"), jax.random.key(seed)
    chosen = rewards.against_samples(policy, start, rows_of(part), 2, key, s.rows[3])
    pairs = (rows.batch for rows in texts.batches(chosen, s.rows[0], seed))
    state = rewards.reward_state(head_on_trunk(start, s.model[0]), optimizer)
    step = rewards.preference_step(score, optimizer)
    return {"weights": lab.fit(step, state, pairs, num_steps=s.steps[1], name=part)[0].weights}


# %%
@functools.cache
def kept(part):
    about = {name: settings[name] for name in ("model", "rows", "text", "source", "ask")}
    about |= {"part": part, "digest": data().digest, "steps": s.steps[:2], "rates": s.rates[:2]}
    make = imitation if part == "imitation" else preferring
    return lab.artifact(part, make, **about)["weights"]


# %% [markdown]
# ## The contest
#
# All are judged on functions of packages that nobody has seen: two answers to each, against some
# of the imitator that training began with. A win is a higher score. The lines that the functions'
# authors wrote are judged too. Before any training the library is asked whether the reward tells
# answers apart at all; a reward that is constant, not a number, or nearly all ties is refused.

# %%
NS = tuple(2**i for i in range(max(1, s.draws).bit_length()))


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


@functools.cache
def watching():
    return judged.judging(policy, judges(), opponent(), 2)


@functools.cache
def by_people():
    written = jnp.asarray(rows_of("test").answers)[:, None]
    twice = jnp.repeat(written, 2, axis=1)  # as many as policies give: one program for all
    return judged.answers_judged(judges(), opponent(), twice)


# %% [markdown]
# ## Anchors and penalties
#
# `jbond` is the paper's, its anchor a moving average. `fixed` never moves it, `hard` replaces it
# as often as the average forgets, `gamma` adds a pull towards it. REINFORCE pays 0.1 reward per
# nat. It draws two answers a prompt where J-BOND draws three, and gets half as many prompts again:
# a step costs all of them the same number of answers. Settings are arguments of two compiled
# programs, so that four kinds of J-BOND share one.
#
# Learning rates decide much. J-BOND and REINFORCE got theirs from one grid, 0.0003, 0.001 and
# 0.003, beforehand, with a seed of its own and a reward of its own, trained on the imitator's
# functions: the rate with the most wins at half a nat, 0.001 for J-BOND and 0.0003 for REINFORCE.

# %%
warmup = max(1, s.steps[2] // 12)
adams = {"jbond": algorithms.adam(s.rates[2], warmup)}
adams["reinforce"] = algorithms.adam(s.rates[3], warmup)
ANCHORS = {"jbond": (s.eta, 1, 0), "fixed": (0, 1, 0), "gamma": (s.eta, 1, 1)}
ANCHORS["hard"] = (1, round(1 / max(s.eta, 1e-6)), 0)


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
    watch = {"evaluate": watching(), "eval_every": max(1, s.steps[2] // 8), "name": arm}
    state, history = lab.fit(step, state, stream, num_steps=s.steps[2], **watch)
    return state.weights, {name: history[name] for name in WATCHED}


# %% [markdown]
# Best-of-N needs no training: it draws $N$ answers of the imitator and lets the reward choose. Its
# distance is at most $\log N-(N-1)/N$ nats, and just that where no two draws are alike.


# %%
def sampled(seed):
    key = jax.random.key(100 + seed)
    found = judged.best_of_n_judged(policy, judges(), opponent(), "proxy", NS, key)
    found["kl"] = [np.log(n) - (n - 1) / n for n in NS]
    return kept("imitation"), {name: (np.array(NS), np.array(found[name])) for name in WATCHED}


# %%
def lines(arm, weights):
    """One answer to each function: for Best-of-N the one that the reward chooses."""
    answers, _ = draw(weights, opponent().prompts, jax.random.key(7), NS[-1])
    told = jax.jit(score)(kept("proxy"), opponent().prompts, answers)
    best = np.asarray(told).argmax(1) if arm == "best_of_n" else np.zeros(len(answers), int)
    return [row[place] for row, place in zip(answers.tolist(), best)]


def spelled(name, rows):
    """The first texts, letter by letter, since records hold numbers only."""
    plain = [data().tokenizer.decode([t for t in row if t > 3]) for row in rows[:SHOWN]]
    return {f"{name}.{i}": texts.letters(line) for i, line in enumerate(plain)}


# %%
WINS, SHOWN = ("proxy_win", "judge_win"), 6
WATCHED = ("kl", *WINS, "proxy", "judge")


def read(arm, weights):
    test, says = rows_of("test"), spelled("says", lines(arm, weights))
    says |= spelled("prompt", test.tokens.tolist()) | spelled("author", test.answers.tolist())
    return says | spelled("imitator", lines("imitator", kept("imitation")))


def measure(arm, seed, **_):
    weights, curves = sampled(seed) if arm == "best_of_n" else trained(arm, seed)
    curves = {name: (x, np.round(y, 5) + 0.0) for name, (x, y) in curves.items()}
    numbers = {f"last.{name}": y[-1] for name, (_, y) in curves.items()}
    numbers |= {f"people.{name}": by_people()[name] for name in WINS}
    curves |= read(arm, weights) if seed == 0 else {}
    return lab.Measured(numbers, curves, data=data().digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
last = {name: runs.numbers(f"last.{name}") for name in WATCHED}
means = {name: {a: lab.mean_interval(v) for a, v in of.items()} for name, of in last.items()}
people = {name: runs.numbers(f"people.{name}")[arms[0]][0] for name in WINS}
heads = ["KL, nats", "wins with the reward", "with the judge", "mean reward", "mean judgement"]
pd.DataFrame(dict(zip(heads, means.values())))

# %% [markdown]
# ## Wins for distance
#
# Above, shares of wins over the distance from the imitator: on the left with the reward that was
# trained on, on the right with the judge that was not. One half is the imitator's own level, the
# dashed line that of the functions' authors. Below on the left is the paper's own measure, the mean
# reward, and on the right the way in time. Best-of-N stands at its points, the last of them named.

# %%
LOOKS = {"jbond": style.ROLES["jeffreys"], "fixed": style.INK, "hard": style.PALETTE["orange"]}
LOOKS |= {"gamma": style.PALETTE["sky"], "best_of_n": style.ROLES["best_of_n"]}
others = [arm for arm in arms if arm not in LOOKS]
LOOKS |= dict(zip(others, [style.PALETTE["vermillion"], *style.shades(others).values()]))
NAMES = {"jbond": "J-BOND", "fixed": "fixed anchor", "hard": "jumping anchor"}
NAMES |= {"gamma": "J-BOND, γ = 1", "best_of_n": "Best-of-N"}
NAMES |= {arm: arm.replace("reinforce.", "REINFORCE, β = ") for arm in arms if "." in arm}
trainers = [arm for arm in arms if arm != "best_of_n"]
curves = {name: runs.curve(name) for name in WATCHED}

# %%
fig, axes = lab.subplots(2, 2, height=3.1, width=9.5)
titles = ["wins with the reward", "wins with the judge", "mean reward"]
for ax, name, title in zip(axes.flat, (*WINS, "proxy"), titles):
    for arm in arms:
        kl, value = curves["kl"][arm][1].mean(0), curves[name][arm][1].mean(0)
        ax.plot(kl, value, "o" if arm == "best_of_n" else "-", color=LOOKS[arm], ms=5, lw=1.8)
        if arm == "best_of_n":
            where = {"xytext": (-8, 0), "textcoords": "offset points", "ha": "right"}
            ax.annotate(f"Best-of-{NS[-1]}", (kl[-1], value[-1]), **where, va="center")
    ax.set(title=title, xlabel="KL to the imitator, nats", ylabel="share of wins")
for ax, name in zip(axes[0], WINS):
    ax.axhline(0.5, color=style.GREY, lw=1, ls=":")
    ax.axhline(people[name], color=style.GREY, lw=1.2, ls="--")
    ax.set(ylim=(0.4, 1))
drawn = {NAMES[arm]: curves["kl"][arm] for arm in trainers}
lab.plot_curves(axes[1, 1], drawn, colors={NAMES[arm]: LOOKS[arm] for arm in trainers})

# %%
axes[1, 0].set(ylabel="mean reward, log-odds")
axes[1, 1].set(title="distance", xlabel="updates", ylabel="KL to the imitator, nats")
alt = "Wins and mean reward over KL, and KL over updates. In the end, wins with both: " + "; ".join(
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
    promised, held = (means[name][arm] for name in WINS)
    ax.plot([promised.value, held.value], [row, row], color=LOOKS[arm], lw=1.2, ls=":")
    ax.plot([held.low, held.high], [row, row], color=LOOKS[arm], lw=3)
    ax.plot(held.value, row, "o", color=LOOKS[arm], ms=7)
    ax.plot(promised.value, row, "o", color=LOOKS[arm], mfc="white", ms=7)
ax.axvline(0.5, color=style.INK, lw=1)
ax.set(yticks=range(len(arms)), yticklabels=[NAMES[arm] for arm in arms])
ax.set(ylim=(len(arms) - 0.5, -0.5), xlim=(0.35, 1))
ax.set(xlabel="share of wins; open: with the reward, full: with the judge")
ax.grid(visible=False)
alt = "Wins with the judge and, open, with the reward: " + "; ".join(
    f"{NAMES[a]} {means['judge_win'][a]}, {means['proxy_win'][a].value:.2f}" for a in arms
)
drawn = pd.DataFrame({f"{a}_{n}": vars(means[n][a]) for a in arms for n in WINS}).T
experiment.figure(fig, "promised_and_kept", numbers=drawn.rename_axis("arm"), alt=alt)

# %% [markdown]
# ## Read for yourself
#
# One sample each for the first functions of the test set; nothing was chosen, except by Best-of-N.
# The code is what the policies read of it. Look for lines that name
# what the code does, and for phrases that would suit any function.

# %%
first = {record.arm: record.curves for record in reversed(runs.records)}
plain, cards = first[arms[0]], []
for i in range(sum(name.startswith("prompt.") for name in plain)):
    said = {"its author": plain[f"author.{i}"], "imitator": plain[f"imitator.{i}"]}
    said |= {NAMES[arm]: first[arm][f"says.{i}"] for arm in arms}
    told = "\n".join(f"- {who}: {texts.spelled(line)}" for who, line in said.items())
    cards.append(f"```python\n{texts.spelled(plain[f'prompt.{i}'])}\n```\n{told}\n")
display(Markdown("\n".join(cards)))

# %% [markdown]
# ## Figure by figure
#
# What the paper's Figures 4 to 7 say, asked of this text, seed by seed. Wins *for distance* are
# those where a run first passes a quarter of a nat. The paper's own measure is the *mean* reward,
# here in units of log-odds; a few disasters avoided can raise it while wins stay the same. And a
# question that no figure asks, the conjecture of section 3.3: where J-BOND and REINFORCE have
# gained the same of the mean reward, who has gained more with the judge?

# %%
curves |= {f"{n}_gain": {a: (x, y - y[:, :1]) for a, (x, y) in curves[n].items()}
           for n in ("proxy", "judge")}  # fmt: skip


def differ(one, other, of):
    """One arm's values less another's, seed by seed, where both were run."""
    return None if {one, other} - set(arms) else lab.paired_difference(of(one), of(other))


def at(along, level, name):
    """Values of an arm where its runs first reach a level of something else."""
    found = {a: zip(curves[along][a][1], curves[name][a][1]) for a in arms}
    return lambda arm: [frontier.at_kl(*run, level) for run in found[arm]]


# %%
NEAR, SOME = 0.25, 0.2  # nats, gain of mean reward
pair = ("jbond", next((arm for arm in arms if arm.startswith("reinforce.")), "reinforce"))
gaps = {
    "figure4.proxy_win": differ("jbond", "fixed", last["proxy_win"].get),
    "figure5.kl": differ("hard", "jbond", last["kl"].get),
    "figure6.kl": differ("gamma", "jbond", last["kl"].get),
    "figure6.proxy_win": differ("gamma", "jbond", at("kl", NEAR, "proxy_win")),
    "figure7.reward": differ(*pair, at("kl", NEAR, "proxy_gain")),
    "figure7.proxy_win": differ(*pair, at("kl", NEAR, "proxy_win")),
    "judge_win.at_equal_kl": differ(*pair, at("kl", NEAR, "judge_win")),
    "judge.at_equal_reward": differ(*pair, at("proxy_gain", SOME, "judge_gain")),
}
won = {n: {a: y[:, -1] - y[:, 0] for a, (_, y) in curves[n].items()} for n in WINS}
flattery = {a: lab.paired_difference(*(won[name][a] for name in WINS)) for a in arms}

# %% [markdown]
# ## What we found


# %%
def told(name):
    gap = gaps[name]
    if gap is None or not np.isfinite(gap.value):
        return "not asked: an arm is missing, or never got there"
    return f"**{'more' if gap.low > 0 else 'less' if gap.high < 0 else 'not told apart'}** ({gap})"


ASKED = {
    "figure4.proxy_win": "Figure 4, wins with the reward in the end, moving anchor against fixed",
    "figure5.kl": "Figure 5, nats in the end, jumping anchor against moving",
    "figure6.kl": "Figure 6, nats in the end, with a pull against without",
    "figure6.proxy_win": f"Figure 6, wins with the reward at {NEAR} nats, with against without",
    "figure7.reward": f"Figure 7, mean reward at {NEAR} nats, J-BOND against REINFORCE",
    "figure7.proxy_win": "the same, wins with the reward",
    "judge_win.at_equal_kl": "the same, wins with the judge",
    "judge.at_equal_reward": "Section 3.3, the judge's mean for the same mean reward, the same two",
}
found = [f"- {asked}: {told(name)}." for name, asked in ASKED.items()]
both = [f"{people[name]:.0%} with the {judge}" for name, judge in zip(WINS, ("reward", "judge"))]
found += [f"- Lines that people wrote win {' and '.join(both)}, on packages that neither has seen."]
taken = "; ".join(f"{NAMES[a]} {flattery[a]}" for a in arms)
found += [f"- Of the share of wins gained with the reward the judge takes back: {taken}."]
display(Markdown("\n".join(found)))

# %%
numbers = {f"{name}.{arm}": mean for name, of in means.items() for arm, mean in of.items()}
numbers |= {f"people.{name}": value for name, value in people.items()}
numbers |= {f"gap.{n}": gap for n, gap in gaps.items() if gap and np.isfinite(gap.value)}
numbers |= {f"flattery.{arm}": gap for arm, gap in flattery.items()}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# A policy of this size writes lines that sound like docstrings and are often wrong, and its judge
# is as small as its reward: another opinion, not the truth. Both began as copies of the imitator.
# The reward asks who wrote a line, not whether the code supports it, as the paper's does. The
# intervals speak of the training on one reward, with one imitator, one judge and one set of
# functions; another of each may move all numbers together. The updates are few: Figure 4 is asked
# at its beginning. Rates were chosen by wins, and a REINFORCE chosen by the mean reward, which is
# what it climbs, might look better in that. The KL of Best-of-N is its bound, the other
# ones are means of samples. Of a long function the policies read the beginning only.
#
# ## What to try next
#
# - `-p corpus=my.jsonl -p 'columns=["document","summary"]'`: your own summaries; set `ask` and
#   `text` to suit them.
# - `-p 'steps=[300,120,400]'`: when does the judge turn away while the reward still rises?
# - `-p eta=0.2`: a faster anchor. Does it flatter more?
# - `-p 'arms=["jbond","reinforce.0.01","reinforce.1","best_of_n"]'`: other penalties.
