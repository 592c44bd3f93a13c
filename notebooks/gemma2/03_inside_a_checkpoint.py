# %% [markdown]
# # What happens inside a Gemma 2 checkpoint?
#
# A checkpoint is a folder of numbers. This notebook opens one, writes text with it, and looks
# inside while it writes: what a local and a global layer attend to, how the residual stream grows,
# where the soft-caps bite, and what each further token costs. Give it a path to
# [Gemma 2](https://arxiv.org/abs/2408.00118), in Hugging Face's or Google's layout. Without one it
# trains a small model on this machine's Python source, saves it in the same layout, and opens that.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = ["inside", "cost"]  # one forward pass looked at; decoding, timed
checkpoint: str = ""  # folder with a tokenizer.model; empty for a model that is trained here
prompt: str = "def read_lines(path):\n    with open("  # what the model continues
seeds: int | None = None  # texts that are drawn, and times that are taken
new_tokens: int | None = None  # length of a text
steps: int | None = None  # optimizer steps, where the model is trained here
model: list[int] | None = None  # width and layers, where it is trained here
vocabulary: int | None = None  # pieces of its tokenizer
timed: list[int] | None = None  # width and layers of a random model to time, without a checkpoint
contexts: list[int] | None = None  # lengths of the prompts that are timed
temperature: float = 0.7  # of the texts that are drawn
sizes = {
    "smoke": {"seeds": 2, "new_tokens": 12, "steps": 6, "model": [64, 2], "vocabulary": 400,
              "timed": [64, 2], "contexts": [16, 64]},
    "laptop": {"seeds": 3, "new_tokens": 40, "steps": 300, "model": [128, 4], "vocabulary": 512,
               "timed": [512, 8], "contexts": [128, 512, 1024, 2048, 4096]},
    "gpu": {"seeds": 5, "new_tokens": 96, "steps": 2000, "model": [512, 8], "vocabulary": 8192,
            "timed": [2304, 26], "contexts": [512, 1024, 2048, 4096, 8000]},
}  # fmt: skip

# %%
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from IPython.display import Markdown, display

from matchbook import corpus, distill, lab
from matchbook.gemma import accounting, generate, load_checkpoint, save_checkpoint
from matchbook.gemma.chat import training_chat
from matchbook.gemma.tokenizer import Tokenizer
from matchbook.gemma.tracing import trace
from matchbook.lab import style, timing
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, new_tokens=new_tokens, steps=steps, model=model,
    vocabulary=vocabulary, timed=timed, contexts=contexts,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"checkpoint": checkpoint, "prompt": prompt, "temperature": temperature}
