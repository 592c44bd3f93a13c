# %% [markdown]
# # Table 6: is it better to learn from a teacher than from the data?
#
# [Gemma 2](https://arxiv.org/abs/2408.00118) trains its small models on a large model's
# probabilities instead of on the text. Table 6 is the evidence: one 2B model from scratch, one
# distilled, on the same 500 billion tokens. We ask it again with models that train in seconds,
# five pairs at a time, and on two kinds of data. Real text shows whether it works. A synthetic
# language, whose true probabilities we know, shows *why*: there the floor that no model can pass is
# a line in the plot, and the best of all teachers, the truth itself, can teach.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "text.scratch", "text.distilled", "language.scratch", "language.distilled", "language.oracle",
    "limited.scratch", "limited.distilled", "limited.oracle"]  # data.lesson  # fmt: skip
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # students of an arm
steps: int | None = None  # optimizer steps of a student
teacher_steps: int | None = None  # optimizer steps of a teacher
student: list[int] | None = None  # width and layers
teacher: list[int] | None = None  # width and layers
rows: list[int] | None = None  # in a step, tokens in each, and in the limited data
vocabulary: list[int] | None = None  # of the text's tokenizer and of the language
megabytes: int | None = None  # of text, all splits together
learning_rates: list[float] | None = None  # of students and teachers, at their peak
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "teacher_steps": 6, "student": [64, 2], "teacher": [64, 2],
              "rows": [4, 32, 8], "vocabulary": [400, 64], "megabytes": 1,
              "learning_rates": [0.01, 0.01]},
    "laptop": {"seeds": 5, "steps": 240, "teacher_steps": 600, "student": [64, 2],
               "teacher": [128, 2], "rows": [8, 128, 128], "vocabulary": [512, 256],
               "megabytes": 6, "learning_rates": [0.015, 0.006]},
    "gpu": {"seeds": 5, "steps": 2000, "teacher_steps": 4000, "student": [512, 8],
            "teacher": [1024, 16], "rows": [32, 512, 4096], "vocabulary": [8192, 1024],
            "megabytes": 190, "learning_rates": [0.002, 0.001]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.corpus import synthetic
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, teacher_steps=teacher_steps, student=student,
    teacher=teacher, rows=rows, vocabulary=vocabulary, megabytes=megabytes,
    learning_rates=learning_rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time, limited = s.rows
experiment = lab.Experiment("gemma2/04_distillation", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Table 6: a 2B model on 500B tokens, with a 7B model as its teacher, and the average of three
# benchmarks that are not named. One run each; nothing is said about the spread between runs.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger}
printed["gemma2-table-06"]

# %% [markdown]
# ## The idea in one equation
#
# Both students minimise a cross-entropy from a target $q$ to their own prediction $P_S$:
#
# $$\mathcal L(q) = -\sum_x q(x \mid x_c)\,\log P_S(x \mid x_c),\qquad
# q = \begin{cases} \text{all on the token that came} & \text{scratch}\\
# P_T(x \mid x_c) & \text{distilled}\\ p(x \mid x_c) & \text{oracle.}\end{cases}$$
#
# If the text is drawn from $p$, the three have nearly the same *mean* gradient, exactly so for
# scratch and oracle. What differs is the noise: one token is a sample of $p$, the oracle's lesson
# is $p$ itself. A trained teacher is in between, without the noise but with its own errors.
#
# ## The data
#
# - **text**: Python source of the standard library and of the installed packages, or your own
#   folder; split by file, packed into rows, no token sees another document.
# - **language**: a small fixed random network gives the next token's probabilities from the last
#   two tokens. Every step sees rows that no step has seen before.
# - **limited**: the same language, but the student has a few rows and reads them again and again.
#   Its teacher is the one of **language**, which has seen more.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.megabytes
    options = {"max_bytes": limit, "vocab_size": s.vocabulary[0], "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


# %%
@functools.cache
def language():
    return synthetic.Language(vocab_size=s.vocabulary[1], order=2)


# %%
def stream(data, seed):
    if data == "language":
        return language().stream(batch, time, seed)
    few = language().rows(limited, time, seed=1) if data == "limited" else dataset().train
    return texts.batches(few, batch, seed)


# %%
@functools.cache
def held_out(data):
    if data == "text":
        return texts.spread(dataset().validation, 16 * batch)
    return language().rows(16 * batch, time, seed=2)


# %% [markdown]
# ## One way to train
#
# AdamW with warm-up, cosine and clipping; small Gemma 2 models in the 2B's proportions, local
# layers with a window of half a row. The seed fixes the initial weights and the order of the data.
# So the students of one seed start equal and read the same tokens in the same order, and differ by
# their lesson alone. All are judged by the loss on *tokens* of held-out data.


# %%
def config_of(who, data):
    width, layers = settings[who]
    return distill.small_gemma(s.vocabulary[data != "text"], width, layers, window=time // 2)


# %%
def train(who, data, seed, make_step):
    num_steps, rate = {"student": (s.steps, 0), "teacher": (s.teacher_steps, 1)}[who]
    graph, weights = distill.new_model(config_of(who, data), seed)
    optimizer = distill.adamw(s.learning_rates[rate], num_steps)
    watch = {"evaluate": distill.evaluate(graph, held_out(data), batch), "name": who}
    watch["eval_every"] = max(1, num_steps // 12)
    step, state = make_step(graph, optimizer), distill.train_state(weights, optimizer)
    state, history = lab.fit(step, state, stream(data, seed), num_steps=num_steps, **watch)
    return state.weights, history["validation_loss"]


# %% [markdown]
# ## The lessons
#
# A teacher is twice as wide, is trained once for each kind of data, for more steps, and kept as an
# artifact. Its text's digest is part of its name, so a teacher of other text is never mistaken.


# %%
def make_teacher(data, **_):
    weights, (_, losses) = train("teacher", data, 1000, distill.pretrain_step)
    return {"weights": weights, "loss": losses[-1]}


# %%
@functools.cache
def teacher_of(data):
    names = ("teacher", "teacher_steps", "learning_rates", "rows", "vocabulary")
    about = {name: settings[name] for name in names}
    about |= {"data": data, "text": dataset().digest if data == "text" else "none"}
    return lab.artifact("teacher", make_teacher, **about)


# %%
def lesson(data, how):
    """A maker of steps, and what the teacher itself reached."""
    if how == "scratch":
        return distill.pretrain_step, {}
    if how == "oracle":
        return functools.partial(distill.distill_step, teacher=language().oracle), {}
    kept = teacher_of("text" if data == "text" else "language")
    graph = distill.static_part(config_of("teacher", data))
    teach = distill.frozen_teacher(graph, kept["weights"])
    return functools.partial(distill.distill_step, teacher=teach), {"teacher": kept["loss"]}


# %%
def measure(arm, seed, **_):
    data, how = arm.split(".")
    make_step, numbers = lesson(data, how)
    _, losses = train("student", data, seed, make_step)
    numbers |= {"loss": losses[1][-1]}
    if data != "text":
        entropies = np.asarray(language().entropies(held_out(data).tokens))[:, :-1]
        numbers["floor"] = entropies.mean()
    digest = dataset().digest if data == "text" else None
    return lab.Measured(numbers, {"loss": losses}, data=digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
loss, curves = runs.numbers("loss"), runs.curve("loss")
floor = runs.numbers("floor")["language.scratch"][0]
teachers = {arm: values[0] for arm, values in runs.numbers("teacher").items()}
means = {arm: lab.mean_interval(values) for arm, values in loss.items()}
pd.DataFrame({"held-out loss, nats per token": means, "its teacher's": pd.Series(teachers)})

# %% [markdown]
# ## Learning curves
#
# Lines are means over seeds, bands their 95 % intervals. In the language, the dotted line is the
# floor: the entropy of the true probabilities on the held-out rows, computed and not fitted. The
# dashed line is where the teacher ended.

# %%
KINDS = {"text": "real text", "language": "language, always new", "limited": "language, few rows"}
LOOKS = {"scratch": "scratch", "distilled": "distilled", "oracle": "jeffreys"}
thousand = batch * time / 1000
fig, axes = lab.subplots(1, 3, height=3.4, width=11.5)
for ax, (data, title) in zip(axes, KINDS.items()):
    shown = {how: curves[f"{data}.{how}"] for how in LOOKS if f"{data}.{how}" in curves}
    shown = {how: (x * thousand, y) for how, (x, y) in shown.items()}
    lab.plot_curves(ax, shown, colors={how: style.ROLES[LOOKS[how]] for how in shown})
    ax.axhline(teachers[f"{data}.distilled"], color=style.GREY, lw=1.2, dashes=(4, 2.5))
    if data != "text":
        ax.axhline(floor, color=style.INK, lw=1.2, ls=":")
    highest = max(y[:, 2:].mean(0).max() for _, y in shown.values())
    ax.set(title=title, xlabel="tokens read, thousands")
    ax.set_ylim(top=highest + 0.1 * (highest - teachers[f"{data}.distilled"]))
axes[0].set_ylabel("held-out loss, nats per token")
alt = "Held-out loss over tokens read, three panels: " + "; ".join(
    f"{arm} ends at {mean.value:.2f}" for arm, mean in means.items()
)
drawn = {(arm, i): pd.Series(v) for arm, (_, ys) in curves.items() for i, v in enumerate(ys)}
drawn = pd.DataFrame(drawn).set_axis(curves["text.scratch"][0] * thousand)
drawn.columns = [f"{arm}_seed{i}" for arm, i in drawn.columns]
experiment.figure(fig, "learning_curves", numbers=drawn.rename_axis("thousand_tokens"), alt=alt)

# %% [markdown]
# ## The difference, pair by pair
#
# Each student against the one from scratch with the same seed. Left of the line, the lesson helped.

# %%
gaps = {
    (data, how): lab.paired_difference(loss[f"{data}.{how}"], loss[f"{data}.scratch"])
    for data in KINDS
    for how in ("distilled", "oracle")
    if f"{data}.{how}" in loss
}

# %%
fig, ax = lab.subplots(height=2.8)
ax.axvline(0, color=style.INK, lw=1)
for row, ((_, how), gap) in enumerate(gaps.items()):
    color = style.ROLES[LOOKS[how]]
    ax.plot([gap.low, gap.high], [row, row], color=color, lw=3)
    ax.plot(gap.value, row, "o", ms=7, color=color)
ax.set(yticks=range(len(gaps)), yticklabels=[f"{KINDS[d]}: {h}" for d, h in gaps])
ax.set(ylim=(len(gaps) - 0.5, -0.5), xlabel="minus scratch, nats per token")
ax.grid(visible=False)
alt = "Differences to scratch: " + "; ".join(f"{d} {h} {g}" for (d, h), g in gaps.items())
drawn = pd.DataFrame({f"{d}.{h}": vars(g) for (d, h), g in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("lesson"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(gap):
    side = "better" if gap.high < 0 else "worse" if gap.low > 0 else "not told apart"
    return f"**{side}** ({gap} nats)"


above = {how: means[f"language.{how}"].value - floor for how in LOOKS}
found = f"""
- On real text the distilled student is {told(gaps["text", "distilled"])} than the one from scratch.
- On the language with ever new rows: distilled {told(gaps["language", "distilled"])}, with the
  truth as its teacher {told(gaps["language", "oracle"])}. Above the floor of {floor:.3f} nats
  remain {above["scratch"]:.3f} from scratch, {above["distilled"]:.3f} distilled,
  {above["oracle"]:.3f} with the truth.
- With few rows: distilled {told(gaps["limited", "distilled"])}, with the truth
  {told(gaps["limited", "oracle"])}.
"""
display(Markdown(found))

# %%
numbers = {f"loss.{arm}": mean for arm, mean in means.items()} | {"floor": floor}
numbers |= {f"gap.{data}.{how}": gap for (data, how), gap in gaps.items()}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# The verdict is on the direction, for students of this size that read this much. Table 6 measures
# benchmarks, on which models of this size know nothing, so held-out loss stands in for them. The
# intervals speak of seeds, with one teacher, one text and one language. What the teacher costs is
# not counted: at equal *data* the comparison looks like this. With all the data in the world and
# all the time to read it, scratch and oracle end at the same floor; the gain is one of speed.
#
# ## What to try next
#
# - `-p corpus=path/to/a/folder`: your own text.
# - `-p steps=2000`: does the gain shrink as the student reads more?
# - `-p rows=[8,128,16]`: with sixteen rows to read, what does learning from scratch remember?
# - `-p teacher_steps=60`: how bad may a teacher be before it does harm?
