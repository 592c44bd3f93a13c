# %% [markdown]
# # Table 10: what does a trained model lose when its local layers see less?
#
# Every other layer of [Gemma 2](https://arxiv.org/abs/2408.00118) sees a window of the last 4,096
# tokens only. Table 10 says that the window of the trained model may be cut to a half and to a
# quarter, without any retraining, and the validation loss hardly moves. That is good to know when
# memory is short. But it could mean two things: that the global layers carry what is far away, or
# that nothing far away is needed for this text. A loss that does not move cannot tell. So we add
# what the paper does not have: a model without global layers, and a task that *cannot* be solved
# without looking far back, where a short window must do harm.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "text.alternating", "text.global", "text.local",
    "recall.alternating", "recall.local"]  # data.layers  # fmt: skip
corpus: str = "environment"  # the text; or a folder or .txt, .jsonl, .parquet file of your own
seeds: int | None = None  # models of an arm
steps: list[int] | None = None  # optimizer steps on text and on recall
rates: list[float] | None = None  # learning rates on text and on recall
shape: list[int] | None = None  # width and layers
rows: list[int] | None = None  # of text: in a step, tokens in each, and held out
pieces: list[int] | None = None  # of the text's tokenizer, and megabytes of text
windows: list[int] | None = None  # on text: the one trained with, then shorter ones
task: list[int] | None = None  # recall: vocabulary, pairs, tokens in a row, rows in a step
reach: list[int] | None = None  # windows on recall
sizes = {
    "smoke": {"seeds": 2, "steps": [6, 6], "rates": [0.015, 0.01], "shape": [64, 2],
              "rows": [4, 32, 16], "pieces": [400, 1], "windows": [16, 8, 4],
              "task": [32, 2, 16, 4], "reach": [6, 3, 1]},
    "laptop": {"seeds": 5, "steps": [240, 700], "rates": [0.015, 0.01], "shape": [64, 2],
               "rows": [4, 128, 256], "pieces": [512, 6], "windows": [64, 32, 16, 8],
               "task": [32, 4, 32, 16], "reach": [16, 8, 4, 1]},
    "gpu": {"seeds": 5, "steps": [3000, 3000], "rates": [0.002, 0.001], "shape": [512, 8],
            "rows": [16, 1024, 128], "pieces": [8192, 190], "windows": [512, 256, 128, 64],
            "task": [256, 8, 256, 32], "reach": [64, 32, 16, 1]}}  # fmt: skip

# %%
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from IPython.display import Markdown, display

from matchbook import corpus as texts
from matchbook import distill, lab
from matchbook.corpus import synthetic
from matchbook.gemma import Gemma2Config, Transformer, accounting
from matchbook.gemma.dimensions import gathered
from matchbook.gemma.model import LayerPair
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, rates=rates, shape=shape, rows=rows, pieces=pieces,
    windows=windows, task=task, reach=reach,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"text": texts.identity(corpus, max_bytes=1_000_000 * knobs.pieces[1])}
