# %% [markdown]
# # Soft-caps and norms: do they keep a model alive at high learning rates?
#
# [Gemma 2](https://arxiv.org/abs/2408.00118) squeezes attention scores and logits through a tanh,
# and norms each sub-layer's output as well as its input. Both are said to be for stability, and the
# report gives no experiment. Here is one: a small model as it is, and with each of the parts taken
# out, trained at learning rates from usual to hopeless. Which ones break, and what do their logits
# and gradients do?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] | None = None  # full, and what is taken out of it
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # models of an arm at each learning rate
steps: int | None = None  # optimizer steps of a model
rates: list[float] | None = None  # learning rates, at their peak
clip: float | None = None  # norm to which longer gradients are scaled down
shape: list[int] | None = None  # width and layers
rows: list[int] | None = None  # in a step, and tokens in each
vocabulary: int | None = None  # pieces of the tokenizer
megabytes: int | None = None  # of text, all splits together
sizes = {
    "smoke": {"arms": ["full", "no_caps", "pre_only"], "seeds": 2, "steps": 6, "rates": [0.1, 3.0],
              "clip": 1.0, "shape": [64, 2], "rows": [4, 32], "vocabulary": 400, "megabytes": 1},
    "laptop": {"arms": ["full", "no_attention_cap", "no_logit_cap", "no_caps", "pre_only",
                        "post_only"],
               "seeds": 5, "steps": 50, "rates": [0.03, 0.1, 0.3, 1.0, 3.0],
               "clip": 1.0, "shape": [64, 4], "rows": [4, 64], "vocabulary": 512,
               "megabytes": 1},
    "gpu": {"arms": ["full", "no_attention_cap", "no_logit_cap", "no_caps", "pre_only",
                     "post_only"],
            "seeds": 5, "steps": 500, "rates": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
            "clip": 1.0, "shape": [256, 24], "rows": [16, 256], "vocabulary": 4096,
            "megabytes": 64}}  # fmt: skip

# %%
import dataclasses
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
from matchbook.distill.models import Head, head, logits_of
from matchbook.gemma.layers import soft_cap
from matchbook.lab import style

# %%
knobs = lab.knobs(
    profile, sizes, arms=arms, seeds=seeds, steps=steps, rates=rates, clip=clip, shape=shape,
    rows=rows, vocabulary=vocabulary, megabytes=megabytes,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name not in ("arms", "seeds")}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.megabytes)}