experiment = lab.Experiment("gemma2/03_inside_a_checkpoint", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Section 2 has the architecture: layers in turn see a window of 4096 tokens and everything; scores
# are kept within ±50 and logits within ±30 by $c\tanh(x/c)$; each sub-layer is normed on its way in
# and out. Tables 4 and 5 have the format of dialogues. No picture in the report looks inside the
# trained model, so what is drawn below has no printed number beside it, and for the small model it
# tells about *that* model. Times stand beside what this machine can do at best.
#
# ## The checkpoint
#
# The small one is trained for a minute on packed Python source, with the recipe of the notebook
# before this one, and saved as Hugging Face's files: `config.json`, `model.safetensors`, and the
# tokenizer. From there on both cases are the same: `load_checkpoint` reads tensor by tensor and
# refuses what is damaged, contradicts its config, or is no checkpoint.


# %%
@functools.cache
def text():
    kept = lab.session().runs / "corpus"
    return corpus.dataset(max_bytes=6_000_000, vocab_size=knobs.vocabulary, time=128, cache=kept)


# %%
def make_weights(steps, model, **_):
    config = distill.small_gemma(knobs.vocabulary, *model, window=32)
    graph, weights = distill.new_model(config, 0)
    optimizer = distill.adamw(0.01, steps)
    stream = corpus.batches(text().train, 8, 0)
    step, state = distill.pretrain_step(graph, optimizer), distill.train_state(weights, optimizer)
    return lab.fit(step, state, stream, num_steps=steps, name="pretraining")[0].weights


# %%
@functools.cache
def folder():
    if checkpoint:
        return checkpoint
    names = ("steps", "model", "vocabulary")
    weights = lab.artifact("small", make_weights, **{n: settings[n] for n in names})
    graph = distill.static_part(distill.small_gemma(knobs.vocabulary, *knobs.model, window=32))
    path = lab.session().runs / "checkpoints" / text().digest[:12]
    save_checkpoint(nnx.merge(graph, weights), path, tokenizer=text().tokenizer, overwrite=True)
    return path


# %%
@functools.cache
def opened():
    tokenizer = Tokenizer.load(f"{folder()}/tokenizer.model")
    return load_checkpoint(folder()), tokenizer


# %%
def there_and_back(model):
    """Largest difference after a trip through Google's layout."""
    path = lab.session().runs / "checkpoints" / "google"
    save_checkpoint(model, path, layout="flax", overwrite=True)
    ours, theirs = (jax.tree.leaves(nnx.state(m)) for m in (model, load_checkpoint(path)))
    return max(float(jnp.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


# %% [markdown]
# ## What we measure
#
# Arm `inside` lets the model continue the prompt, greedily with seed 0 and by drawing with the
# others, then runs prompt and continuation through `trace`: the same layers, one by one, with every
# attention matrix kept. Two checks come with it. The log-probabilities that were recorded while
# decoding, token by token from a cache, must be those of one pass over the whole text. And the
# weights must come back unchanged from Google's layout, which stores heads the other way round.


# %%
def inside(seed):
    gemma, tokenizer = opened()
    ids = [tokenizer.bos, *tokenizer.encode(prompt)]
    how = {"temperature": temperature if seed else 0.0, "stop_tokens": tokenizer.stop_tokens}
    made = generate(gemma, [ids], max_new_tokens=knobs.new_tokens, seed=seed, **how)
    new = made.tokens[0, 0, : int(made.lengths[0, 0])].tolist()
    looked = trace(gemma, jnp.asarray([ids + new]))
    taught = np.asarray(jax.nn.log_softmax(looked.logits))[0, len(ids) - 1 : -1]
    gap = taught[np.arange(len(new)), new] - made.log_probs[0, 0, : len(new)]
    return pictures_of(looked) | {"text": tokenizer.decode(ids + new)}, float(abs(gap).max())


# %%
def pictures_of(looked):
    attention, time = np.asarray(looked.attention)[:, 0], looked.attention.shape[-1]
    back = np.subtract.outer(np.arange(time), np.arange(time))
    kept = {"reach": (attention * back).sum(-1).mean((1, 2))}
    kept["stream"] = np.asarray(looked.residual_rms)[:, 0].mean(-1)
    kept["largest_score"] = abs(np.asarray(looked.scores)).max((1, 2, 3, 4))
    kept["logits"] = np.histogram(looked.uncapped_logits, np.arange(-60, 61, 2))[0]
    last = {"local": attention[-2], "global": attention[-1]}
    lower = np.tril_indices(time)  # the rest is zero, nothing looks ahead
    return kept | {name: np.round(heads.mean(0)[lower], 3) for name, heads in last.items()}


# %% [markdown]
# Arm `cost` times the decoding of one sequence behind prompts of many lengths. Times depend on
# shapes and not on what the weights say, so without a checkpoint it takes a larger model with
# random weights, large enough that reading weights is the work. Nothing can be faster than reading
# every weight and the keys and values in view once for each token, at the speed at which this
# machine reads: that is the *roofline*, measured in the same process.


# %%
def model_to_time():
    if checkpoint:
        return opened()[0]
    config = distill.small_gemma(8192, *knobs.timed, window=256)
    return nnx.merge(*distill.new_model(config, 0))


# %%
def seconds_per_token(gemma, context, seed, more=32):
    ids = [np.random.default_rng(seed).integers(8, 256, context).tolist()]
    runs = [lambda n=n: generate(gemma, ids, max_new_tokens=n) for n in (1, 1 + more)]
    prefill, whole = (timing.seconds(run, repeats=3) for run in runs)
    return prefill, (whole - prefill) / more


# %%
def cost(seed):
    gemma, size = model_to_time(), functools.partial(accounting.cache_bytes, bytes_per_value=4)
    numbers = {"weights": sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(gemma)))}
    for context in knobs.contexts:
        numbers[f"prefill.{context}"], spent = seconds_per_token(gemma, context, seed)
        numbers[f"seconds.{context}"] = spent
        numbers[f"ring.{context}"] = size(gemma.config, context).total
        numbers[f"whole.{context}"] = size(gemma.config, context, ring=False).total
    return numbers | {"bandwidth": timing.read_bytes_per_second()}


# %% [markdown]
# Dialogues are checked on Table 5's own example: our ids of a turn against the printed schema, with
# each control string of Table 4 as one id.


# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: claim.values[0] for claim in ledger if claim.values}
schema = printed["gemma2-table-05"]
joke = [("user", "Knock knock."), ("assistant", "Who's there?")]


# %%
def spelled(tokenizer, string):
    """Ids of a string of the table, its control strings as one id each."""
    parts = re.split(r"(<\w+>)", string)
    ids = ([tokenizer.id_of(p)] if p[:1] == "<" else tokenizer.encode(p) for p in parts)
    return [*itertools.chain(*ids)]


# %%
def dialogue(tokenizer):
    ids, answer = training_chat(tokenizer, [{"role": r, "content": c} for r, c in joke])
    shown = spelled(tokenizer, "<bos>" + schema["prompt_turn_1"].format(u1=joke[0][1]))
    learned = spelled(tokenizer, schema["model_turn_1"].format(m1=joke[1][1]))
    same = ids == shown + learned and answer == [False] * len(shown) + [True] * len(learned)
    ids_of = {f"control.{name}": getattr(tokenizer, name) for name in ("pad", "eos", "bos", "unk")}
    return {"dialogue.same": float(same), **ids_of}


# %%
def measure(arm, seed, **_):
    if arm == "cost":
        return lab.Measured(cost(seed))
    gemma, tokenizer = opened()
    kept, gap = inside(seed)
    kept["text"] = [ord(character) for character in kept["text"]]
    numbers = {"decode.error": gap, "layouts.error": there_and_back(gemma), **dialogue(tokenizer)}
    numbers |= {"layers": gemma.config.num_layers, "window": gemma.config.sliding_window}
    return lab.Measured(numbers, {name: (np.arange(len(x)), x) for name, x in kept.items()})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)

