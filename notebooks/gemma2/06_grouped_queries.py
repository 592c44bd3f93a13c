# %% [markdown]
# # Table 8: may two query heads share their keys and values?
#
# While it writes, a model reads the keys and values of everything before, for every token anew.
# [Gemma 2](https://arxiv.org/abs/2408.00118) lets two query heads share one key/value head
# (grouped-query attention, GQA), which halves what is read. Table 8 is the evidence that nothing is
# lost: at 9B, GQA scores as well as one key/value head for each query head (multi-head attention,
# MHA). We ask three things here: what does sharing cost in loss, on models trained from eight
# seeds; what does it save, exactly, in the real 9B; and does the time per token follow the bytes?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["mha", "gqa", "mqa", "gqa+mlp", "decode"]  # mha and decode are always needed
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # models of an arm
steps: int | None = None  # optimizer steps
shape: list[int] | None = None  # width, layers and query heads
rows: list[int] | None = None  # in a step, tokens in each, and held out
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: int | None = None  # of text, all splits together
rate: float | None = None  # learning rate at its peak
decoder: list[int] | None = None  # of the timed model: width, query heads, window, rows, new tokens
contexts: list[int] | None = None  # tokens before those whose decoding is timed
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "shape": [64, 2, 4], "rows": [4, 32, 16],
              "vocabulary": 400, "megabytes": 1, "rate": 0.015,
              "decoder": [64, 4, 32, 2, 4], "contexts": [64]},
    "laptop": {"seeds": 8, "steps": 240, "shape": [64, 2, 4], "rows": [8, 64, 256],
               "vocabulary": 512, "megabytes": 6, "rate": 0.015,
               "decoder": [256, 4, 1024, 8, 8], "contexts": [512, 1024, 2048, 4096]},
    "gpu": {"seeds": 5, "steps": 3000, "shape": [512, 8, 8], "rows": [32, 512, 512],
            "vocabulary": 8192, "megabytes": 190, "rate": 0.002,
            "decoder": [2048, 8, 4096, 16, 32], "contexts": [2048, 4096, 8192, 16384]}}  # fmt: skip

# %%
import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.gemma import Gemma2Config, accounting, cache, decoding
from matchbook.lab import style
from matchbook.lab.claims import load_claims
from matchbook.lab.timing import seconds

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, shape=shape, rows=rows, vocabulary=vocabulary,
    megabytes=megabytes, rate=rate, decoder=decoder, contexts=contexts,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time, held_out = s.rows