s = SimpleNamespace(**settings)
batch, time, held_out = s.rows
WINDOWS = {"text": s.windows, "recall": s.reach}
experiment = lab.Experiment("gemma2/08_window", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# One 9B model, three windows. The numbers are called perplexity; next to the 15 to 23 of Table 7
# they look more like a loss per token. Neither this nor the length of the sequences is said. We
# take them as nats per token and look at their *change*: nothing, then one in the last digit.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
table_10 = pd.DataFrame(next(c for c in ledger if c.id == "gemma2-table-10").values)
paper_rise = table_10["perplexity_as_printed"] - table_10["perplexity_as_printed"][0]
table_10

# %% [markdown]
# ## The idea in one equation
#
# A local layer with window $W$ lets the query at position $p$ see the keys
#
# $$\{k : p - W < k \le p\},$$
#
# $W$ of them, itself included. $W$ is in no weight: a trained model runs with any. Through two
# local layers information can come from $2(W-1)$ back, through $L$ of them from $L(W-1)$; one
# global layer reaches everything at once. So in a model of local and global layers in turns a
# shorter window takes away a way to see *near* things, never the reach.
#
# ## Three models
#
# - **alternating** is Gemma 2: local, global, local, global.
# - **global** has the whole row in every layer: a window as long as the row.
# - **local** has the window in every layer. No released model is like this, it is the control; the
#   few lines below give both layers of a pair the window that only the first one has.


# %%
class LocalPair(LayerPair):
    """Two local layers where Gemma 2 has a local and a global one."""

    def __call__(self, x, **where):
        for layer in (self.local_layer, self.global_layer):
            x = gathered(layer, self.dtype)(x, window=self.window, **where)
        return x


# %%
def build(layers, config):
    model = Transformer(config, rngs=nnx.Rngs(0))
    if layers == "local":
        options = {"dtype": jnp.float32, "param_dtype": jnp.float32, "stack": (config.num_pairs,)}
        model.pairs = LocalPair(config, rngs=nnx.Rngs(0), **options)
    return model


# %%
def config_of(data, layers, window):
    vocabulary, length = (s.pieces[0], time) if data == "text" else (s.task[0], s.task[2])
    return distill.small_gemma(
        vocabulary, *s.shape, window=length if layers == "global" else window
    )


@functools.cache
def model(data, layers, window):
    config = config_of(data, layers, window)
    return nnx.graphdef(nnx.eval_shape(functools.partial(build, layers, config)))


# %% [markdown]
# ## Two kinds of data
#
# - **text**: Python source, split by file and packed into rows, as in the notebook on Table 6. All
#   tokens count.
# - **recall**: pairs of a key and a value, noise, then the keys again, and after each the model
#   has to say its value. The distance back to the answer is drawn for each row, evenly from all
#   that fit, so that no fixed offset can be learned by heart. Only answers count, and nothing
#   nearby helps to guess them.


# %%
@functools.cache
def dataset():
    kept, limit = lab.session().runs / "corpus", 1_000_000 * s.pieces[1]
    options = {"max_bytes": limit, "vocab_size": s.pieces[0], "time": time, "cache": kept}
    return texts.dataset(corpus, **options)


recall = synthetic.Recall(vocab_size=s.task[0], num_pairs=s.task[1], time=s.task[2])
DISTANCES = np.unique(np.linspace(recall.shortest, recall.longest, 9).astype(int))
chance = 1 / recall.num_values


# %%
def stream(data, seed):
    if data == "text":
        return texts.batches(dataset().train, batch, seed)
    return recall.stream(s.task[3], np.arange(recall.shortest, recall.longest + 1), seed)


# %% [markdown]
# ## One way to train
#
# AdamW with warm-up, cosine and clipping. Models of one seed start with equal weights, since the
# three kinds differ in masks only, and read the same tokens in the same order. Each is trained
# with the longest window, then judged with all of them on held-out data, its weights untouched.


# %%
def train(data, layers, seed):
    where, graph = ("text", "recall").index(data), model(data, layers, WINDOWS[data][0])
    weights = distill.new_model(config_of(data, layers, WINDOWS[data][0]), seed)[1]
    optimizer = distill.adamw(s.rates[where], s.steps[where])
    make_step = distill.pretrain_step if data == "text" else distill.sft_step
    step, state = make_step(graph, optimizer), distill.train_state(weights, optimizer)
    state, history = lab.fit(step, state, stream(data, seed), num_steps=s.steps[where], name=data)
    return state.weights, history["loss"]


# %% [markdown]
# ## Two ways to judge
#
# On text, the mean loss over all positions, and over positions in parts of the document: early
# tokens have nothing behind the shorter window, so there nothing can change. On recall, the share
# of right answers at each distance.

# %%
edges = [0, *reversed(s.windows), time]
PARTS = [(0, time), *itertools.pairwise(edges)]  # all positions first


@functools.partial(jax.jit, static_argnums=0)
def losses_in_parts(graph, weights, rows):
    targets, where = distill.next_token_targets(rows.tokens, rows.segments)
    logits = nnx.merge(graph, weights)(rows.tokens, rows.positions, rows.segments)
    inside = [where & (low <= rows.positions) & (rows.positions < high) for low, high in PARTS]
    sums = [distill.next_token_loss(logits, targets, part) for part in inside]
    return jnp.stack([total / jnp.maximum(count, 1) for total, count in sums])


# %%
@functools.partial(jax.jit, static_argnums=0)
def answers(graph, weights, rows):
    return nnx.merge(graph, weights)(rows.tokens, rows.positions, rows.segments)


# %%
def judge_text(layers, weights):
    rows = texts.spread(dataset().validation, held_out)
    tried = s.windows[:1] if layers == "global" else s.windows
    return {w: losses_in_parts(model("text", layers, w), weights, rows) for w in tried}


# %%
def judge_recall(layers, weights):
    rows, found = recall.rows(np.repeat(DISTANCES, 32), seed=(1, 2, 3)), {}
    for window in s.reach:
        logits = np.asarray(answers(model("recall", layers, window), weights, rows))
        right = synthetic.recall.accuracy(logits, rows)
        found[window] = [right[rows.distances == d].mean() for d in DISTANCES]
    return found


# %% [markdown]
# ## The runs


# %%
def measure(arm, seed, **_):
    data, layers = arm.split(".")
    weights, losses = train(data, layers, seed)
    judge, x = (judge_text, range(len(PARTS))) if data == "text" else (judge_recall, DISTANCES)
    judged = {w: np.asarray(y, np.float64) for w, y in judge(layers, weights).items()}
    first = judged[WINDOWS[data][0]]
    number = {"loss": first[0]} if data == "text" else {"accuracy": first.mean()}
    curves = {"training": losses} | {f"window_{w}": (list(x), y) for w, y in judged.items()}
    return lab.Measured(number, curves, data=dataset().digest if data == "text" else None)


# %%
def chosen(look, name):
    """Numbers or curves of this name, of the arms that were chosen."""
    try:
        return look(name)
    except KeyError:
        return {}


runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)
by_window = {w: chosen(runs.curve, f"window_{w}") for w in {*s.windows, *s.reach}}