# %%
facts = runs.table().groupby("arm").first()
window = int(facts.loc["inside", "window"])


# %%
def kept(name):
    """[seeds, length]"""
    return runs.curve(name)["inside"][1]


# %% [markdown]
# ## What it writes
#
# The first text is greedy: always the likeliest token. The others are drawn. Small models trained
# for a minute have the look of the language and nothing to say; what counts here is that the same
# call writes with a model a thousand times the size.

# %%
records = [record for record in runs.records if record.arm == "inside"]
texts = ["".join(map(chr, map(int, record.curves["text"][1]))) for record in records]
for seed, said in enumerate(texts):
    display(Markdown(f"**{'drawn' if seed else 'greedy'}**\n```python\n{said}\n```"))

# %% [markdown]
# ## What a local and a global layer see
#
# The last local layer and the last global one, on the greedy text, mean over heads. A row is a
# token that looks, a column a token that is looked at; the rows sum to one. The local layer cannot
# look further back than its window, itself included: that edge is the diagonal line. The first
# column is `<bos>`, where attention often goes when there is nothing to look for.

# %%
length = int((2 * len(records[0].curves["local"][1])) ** 0.5)
lower = np.tril_indices(length)
fig, axes = lab.subplots(1, 2, height=4.2, width=9.6)
for ax, name in zip(axes, ("local", "global")):
    seen = np.zeros((length, length))
    seen[lower] = records[0].curves[name][1]
    ax.imshow(np.sqrt(seen), cmap="Blues", vmin=0, vmax=1)
    ax.set(title=f"last {name} layer", xlabel="token looked at", ylabel="token that looks")
    ax.grid(False)
edge = np.array([window - 0.5, len(seen) - 0.5])
axes[0].plot(edge - window, edge, color=style.PALETTE["vermillion"], lw=1.2)
alt = f"Two attention matrices: a band {window} tokens wide, and a full lower triangle."
drawn = {"looks": lower[0], "looked_at": lower[1]}
drawn |= {name: np.asarray(records[0].curves[name][1]) for name in ("local", "global")}
experiment.figure(fig, "attention", numbers=pd.DataFrame(drawn), alt=alt)

# %% [markdown]
# ## Layer by layer
#
# Left: how far back a layer looks, mean over its heads and over the tokens of the text. Middle: the
# size of the residual stream before the first layer and after each one. Every sub-layer's output is
# normed before it is added, so a layer adds what its learned scale says and no accident of its
# weights. Right: the largest score of any head, before the cap of 50 (dashed). At the cap itself
# $\tanh$ lets three quarters of a score through; at a tenth of it, nearly all.