experiment = lab.Experiment("gemma2/06_grouped_queries", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Table 8: two 9B models, the average of four benchmarks that are not named, one run each. The half
# point that GQA is ahead means nothing by itself, since nothing is said about the spread between
# runs; the paper reads it as "no loss", and prefers GQA for its fewer parameters and its speed.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
pd.DataFrame(next(claim for claim in ledger if claim.id == "gemma2-table-08").values)

# %% [markdown]
# ## The idea in one equation
#
# With $N$ query heads and $K$ key/value heads, query head $n$ reads the keys and values of head
# $\lfloor nK/N \rfloor$:
#
# $$o_n = \mathrm{softmax}\big(q_n k_{\lfloor nK/N\rfloor}^\top\big)\, v_{\lfloor nK/N\rfloor},
# \qquad \text{bytes per token} = 2 \cdot \text{layers} \cdot K H \cdot \text{bytes of a number}.$$
#
# $K=N$ is MHA, $K=N/2$ is what all Gemma 2 models do, and $K=1$, one head for all, is multi-query
# attention (MQA), the far end of the road. The work of multiplying stays the same: there are as
# many queries as before. What shrinks is what has to be stored, moved and read.
#
# ## What is saved in the real 9B
#
# This is arithmetic and needs no training. The cache counts both keys and values in bfloat16 for
# one sequence at the full context of 8,192 tokens; local layers keep a window of 4,096.

# %%
gemma_9b = Gemma2Config.gemma2_9b()
real = {"mha": dataclasses.replace(gemma_9b, num_kv_heads=gemma_9b.num_heads), "gqa": gemma_9b}
counts = {arm: accounting.parameter_count(config).total for arm, config in real.items()}
kept = {arm: accounting.cache_bytes(config, 8192).total for arm, config in real.items()}
pd.DataFrame({"parameters": counts, "cache at 8,192 tokens, bytes": kept})

# %% [markdown]
# ## Four small models
#
# The small ones have the 2B's proportions, four query heads, and differ in their key/value heads:
#
# - **mha** has four, **gqa** two, **mqa** one;
# - **gqa+mlp** is gqa with what it saves spent on a wider MLP, so that it has the parameters of
#   mha. The paper says nothing of such a model. It separates two questions: what does sharing do,
#   and what do fewer parameters do?


# %%
def config_of(arm):
    width, layers, heads = s.shape
    few = {"mha": heads, "gqa": heads // 2, "mqa": 1, "gqa+mlp": heads // 2}[arm]
    saved = 2 * width * (width // heads) * (heads - few)
    return dataclasses.replace(
        distill.small_gemma(s.vocabulary, width, layers, window=time // 2),
        num_heads=heads, num_kv_heads=few, head_dim=width // heads,
        query_pre_attn_scalar=width // heads,
        mlp_dim=4 * width + ("+mlp" in arm) * round(saved / (3 * width)),
    )  # fmt: skip


# %%
SHARING = [arm for arm in arms if arm not in ("mha", "decode")]
ALL = ["mha", *SHARING]
weights = {arm: accounting.parameter_count(config_of(arm)).non_embedding for arm in ALL}
memory = {arm: accounting.cache_bytes_per_token(config_of(arm)) for arm in ALL}
pd.DataFrame({"weights of the layers": weights, "cache bytes per token": memory})

# %% [markdown]
# ## One way to train
#
# As in the notebook on Table 6: AdamW with warm-up, cosine and clipping, on Python source split by
# file. The models of one seed read the same tokens in the same order, which is what makes pairs of
# them comparable. They cannot start equal, since their weights have different shapes.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.megabytes
    options = {"max_bytes": limit, "vocab_size": s.vocabulary, "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


# %%
def train(config, seed):
    graph, weights = distill.new_model(config, seed)
    optimizer = distill.adamw(s.rate, s.steps)
    rows = texts.spread(dataset().validation, held_out)
    watch = {"evaluate": distill.evaluate(graph, rows, batch), "name": "train"}
    watch["eval_every"] = max(1, s.steps // 6)
    step, state = distill.pretrain_step(graph, optimizer), distill.train_state(weights, optimizer)
    stream = texts.batches(dataset().train, batch, seed)
    return lab.fit(step, state, stream, num_steps=s.steps, **watch)[1]["validation_loss"]


# %% [markdown]
# ## One way to time
#
# A larger model of two layers, with random weights, since speed does not depend on what they are.
# A compiled loop fills its cache to some context and decodes a few tokens for a few rows at a time.
# Each number is the median of five such loops. MHA and GQA are timed one after the other in the
# same run, and only their ratio is looked at, because how fast a machine is changes from minute to
# minute; of the ratios of all runs we take the median, which a disturbed run does not move.


# %%
def filled(config, context, num_rows):
    """The cache after a prompt of so many tokens; its keys and values are all 0."""
    shape = (num_rows, context, config.num_kv_heads, config.head_dim)
    places = jnp.broadcast_to(jnp.arange(context, dtype=jnp.int32), shape[:2])
    nothing, always = jnp.zeros(shape), jnp.ones_like(places)
    slots = [cache.num_slots(context + 64, window) for window in (config.sliding_window, None)]
    positions = [cache.stored_positions(places, always, count) for count in slots]
    pair = tuple(cache.fill(nothing, nothing, count) for count in slots)
    return cache.Cache(jnp.int32(context), *positions, pair * config.num_pairs)


# %%
@functools.partial(jax.jit, static_argnums=(1, 2))
def write(weights, context, num_rows, num_new):
    def step(_, carry):
        tokens, filled = carry
        places = jnp.broadcast_to(filled.columns, tokens.shape)
        logits, filled = decoding.decode(weights, filled, tokens, places)
        return logits.argmax(axis=-1).astype(jnp.int32), filled

    start = jnp.zeros(num_rows, jnp.int32), filled(weights.config.value, context, num_rows)
    return jax.lax.fori_loop(0, num_new, step, start)[0]


# %%
@functools.cache
def timed_model(sharing):
    width, heads, window, _, _ = s.decoder
    config = distill.small_gemma(s.vocabulary, width, 2, window=window)
    size = {"num_heads": heads, "head_dim": width // heads, "query_pre_attn_scalar": width // heads}
    config = dataclasses.replace(config, **size, num_kv_heads=heads // sharing)
    graph, weights = distill.new_model(config, 0)
    return config, decoding.unstack(nnx.merge(graph, weights))


# %%
def time_per_token(sharing, context):
    num_rows, new = s.decoder[3:]
    model = timed_model(sharing)[1]
    return seconds(lambda: write(model, context, num_rows, new)) / new


# %% [markdown]
# ## The runs


# %%
def measure(arm, seed, **_):
    if arm == "decode":
        times = [[time_per_token(sharing, c) for c in s.contexts] for sharing in (1, 2)]
        return lab.Measured({}, {n: (s.contexts, t) for n, t in zip(("mha", "gqa"), times)})
    losses = train(config_of(arm), seed)
    return lab.Measured({"loss": losses[1][-1]}, {"loss": losses}, data=dataset().digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
loss, curves = runs.numbers("loss"), runs.curve("loss")
means = {arm: lab.mean_interval(loss[arm]) for arm in ALL}
gaps = {arm: lab.paired_difference(loss[arm], loss["mha"]) for arm in SHARING}
pd.DataFrame({"held-out loss, nats per token": means, "minus mha": pd.Series(gaps)})

# %% [markdown]
# ## Is it equal?
#
# That an interval holds zero does not mean "equal": a poor experiment has wide intervals, which
# hold zero always. Equality needs a margin, named before one looks. Ours is **0.02 nats**, two per
# cent of perplexity, a fifth of what a teacher is worth in Table 7. Sharing costs nothing *that
# matters* if the whole interval lies left of the band's right edge, and the models are equivalent
# if it lies inside the band.

# %%
MARGIN = 0.02
fig, ax = lab.subplots(height=2.4)
ax.axvspan(-MARGIN, MARGIN, color=style.GREY, alpha=0.15, lw=0)
ax.axvline(0, color=style.INK, lw=1)
for row, arm in enumerate(SHARING):
    ax.plot([gaps[arm].low, gaps[arm].high], [row, row], color=style.PALETTE["blue"], lw=3)
    ax.plot(gaps[arm].value, row, "o", ms=7, color=style.PALETTE["blue"])
    ax.plot(loss[arm] - loss["mha"], np.full(len(loss[arm]), row + 0.25), ".", color=style.GREY)
labels = [f"{arm}, {weights[arm] / weights['mha']:.1%} of the weights" for arm in SHARING]
ax.set(yticks=range(len(SHARING)), yticklabels=labels, ylim=(len(SHARING) - 0.4, -0.6))
ax.set_xlabel("held-out loss minus mha's, nats per token; band: the margin")
ax.grid(visible=False)
alt = "Loss minus multi-head attention's: " + "; ".join(f"{a} {g}" for a, g in gaps.items())
drawn = pd.DataFrame({arm: vars(gap) for arm, gap in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("arm"), alt=alt)

# %% [markdown]
# ## While they learn
#
# Lines are means over seeds, bands their 95 % intervals. What a seed does is larger than what
# sharing does, which is why the comparison above is made within pairs.

# %%
thousands = {arm: (x * batch * time / 1000, y) for arm, (x, y) in curves.items() if arm in ALL}
fig, ax = lab.subplots(height=3.2)
lab.plot_curves(ax, {arm: (x[1:], y[:, 1:]) for arm, (x, y) in thousands.items()})
ax.set(xlabel="tokens read, thousands", ylabel="held-out loss, nats per token")
alt = "Learning curves, nearly on top of each other; they end at "
alt += ", ".join(f"{arm} {mean.value:.3f}" for arm, mean in means.items())
drawn = {f"{arm}_seed{i}": v for arm, (_, ys) in thousands.items() for i, v in enumerate(ys)}
drawn = pd.DataFrame(drawn, thousands["mha"][0]).rename_axis("thousand_tokens")
experiment.figure(fig, "learning_curves", numbers=drawn, alt=alt)

# %% [markdown]
# ## Does the time follow the bytes?
#
# To decode one token for each row, the machine reads all weights once and the cache of each row.
# If reading is all that takes time, GQA over MHA is the ratio of these bytes: near one where the
# context is short and weights are most of it, towards a half where the cache is.


# %%
def bytes_read(sharing, context):
    config = timed_model(sharing)[0]
    in_cache = accounting.cache_bytes(config, context, bytes_per_value=4).total
    return 4 * accounting.parameter_count(config).total + s.decoder[3] * in_cache


# %%
taken = {sharing: runs.curve(sharing)["decode"][1] for sharing in ("mha", "gqa")}
ratios = [lab.bootstrap_interval(np.median, x) for x in (taken["gqa"] / taken["mha"]).T]
expected = [bytes_read(2, context) / bytes_read(1, context) for context in s.contexts]
milliseconds = {f"{sharing}, ms": 1000 * np.median(t, axis=0) for sharing, t in taken.items()}
table = pd.DataFrame(milliseconds, s.contexts).assign(ratio=ratios, bytes_ratio=expected)
table.rename_axis("context")

# %%
fig, axes = lab.subplots(1, 2, height=3.2, width=10)
x = np.array([1024, 2048, 4096, 8192])
for arm, config in real.items():
    sizes_9b = [accounting.cache_bytes(config, int(length)).total / 2**30 for length in x]
    axes[0].plot(x, sizes_9b, "o-", label=arm)
lab.figures.label_lines(axes[0])
axes[0].set(title="9B: cache of one sequence", xlabel="tokens", ylabel="GiB", ylim=(0, None))
axes[1].plot(s.contexts, expected, color=style.INK, dashes=(4, 2.5), label="bytes read")
lab.figures.label_lines(axes[1])
bars = [[r.value - r.low for r in ratios], [r.high - r.value for r in ratios]]
axes[1].errorbar(s.contexts, [r.value for r in ratios], bars, fmt="o", color=style.PALETTE["blue"])
axes[1].axhline(0.5, color=style.GREY, lw=1, ls=":")
axes[1].set(title="small model: time per token, gqa / mha", xlabel="tokens before", ylim=(0, 1.3))
axes[1].set_xscale("log", base=2)
axes[1].set_xticks(s.contexts, s.contexts)
alt = "The 9B's cache is half as large with gqa; time ratios of the small model by context: "
alt += ", ".join(f"{c}: {r}" for c, r in zip(s.contexts, ratios))
drawn = pd.DataFrame([vars(r) for r in ratios], s.contexts).assign(bytes=expected)
experiment.figure(fig, "costs", numbers=drawn.rename_axis("context"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(gap):
    if max(abs(gap.low), abs(gap.high)) < MARGIN:
        return f"**equivalent** to mha within {MARGIN} nats ({gap})"
    side = "worse" if gap.low > 0 else "better" if gap.high < 0 else "not told apart"
    return f"**{side}** ({gap}), and not shown to lie within {MARGIN} nats"


# %%
lines = [f"- {arm} is {told(gap)}." for arm, gap in gaps.items()]
saved = counts["mha"] - counts["gqa"]
lines += [f"""- In the real 9B sharing saves {saved:,} parameters, {saved / counts["mha"]:.1%}, and
  exactly half of the cache.
- At {s.contexts[-1]:,} tokens a token takes {ratios[-1]} times as long as with mha; by the bytes
  that are read it would be {expected[-1]:.2f}."""]  # fmt: skip
display(Markdown("\n".join(lines)))

# %%
numbers = {f"loss.{arm}": mean for arm, mean in means.items()}
numbers |= {f"gap.{arm}": gap for arm, gap in gaps.items()}
numbers |= {f"time_ratio.{c}": ratio for c, ratio in zip(s.contexts, ratios)}
numbers |= {"parameters.9B.saved": saved}
experiment.report(numbers | {"cache_ratio.9B": kept["gqa"] / kept["mha"]})

# %% [markdown]
# ## How far this goes
#
# The models are small and have four heads, so that two key/value heads are few in absolute terms;
# the real 9B keeps eight. Held-out loss stands in for benchmarks. Rows are short, and whatever
# needs many different keys over a long context is not asked for here. The times are those of one
# kind of processor, with a loop that reads numbers of 32 bits: the *ratio* of bytes is exact
# everywhere, how near the time comes to it is not. The margin is a choice, and a reader may make
# another.
#
# ## What to try next
#
# - `-p shape=[128,2,8]`: eight query heads, so that MQA shares eight ways.
# - `-p steps=1000`: do longer runs tell them apart?
# - `-p decoder=[256,4,1024,1,8]`: one row alone reads more weights than cache.
# - `-p corpus=path/to/a/folder`: your own text.