# %% [markdown]
# ## On text: does the loss move?
#
# Left, the loss with a shorter window minus that of the same model with the window it was trained
# with. Diamonds are the change in the paper's Table 10, in the unit that we assume. Right, where in
# the document the loss rises when the window is a quarter.


# %%
def rise(layers, window, part=0):
    values = [by_window[w][f"text.{layers}"][1][:, part] for w in (window, s.windows[0])]
    return lab.paired_difference(*values)


# %%
COLORS = {"alternating": style.PALETTE["blue"], "local": style.PALETTE["vermillion"]}
KINDS = [k for k in COLORS if f"text.{k}" in arms]
quarter = s.windows[2]
rises = {kind: [rise(kind, window) for window in s.windows] for kind in KINDS}
pd.DataFrame(rises, s.windows).rename_axis("window")


# %%
def draw_windows(ax):
    for kind, intervals in rises.items():
        bars = [[i.value - i.low for i in intervals], [i.high - i.value for i in intervals]]
        look = {"color": COLORS[kind], "capsize": 3, "fmt": "o-", "label": kind}
        ax.errorbar(s.windows, [i.value for i in intervals], bars, **look)
    places = s.windows[0] * table_10["window"] / table_10["window"][0]
    ax.plot(places, paper_rise, "D", ms=6, mfc="white", mec=style.INK, zorder=5)
    ax.set_xscale("log", base=2)
    ax.set_xticks(s.windows, s.windows)


def draw_parts(ax):
    places = np.arange(len(PARTS) - 1)
    for shift, kind in zip((-0.2, 0.2), KINDS):
        parts = [rise(kind, quarter, 1 + part) for part in places]
        ax.bar(places + shift, [p.value for p in parts], 0.36, color=COLORS[kind], label=kind)
        ax.vlines(places + shift, [p.low for p in parts], [p.high for p in parts], color=style.INK)
    ax.set_xticks(places, [f"{low} to {high - 1}" for low, high in PARTS[1:]])


