# %% [markdown]
# # Table 11: does a score depend on how the question is put?
#
# The same multiple-choice question can be laid out in many ways, with letters or digits, and be
# scored by the label or by the text of the answer. A model's score on a benchmark should not depend
# on that, and it does. [Gemma 2](https://arxiv.org/abs/2408.00118) puts MMLU in twelve formats and
# reports the standard deviation of the score. We make a small world of facts, ask for them in
# twelve formats, and look at two things that may make a model robust: its size, and whether its
# training showed it more than one format.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["small.one", "small.many", "large.one", "large.many"]  # size.diet
seeds: int | None = None  # worlds, each with a model of every arm
steps: int | None = None  # optimizer steps of a model
people: int | None = None  # in a world, with six facts each
shapes: list[int] | None = None  # width and layers of the small model, then of the large one
rows: list[int] | None = None  # in a step, and tokens in each
question: int | None = None  # tokens that the longest question may take
vocabulary: int | None = None  # pieces of the tokenizer
rates: list[float] | None = None  # learning rate of the small model, and of the large one
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "people": 6, "shapes": [64, 2, 64, 2], "rows": [4, 128],
              "question": 80, "vocabulary": 384, "rates": [0.01, 0.01]},
    "laptop": {"seeds": 10, "steps": 300, "people": 20, "shapes": [64, 2, 64, 4], "rows": [8, 128],
               "question": 64, "vocabulary": 400, "rates": [0.015, 0.015]},
    "gpu": {"seeds": 5, "steps": 3000, "people": 200, "shapes": [128, 4, 512, 8],
            "rows": [32, 256], "question": 64, "vocabulary": 800,
            "rates": [0.005, 0.002]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
from flax import nnx
from IPython.display import Markdown, display

from matchbook import corpus, distill, lab
from matchbook.corpus.synthetic import World, choices
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, people=people, shapes=shapes, rows=rows,
    question=question, vocabulary=vocabulary, rates=rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
s = SimpleNamespace(**settings)
batch, time = s.rows
experiment = lab.Experiment("gemma2/09_formats", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Table 11 gives one standard deviation per model, in points of accuracy over twelve combinations of
# formatting and evaluation, which are not listed. Gemma models move by one or two points, the
# larger ones by less than the 2B; Mistral 7B, of the size of Gemma 7B, by almost seven. So size is
# not all: two models of one size can differ by a factor of ten.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
table_11 = pd.DataFrame(next(c for c in ledger if c.id == "gemma2-table-11").values)
table_11 = table_11.set_index("model")["std"]
table_11.to_frame("standard deviation, points")

# %% [markdown]
# ## The idea in one equation
#
# With $a_f$ the accuracy in format $f$, the spread is $\sigma = \sqrt{\frac1{11}\sum_f (a_f -
# \bar a)^2}$. Even a model to which formats mean nothing has some: with $n$ questions, accuracy
# itself is uncertain by $\sqrt{p(1-p)/n}$, which is the most that chance can add here, where all
# formats ask the same questions.
#
# ## Twelve formats
#
# Three templates, labels that are letters or digits, and two ways to score: is the right *label*
# the most likely one to follow, or the right *answer*, per token?

# %%
item = World(2).items(0)[0]
asked = {f"{f.template}, {f.label_style}": choices.document(item, f) for f in choices.FORMATS[::2]}
display(Markdown("\n".join(f"*{name}*\n```\n{text}\n```" for name, text in asked.items())))

# %% [markdown]
# ## What the models read
#
# Half of the facts are **asked**: in training they stand in one template with letters, scored
# either way, and the test puts them in all twelve formats. The other half are **shown**, and the
# two diets differ in these alone. For **one** they are in the same format as the rest. For **many**
# they are in all twelve, so that it can be learned what the formats have in common. Both read the
# same number of questions, about the same facts.
#
# Loss is on answers only. The options of a question keep their order: to find an answer among
# options by reading them takes models of this size far longer than there is time for here.


# %%
@functools.cache
def items(seed):
    everything = World(s.people, seed=seed).items(0)
    return {"shown": everything[0::2], "asked": everything[1::2]}


# %%
COMMON = [f for f in choices.FORMATS if (f.template, f.label_style) == ("lines", "letters")]
DIETS = {"one": COMMON * 6, "many": list(choices.FORMATS)}


def lesson(diet, seed):
    found = [(item, f) for item in items(seed)["asked"] for f in COMMON * 2]
    found += [(item, f) for item in items(seed)["shown"] for f in DIETS[diet]]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


# %%
@functools.cache
def tokenizer(seed):
    everything = [item for half in items(seed).values() for item in half]
    texts = [choices.document(item, f) for item in everything for f in choices.FORMATS]
    return corpus.train_tokenizer(texts, s.vocabulary)


# %%
def pair(item, form, encode):
    rendered = choices.render(item, form.template, form.label_style)
    options = rendered.labels if form.scoring == "label" else rendered.answers
    return encode(rendered.prompt), encode(options[item.right])


# %%
@functools.cache
def training_rows(diet, seed):
    of_seed = tokenizer(seed)
    pairs = [pair(item, form, of_seed.encode) for item, form in lesson(diet, seed)]
    return distill.answer_rows([([of_seed.bos, *prompt], answer) for prompt, answer in pairs], time)


# %% [markdown]
# ## One way to train, one way to ask


# %%
SIZES = ["small", "large"]


def config_of(size):
    width, layers = s.shapes[2 * SIZES.index(size) :][:2]
    return distill.small_gemma(s.vocabulary, width, layers, window=time // 2)


# %%
def train(size, diet, seed):
    graph, weights = distill.new_model(config_of(size), seed)
    optimizer = distill.adamw(s.rates[SIZES.index(size)], s.steps)
    step, state = distill.sft_step(graph, optimizer), distill.train_state(weights, optimizer)
    stream = corpus.batches(training_rows(diet, seed), batch, seed)
    state, history = lab.fit(step, state, stream, num_steps=s.steps, name=size)
    return graph, state.weights, history["loss"]


# %%
@functools.partial(jax.jit, static_argnums=0)
def log_probs(graph, weights, tokens, positions, segments):
    logits = nnx.merge(graph, weights)(tokens, positions, segments)
    return choices.next_token_log_probs(logits, tokens)


# %%
def score(graph, weights, seed, form):
    questions = items(seed)["asked"]
    rows = choices.scoring_rows(questions, form, tokenizer(seed), s.question)
    found = np.asarray(log_probs(graph, weights, *rows[:3]))
    return choices.accuracy(choices.option_scores(found, rows, form.scoring), questions)


# %%
def measure(arm, seed, **_):
    size, diet = arm.split(".")
    graph, weights, loss = train(size, diet, seed)
    numbers = {".".join(form): score(graph, weights, seed, form) for form in choices.FORMATS}
    return lab.Measured(numbers | {"questions": len(items(seed)["asked"])}, {"loss": loss})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
FORMATS = [".".join(form) for form in choices.FORMATS]
accuracy = {a: np.stack([100 * runs.numbers(f)[a] for f in FORMATS], axis=1) for a in arms}
spread = {arm: values.std(axis=1, ddof=1) for arm, values in accuracy.items()}
count = int(runs.numbers("questions")[arms[0]][0])

# %%
mean = {arm: lab.mean_interval(values.mean(axis=1)) for arm, values in accuracy.items()}
spreads = {arm: lab.mean_interval(values) for arm, values in spread.items()}
noise = {arm: 100 * choices.binomial_noise(m.value / 100, count) for arm, m in mean.items()}
pd.DataFrame({"mean accuracy, %": mean, "spread, points": spreads, "noise at most": noise})

# %% [markdown]
# ## Twelve scores of each model
#
# A dot is the mean over seeds in one format, a bar its 95 % interval; guessing gives 25 %. The
# first two rows are what the asked facts were trained in.

# %%
COLORS = dict(zip(["small.one", "small.many", "large.one", "large.many"],
                  ("sky", "blue", "orange", "vermillion")))  # fmt: skip
COLORS = {arm: style.PALETTE[COLORS[arm]] for arm in arms}
fig, ax = lab.subplots(height=5.2, width=7.2)
ax.axvline(25, color=style.GREY, lw=1.2, dashes=(4, 2.5))
for i, arm in enumerate(arms):
    places = np.arange(len(FORMATS)) + 0.16 * (i - (len(arms) - 1) / 2)
    bars = [lab.mean_interval(values) for values in accuracy[arm].T]
    ax.hlines(places, [b.low for b in bars], [b.high for b in bars], color=COLORS[arm], lw=2)
    ax.plot([b.value for b in bars], places, "o", ms=5, color=COLORS[arm], label=arm)
ax.set(yticks=range(len(FORMATS)), yticklabels=[f.replace(".", ", ") for f in FORMATS])
ax.set(ylim=(len(FORMATS) - 0.5, -0.5), xlim=(0, 102), xlabel="accuracy, %")
ax.grid(visible=False)
ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1.0))
lowest = {a: values.mean(axis=0).min() for a, values in accuracy.items()}
alt = "Accuracy in twelve formats. The lowest and highest mean of each model: " + "; ".join(
    f"{a} {lowest[a]:.0f} and {values.mean(axis=0).max():.0f} %" for a, values in accuracy.items()
)
drawn = {f"{a}_seed{i}": v for a, values in accuracy.items() for i, v in enumerate(values)}
experiment.figure(
    fig, "formats", numbers=pd.DataFrame(drawn, FORMATS).rename_axis("format"), alt=alt
)

# %% [markdown]
# ## The spread, beside Table 11
#
# Coloured dots are our models with 95 % intervals over seeds, short strokes the most that chance
# can add. Diamonds are the paper's. Our models are a thousandth of their size and a million times
# less read, hence the logarithmic axis; what can be compared is by which factor models differ.

# %%
fig, ax = lab.subplots(height=3.6)
for row, arm in enumerate(arms):
    low = max(spreads[arm].low, 0.3)
    ax.plot([low, spreads[arm].high], [row, row], color=COLORS[arm], lw=3)
    ax.plot(spreads[arm].value, row, "o", ms=7, color=COLORS[arm])
    ax.plot(noise[arm], row, "|", ms=12, mew=1.5, color=style.GREY)
places = np.arange(len(arms), len(arms) + len(table_11))
ax.plot(table_11, places, "D", mfc="white", mec=style.INK)
ax.set(yticks=range(places[-1] + 1), yticklabels=[*arms, *table_11.index], xscale="log")
ax.set(ylim=(places[-1] + 0.5, -0.5), xlim=(0.3, 60), xlabel="standard deviation, points")
ax.set(xticks=[0.5, 1, 2, 5, 10, 20, 50], xticklabels=["0.5", "1", "2", "5", "10", "20", "50"])
ax.grid(visible=False)
alt = "Standard deviation over formats, in points: " + "; ".join(
    f"{arm} {interval}" for arm, interval in spreads.items()
)
alt += f"; Table 11 has {table_11.min()} to {table_11.max()}."
drawn = pd.DataFrame({arm: vars(i) | {"noise": noise[arm]} for arm, i in spreads.items()}).T
experiment.figure(fig, "spread", numbers=drawn.rename_axis("arm"), alt=alt)

# %% [markdown]
# ## World by world
#
# Models of one seed live in one world and start from equal weights where they have one size.

# %%
COMPARED = {
    "diet.small": ("small.many", "small.one"), "diet.large": ("large.many", "large.one"),
    "size.one": ("large.one", "small.one"), "size.many": ("large.many", "small.many")}  # fmt: skip
COMPARED = {name: both for name, both in COMPARED.items() if set(both) <= set(arms)}
COMPARED = COMPARED or {"ends": (arms[-1], arms[0])}
gaps = {n: lab.paired_difference(spread[a], spread[b]) for n, (a, b) in COMPARED.items()}
averages = {arm: values.mean(axis=1) for arm, values in accuracy.items()}
better = {n: lab.paired_difference(averages[a], averages[b]) for n, (a, b) in COMPARED.items()}

# %%
fig, axes = lab.subplots(1, 2, height=2.5, width=10.5)
titles = ("spread, points", "mean accuracy, points")
for ax, values, title in zip(axes, (gaps, better), titles):
    ax.axvline(0, color=style.INK, lw=1)
    for row, (name, gap) in enumerate(values.items()):
        ax.plot([gap.low, gap.high], [row, row], color=COLORS[COMPARED[name][0]], lw=3)
        ax.plot(gap.value, row, "o", ms=7, color=COLORS[COMPARED[name][0]])
    ax.set(yticks=range(len(gaps)), yticklabels=[" minus ".join(COMPARED[n]) for n in gaps])
    ax.set(ylim=(len(gaps) - 0.5, -0.5), xlabel=f"difference in {title}")
    ax.grid(visible=False)
alt = "Differences in spread: " + "; ".join(f"{n} {gap}" for n, gap in gaps.items())
drawn = {f"spread.{n}": vars(g) for n, g in gaps.items()}
drawn |= {f"accuracy.{n}": vars(g) for n, g in better.items()}
experiment.figure(fig, "differences", numbers=pd.DataFrame(drawn).T.rename_axis("pair"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(name):
    gap, (first, second) = gaps[name], COMPARED[name]
    side = "larger" if gap.low > 0 else "smaller" if gap.high < 0 else "not told apart"
    return f"- {first} against {second}: the spread is **{side}** ({gap} points)."


display(Markdown("\n".join(told(name) for name in gaps)))

# %%
numbers = {f"spread.{arm}": interval for arm, interval in spreads.items()}
numbers |= {f"accuracy.{arm}": interval for arm, interval in mean.items()}
numbers |= {f"noise.{arm}": value for arm, value in noise.items()}
numbers |= {f"gap.{name}": gap for name, gap in gaps.items()}
experiment.report(numbers | {f"better.{name}": gap for name, gap in better.items()})

# %% [markdown]
# ## How far this goes
#
# Table 11 compares finished models of several makers, and nobody knows which formats each has read.
# Here that is the only difference between the diets, so this shows one way in which models of one
# size come to differ, and not that it is why Mistral and Gemma do. A spread is also bounded by what
# a model knows: one that guesses everywhere has none, so read it beside the mean. Since options
# keep their order, a label is learned with its fact, and not found by reading.
#
# ## What to try next
#
# - `-p steps=1000`: does the spread vanish with practice?
# - `-p people=5`: with few facts to remember, is there more room for the formats?
# - `-p 'arms=["small.one","large.many"]'`: only the two ends.
