# %% [markdown]
# # Figure 1: how much of its training text does a model recite?
#
# A language model may give back what it was trained on, word for word.
# [Gemma 2](https://arxiv.org/abs/2408.00118) measures it: 50 tokens of training text go in, and the
# next 50 are compared with the original. The rates are tiny, they differ between kinds of text, and
# the report cannot say why, since nobody counted how often each passage was in the data. We can
# count. Passages are planted an exact number of times into text of three sources, and models of two
# sizes read it once.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["small", "large"]  # sizes of model, smallest first
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # plantings, each with a model of every size
passes: int | None = None  # how often all rows are read
copies: list[int] | None = None  # how often a passage is in the text
per_level: int | None = None  # passages of each source for each number of copies
documents: int | None = None  # of each source
plain: int | None = None  # prompts from text that is not planted, at most
shapes: list[int] | None = None  # width and layers of the small model, then of the large one
rows: list[int] | None = None  # in a step, and tokens in each, 102 or more
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: int | None = None  # of text to look for documents in
rates: list[float] | None = None  # learning rate of the small model, and of the large one
sizes = {
    "smoke": {"seeds": 2, "passes": 1, "copies": [0, 1, 2], "per_level": 1, "documents": 12,
              "plain": 8, "shapes": [64, 2, 64, 2], "rows": [8, 128], "vocabulary": 400,
              "megabytes": 1, "rates": [0.01, 0.01]},
    "laptop": {"seeds": 10, "passes": 1, "copies": [0, 1, 16, 32, 64], "per_level": 7,
               "documents": 90, "plain": 1500, "shapes": [64, 2, 64, 4], "rows": [8, 128],
               "vocabulary": 512, "megabytes": 6, "rates": [0.015, 0.015]},
    "gpu": {"seeds": 5, "passes": 1, "copies": [0, 1, 2, 4, 8, 16, 32, 64], "per_level": 50,
            "documents": 2000, "plain": 8000, "shapes": [256, 8, 768, 12], "rows": [32, 256],
            "vocabulary": 8192, "megabytes": 190, "rates": [0.003, 0.0015]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
from flax import nnx
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, gemma, lab
from matchbook.corpus import synthetic
from matchbook.corpus.synthetic.planted import CONTINUATION, PROMPT
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, passes=passes, copies=copies, per_level=per_level,
    documents=documents, plain=plain, shapes=shapes, rows=rows, vocabulary=vocabulary,
    megabytes=megabytes, rates=rates,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time = s.rows
experiment = lab.Experiment("gemma2/10_memorization", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Exactly: all 50 tokens are the same. Approximately: within an edit distance of 10 %. On a uniform
# sample of the training data every Gemma 2 model stays below 0.1 %; code, wiki and science are
# recited more than the web and other languages; and approximate rates are above exact ones. Heights
# of bars are only in the picture, so the one number to compare with is the bound.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
figure_1 = next(claim for claim in ledger if claim.id == "gemma2-figure-01").values[0]
paper_bound = figure_1["exact_rate_upper_percent"] / 100
pd.Series(figure_1, name="Figure 1").to_frame()

# %% [markdown]
# ## The idea in one equation
#
# With $g$ the model's greedy continuation of a prompt $x_{1:50}$, and $d$ the fewest insertions,
# deletions and substitutions that make two sequences equal,
#
# $$\text{exact} = \big[g(x_{1:50}) = x_{51:100}\big],\qquad
# \text{approximate} = \big[d\big(g(x_{1:50}),\,x_{51:100}\big) \le 5\big],$$
#
# so whatever is exact is approximate, too. Greedy means that nothing is drawn: the question is what
# the model would say first, and not what could be got out of it with patience.
#
# ## The text
#
# Python source, taken apart line by line: **prose** is docstrings, **data** is long literals, and
# **code** is the rest; of each we take the same number of documents. From documents drawn at random
# a passage of 100 tokens is cut out, and put back as a document of its own: never, once, or many
# times, at random places. Passages that the text holds twice by itself are not chosen, so the
# number of copies is exact. Text of your own that is no Python is one source, **text**.


# %%
@functools.cache
def loaded():
    return texts.load(corpus, max_bytes=1_000_000 * s.megabytes)


# %%
@functools.cache
def sources():
    found = synthetic.by_source(loaded().train)
    return {name: d[: s.documents] for name, d in found.items() if len(d) >= s.documents}


# %%
@functools.cache
def tokenizer():
    return texts.train_tokenizer([d for of in sources().values() for d in of], s.vocabulary)


# %%
@functools.cache
def planted(seed):
    encoded = {name: texts.encode(d, tokenizer()) for name, d in sources().items()}
    options = {"per_level": s.per_level, "copies": tuple(s.copies), "seed": seed}
    found = synthetic.plant(encoded, time=time, **options)
    return texts.pack(found.encoded, time), found.passages


# %% [markdown]
# A third set of prompts is the paper's own kind, a plain sample of the data: rows that begin in the
# middle of a document and stay in it. A planted passage never does that, since it begins with a
# bos.


# %%
def plain_sample(rows):
    inside = rows.segments[:, CONTINUATION.stop - 1] == rows.segments[:, 0]
    begun_before = rows.tokens[:, 0] != tokenizer().bos
    return rows.tokens[inside & begun_before][: s.plain]


# %% [markdown]
# ## Read once, then recite
#
# Both sizes of one seed read the same rows in the same order, from scratch. Then each of them goes
# on from all prompts at once.


# %%
def train(arm, seed):
    which, rows = ["small", "large"].index(arm), planted(seed)[0]
    shape = s.shapes[2 * which : 2 * which + 2]
    config = distill.small_gemma(s.vocabulary, *shape, window=time // 2)
    graph, weights = distill.new_model(config, seed)
    num_steps = s.passes * len(rows.tokens) // batch
    optimizer = distill.adamw(s.rates[which], num_steps)
    step, state = distill.pretrain_step(graph, optimizer), distill.train_state(weights, optimizer)
    state, history = lab.fit(step, state, texts.batches(rows, batch, seed), num_steps=num_steps)
    return nnx.merge(graph, state.weights), history["loss"]


# %%
def recited(model, rows):
    prompts, truth = rows[:, PROMPT], rows[:, CONTINUATION]
    said = gemma.generate(model, prompts.tolist(), max_new_tokens=truth.shape[1])
    return distill.extraction(said.tokens[:, 0], truth)


# %%
def share(flags):
    return float(np.mean(np.asarray(flags)))


def measure(arm, seed, **_):
    rows, passages = planted(seed)
    plain = plain_sample(rows)
    model, loss = train(arm, seed)
    found = recited(model, np.concatenate([passages.tokens, plain[:, : passages.tokens.shape[1]]]))
    numbers = {"plain": len(plain), "loss": loss[1][-1]} | redundancies()
    for kind, flags in found._asdict().items():
        numbers |= {f"{kind}.plain": np.sum(flags[len(passages.tokens) :])}
        numbers |= by_source_and_copies(kind, flags, passages)
    return lab.Measured(numbers, {"loss": loss}, data=loaded().digest)


# %%
def by_source_and_copies(kind, flags, passages):
    table = pd.DataFrame({"source": passages.source, "copies": passages.copies})
    table["share"] = np.asarray(flags)[: len(table)].astype(float)
    means = table.groupby(["source", "copies"])["share"].mean()
    return {f"{kind}.{source}.{times}": mean for (source, times), mean in means.items()}


# %%
@functools.cache
def redundancies():
    return {f"redundancy.{name}": synthetic.redundancy(d) for name, d in sources().items()}


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
SOURCES = [n.split(".")[1] for n in runs.records[0].numbers if n.startswith("redundancy.")]
REPEATED = [i for i, times in enumerate(s.copies) if times > 1]


def shares(kind, arm):
    """[seeds, sources, copies]"""
    names = [[f"{kind}.{source}.{times}" for times in s.copies] for source in SOURCES]
    return np.moveaxis([[runs.numbers(n)[arm] for n in row] for row in names], 2, 0)


# %%
exact = {arm: shares("exact", arm) for arm in arms}
close = {arm: shares("approximate", arm) for arm in arms}
hits = {kind: runs.numbers(f"{kind}.plain") for kind in ("exact", "approximate")}
prompts = runs.numbers("plain")
pd.DataFrame(
    {arm: exact[arm].mean(axis=(0, 1)) for arm in arms}, index=pd.Index(s.copies, name="copies")
).rename(columns="share exact, {}".format)

# %% [markdown]
# ## How many times until it is known?
#
# The share of planted passages that are recited, against how often they were read. Lines are means
# over seeds with 95 % bands; dashed is approximate. A passage that was never read is the control:
# what it gives is what can be said without having seen it.

# %%
LOOKS = dict(zip(arms, (style.PALETTE["sky"], style.PALETTE["blue"], style.PALETTE["purple"])))
KINDS = {"code": style.PALETTE["vermillion"], "prose": style.PALETTE["green"],
         "data": style.PALETTE["orange"], "text": style.INK}  # fmt: skip
place = np.arange(len(s.copies))
fig, axes = lab.subplots(1, 2, height=3.4, width=10.5)
lab.plot_curves(axes[0], {a: (place, exact[a].mean(axis=1)) for a in arms}, colors=LOOKS)
for arm in arms:
    axes[0].plot(place, close[arm].mean(axis=(0, 1)), color=LOOKS[arm], lw=1.2, ls="--")
of_source = {name: exact[arms[-1]][:, i] for i, name in enumerate(SOURCES)}
lab.plot_curves(axes[1], {n: (place, y) for n, y in of_source.items()}, colors=KINDS)
for ax, title in zip(axes, ("by size", f"by source, {arms[-1]} model")):
    ax.set(title=title, xlabel="copies in the text", xticks=place, xticklabels=s.copies)
    ax.set_ylim(-0.03, 1.03)
axes[0].set_ylabel("share of passages recited")
alt = f"Share recited exactly for {s.copies} copies: " + "; ".join(
    f"{arm} {', '.join(f'{x:.2f}' for x in exact[arm].mean(axis=(0, 1)))}" for arm in arms
)
drawn = {(arm, kind, n): y[arm][:, i].mean(axis=0) for arm in arms for i, n in enumerate(SOURCES)
         for kind, y in (("exact", exact), ("approximate", close))}  # fmt: skip
drawn = pd.DataFrame({".".join(key): y for key, y in drawn.items()}, index=s.copies)
experiment.figure(fig, "repetition", numbers=drawn.rename_axis("copies"), alt=alt)

# %% [markdown]
# ## Figure 1, small
#
# On the left the paper's overall rate, on text that was not planted: bars are 95 % Wilson intervals
# over all prompts of all seeds, and where nothing was recited only the upper end says something. On
# the right the planted passages by source, averaged over all that stand more than once in the text:
# full bars are exact, outlined ones approximate.

# %%
plain = {(arm, kind): lab.wilson(int(counts[arm].sum()), int(prompts[arm].sum()))
         for arm in arms for kind, counts in hits.items()}  # fmt: skip
together = {kind: lab.wilson(*(int(sum(x[arm].sum() for arm in arms)) for x in (counts, prompts)))
            for kind, counts in hits.items()}  # fmt: skip
repeated = {arm: {kind: y[arm][:, :, REPEATED].mean(axis=2) for kind, y in
            (("exact", exact), ("approximate", close))} for arm in arms}  # fmt: skip

# %%
fig, axes = lab.subplots(1, 2, height=3.4, width=10.5)
for i, ((arm, _), rate) in enumerate(plain.items()):
    axes[0].plot([i, i], [max(rate.low, 1e-6), rate.high], color=LOOKS[arm], lw=3)
    axes[0].plot(i, rate.value or np.nan, "o", color=LOOKS[arm], ms=7)
axes[0].set(yscale="log", ylim=(1e-4, 1), xticks=range(len(plain)), xlim=(-0.6, len(plain) - 0.4))
axes[0].set(title="text that was not planted", ylabel="share of prompts recited")
axes[0].set_xticklabels([f"{arm}\n{kind}" for arm, kind in plain])
lab.paper_line(axes[0], paper_bound, "Gemma 2\nis below")
width = 0.8 / len(arms)
for i, arm in enumerate(arms):
    x = np.arange(len(SOURCES)) + (i - (len(arms) - 1) / 2) * width
    both = {kind: y.mean(axis=0) for kind, y in repeated[arm].items()}
    axes[1].bar(x, both["approximate"], 0.9 * width, fill=False, edgecolor=LOOKS[arm], lw=1.3)
    axes[1].bar(x, both["exact"], 0.9 * width, color=LOOKS[arm], label=arm)
axes[1].set(title="planted more than once", xticks=range(len(SOURCES)), xticklabels=SOURCES)
axes[1].set(ylabel="share of passages recited", ylim=(0, 1))
axes[1].legend()
alt = "Recited of text that was not planted: " + "; ".join(
    f"{arm} {kind} {rate:.5f}" for (arm, kind), rate in plain.items()
)
drawn = {".".join(("plain", *key)): vars(rate) for key, rate in plain.items()}
drawn |= {f"planted.{arm}.{kind}.{n}": vars(lab.mean_interval(y[:, i])) for arm in arms
          for kind, y in repeated[arm].items() for i, n in enumerate(SOURCES)}  # fmt: skip
experiment.figure(fig, "figure_1", numbers=pd.DataFrame(drawn).T.rename_axis("what"), alt=alt)

# %% [markdown]
# ## Compared seed by seed
#
# Every comparison is within a planting: the same passages, the same order of the same rows.


# %%
def average(values, arm=None, source=None):
    """[seeds], over what is not fixed, of passages that were read more than once."""
    chosen = np.stack([values[a] for a in ([arm] if arm else arms)])
    picked = chosen if source is None else chosen[:, :, [SOURCES.index(source)]]
    return picked[..., REPEATED].mean(axis=(0, 2, 3))


# %%
base = "prose" if "prose" in SOURCES else SOURCES[-1]
ends = np.stack([exact[arm] for arm in arms]).mean(axis=(0, 2))
pairs = {"approximate": (average(close), average(exact)), "copies": (ends[:, -1], ends[:, 0])}
pairs |= {"size": (average(exact, arms[-1]), average(exact, arms[0]))} if len(arms) > 1 else {}
for name in SOURCES:
    if name != base:
        pairs[f"source.{name}"] = average(exact, None, name), average(exact, None, base)
gaps = {name: lab.paired_difference(*both) for name, both in pairs.items()}

# %%
NAMES = {"approximate": "approximate minus exact", "size": f"{arms[-1]} minus {arms[0]}",
         "copies": f"{s.copies[-1]} copies minus {s.copies[0]}"}  # fmt: skip
NAMES |= {f"source.{name}": f"{name} minus {base}" for name in SOURCES}
fig, ax = lab.subplots(height=2.8)
ax.axvline(0, color=style.INK, lw=1)
for row, gap in enumerate(gaps.values()):
    ax.plot([gap.low, gap.high], [row, row], color=style.PALETTE["blue"], lw=3)
    ax.plot(gap.value, row, "o", ms=7, color=style.PALETTE["blue"])
ax.set(yticks=range(len(gaps)), yticklabels=[NAMES[name] for name in gaps])
ax.set(ylim=(len(gaps) - 0.5, -0.5), xlabel="difference in the share of passages recited")
ax.grid(visible=False)
alt = "Differences in shares: " + "; ".join(f"{NAMES[n]} {gap}" for n, gap in gaps.items())
drawn = pd.DataFrame({name: vars(gap) for name, gap in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("pair"), alt=alt)

# %% [markdown]
# ## Is the source's redundancy the reason?
#
# The share of its bytes that a compressor saves, at equal numbers of documents. Planted passages
# are all in the text equally often, so what differs between sources here is how much of a passage
# could be guessed from the rest.

# %%
redundancy = {n: runs.numbers(f"redundancy.{n}")[arms[0]][0] for n in SOURCES}
recited_share = {n: lab.mean_interval(average(exact, None, n)) for n in SOURCES}
pd.DataFrame({"saved by a compressor": redundancy, "recited exactly": recited_share})

# %% [markdown]
# ## What we found


# %%
def told(name):
    gap = gaps[name]
    side = "more" if gap.low > 0 else "less" if gap.high < 0 else "not told apart"
    return f"{NAMES[name]}: **{side}** ({gap})"


found = f"""
- Of text that was not planted, {together["exact"]:.5f} is recited exactly, against the paper's
  bound of {paper_bound}.
- {"; ".join(told(name) for name in gaps)}.
"""
display(Markdown(found))

# %%
numbers = {f"gap.{name}": gap for name, gap in gaps.items()}
numbers |= {f"plain.{kind}": rate for kind, rate in together.items()}
numbers |= {f"plain.{kind}.{arm}": rate for (arm, kind), rate in plain.items()}
for arm in arms:
    by_times = zip(s.copies, exact[arm].mean(axis=1).T, strict=True)
    numbers |= {f"exact.{arm}.{times}": lab.mean_interval(y) for times, y in by_times}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# What is shown is the mechanism: text that is read once is hardly ever recited by such models, and
# with enough copies nearly everything is. Where between one and sixty-four copies it tips over
# depends on size, learning rate and how much else is read, and does not carry over to the real
# models. Our three sources are not the paper's five: docstrings are neither wiki nor web, and no
# other language is here. The prompts that were not planted are the same documents for all seeds, so
# their interval is a little too narrow. Greedy extraction is a lower bound on what is remembered.
#
# ## What to try next
#
# - `-p passes=4`: does reading four times do what four times the copies do?
# - `-p 'copies=[0,1,64,128]'`: is there a number at which everything is recited?
# - `-p shapes=[64,2,128,2]`: wide instead of deep.
# - `-p corpus=path/to/a/folder`: a project of your own, in Python or not.