# %%
fig, axes = lab.subplots(1, 2, height=3.3, width=10)
draw_windows(axes[0])
draw_parts(axes[1])
axes[0].invert_xaxis()
axes[0].set(title="all positions", xlabel="window at inference, tokens; diamonds: Table 10's 9B")
axes[0].set_ylabel("rise of the loss, nats per token")
axes[1].set(title=f"window {quarter}, by position", xlabel="position in the document")
axes[0].legend(loc="upper left")
axes[1].legend(loc="upper left")
alt = f"Rise of the loss from window {s.windows[0]}: "
alt += "; ".join(f"{k} at {w}: {i}" for k, v in rises.items() for w, i in zip(s.windows, v))
drawn = {f"{k}.{w}": vars(i) for k, v in rises.items() for w, i in zip(s.windows, v)}
if KINDS:
    experiment.figure(fig, "windows", numbers=pd.DataFrame(drawn).T.rename_axis("model"), alt=alt)

# %% [markdown]
# ## On recall: what must break, breaks
#
# The share of right answers by distance, a line for each window at inference; bands are 95 %
# intervals. In the model of local layers an answer has to be handed on from layer to layer, so its
# reach is $L(W-1)$, drawn as a vertical line, and cutting the window cuts the task there. The
# alternating model has its window in the first layer, where recall needs one thing only, the token
# just before: which key a value belongs to. A global layer can do the rest at any distance. A
# window of 1 hides even that, and shows that windows are really changed.

# %%
RECALL = [kind for kind in COLORS if f"recall.{kind}" in arms]
REACH = {w: s.shape[1] * (w - 1) for w in s.reach}  # of local layers
tints = style.shades([str(w) for w in reversed(s.reach)])
fig, axes = lab.subplots(1, 2, height=3.3, width=10)
for ax, kind in zip(axes, RECALL):
    shown = {w: by_window[w][f"recall.{kind}"] for w in s.reach}
    shown = {f"window {w}": curve for w, curve in shown.items()}
    lab.plot_curves(ax, shown, colors={f"window {w}": c for w, c in tints.items()})
    ax.axhline(chance, color=style.GREY, lw=1.2, ls=":")
    for w in [w for w in s.reach if DISTANCES[0] < REACH[w] < DISTANCES[-1] and kind == "local"]:
        ax.axvline(REACH[w] + 0.5, color=tints[str(w)], lw=1.2, dashes=(4, 2.5))
    ax.set(title=f"{kind} layers", xlabel="distance of the answer, tokens", ylim=(0, 1.04))
axes[0].set_ylabel("right answers (dotted: by chance)")
correct = {(k, w): by_window[w][f"recall.{k}"][1].mean(0) for k in RECALL for w in s.reach}
alt = "Right answers averaged over distances: "
alt += "; ".join(f"{k} window {w}: {y.mean():.2f}" for (k, w), y in correct.items())
drawn = pd.DataFrame({f"{k}.{w}": y for (k, w), y in correct.items()}, DISTANCES)
if RECALL:
    experiment.figure(fig, "recall", numbers=drawn.rename_axis("distance"), alt=alt)

# %% [markdown]
# One number for this: the share of right answers lost when the window becomes a quarter, over the
# distances that local layers reach with the full window, and with the quarter do not.

# %%
quarter_reach, full_reach = REACH[s.reach[-2]], REACH[s.reach[0]]
inside = [quarter_reach < d <= full_reach for d in DISTANCES]
lost = {
    kind: lab.paired_difference(*(
        by_window[w][f"recall.{kind}"][1][:, inside].mean(1)
        for w in (s.reach[0], s.reach[-2])))
    for kind in RECALL
}  # fmt: skip
pd.Series({kind: str(interval) for kind, interval in lost.items()}, name="answers lost")

