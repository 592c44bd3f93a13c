# %% [markdown]
# # Table 7: does the teacher's help last as the student grows?
#
# If a teacher only helped very small students, distillation would be a trick for toys. Table 7 of
# [Gemma 2](https://arxiv.org/abs/2408.00118) says that it is not: three students of 200 million to
# one billion weights, each trained from scratch and from the same 7B teacher, and the gain stays.
# We train three small sizes on this machine's own text, five pairs each, and ask two questions: is
# the gain there at *every* size, and does it shrink from the smallest to the largest?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "small.scratch", "small.distilled", "medium.scratch", "medium.distilled",
    "large.scratch", "large.distilled"]  # size.lesson  # fmt: skip
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # pairs of students of a size
steps: int | None = None  # optimizer steps of a student
teacher_steps: int | None = None  # optimizer steps of the teacher
widths: list[int] | None = None  # of the three students and the teacher
layers: list[int] | None = None  # of the three students and the teacher
rows: list[int] | None = None  # in a step, and tokens in each
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: int | None = None  # of text, all splits together
rates: list[float] | None = None  # learning rates of the three students and the teacher
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "teacher_steps": 6, "widths": [64, 64, 64, 64],
              "layers": [2, 2, 2, 2], "rows": [4, 32], "vocabulary": 400, "megabytes": 1,
              "rates": [0.01, 0.01, 0.01, 0.01]},
    "laptop": {"seeds": 5, "steps": 200, "teacher_steps": 500, "widths": [64, 64, 128, 192],
               "layers": [2, 4, 2, 2], "rows": [8, 128], "vocabulary": 512, "megabytes": 6,
               "rates": [0.015, 0.015, 0.01, 0.006]},
    "gpu": {"seeds": 5, "steps": 2000, "teacher_steps": 4000, "widths": [256, 512, 768, 1024],
            "layers": [6, 8, 12, 16], "rows": [32, 512], "vocabulary": 8192, "megabytes": 190,
            "rates": [0.003, 0.002, 0.0015, 0.001]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.gemma.accounting import parameter_count
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, teacher_steps=teacher_steps, widths=widths,
    layers=layers, rows=rows, vocabulary=vocabulary, megabytes=megabytes, rates=rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time = s.rows
WHO = ["small", "medium", "large", "teacher"]
experiment = lab.Experiment("gemma2/05_student_sizes", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Perplexity on held-out text, one run each. It falls by two points at each size, which in nats, the
# unit of the loss that is trained, is a gain of 0.09 to 0.13 that *grows* a little with the size.
# How many tokens were read, and which text was held out, the report does not say.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
table_7 = pd.DataFrame(next(c for c in ledger if c.id == "gemma2-table-07").values)
table_7 = table_7.set_index("student")
table_7

# %% [markdown]
# ## The idea in one equation
#
# Perplexity is $e^{\mathcal L}$ with $\mathcal L$ the mean loss per token, so a constant gain in
# perplexity, $\Delta$, is worth more nats where the perplexity is lower:
#
# $$\mathcal L_{\text{scratch}} - \mathcal L_{\text{distilled}}
#   = -\log\Big(1 - \frac{\Delta}{e^{\mathcal L_{\text{scratch}}}}\Big).$$
#
# We compare nats, since they do not depend on where one starts.
#
# ## The text and the models
#
# Python source of the standard library and of the installed packages, split by file, or a folder of
# your own. Three students in the 2B's proportions, and a teacher that is larger than all of them
# and reads more of the same train files.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.megabytes
    options = {"max_bytes": limit, "vocab_size": s.vocabulary, "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


# %%
def config_of(who):
    shape = s.widths[WHO.index(who)], s.layers[WHO.index(who)]
    return distill.small_gemma(s.vocabulary, *shape, window=time // 2)


# %% [markdown]
# ## One way to train
#
# As in the notebook on Table 6: the two students of a seed start equal, read the same tokens in the
# same order, and differ by what they are asked for at each place, one token or a distribution.
# Learning rates are per size and shared by both lessons.


# %%
def train(who, num_steps, seed, make_step):
    graph, weights = distill.new_model(config_of(who), seed)
    optimizer = distill.adamw(s.rates[WHO.index(who)], num_steps)
    held_out = texts.spread(dataset().validation, 16 * batch)
    watch = {"evaluate": distill.evaluate(graph, held_out, batch), "name": who}
    watch["eval_every"] = max(1, num_steps // 10)
    step, state = make_step(graph, optimizer), distill.train_state(weights, optimizer)
    stream = texts.batches(dataset().train, batch, seed)
    state, history = lab.fit(step, state, stream, num_steps=num_steps, **watch)
    return state.weights, history["validation_loss"]


# %%
def make_teacher(**_):
    weights, (_, losses) = train("teacher", s.teacher_steps, 1000, distill.pretrain_step)
    return {"weights": weights, "loss": losses[-1]}


# %%
@functools.cache
def teacher():
    names = ("widths", "layers", "teacher_steps", "rates", "rows", "vocabulary")
    about = {name: settings[name] for name in names}
    kept = lab.artifact("teacher", make_teacher, text=dataset().digest, **about)
    graph = distill.static_part(config_of("teacher"))
    return distill.frozen_teacher(graph, kept["weights"]), kept["loss"]


# %%
def measure(arm, seed, **_):
    who, how = arm.split(".")
    make_step, numbers = distill.pretrain_step, {}
    if how == "distilled":
        teach, numbers["teacher"] = teacher()
        make_step = functools.partial(distill.distill_step, teacher=teach)
    weights, losses = train(who, s.steps, seed, make_step)
    numbers |= {"loss": losses[1][-1], "weights": sum(x.size for x in jax.tree.leaves(weights))}
    numbers["layers"] = parameter_count(config_of(who)).non_embedding
    return lab.Measured(numbers, {"loss": losses}, data=dataset().digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
loss, curves = runs.numbers("loss"), runs.curve("loss")
taught_by = max(values[0] for values in runs.numbers("teacher").values())
SIZES = [who for who in WHO[:3] if f"{who}.distilled" in loss and f"{who}.scratch" in loss]
counts = {who: runs.numbers("layers")[f"{who}.scratch"][0] for who in SIZES}

# %%
gaps = {w: lab.paired_difference(loss[f"{w}.distilled"], loss[f"{w}.scratch"]) for w in SIZES}
table = {
    who: {how: lab.mean_interval(loss[f"{who}.{how}"]) for how in ("scratch", "distilled")}
    for who in SIZES
}
pd.DataFrame(table).T.assign(difference=pd.Series(gaps), layer_weights=pd.Series(counts))

# %% [markdown]
# ## Loss against size
#
# Each dot is a student, bars are 95 % intervals of the mean over seeds. Weights are counted without
# the embedding table, as the paper counts them. The dashed line is the teacher.

# %%
fig, ax = lab.subplots(height=3.6)
for how in ("scratch", "distilled"):
    color = style.ROLES[how]
    means = [table[who][how] for who in SIZES]
    x = np.array([counts[who] for who in SIZES])
    ax.plot(x, [mean.value for mean in means], color=color, lw=1.5)
    for who, place, mean in zip(SIZES, x, means):
        ax.plot([place, place], [mean.low, mean.high], color=color, lw=3)
        values = loss[f"{who}.{how}"]
        ax.plot(np.full(len(values), place), values, ".", ms=4, color=color, alpha=0.6)
    ax.text(x[-1] * 1.08, means[-1].value, how, color=style.ink(color), va="center")
ax.axhline(taught_by, color=style.GREY, lw=1.2, dashes=(4, 2.5))
ax.text(min(counts.values()), taught_by, "the teacher", color=style.ink(style.GREY), va="bottom")
ax.set(xscale="log", xlabel="weights of the layers", ylabel="held-out loss, nats per token")
ax.set_xlim(right=1.6 * max(counts.values()))
alt = "Held-out loss falls with size on two lines, the distilled one lower at each size."
drawn = {f"{w}.{h}": vars(table[w][h]) | {"weights": counts[w]} for w in SIZES for h in table[w]}
experiment.figure(fig, "sizes", numbers=pd.DataFrame(drawn).T.rename_axis("arm"), alt=alt)

# %% [markdown]
# ## The gain at each size
#
# Pairs of one seed are compared: blue bars are 95 % intervals of the mean difference. Diamonds are
# Table 7's three gains. They come from another text, another vocabulary and models a thousand times
# as large, so what can be compared is the side of the line, and whether the row of marks leans.

# %%
fig, ax = lab.subplots(height=2.8)
names = [f"{who}, {counts[who] / 1000:,.0f} thousand" for who in SIZES]
names += [f"Table 7, {student}" for student in table_7.index]
ax.axvline(0, color=style.INK, lw=1)
for row, who in enumerate(SIZES):
    ax.plot([gaps[who].low, gaps[who].high], [row, row], color=style.ROLES["distilled"], lw=3)
    ax.plot(gaps[who].value, row, "o", ms=7, color=style.ROLES["distilled"])
places = np.arange(len(SIZES), len(names))
ax.plot(-table_7["gap_nats"], places, "D", mfc="white", mec=style.INK)
ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
ax.set(xlabel="distilled minus scratch, nats per token")
ax.grid(visible=False)
alt = "Differences: " + "; ".join(f"{who} {gap}" for who, gap in gaps.items())
alt += "; Table 7 has three near -0.1."
drawn = pd.DataFrame({who: vars(gap) for who, gap in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("student"), alt=alt)

# %% [markdown]
# ## While they learn

# %%
fig, axes = lab.subplots(1, 3, height=2.9, width=11)
for ax, who in zip(axes, SIZES):
    both = {how: curves[f"{who}.{how}"] for how in ("scratch", "distilled")}
    lab.plot_curves(ax, {how: (x * batch * time / 1000, y) for how, (x, y) in both.items()})
    ax.axhline(taught_by, color=style.GREY, lw=1.2, dashes=(4, 2.5))
    ax.set(title=who, xlabel="tokens read, thousands")
    ax.set_ylim(top=curves[f"{who}.scratch"][1][:, 2].mean() + 0.1)
axes[0].set_ylabel("held-out loss, nats per token")
alt = "Three panels of learning curves; the distilled curve is the lower one in each."
drawn = {f"{arm}_seed{i}": v for arm, (_, ys) in curves.items() for i, v in enumerate(ys)}
drawn = pd.DataFrame(drawn, curves[arms[0]][0] * batch * time / 1000)
experiment.figure(fig, "curves", numbers=drawn.rename_axis("thousand_tokens"), alt=alt)

# %% [markdown]
# ## What we found

# %%
first, last = SIZES[0], SIZES[-1]
change = lab.paired_difference(
    loss[f"{last}.distilled"] - loss[f"{last}.scratch"],
    loss[f"{first}.distilled"] - loss[f"{first}.scratch"],
)

# %%
helped = [who for who in SIZES if gaps[who].high < 0]
lean = "shrinks" if change.low > 0 else "grows" if change.high < 0 else "stays, within noise"

# %%
found = f"""
- The distilled student is better, its whole interval below zero, at **{len(helped)} of
  {len(SIZES)}** sizes.
- From the smallest to the largest student the gain **{lean}**: the difference of the differences
  is {change} nats, where above zero means that the larger one gains less.
"""
display(Markdown(found))

# %%
numbers = {f"gap.{who}": gap for who, gap in gaps.items()} | {"gap.change": change}
numbers |= {f"loss.{who}.{how}": m for who, both in table.items() for how, m in both.items()}
experiment.report(numbers | {"loss.teacher": taught_by})

# %% [markdown]
# ## How far this goes
#
# Sizes here span a factor of four, the paper's a factor of five, but a thousand times further down.
# Held-out loss is measured on the text's own tokens. The students read little for their size, and
# guidance is worth most to those who have read little. One teacher, one text: the intervals speak
# of seeds alone. As a student nears its teacher's size the gain must shrink, since all it can learn
# from the teacher then is what the teacher knows.
#
# ## What to try next
#
# - `-p widths=[64,64,128,64] -p layers=[2,4,2,2]`: a teacher smaller than its students.
# - `-p steps=1000`: does the gain last when students read five times as much?
# - `-p corpus=path/to/a/folder`: your own text.
