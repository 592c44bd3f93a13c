# %% [markdown]
# # Does a small model learn more from a teacher than from the text?
#
# A language model learns from text: at each place there is one next token, and that token is right.
# A *distilled* model learns from a bigger one instead, which gives every token of the vocabulary
# its chance. [Gemma 2](https://arxiv.org/abs/2408.00118) trains its 2B and 9B in this way. Here we
# try it for the first time: a small Gemma 2 is trained twice on the same stream of real text, once
# on the tokens and once on a teacher's chances. Nothing is downloaded. The text is the Python
# source that this very environment is made of.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["scratch", "distilled"]  # what the student learns from
source: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # pairs of students
steps: int | None = None  # optimizer steps of a student
teacher_steps: int | None = None  # optimizer steps of the teacher
student: list[int] | None = None  # width and layers
teacher: list[int] | None = None  # width and layers
batch: int | None = None  # rows in a step
time: int | None = None  # tokens in a row
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: float | None = None  # of text, all splits together
learning_rate: float | None = None  # of the students, at its peak
teacher_learning_rate: float | None = None  # of the teacher, at its peak
temperature: float = 1.0  # softens the chances of teacher and student
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "teacher_steps": 6, "student": [64, 2],
              "teacher": [64, 2], "batch": 4, "time": 32, "vocabulary": 400,
              "megabytes": 0.4, "learning_rate": 0.01, "teacher_learning_rate": 0.01},
    "laptop": {"seeds": 5, "steps": 240, "teacher_steps": 600, "student": [64, 2],
               "teacher": [128, 2], "batch": 8, "time": 128, "vocabulary": 512,
               "megabytes": 6.0, "learning_rate": 0.015, "teacher_learning_rate": 0.006},
    "gpu": {"seeds": 5, "steps": 1000, "teacher_steps": 2000, "student": [384, 8],
            "teacher": [768, 12], "batch": 32, "time": 512, "vocabulary": 8192,
            "megabytes": 190, "learning_rate": 0.002, "teacher_learning_rate": 0.001}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus, distill, lab
from matchbook.lab import style
from matchbook.lab.claims import load_claims

experiment = lab.Experiment("gemma2/02_first_distillation", version=2, profile=profile)

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, teacher_steps=teacher_steps, student=student,
    teacher=teacher, batch=batch, time=time, vocabulary=vocabulary, megabytes=megabytes,
    learning_rate=learning_rate, teacher_learning_rate=teacher_learning_rate,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
limit = round(1e6 * knobs.megabytes)
settings |= {"temperature": temperature, "text": corpus.identity(source, max_bytes=limit)}
s = SimpleNamespace(**settings)

# %% [markdown]
# ## What the paper says
#
# Section 6 asks the question twice. **Table 6** trains a 2B on 500 billion tokens, ten times the
# compute-optimal number, from scratch or from a 7B teacher, and averages three benchmarks. **Table
# 7** repeats it with students of 200M, 400M and 1B and gives the perplexity on held-out text: the
# teacher takes two points off it at every size. Since a perplexity is $e^{\text{loss}}$, that is a
# gain in loss of 0.09 to 0.13 nats a token. The paper reports no spread between runs.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger}
table_7 = printed["gemma2-table-07"].set_index("student")
display(printed["gemma2-table-06"], table_7)

# %% [markdown]
# ## The idea in one equation
#
# From scratch, the student $P_S$ is asked for the token $x^*$ that came next after the context
# $x_c$. Distilled, it is asked for the whole distribution of the teacher $P_T$:
#
# $$\mathcal{L}_{\text{scratch}} = -\log P_S(x^* \mid x_c), \qquad
# \mathcal{L}_{\text{distilled}} = -\sum_x P_T(x \mid x_c)\, \log P_S(x \mid x_c).$$
#
# The second is the forward divergence $\mathrm{KL}(P_T \,\|\, P_S)$ plus the teacher's entropy,
# which the student cannot change. The first is the same with a teacher who is certain of $x^*$. So
# both arms are one method with two kinds of target, a hard and a soft one.
#
# ## The text
#
# `corpus` lists the Python files of the standard library and of the installed packages, draws a
# sample of the size we ask for, leaves out duplicates, and splits it *by file* into train,
# validation and test. On the train files it learns a tokenizer with Gemma's settings, then packs
# all documents into rows. No token sees another document, or is predicted from one.


# %%
@functools.cache
def dataset():
    kept = lab.session().runs / "corpus"
    return corpus.dataset(source, max_bytes=limit, vocab_size=s.vocabulary, time=s.time, cache=kept)