# %%
panels = {"reach": "looks back, tokens", "stream": "residual stream, rms"}
panels |= {"largest_score": "largest score, before the cap"}
fig, axes = lab.subplots(1, 3, height=2.8, width=11)
for ax, (name, title) in zip(axes, panels.items()):
    layers = np.arange(kept(name).shape[1])
    lab.plot_curves(ax, {"here": (layers, kept(name))})
    ax.texts[-1].remove()
    ax.set(title=title, xlabel="layers passed" if name == "stream" else "layer", ylim=(0, None))
    ax.set_xticks(layers[:: max(1, len(layers) // 6)])
axes[2].axhline(50, color=style.GREY, dashes=(4, 2.5), lw=1.2)
axes[2].set(ylim=(0, 1.1 * max(50, kept("largest_score").max())))
alt = "Over layers: how far back they look, the growing stream, and the largest score, "
alt += f"{kept('largest_score').max():.0f} before a cap of 50."
drawn = pd.DataFrame({name: pd.Series(kept(name).mean(0)) for name in panels})
experiment.figure(fig, "layers", numbers=drawn.rename_axis("layer"), alt=alt)

# %% [markdown]
# ## Where the last cap bites
#
# The logits of all tokens at all places, before the cap of 30, as a histogram; the line is what the
# cap makes of them. Where the bars end, a cap is idle or at work. A model of a minute's training is
# not sure enough of anything to need one.

# %%
fig, ax = lab.subplots(height=3.2)
edges = np.arange(-60, 61, 2)
share = kept("logits").sum(0) / kept("logits").sum()
ax.bar(edges[:-1] + 1, share, 2, color=style.PALETTE["sky"])
ax.set(xlabel="logit before the cap", ylabel="share of logits", yscale="log")
capped = ax.twinx()
capped.plot(edges, 30 * np.tanh(edges / 30), color=style.INK)
capped.set(ylabel="after the cap", ylim=(-32, 32))
capped.grid(False)
alt = "Histogram of logits on a logarithmic axis, and the S of the cap over it."
drawn = pd.DataFrame({"logit": edges[:-1] + 1, "share": share})
experiment.figure(fig, "logits", numbers=drawn, alt=alt)

# %% [markdown]
# ## What a token costs
#
# Left: seconds for one more token behind a prompt, and the roofline: weights and cache, divided by
# how fast this machine reads. Right: the cache of one sequence. A ring of the window's size in the
# local layers stops growing once the window is full, so only half of the layers go on.


# %%
def over_contexts(name):
    """[seeds, contexts]"""
    return np.stack([runs.numbers(f"{name}.{c}")["cost"] for c in knobs.contexts], axis=1)


weights, bandwidth = (runs.numbers(n)["cost"][:, None] for n in ("weights", "bandwidth"))
roofline = (weights + over_contexts("ring")) / bandwidth
took = over_contexts("seconds")
reached = {c: lab.mean_interval(x) for c, x in zip(knobs.contexts, (roofline / took).T)}

# %%
fig, axes = lab.subplots(1, 2, height=3.2, width=9.6)
times = {"measured": took, "roofline": roofline}
lab.plot_curves(axes[0], {n: (knobs.contexts, 1000 * x) for n, x in times.items()})
caches = {"rings in local layers": "ring", "all layers whole": "whole"}
rows = {label: over_contexts(name) / 2**20 for label, name in caches.items()}
lab.plot_curves(axes[1], {label: (knobs.contexts, x) for label, x in rows.items()})
axes[0].set(xlabel="context, tokens", ylabel="one token, milliseconds", ylim=(0, None))
axes[1].set(xlabel="context, tokens", ylabel="cache, MiB", ylim=(0, None))
alt = "Time per token, above its roofline; with rings the cache grows half as fast."
drawn = pd.DataFrame({n: 1000 * x.mean(0) for n, x in times.items()}, knobs.contexts)
drawn = drawn.assign(**{name: rows[label].mean(0) for label, name in caches.items()})
experiment.figure(fig, "cost", numbers=drawn.rename_axis("context"), alt=alt)

# %% [markdown]
# ## What we found

# %%
error = runs.numbers("decode.error")["inside"].max()
first, last = knobs.contexts[0], knobs.contexts[-1]
found = f"""
- Decoding from the cache and one pass over the text agree to {error:.1e} nats per token.
- The trip through Google's layout changes weights by {facts.loc["inside", "layouts.error"]:g}.
- Behind {first:,} tokens, decoding runs at {reached[first]} of the roofline; behind {last:,}, at
  {reached[last]}.
- The ring saves {1 - over_contexts("ring")[0, -1] / over_contexts("whole")[0, -1]:.0%} of the cache
  at {last:,} tokens.
"""
display(Markdown(found))

# %%
of_inside = ["decode.error", "layouts.error", "dialogue.same"]
of_inside += [name for name in facts.columns if name.startswith("control.")]
numbers = {name: runs.numbers(name)["inside"].max() for name in of_inside}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# The pictures of the small model say how to look, not what Gemma 2 does: its layers are few, its
# window is short, and it has read for a minute. Times are those of one machine, in float32; the
# passport names it. The roofline counts weights and cache once per token and nothing else: for
# short prompts of a small model, what is missing is the cost of starting many small products.
#
# ## What to try next
#
# - `-p checkpoint=path/to/gemma-2-2b`: the real thing, if you have it; then compare the pictures.
# - `-p temperature=1.5`: when does the look of the language go?
# - `-p steps=3000`: do scores and logits reach their caps?
# - `matchbook generate path/to/gemma-2-2b-it "Why is the sky blue?" --chat`: without a notebook.