s = SimpleNamespace(**settings)
batch, time = s.rows
experiment = lab.Experiment("gemma2/12_stability", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Attention scores pass through a soft-cap of 50, the logits through one of 30; Table 1 says "yes"
# to pre-norm and to post-norm for all sizes. The reason given is stability, in one sentence and
# without a number, so there is nothing to compare digits with: only the direction can be tested.
#
# ## The idea in two equations
#
# $$\text{cap}\cdot\tanh(x/\text{cap})\qquad\qquad
# h \leftarrow h + \text{norm}_{\text{out}}\big(f(\text{norm}_{\text{in}}(h))\big)$$
#
# The first is the identity near zero and never passes the cap, so one batch can cost at most twice
# the cap and the logarithm of the vocabulary. Its slope is $1 - \tanh^2$: far out there is hardly
# any gradient left. That cuts both ways. No batch pulls hard on a weight that has gone wild, and
# none pulls it back.
#
# In the second, the outer norm fixes how much a sub-layer adds to the stream, whatever its weights
# have become. Without it, large weights are large steps in the stream.

# %%
x = np.linspace(-100, 100, 401)
fig, axes = lab.subplots(1, 2, height=2.5)
axes[0].plot(x, x, color=style.GREY, lw=1.2, ls="--")
for cap, color in ((30, "blue"), (50, "vermillion")):
    y = soft_cap(x, cap)
    axes[0].plot(x, y, color=style.PALETTE[color], label=f"cap {cap}")
    axes[1].plot(x, 1 - (y / cap) ** 2, color=style.PALETTE[color], label=f"cap {cap}")
axes[0].set(ylabel="after the cap", ylim=(-70, 70))
axes[1].set(ylabel="slope")
axes[0].legend()
for ax in axes:
    ax.set_xlabel("logit or score")

# %% [markdown]
# ## What is taken out
#
# - **full**: Gemma 2's layers.
# - **no_attention_cap**, **no_logit_cap**, **no_caps**: one or both caps left out.
# - **pre_only**: no norm on outputs, the usual transformer. **post_only**: none on inputs.
#
# What lacks a norm is no Gemma 2: the library builds it for experiments like this one, and refuses
# to write it to a checkpoint.

# %%
PARTS = {
    "full": {},
    "no_attention_cap": {"attention_softcap": None},
    "no_logit_cap": {"final_softcap": None},
    "no_caps": {"attention_softcap": None, "final_softcap": None},
    "pre_only": {"post_norm": False},
    "post_only": {"pre_norm": False},
}  # fmt: skip


# %%
def config_of(arm):
    full = distill.small_gemma(s.vocabulary, *s.shape, window=time // 2)
    return dataclasses.replace(full, **PARTS[arm])


# %% [markdown]
# ## The text, and a bar
#
# Real text, as in the notebook on Table 6. A run counts as **broken** if its loss is no number any
# more, or if it ends above the loss of a model without context, which always answers with the
# frequencies of the tokens. That bar is computed from the text, and no choice of ours.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.megabytes
    options = {"max_bytes": limit, "vocab_size": s.vocabulary, "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


# %%
@functools.cache
def held_out():
    return texts.spread(dataset().validation, 16 * batch)


# %%
def loss_of_frequencies():
    train, rows = dataset().train.tokens[:, 1:], held_out()
    counts = 1 + np.bincount(train.ravel(), minlength=s.vocabulary)
    targets, where = distill.next_token_targets(rows.tokens, rows.segments)
    surprise = -np.log(counts / counts.sum())[np.asarray(targets)]
    return surprise[np.asarray(where)].mean()


# %% [markdown]
# ## One way to train
#
# AdamW with warm-up, cosine and gradients clipped to norm 1: the usual protections are all in
# place, and what is measured is what caps and norms add to them. The learning rate is part of the
# optimizer's state, so that all rates are one compiled program.


# %%
@functools.cache
def optimizer():
    inner = distill.adamw(1.0, s.steps, clip_norm=s.clip)

    def update(gradients, state, weights):
        updates, kept = inner.update(gradients, state[0], weights)
        return jax.tree.map(lambda u: state[1] * u, updates), (kept, state[1])

    return optax.GradientTransformation(lambda w: (inner.init(w), jnp.float32(1)), update)


# %% [markdown]
# Held-out loss and the largest logit, before its cap, are looked at before and after training.


# %%
@functools.partial(jax.jit, static_argnums=0)
def look(graph, weights, rows):
    targets, where = distill.next_token_targets(rows.tokens, rows.segments)
    hidden, table, cap = head(graph, weights, rows)
    uncapped = logits_of(Head(hidden, table, None))
    loss, count = distill.next_token_loss(soft_cap(uncapped, cap), targets, where)
    return {"held_out": loss / count, "largest_logit": jnp.abs(uncapped).max()}


# %%
LOG = 5  # steps in a window of training metrics


def train(arm, seed, rate):
    graph, weights = distill.new_model(config_of(arm), seed)
    state = distill.train_state(weights, optimizer())
    state = state._replace(optimizer=(state.optimizer[0], jnp.float32(rate)))
    step = distill.pretrain_step(graph, optimizer())
    stream = texts.batches(dataset().train, batch, seed)
    watch = {"evaluate": lambda state: look(graph, state.weights, held_out()), "log_every": LOG}
    return lab.fit(step, state, stream, num_steps=s.steps, name=f"rate_{rate:g}", **watch)[1]


# %% [markdown]
# A run whose loss or gradient is not finite any more is stopped by the training loop with an error.
# Here that is a result: its loss is recorded as infinite.


# %%
def attempt(arm, seed, rate):
    try:
        return train(arm, seed, rate)
    except lab.NonFiniteError:
        logged = np.unique([*range(LOG, s.steps + 1, LOG), s.steps])
        lost = logged, np.full(len(logged), np.inf)
        return dict.fromkeys(("held_out", "largest_logit", "loss", "gradient_norm"), lost)


# %%
def measure(arm, seed, **_):
    histories = [attempt(arm, seed, rate) for rate in s.rates]
    curves = {f"loss.{rate:g}": h["loss"] for rate, h in zip(s.rates, histories)}
    for name in ("held_out", "largest_logit"):
        curves[name] = s.rates, [h[name][1][-1] for h in histories]
    for name in ("loss", "gradient_norm"):
        curves[f"most.{name}"] = s.rates, [h[name][1].max() for h in histories]
    numbers = {"bar": loss_of_frequencies(), "chance": np.log(s.vocabulary)}
    return lab.Measured(numbers, curves, data=dataset().digest)


# %%
runs = experiment.run(measure, arms=knobs.arms, seeds=knobs.seeds, **settings)

# %%
ARMS = [arm for arm in PARTS if arm in knobs.arms]
rates, reference = np.array(s.rates), ARMS[0]
bar, chance = (runs.numbers(name)[reference][0] for name in ("bar", "chance"))
final, logit = ({arm: y for arm, (_, y) in runs.curve(name).items()} for name in
                ("held_out", "largest_logit"))  # fmt: skip

# %% [markdown]
# ## Loss against learning rate
#
# Lines are means over seeds, bands 95 % intervals. Dotted is the bar, and losses above that of
# blind guessing, the logarithm of the vocabulary, are drawn there, as are runs that were lost.


# %%
def show_rates(ax, **settings):
    ax.set(xlabel="learning rate at its peak", xscale="log", **settings)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.minorticks_off()


# %%
NORMS = ["pre_only", "post_only"]
GROUPS = {"soft-caps": [a for a in ARMS if a not in NORMS], "norms": [reference, *NORMS]}
COLORS = {"full": style.INK, "no_attention_cap": style.PALETTE["sky"],
          "no_logit_cap": style.PALETTE["orange"], "no_caps": style.PALETTE["vermillion"],
          "pre_only": style.PALETTE["blue"], "post_only": style.PALETTE["green"]}  # fmt: skip
clipped = {arm: np.minimum(final[arm], chance) for arm in ARMS}
fig, axes = lab.subplots(1, 2, height=3.4, width=10.5)
for ax, (title, group) in zip(axes, GROUPS.items()):
    show_rates(ax, title=title)
    lab.plot_curves(ax, {arm: (rates, clipped[arm]) for arm in group if arm in ARMS}, colors=COLORS)
    ax.axhline(bar, color=style.INK, lw=1.2, ls=":")
axes[0].set_ylabel("held-out loss at the end, nats per token")
ends = {arm: [f"{loss:.2f}" for loss in clipped[arm].mean(axis=0)] for arm in ARMS}
alt = f"Final loss at the learning rates {s.rates}, two panels: " + "; ".join(
    f"{arm} {', '.join(losses)}" for arm, losses in ends.items()
)
drawn = {f"{arm}_seed{i}": y for arm in ARMS for i, y in enumerate(final[arm])}
drawn = pd.DataFrame(drawn, rates).rename_axis("learning_rate")
experiment.figure(fig, "learning_rates", numbers=drawn, alt=alt)

# %% [markdown]
# ## On the way: spikes
#
# The loss of the batches while they train, at the two highest learning rates, on a logarithmic
# axis. A cap bounds how bad a batch can be; it does not say what happens afterwards.

# %%
shown = [arm for arm in ("full", "no_caps", "pre_only") if arm in ARMS]
fig, axes = lab.subplots(1, 2, height=3.0, width=10.5)
for ax, rate in zip(axes, s.rates[-2:]):
    ax.set(title=f"learning rate {rate:g}", xlabel="step", yscale="log")
    curves = runs.curve(f"loss.{rate:g}")
    for arm in shown:
        steps, losses = curves[arm]
        ax.plot(steps, losses.T, color=COLORS[arm], lw=0.8, alpha=0.35)
        ax.plot(steps, np.median(losses, axis=0), color=COLORS[arm], label=arm.replace("_", " "))
    ax.axhline(bar, color=style.INK, lw=1.2, ls=":")
    ax.yaxis.set_minor_formatter("")
    ax.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    lab.label_lines(ax)
axes[0].set_ylabel("training loss, nats per token")
worst = {arm: y for arm, (_, y) in runs.curve("most.loss").items()}
alt = f"Training loss over steps. At {s.rates[-1]:g} the worst window, as a median over seeds, is "
alt += ", ".join(f"{np.median(worst[arm][:, -1]):.3g} nats for {arm}" for arm in shown)
drawn = {(r, a, i): y for r in s.rates[-2:] for a in shown
         for i, y in enumerate(runs.curve(f"loss.{r:g}")[a][1])}  # fmt: skip
drawn = pd.DataFrame(drawn, steps).rename_axis("step")
drawn.columns = [f"rate{r:g}_{arm}_seed{i}" for r, arm, i in drawn.columns]
experiment.figure(fig, "spikes", numbers=drawn, alt=alt)

# %% [markdown]
# ## Largest logit and largest gradient
#
# Each dot is a run. The logit is the largest of the held-out rows at the end, *before* its cap of
# 30; the gradient's norm, before it is clipped, is the largest mean of five steps.

# %%
pull = {arm: y for arm, (_, y) in runs.curve("most.gradient_norm").items()}
fig, axes = lab.subplots(1, 2, height=3.2, width=10.5)
for ax, values in zip(axes, (logit, pull)):
    show_rates(ax, yscale="log")
    for i, arm in enumerate(ARMS):
        beside = rates * 1.07 ** (i - len(ARMS) / 2)
        ax.plot(beside, values[arm].T, ".", color=COLORS[arm], ms=4, alpha=0.5)
        ax.plot(
            beside, np.median(values[arm], axis=0), color=COLORS[arm], label=arm.replace("_", " ")
        )
    lab.label_lines(ax)
axes[0].axhline(30, color=style.GREY, lw=1.2, dashes=(4, 2.5))
axes[0].set_ylabel("largest logit before the cap")
axes[1].set_ylabel("largest gradient norm")
alt = (
    "Largest logit and gradient norm rise with the learning rate. At the highest, medians are "
    + "; ".join(
        f"{arm} {np.median(logit[arm][:, -1]):.3g} and {np.median(pull[arm][:, -1]):.3g}"
        for arm in ARMS
    )
)
drawn = {f"{arm}_{name}": np.median(values[arm], axis=0) for arm in ARMS
         for name, values in (("logit", logit), ("gradient", pull))}  # fmt: skip
drawn = pd.DataFrame(drawn, rates).rename_axis("learning_rate")
experiment.figure(fig, "logits_and_gradients", numbers=drawn, alt=alt)

# %% [markdown]
# ## Counted
#
# Two measures of a seed, each over all learning rates: the share of **broken** runs, and the
# **sensitivity** of [Wortsman et al.](https://arxiv.org/abs/2309.14322): how much is lost, on
# average over the rates, against the best of them, no run counting as worse than blind guessing.
# Arms are compared seed by seed with the full model.

# %%
broken = {arm: (final[arm] >= bar).mean(axis=1) for arm in ARMS}
sensitivity = {arm: y.mean(axis=1) - y.min(axis=1) for arm, y in clipped.items()}
spike = {arm: np.log10(worst[arm][:, -1]) for arm in ARMS}
measures = {"broken": broken, "sensitivity": sensitivity, "spike": spike}

# %%
gaps = {
    (name, arm): lab.paired_difference(values[arm], values[reference])
    for name, values in measures.items()
    for arm in ARMS[1:]
}
means = {name: {arm: lab.mean_interval(v) for arm, v in m.items()} for name, m in measures.items()}
pd.DataFrame(means).rename(columns={"spike": "worst loss, log10"})

# %%
fig, axes = lab.subplots(1, 2, height=2.8, width=10.5)
titles = {"broken": "share of broken runs", "sensitivity": "sensitivity, nats per token"}
for ax, (name, title) in zip(axes, titles.items()):
    ax.axvline(0, color=style.INK, lw=1)
    for row, arm in enumerate(ARMS[1:]):
        gap = gaps[name, arm]
        ax.plot([gap.low, gap.high], [row, row], color=COLORS[arm], lw=3)
        ax.plot(gap.value, row, "o", ms=7, color=COLORS[arm])
    ax.set(title=title, xlabel=f"minus the {reference} model's", ylim=(len(ARMS) - 1.5, -0.5))
    ax.set(yticks=range(len(ARMS) - 1), yticklabels=[arm.replace("_", " ") for arm in ARMS[1:]])
    ax.grid(visible=False)
alt = "Differences to the full model: " + "; ".join(
    f"{name} {arm} {gap}" for (name, arm), gap in gaps.items() if name in titles
)
drawn = pd.DataFrame({f"{name}.{arm}": vars(gap) for (name, arm), gap in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("measure"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(name, arm):
    gap = gaps[name, arm]
    side = "more" if gap.low > 0 else "less" if gap.high < 0 else "not told apart"
    return f"{arm.replace('_', ' ')} **{side}** ({gap})"


# %%
found = f"""
- Share of broken runs against the full model's {means["broken"][reference].value:.2f}:
  {"; ".join(told("broken", arm) for arm in ARMS[1:])}.
- Sensitivity to the learning rate: {"; ".join(told("sensitivity", arm) for arm in ARMS[1:])}.
- Worst training loss at a learning rate of {s.rates[-1]:g}, in powers of ten against the full
  model's: {"; ".join(told("spike", arm) for arm in ARMS[1:])}.
"""
display(Markdown(found))

# %%
numbers = {f"{name}.{arm}": m for name, of_arms in means.items() for arm, m in of_arms.items()}
numbers |= {f"gap.{name}.{arm}": gap for (name, arm), gap in gaps.items()}
experiment.report(numbers | {"bar": bar})

# %% [markdown]
# ## How far this goes
#
# Models this small, trained this briefly, break only at learning rates that nobody uses, so these
# are accidents by design, and how they end need not be how large models fail: there, scores and
# logits grow slowly over many thousands of steps, in low precision. Everything here is float32,
# where a large logit costs nothing by itself. The verdict is on this grid of rates: with a finer
# one around the edge the shares would differ, and the sensitivity less.
#
# ## What to try next
#
# - `-p rates=[10.0,30.0]`: where does the last one break?
# - `-p shape=[64,24]`: do the norms matter more in a deep model?
# - `-p steps=500`: do runs that broke early come back, with caps and without?
# - `-p clip=1000.0`: what do the caps do where nothing else holds the gradients?