# %% [markdown]
# ## What is it good for?
#
# Local layers are there to make long contexts cheap. Their price is the loss against a model whose
# layers are all global, trained in the same way; what they save in the real 9B is arithmetic: bytes
# of cache and FLOPs for the next token, over those of a 9B without windows.

# %%
final = chosen(runs.numbers, "loss")
price = {
    kind: lab.paired_difference(final[f"text.{kind}"], final["text.global"])
    for kind in KINDS
    if "text.global" in final
}
pd.Series({kind: str(gap) for kind, gap in price.items()}, name="minus global, nats per token")

# %%
gemma_9b, everywhere = Gemma2Config.gemma2_9b(), 2**20
all_global = Gemma2Config(**vars(gemma_9b) | {"sliding_window": everywhere})
saved = {
    context: {
        "cache": accounting.cache_bytes(gemma_9b, context).total
        / accounting.cache_bytes(all_global, context).total,
        "compute": accounting.flops_per_token(gemma_9b, context).total
        / accounting.flops_per_token(all_global, context).total,
    }
    for context in (4096, 8192, 32_768, 131_072)
}
pd.DataFrame(saved).T.rename_axis("context")

# %%
fig, ax = lab.subplots(height=2.8)
for cost in ("cache", "compute"):
    ax.plot(list(saved), [share[cost] for share in saved.values()], "o-", label=cost)
lab.figures.label_lines(ax)
ax.set_xscale("log", base=2)
ax.set_xticks(list(saved), [f"{context:,}" for context in saved])
ax.set(xlabel="tokens before the next one", ylabel="9B, share of all-global", ylim=(0, 1.05))
alt = "The 9B over a 9B of global layers only: " + "; ".join(
    f"at {context:,} tokens cache {both['cache']:.2f}, compute {both['compute']:.2f}"
    for context, both in saved.items()
)
experiment.figure(fig, "savings", numbers=pd.DataFrame(saved).T.rename_axis("context"), alt=alt)

# %% [markdown]
# ## What we found

# %%
found = [f"- Text, **{kind}**: loss rises by {v[1]} at half the window, by {v[2]} at a quarter."
         for kind, v in rises.items()]  # fmt: skip
found += [f"- Recall, **{kind}**: a quarter of the window loses {share} of the right answers."
          for kind, share in lost.items()]  # fmt: skip
found += [f"- Trained alike, **{kind}** ends {gap} nats from a model of global layers only."
          for kind, gap in price.items()]  # fmt: skip
display(Markdown("\n".join(found)))

# %%
numbers = {f"rise.{k}.{n}": i for k, v in rises.items() for n, i in zip(("half", "quarter"), v[1:])}
numbers |= {f"lost.{kind}": share for kind, share in lost.items()}
numbers |= {f"price.{kind}": gap for kind, gap in price.items()}
numbers |= {f"loss.{arm}": lab.mean_interval(values) for arm, values in final.items()}
accuracies = chosen(runs.numbers, "accuracy")
numbers |= {f"accuracy.{arm}": lab.mean_interval(values) for arm, values in accuracies.items()}
experiment.report(numbers | {f"9B.{what}": share for what, share in saved[8192].items()})

# %% [markdown]
# ## How far this goes
#
# The windows are tokens, not thousands, and the rows of the text are no longer than two windows, as
# we suppose those of the paper to be. Note how little the *local* model loses on this text, and
# that it is not worse than the others when trained alike: small models that read little Python
# source live on what is near. So the text alone could not have shown what global layers are for.
# Recall can, but it is a task made to break: it says what a window can reach, not how often one
# needs it. What the alternating model itself loses there cannot be for want of reach; perhaps its
# first layer, trained on sixteen tokens, has learned to use them.
#
# ## What to try next
#
# - `-p windows=[64,16,4,2]`: how far down does it go?
# - `-p shape=[64,4] -p reach=[16,4,2,1]`: do four local layers reach twice as far?
# - `-p task=[32,4,64,16] -p steps=[240,1500]`: rows longer than the reach of two windows.
# - `-p corpus=path/to/a/folder`: your own text.