def held_out_rows():
    return corpus.spread(dataset().validation, 16 * s.batch)


# %% [markdown]
# ## The models
#
# Teacher and students are small Gemma 2 models. They keep the 2B's proportions: pairs of a local
# and a global layer, two query heads for each key/value head, and soft-caps. Local layers see half
# a row.


# %%
def config_of(who):
    width, layers = settings[who]
    return distill.small_gemma(s.vocabulary, width, layers, window=s.time // 2)


def count(weights):
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


# %% [markdown]
# ## One way to train
#
# Whoever is trained is trained alike: AdamW with warm-up, cosine and clipping. All are judged
# by the loss on the *text's own* tokens in held-out files, also those that are trained on something
# else. The seed fixes initial weights and the order of the rows. So the two students of a seed
# start equal and read the same tokens in the same order: they differ by their targets alone.


# %%
def train(who, num_steps, learning_rate, seed, make_step):
    graph, weights = distill.new_model(config_of(who), seed)
    optimizer = distill.adamw(learning_rate, num_steps)
    stream = corpus.batches(dataset().train, s.batch, seed)
    held_out = distill.evaluate(graph, held_out_rows(), s.batch)
    watch = {"evaluate": held_out, "eval_every": max(1, num_steps // 12), "name": who}
    step, state = make_step(graph, optimizer), distill.train_state(weights, optimizer)
    state, history = lab.fit(step, state, stream, num_steps=num_steps, **watch)
    return state.weights, history["validation_loss"]


# %% [markdown]
# ## The teacher
#
# It is wider, and it reads more: more steps, from the same train files. This is the situation of
# the paper, where a large model exists already and a small one is wanted. But it means that a
# distilled student hears, through its teacher, of text that neither student reads. The teacher is
# trained once, kept as an artifact, and serves all seeds. It depends on the text that was found
# here, so the text's digest is part of its name.


# %%
def make_teacher(digest, **_):
    rate, make_step = s.teacher_learning_rate, distill.pretrain_step
    weights, (_, losses) = train("teacher", s.teacher_steps, rate, 1000, make_step)
    teach = distill.frozen_teacher(distill.static_part(config_of("teacher")), weights)
    choices = distill.rank_choices(teach, jax.tree.map(jax.numpy.asarray, held_out_rows()), 8)
    return {"weights": weights, "loss": losses[-1], **choices._asdict()}


# %%
@functools.cache
def teacher_of(digest):
    needs = ("teacher", "teacher_steps", "teacher_learning_rate", "batch", "time", "vocabulary")
    kept = lab.artifact("teacher", make_teacher, digest=digest, **{n: settings[n] for n in needs})
    graph = distill.static_part(config_of("teacher"))
    return kept, distill.frozen_teacher(graph, kept["weights"])


# %% [markdown]
# ## What we measure
#
# One run is one student. The arm chooses its target and nothing else. What goes into the record:
# the held-out loss as it falls, its final value, the sizes of the models, and, from the distilled
# students, what their teacher's targets look like.


# %%
def from_scratch():
    return distill.pretrain_step, {}, {}


def from_teacher():
    kept, teach = teacher_of(dataset().digest)
    step = functools.partial(distill.distill_step, teacher=teach, temperature=s.temperature)
    ranks = np.arange(1, len(kept["probability"]) + 1)
    curves = {f"teacher.{k}": (ranks, kept[k]) for k in ("probability", "frequency")}
    return step, {"teacher.loss": kept["loss"], "teacher.weights": count(kept["weights"])}, curves


# %%
def measure(arm, seed, **_):
    make_step, numbers, curves = {"scratch": from_scratch, "distilled": from_teacher}[arm]()
    weights, losses = train("student", s.steps, s.learning_rate, seed, make_step)
    numbers |= {"loss": losses[1][-1], "student.weights": count(weights)}
    numbers["text.train_tokens"] = dataset().train.tokens.size
    numbers["text.bytes_per_token"] = dataset().bytes_per_token
    return lab.Measured(numbers, curves | {"loss": losses}, data=dataset().digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
loss, curves = runs.numbers("loss"), runs.curve("loss")
facts = runs.table().drop(columns=["seed", "loss"]).groupby("arm").first().loc["distilled"]
facts.map(lambda x: f"{x:,.0f}" if x > 100 else f"{x:.3f}").to_frame("value")

# %% [markdown]
# ## What a soft target looks like
#
# At every place of the held-out rows we sort the teacher's chances, and average over places: so
# much it gives to its first choice, so much to its second, and so on (bars). A hard target would be
# a single bar of height 1. The circles count the text: how often was the first choice what came
# next, how often the second? Where circles sit on bars, the teacher is as sure as it may be. What
# it says at one place is then close to what text says on average at many places like it.

# %%
ranks, probability = runs.curve("teacher.probability")["distilled"]
frequency = runs.curve("teacher.frequency")["distilled"][1]
fig, ax = lab.subplots(height=3)
ax.bar(ranks, probability[0], color=style.ROLES["distilled"], alpha=0.75, label="the teacher gives")
ax.plot(ranks, frequency[0], "o", color=style.INK, mfc="white", mew=1.5, label="the text has")
ax.set(xlabel="rank of the teacher's choice", ylabel="share of next tokens", xticks=ranks)
ax.legend(loc="upper right")
alt = f"Bars fall from {probability[0][0]:.0%} for the teacher's first choice; circles, the share "
alt += f"of next tokens that were that choice, begin at {frequency[0][0]:.0%}."
drawn = pd.DataFrame({"rank": ranks, "teacher": probability[0], "text": frequency[0]})
experiment.figure(fig, "soft_targets", numbers=drawn, alt=alt)

# %% [markdown]
# ## How much text is a teacher worth?
#
# Take the loss at which a student from scratch ends. Its distilled twin passes that loss earlier,
# and the share of the text that it has read by then says how much reading the teacher saved; 100 %
# if it never does. Between two evaluations we draw a straight line. This errs on the careful side:
# when the twin passes, its learning rate is still high, and would yet come down.

# %%
when, falling = curves["distilled"]
best = np.minimum.accumulate(falling, axis=1)
passed = [np.interp(-end, -path, when) for path, end in zip(best, loss["scratch"])]
share = lab.mean_interval(np.array(passed) / knobs.steps)
here = knobs.steps * s.batch * s.time / 1000  # thousand tokens that a student reads
read = {arm: (here * steps / knobs.steps, y) for arm, (steps, y) in curves.items()}
ends = {**{arm: y.mean() for arm, y in loss.items()}, "teacher": facts["teacher.loss"]}

# %% [markdown]
# In the picture, lines are means over seeds and bands their 95 % intervals. The arrow leads from
# where students from scratch end to where their twins pass. The dashed line is where the teacher
# itself ended, after reading more; a student as good as its teacher would touch it.

# %%
fig, ax = lab.subplots(height=3.8)
lab.plot_curves(ax, read)
tip, y, grey = share.value * here, ends["scratch"], style.ROLES["teacher"]
ax.annotate("", (tip, y), (here, y), arrowprops={"arrowstyle": "->", "lw": 1.2})
half_way = {"ha": "center", "va": "top", "fontweight": "bold"}
ax.text((tip + here) / 2, y - 0.02, f"{share.value:.0%} of the text", **half_way)
ax.axhline(ends["teacher"], color=grey, lw=1.3, dashes=(4, 2.5))
ax.text(0, ends["teacher"] + 0.03, "the teacher, in the end", color=style.ink(grey))
ax.set(xlabel="text read by the student, thousand tokens", ylabel="held-out loss, nats per token")
ax.set_ylim(top=max(values[:, 2].mean() for _, values in read.values()) + 0.05)
alt = "Held-out loss falls with the text read, faster for the distilled students. Ends, in nats: "
alt += ", ".join(f"{arm} {end:.2f}" for arm, end in ends.items())
drawn = {(arm, i): row for arm, (_, values) in read.items() for i, row in enumerate(values)}
drawn = pd.DataFrame(drawn, index=pd.Index(read["scratch"][0], name="thousand_tokens"))
drawn.columns = [f"{arm}_seed{i}" for arm, i in drawn.columns]
experiment.figure(fig, "learning_curves", numbers=drawn, alt=alt)

# %% [markdown]
# ## Seed by seed
#
# Two students with one seed are a pair: same start, same tokens, same order. Each pair has a line.

# %%
gap, places = lab.paired_difference(loss["distilled"], loss["scratch"]), np.arange(knobs.seeds)
fig, ax = lab.subplots(height=2.6)
ax.hlines(places, loss["distilled"], loss["scratch"], color="#cccccc", lw=3)
for arm, values in loss.items():
    ax.plot(values, places, "o", ms=7, color=style.ROLES[arm])
    ax.text(values[0], -0.35, arm, color=style.ink(style.ROLES[arm]), ha="center")
ax.set(yticks=places, ylabel="seed", xlabel="held-out loss, nats per token")
ax.set_ylim(len(places) - 0.5, -0.9)
ax.margins(x=0.1)
ax.grid(visible=False)
alt = f"Two dots for each of {knobs.seeds} seeds, joined: scratch and distilled. "
alt += f"The distilled one is lower in {sum(loss['distilled'] < loss['scratch'])} of them."
experiment.figure(fig, "pairs", numbers=pd.DataFrame(loss).rename_axis("seed"), alt=alt)

# %% [markdown]
# What counts is the difference within pairs: its mean, with a 95 % interval, is the blue bar.
# Diamonds are the paper's gains at its three sizes, from the perplexities of Table 7. They come
# from another text, another vocabulary and models a thousand times larger, so only the side of the
# line can be compared.

# %%
fig, ax = lab.subplots(height=2.4)
rows, blue = ["students here", *"Table 7, " + table_7.index], style.ROLES["distilled"]
ax.axvline(0, color=style.INK, lw=1)
ax.plot([gap.low, gap.high], [rows[0]] * 2, color=blue, lw=3)
ax.plot(gap.value, rows[0], "o", ms=7, color=blue)
ax.plot(-table_7["gap_nats"], rows[1:], "D", mfc="white", mec=style.INK)
ax.set(ylim=(3.6, -0.6), xlabel="distilled minus scratch, nats per token")
ax.grid(visible=False)
alt = f"The difference here is {gap} nats; three diamonds mark the paper's, near -0.1."
differences = [gap.value, *-table_7["gap_nats"]]
drawn = pd.DataFrame({"students": rows, "difference": differences})
drawn[["low", "high"]] = [[gap.low, gap.high]] + [[np.nan] * 2] * 3
experiment.figure(fig, "difference", numbers=drawn, alt=alt)

# %% [markdown]
# ## The same in other units
#
# Nats per token depend on the vocabulary, and so does the perplexity $e^{\text{loss}}$, the unit of
# Table 7. Bits per byte do not: they say how well the model would compress the text.

# %%
units = {"nats per token": lambda x: x, "perplexity": np.exp}
units["bits per byte"] = lambda x: x / np.log(2) / facts["text.bytes_per_token"]
table = {u: {arm: lab.mean_interval(f(x)) for arm, x in loss.items()} for u, f in units.items()}
pd.DataFrame(table).rename_axis("held-out loss")

# %% [markdown]
# ## What we found

# %%
verdict = "better" if gap.high < 0 else "worse" if gap.low > 0 else "not told apart from the other"
closed = gap.value / (ends["teacher"] - ends["scratch"])
larger = facts["teacher.weights"] / facts["student.weights"]
read_per_weight = 1000 * here / facts["student.weights"]
found = f"""
- Over {knobs.seeds} pairs, the distilled student is **{verdict}**: its held-out loss differs by
  {gap} nats per token, its perplexity by a factor of {np.exp(gap.value):.3f}.
- To get where a student from scratch ends, it reads {share:.0%} of the text.
- It goes {closed:.0%} of the way from there to the teacher, which is {larger:.1f} times its size.
- A student reads {here:,.0f} thousand tokens, {read_per_weight:.2g} for each of its weights; the
  teacher {here * s.teacher_steps / knobs.steps:,.0f} thousand, of
  {facts["text.train_tokens"] / 1000:,.0f} thousand that there are.
"""
display(Markdown(found))

# %%
numbers = {f"loss.{arm}": lab.mean_interval(values) for arm, values in loss.items()}
numbers |= {"loss.teacher": facts["teacher.loss"], "gap.loss": gap, "gap.share_of_text": share}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# Compare directions, not sizes. Three things make a gain large here. The students read few tokens
# for their size, so all guidance is welcome; the paper's 2B reads 250 tokens for each parameter.
# The teacher reads text that the students do not, and part of that comes through. And what it costs
# to train and to ask the teacher is not counted: at equal *text* the comparison looks like this, at
# equal *compute* it would look different.
#
# The interval speaks of seeds, with one teacher, one text and one setting. The students' learning
# rate is the one that served the scratch arm best, of five that we tried; the other arm uses it as
# it is. Benchmarks, the measure of Table 6, mean nothing for models of this size. So this is not
# yet a verdict on Table 6.
#
# ## What to try next
#
# - `-p teacher_steps=60`: how bad may a teacher be before it does harm?
# - `-p temperature=2`: softer targets. The paper does not say whether it used any.
# - `-p steps=2000`: does the gain shrink when the student reads more?
# - `-p source=path/to/a/folder`: your own text.
