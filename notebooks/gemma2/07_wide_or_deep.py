# %% [markdown]
# # Table 9: with equally many weights, is it better to be deep or wide?
#
# A budget of weights can be spent on few wide layers or on many narrow ones. Table 9 of
# [Gemma 2](https://arxiv.org/abs/2408.00118) compares two models of 9B parameters, and the deep one
# is ahead by a little. Such comparisons are easily unfair: shapes want different learning rates,
# and one run each says nothing about luck. We train shapes of equal size, let each have its own
# best rate from the same list, choose it on one part of the held-out text and compare on another,
# five pairs at a time. What comes out at this size need not be what comes out at 9B.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["wide", "middle", "deep"]  # wide comes first: the others are compared with it
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # models of a shape at each rate
steps: int | None = None  # optimizer steps
rates: list[float] | None = None  # learning rates that every shape may try
layers: list[int] | None = None  # of wide, middle and deep
widths: list[int] | None = None  # of wide, middle and deep
rows: list[int] | None = None  # in a step, tokens in each, and held out of either split
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: int | None = None  # of text, all splits together
sizes = {
    "smoke": {"seeds": 2, "steps": 6, "rates": [0.01, 0.02], "layers": [2, 4, 8],
              "widths": [64, 48, 32], "rows": [4, 32, 16], "vocabulary": 400, "megabytes": 1},
    "laptop": {"seeds": 5, "steps": 120, "rates": [0.007, 0.02, 0.06, 0.18, 0.54],
               "layers": [2, 4, 8], "widths": [64, 48, 32], "rows": [8, 64, 128],
               "vocabulary": 512, "megabytes": 6},
    "gpu": {"seeds": 5, "steps": 3000, "rates": [0.0005, 0.0015, 0.0045, 0.0135],
            "layers": [6, 12, 24], "widths": [768, 544, 384], "rows": [32, 512, 256],
            "vocabulary": 8192, "megabytes": 190}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.gemma import Gemma2Config
from matchbook.gemma.accounting import parameter_count
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, rates=rates, layers=layers, widths=widths, rows=rows,
    vocabulary=vocabulary, megabytes=megabytes,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time, held_out = s.rows
SHAPES = ["wide", "middle", "deep"]
experiment = lab.Experiment("gemma2/07_wide_or_deep", version=2, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Two 9B models, the average of four benchmarks that are not named, one run each: 1.2 points for the
# deep one. How wide the wide one is, whether learning rates were tuned, and how far apart two runs
# of the same model end, is not said. The wide one's 50.8 is also the number of GQA in Table 8, so
# the two tables may share a run.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
pd.DataFrame(next(claim for claim in ledger if claim.id == "gemma2-table-09").values)

# %% [markdown]
# ## The idea in one equation
#
# In the proportions of Gemma 2 (two query heads to a key/value head, an MLP four times as wide as
# the stream) a model of $L$ layers and width $D$ has
#
# $$L\,(15 D^2 + 4 D) + D \;\approx\; 15\, L D^2$$
#
# weights without its embedding table. So **four times as deep is half as wide**. A matrix of width
# $D$ mixes $D$ features at a time; a chain of $L$ layers can compute in more steps. Which of the
# two a token of text needs more, no formula says. The embedding table, with one row for each of
# the vocabulary, is left out of the count, as the paper's own counts do; being as wide as the
# stream, it gives the wide model some weights more.
#
# ## Three shapes of equal size
#
# Heads have about 16 features, 64 in larger models, and the MLP is made as wide as it takes to meet
# the number of the wide shape, since no whole width between the two others would meet it. We show
# the counts rather than ask to be believed.


# %%
def proportions(layers, width, mlp):
    heads = max(2, 2 * round(width / (32 if width < 256 else 128)))
    size = {"num_heads": heads, "num_kv_heads": heads // 2, "head_dim": width // heads}
    shape = {"embed_dim": width, "num_layers": layers, "mlp_dim": mlp, "sliding_window": time // 2}
    return Gemma2Config(vocab_size=s.vocabulary, **size, **shape)


# %%
def config_of(who):
    """The MLP is as wide as it takes to have the weights of the widest shape."""
    budget = parameter_count(proportions(s.layers[0], s.widths[0], 4 * s.widths[0])).non_embedding
    layers, width = s.layers[SHAPES.index(who)], s.widths[SHAPES.index(who)]
    rest = budget - parameter_count(proportions(layers, width, 1)).non_embedding
    return proportions(layers, width, 1 + round(rest / (3 * layers * width)))


# %%
counts = {who: parameter_count(config_of(who)) for who in arms}
pd.DataFrame({
    who: {"layers": count.num_layers, "width": config_of(who).embed_dim,
          "MLP": config_of(who).mlp_dim, "weights of the layers": count.non_embedding,
          "relative": count.non_embedding / counts[arms[0]].non_embedding,
          "embedding table": count.embedding}
    for who, count in counts.items()
}).T  # fmt: skip

# %% [markdown]
# ## The text
#
# Python source of the standard library and of the installed packages, split by file into train,
# validation and test, or a folder of your own. The validation part chooses the learning rate, and
# the test part, which nothing has been chosen on, gives the comparison.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.megabytes
    options = {"max_bytes": limit, "vocab_size": s.vocabulary, "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


# %% [markdown]
# ## One way to train, at several rates
#
# AdamW with warm-up, cosine and clipping. Every update of AdamW, weight decay included, is
# proportional to the learning rate. So we let AdamW run at rate 1 and multiply its update by a rate
# that is kept in the state: all rates share one compiled program. An arm is a shape, trained at
# each rate; models of one seed read the same tokens in the same order.


# %%
@functools.cache
def optimizer():
    at_one = distill.adamw(1.0, s.steps)

    def update(gradients, state, weights):
        rate, inner = state
        updates, inner = at_one.update(gradients, inner, weights)
        return jax.tree.map(lambda x: rate * x, updates), (rate, inner)

    return optax.GradientTransformation(lambda w: (jnp.float32(1), at_one.init(w)), update)


# %%
def start(who, rate, seed):
    graph, weights = distill.new_model(config_of(who), seed)
    state = distill.train_state(weights, optimizer())
    return graph, state._replace(optimizer=(jnp.float32(rate), state.optimizer[1]))


# %%
def train(who, rate, seed):
    graph, state = start(who, rate, seed)
    rows = [texts.spread(split, held_out) for split in (dataset().validation, dataset().test)]
    validation, test = (distill.evaluate(graph, split, batch) for split in rows)
    watch = {"evaluate": validation, "eval_every": max(1, s.steps // 4), "name": who}
    stream = texts.batches(dataset().train, batch, seed)
    step = distill.pretrain_step(graph, optimizer())
    state, history = lab.fit(step, state, stream, num_steps=s.steps, **watch)
    return history["validation_loss"], test(state)["validation_loss"]


# %%
def key_of(rate):
    return f"rate_{rate:g}"


# %%
def measure(arm, seed, **_):
    numbers, curves = {}, {}
    for rate in s.rates:
        curves[key_of(rate)], test = train(arm, rate, seed)
        numbers[f"validation.{key_of(rate)}"] = curves[key_of(rate)][1][-1]
        numbers[f"test.{key_of(rate)}"] = float(test)
    return lab.Measured(numbers, curves, data=dataset().digest)


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %% [markdown]
# ## Its own best rate for each shape
#
# The rate with the lowest mean loss on the validation part. If it is the first or the last of the
# list, a still better one may lie outside, and the comparison is unfair to that shape: a table that
# shows this is part of the result.

# %%
validation = {rate: runs.numbers(f"validation.{key_of(rate)}") for rate in s.rates}
means = {rate: {who: lab.mean_interval(validation[rate][who]) for who in arms} for rate in s.rates}
best = {who: min(s.rates, key=lambda rate: means[rate][who].value) for who in arms}
at_best = {who: runs.numbers(f"test.{key_of(best[who])}")[who] for who in arms}
pd.DataFrame(means)

# %%
inside = {who: min(s.rates) < best[who] < max(s.rates) for who in arms}
pd.DataFrame({"best rate": best, "inside the list": inside})

# %% [markdown]
# ## Loss by shape and rate
#
# Lines join the means over seeds, bars are their 95 % intervals, dots single models. The range is
# wide on purpose: narrow shapes want far higher rates than wide ones, and on a short list they
# would look worse than they are. What is compared below is the lowest point of each line.

# %%
LOOKS = dict(zip(SHAPES, ("vermillion", "purple", "blue")))
LOOKS = {who: style.PALETTE[color] for who, color in LOOKS.items()}
fig, ax = lab.subplots(height=3.4)
for who in arms:
    row = [means[rate][who] for rate in s.rates]
    label = f"{who}: {config_of(who).num_layers} layers, {config_of(who).embed_dim} wide"
    ax.plot(s.rates, [mean.value for mean in row], "o-", color=LOOKS[who], label=label)
    ax.vlines(s.rates, [m.low for m in row], [m.high for m in row], color=LOOKS[who], lw=3)
    for rate in s.rates:
        values = validation[rate][who]
        ax.plot(np.full(len(values), rate), values, ".", ms=4, color=LOOKS[who], alpha=0.6)
lab.figures.label_lines(ax)
ax.set_xscale("log")
ax.set_xticks(s.rates, [f"{rate:g}" for rate in s.rates])
ax.set_xticks([], minor=True)
ax.set(xlabel="learning rate at its peak", ylabel="held-out loss, nats per token")
alt = "Held-out loss by learning rate, a line for each shape; lowest mean: " + "; ".join(
    f"{who} {means[best[who]][who].value:.3f} at {best[who]:g}" for who in arms
)
drawn = {f"{who}_{rate:g}": vars(means[rate][who]) for rate in s.rates for who in arms}
experiment.figure(fig, "rates", numbers=pd.DataFrame(drawn).T.rename_axis("arm"), alt=alt)

# %% [markdown]
# ## The gap at the best rates
#
# Test loss of a deeper shape minus that of the wide one, pair by pair, each at its own best rate.
# Left of the line, depth is better. Every pair is a dot, since an interval alone hides whether all
# of them agree.

# %%
gaps = {who: lab.paired_difference(at_best[who], at_best[arms[0]]) for who in arms[1:]}
pd.DataFrame({
    "test loss": {who: lab.mean_interval(values) for who, values in at_best.items()},
    f"minus {arms[0]}": pd.Series(gaps)})  # fmt: skip

# %%
fig, ax = lab.subplots(height=2.2)
ax.axvline(0, color=style.INK, lw=1)
for row, (who, gap) in enumerate(gaps.items()):
    ax.plot([gap.low, gap.high], [row, row], color=LOOKS[who], lw=3)
    ax.plot(gap.value, row, "o", ms=7, color=LOOKS[who])
    pairs = at_best[who] - at_best[arms[0]]
    ax.plot(pairs, np.full(len(pairs), row + 0.25), ".", color=style.GREY)
ax.set(yticks=range(len(gaps)), yticklabels=list(gaps), ylim=(len(gaps) - 0.4, -0.6))
ax.set_xlabel(f"test loss minus that of {arms[0]}, nats per token")
ax.grid(visible=False)
alt = f"Test loss minus that of {arms[0]}: " + "; ".join(f"{w} {g}" for w, g in gaps.items())
drawn = pd.DataFrame({who: vars(gap) for who, gap in gaps.items()}).T
if gaps:
    experiment.figure(fig, "differences", numbers=drawn.rename_axis("shape"), alt=alt)

# %% [markdown]
# ## While they learn
#
# At its best rate each; lines are means over seeds, bands their 95 % intervals. Whether the lines
# are still drawing together at the end tells something about what longer runs would show.

# %%
curves = {who: runs.curve(key_of(best[who]))[who] for who in arms}
shown = {who: (x[1:] * batch * time / 1000, y[:, 1:]) for who, (x, y) in curves.items()}
fig, ax = lab.subplots(height=3.0)
lab.plot_curves(ax, shown, colors=LOOKS)
ax.set(xlabel="tokens read, thousands", ylabel="held-out loss, nats per token")
alt = "Learning curves of the shapes at their best rates; at the end "
alt += ", ".join(f"{who} {y[:, -1].mean():.2f}" for who, (_, y) in shown.items())
drawn = {f"{who}_seed{i}": v for who, (_, ys) in shown.items() for i, v in enumerate(ys)}
drawn = pd.DataFrame(drawn, shown[arms[0]][0]).rename_axis("thousand_tokens")
experiment.figure(fig, "learning_curves", numbers=drawn, alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(gap):
    side = "better" if gap.high < 0 else "worse" if gap.low > 0 else "not told apart"
    return f"**{side}** ({gap} nats)"


# %%
found = [
    f"- {who}, against {arms[0]}, each at its best rate: {told(gap)}." for who, gap in gaps.items()
]
edge = ", ".join(who for who, is_inside in inside.items() if not is_inside) or "none"
found += [f"- Shapes whose best rate is at the end of the list: {edge}."]
display(Markdown("\n".join(found)))

# %%
numbers = {f"gap.{who}": gap for who, gap in gaps.items()}
numbers |= {f"test.{who}": lab.mean_interval(values) for who, values in at_best.items()}
numbers |= {f"rate.{who}": rate for who, rate in best.items()}
relative = {who: c.non_embedding / counts[arms[0]].non_embedding for who, c in counts.items()}
experiment.report(numbers | {f"relative_size.{who}": share for who, share in relative.items()})

# %% [markdown]
# ## How far this goes
#
# The verdict is on shapes of this size that read this much. The 9B has 42 layers and a width of
# 3,584, both a world away: our deep shape is a mere few dozen features wide, and what a narrow
# stream cannot hold no depth can compute. A network of many layers also takes longer to begin to
# learn, and these runs are short. So a result against depth *here* does not contradict one for
# depth *there*; it says that the order is no law. Rates were tuned, nothing else was: the width of
# heads, the weight decay and the batch are the same for all. Speed is not compared, and at equal
# weights the wide shape is the faster one.
#
# ## What to try next
#
# - `-p steps=1500`: does depth catch up with more to read?
# - `-p widths=[128,96,64]`: the same depths with four times the weights.
# - `-p 'arms=["wide","middle"]'`: the mild comparison alone, in less than half the time.
# - `-p rates=[0.02,0.06]`: who looks better if the list is too short?
