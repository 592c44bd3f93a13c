# %% [markdown]
# # What is inside Gemma 2?
#
# Three language models, 2B, 9B and 27B, fit into two small tables of
# [the report](https://arxiv.org/abs/2408.00118). This notebook takes them apart: where the
# parameters sit, what a token can see, what the soft-caps do, where the arithmetic goes, and what
# the cache costs. Nothing is downloaded and no weight is ever allocated. Every number is read off
# the array shapes of the real model, or worked out from them, and stands beside the printed one.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: a column of the table below
arms: list[str] = ["2B", "9B", "27B"]  # the sizes of the report
points_per_octave: int | None = None  # contexts drawn between a length and its double
toy_window: int = 3  # sliding window of the masks that are drawn
toy_length: int = 10  # tokens in these masks
sizes = {
    "smoke": {"points_per_octave": 2},
    "laptop": {"points_per_octave": 8},
    "gpu": {"points_per_octave": 8},
    "paper": {"points_per_octave": 8},
}

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.patches import Rectangle

from matchbook import lab
from matchbook.gemma import Gemma2Config, anatomy
from matchbook.lab import style
from matchbook.lab.claims import load_claims

knobs = lab.knobs(profile, sizes, points_per_octave=points_per_octave)
experiment = lab.Experiment("gemma2/01_anatomy", version=1, profile=profile)

# %% [markdown]
# ## What the paper prints
#
# The ledger `notebooks/claims.toml` holds what the paper says, table by table, and we look its
# numbers up there. Here is Table 1, the whole recipe. Two entries deserve suspicion: the
# feedforward dimension looks far too large, and the vocabulary is not quite the 256,000 pieces of
# the tokenizer.

# %%
ledger = load_claims(lab.session().root / "notebooks" / "claims.toml")
printed = {claim.id: pd.DataFrame(claim.values) for claim in ledger if claim.paper == "gemma2"}
table_1 = printed["gemma2-table-01"].set_index("model")
table_1.T

# %% [markdown]
# ## What we measure
#
# `jax.eval_shape` runs the constructor of the real `Transformer` without computing or storing
# anything: what comes back is the shape of every array. The library counts these arrays, pushes
# caps and masks to their limits, and adds up FLOPs and cache bytes. There is one run for each size;
# tables and pictures are drawn from its record.


# %%
def measure(arm, seed, points_per_octave, toy_window, toy_length):
    config = getattr(Gemma2Config, f"gemma2_{arm.lower()}")()
    contexts = np.geomspace(2**8, 2**17, 9 * points_per_octave + 1).round().astype(int).tolist()
    numbers = anatomy.table_1(config) | anatomy.table_2(config) | anatomy.checkpoint_counts(config)
    numbers |= anatomy.rules(config) | anatomy.caps(config) | anatomy.cache_per_token(config)
    curves = anatomy.masks(toy_window, toy_length) | anatomy.cap_curves(config)
    curves |= anatomy.flops_curves(config, contexts) | anatomy.cache_curves(config, contexts)
    return lab.Measured(numbers, curves)


toy = {"toy_window": toy_window, "toy_length": toy_length}
runs = experiment.run(measure, arms=arms, seeds=1, points_per_octave=knobs.points_per_octave, **toy)
measured = runs.table().drop(columns="seed").set_index("arm")

# %% [markdown]
# ## Table 1, read off the arrays
#
# Rows agree where the real model has exactly the printed number. The feedforward row explains
# itself: 18,432 is the width of gate *and* up projection together. The gated MLP of the 2B is 9,216
# wide, half of what the table seems to say. Public ports have stumbled here, and built a 9B whose
# MLPs are twice too wide.

# %%
other_name = {"feedforward_dim": "feedforward_dim_printed", "vocab": "vocab_printed"}
rows = ["d_model", "layers", "feedforward_dim", "heads", "kv_heads", "head_size"]
rows += ["global_span", "sliding_window", "vocab"]
counted = measured[rows].astype(int)
in_print = table_1.loc[arms, [other_name.get(row, row) for row in rows]].set_axis(rows, axis=1)
table_1_agrees = bool((counted == in_print).all(axis=None))
pd.concat({"counted": counted.T, "in print": in_print.T}, axis=1)

# %% [markdown]
# ## Table 2: where the parameters sit
#
# With $D$ the width of the model, $N$ query and $K$ key/value heads of size $H$, and a gated MLP
# of width $F$, one layer holds
#
# $$\underbrace{2DNH}_{\text{queries, output}} + \underbrace{2DKH}_{\text{keys, values}}
# + \underbrace{3DF}_{\text{gate, up, down}} + \underbrace{4D}_{\text{norms}}.$$
#
# The embedding adds $256128\,D$, once, because input and output share it. After the last layer
# comes one more norm. All four norms of every layer are needed to hit the printed digits, though
# they are too thin to be seen in the picture. There, the vocabulary weighs on the small model.

# %%
columns = ["embedding", "non_embedding", "total"]
counted = measured[columns].astype(int)
in_print = printed["gemma2-table-02"].set_index("model").loc[arms, columns]
table_2_agrees = bool((counted == in_print).all(axis=None))
pd.concat({"counted": counted.T, "in print": in_print.T}, axis=1).map("{:,}".format)

# %%
whole = measured["total"]
share = pd.DataFrame({"embedding": measured["embedding"] / whole})
for part in ("attention", "mlp", "norms"):
    share[part] = measured["layers"] * measured[part] / whole

fig, ax = lab.subplots(height=2.3, width=7.2)
left = np.zeros(len(arms))
for part, name in {"embedding": "orange", "attention": "sky", "mlp": "blue"}.items():
    color, text = style.PALETTE[name], "white" if name == "blue" else style.INK
    bars = ax.barh(arms, share[part], left=left, color=color, height=0.6)
    ax.bar_label(bars, [f"{100 * x:.1f}" for x in share[part]], label_type="center", color=text)
    middle = left[0] + share[part].iloc[0] / 2
    ax.text(middle, -0.42, part.replace("mlp", "MLP"), ha="center", color=style.ink(color))
    left += share[part].to_numpy()
for y, total in enumerate(whole):
    ax.text(1.01, y, f"{total / 1e9:.2f} billion", va="center")
ax.set(xlim=(0, 1), ylim=(len(arms) - 0.6, -0.75), xticks=[], xlabel="share of parameters, %")
ax.spines[["left", "bottom"]].set_visible(False)
shares = ", ".join(f"{x:.1%} of the {arm}" for arm, x in share["embedding"].items())
alt = f"Stacked bars of parameter shares. The embedding is {shares}; MLPs are the largest part."
experiment.figure(fig, "parameters", numbers=share.reset_index(), alt=alt)

# %% [markdown]
# ## 256,128 rows in the paper, 256,000 in the files
#
# Google's table is padded to a multiple of 128; the public Hugging Face files are not. So a public
# checkpoint is smaller than Table 2 by 128 rows. The two file layouts also cut a layer into
# different pieces, eleven tensors or nine; their listed shapes still add up to the same model.

# %%
files = ["total_256000_rows", "hf_parameters", "hf_tensors", "flax_parameters", "flax_leaves"]
unpadded = measured[files].astype(int)
unpadded.insert(1, "difference", (whole - measured["total_256000_rows"]).astype(int))
unpadded.T.map("{:,}".format)

# %% [markdown]
# ## What a token sees
#
# Layers alternate. Layer 0 is *local*: a token at position $p$ sees the keys $p - W < k \le p$,
# which are $W$ positions, itself included. Layer 1 is *global* and sees everything before it; the
# last layer is global too. In the real models $W = 4096$. Here is the same function on a toy: each
# row is a query, and the number at its right counts the keys that it sees.

# %%
look = runs.curve("local.keys")[arms[0]][0]
seen = {kind: runs.curve(f"{kind}.keys")[arms[0]][1][0].astype(int) for kind in ("local", "global")}
fig, axes = lab.subplots(1, 2, height=3.5, width=7.2)
for ax, kind in zip(axes, seen):
    mask = runs.curve(kind)[arms[0]][1].reshape(len(look), len(look))
    color = style.ROLES[kind]
    for query, key in np.argwhere(mask):
        ax.add_patch(Rectangle((key - 0.44, query - 0.44), 0.88, 0.88, color=color))
    for query, count in enumerate(seen[kind]):
        ax.text(len(look) + 0.35, query, count, va="center", ha="right", color=style.ink(color))
    ax.set(xlim=(-0.6, len(look) - 0.4), ylim=(len(look) - 0.4, -0.6), aspect="equal")
    ax.set(xticks=look, yticks=look, xlabel="key position", title=f"{kind} layer")
    ax.grid(visible=False)
axes[0].set_ylabel("query position")
alt = (
    f"Two masks. Local: each query sees {toy_window} keys, up to itself. Global: all up to itself."
)
experiment.figure(fig, "masks", numbers=pd.DataFrame(seen), alt=alt)

# %% [markdown]
# ## Soft-caps: linear for the small, bounded for the large
#
# $$\mathrm{cap}(x) = c\,\tanh(x / c)$$
#
# with $c = 50$ for attention scores and $c = 30$ for the final logits. Near zero nothing happens;
# far away nothing gets past $\pm c$. The cap comes *before* the mask. In the other order a masked
# score would be capped too, to $-50$, and a forbidden key could win attention.

# %%
x, attention = runs.curve("cap.attention")[arms[0]]
logits = runs.curve("cap.logits")[arms[0]][1]
fig, ax = lab.subplots(height=3.3)
ax.plot(x, x, color=style.GREY, lw=1.2, ls=":")
ax.text(63, 66, "no cap", color=style.GREY, ha="right")
lab.plot_curves(ax, {"attention scores": (x, attention), "final logits": (x, logits)})
ax.set(xlabel="before the cap", ylabel="after the cap", xlim=(-120, 120), ylim=(-75, 75))
ax.set_yticks([-50, -30, 0, 30, 50])
alt = "Two S-shaped curves follow the diagonal near zero and level off at their caps, 50 and 30."
drawn = pd.DataFrame({"x": x, "attention": attention[0], "logits": logits[0]})
experiment.figure(fig, "soft_caps", numbers=drawn, alt=alt)

# %% [markdown]
# The library's own functions, given inputs a million large. `visible_weight` is the attention that
# the only permitted key gets when its score is as low as scores can be; with mask and cap in the
# wrong order it would be one half.

# %%
measured[["score_limit", "logit_limit", "slope_at_zero", "visible_weight"]].T

# %% [markdown]
# ## Three constants that the tables do not give
#
# Embeddings are multiplied by $\sqrt D$, *rounded to the type of the activations first*. In
# bfloat16, with its 8 significant bits, that moves 9B and 27B by almost 0.2 %, and a port that
# rounds later does not reproduce their logits. Queries are scaled by $256^{-1/2}$ in 2B and 9B,
# where 256 is the head size, but by $144^{-1/2}$ in the 27B, whose head size is 128: there it is
# $D / N$ that counts.

# %%
constants = measured[["sqrt_d", "sqrt_d_bf16", "query_scale", "head_size_scale"]].copy()
constants.insert(2, "rounding, %", 100 * (constants["sqrt_d_bf16"] / constants["sqrt_d"] - 1))
constants.round(6).T

# %% [markdown]
# ## Where the arithmetic goes
#
# Reading a document costs each token two FLOPs for every weight, and $4NH$ for every key that it
# sees in a layer. A local layer never shows it more than $W$ keys, so only the global half of the
# layers keeps growing. The dotted line is the context that the models were trained on; beyond it
# the picture is arithmetic, not a promise of quality.

# %%
COLORS = {"mlp": "blue", "projections": "sky", "unembedding": "orange"}
COLORS |= {"local attention": "green", "global attention": "vermillion"}
COLORS = {part: style.PALETTE[name] for part, name in COLORS.items()}
flops = {part: runs.curve(f"flops.{part.replace(' ', '_')}") for part in COLORS}
contexts = flops["mlp"][arms[0]][0]
parts = {arm: pd.DataFrame({p: flops[p][arm][1][0] for p in COLORS}, contexts) for arm in arms}
shares = {arm: 100 * table.div(table.sum(axis=1), axis=0) for arm, table in parts.items()}

# %%
fig, axes = lab.subplots(1, len(arms), height=3.3, width=10.5)
for ax, arm in zip(np.atleast_1d(axes), arms):
    ax.stackplot(contexts, shares[arm].T, colors=COLORS.values())
    ax.axvline(8192, color="white", lw=1.6, ls=":")
    ax.set(xscale="log", xlim=(contexts[0], contexts[-1]), ylim=(0, 100), title=arm)
    ax.set_xticks(2 ** np.arange(8, 18, 3), ["256", "2k", "16k", "128k"], minor=False)
    ax.minorticks_off()
    ax.set(xlabel="tokens in the document", yticks=[0, 25, 50, 75, 100])
first = np.atleast_1d(axes)[0]
first.set_ylabel("share of FLOPs, %")
first.text(7500, 4, "trained context", color="white", ha="right")
ends = shares[arm].iloc[-1]
for part, middle in (ends.cumsum() - ends / 2).items():  # lines of one point, for their labels
    ax.plot(contexts[-1], middle, color=COLORS[part], label=part.replace("mlp", "MLP"))
lab.label_lines(ax)
alt = "Shares of FLOPs per token, one panel a size: MLPs lead, global attention takes over late."
drawn = pd.concat(parts, names=["arm", "tokens"]).reset_index()
experiment.figure(fig, "flops", numbers=drawn, alt=alt)

# %% [markdown]
# ## What the cache costs
#
# While generating, keys and values of all past tokens are kept: $4LKH$ bytes per token in
# bfloat16, over $L$ layers. Two choices save memory. Grouped heads store $K = N/2$ heads instead of
# $N$. Local layers keep a ring of the last $W$ tokens and stop growing there.

# %%
DESIGNS = {"no_groups": "one KV head per query head", "all_global": "+ grouped heads"}
DESIGNS |= {"ring": "+ rings in local layers"}
cache = {design: runs.curve(f"cache.{design}") for design in DESIGNS}
gib = {arm: pd.DataFrame({d: cache[d][arm][1][0] / 2**30 for d in cache}, contexts) for arm in arms}
eight_k = pd.DataFrame({arm: table.loc[8192] for arm, table in gib.items()}).T
eight_k["ring / all_global"] = eight_k["ring"] / eight_k["all_global"]
eight_k.round(3)

# %%
fig, axes = lab.subplots(1, len(arms), height=3.1, width=10.5)
for ax, arm in zip(np.atleast_1d(axes), arms):
    near = gib[arm].loc[: 2**15]
    for design, color in zip(DESIGNS, (style.GREY, style.PALETTE["sky"], style.PALETTE["blue"])):
        ax.plot(near.index / 1024, near[design], color=color, label=DESIGNS[design])
    ax.axvline(8, color=style.INK, lw=0.9, ls=":")
    ax.set(title=arm, xlabel="context, thousands of tokens", xticks=[0, 4, 8, 16, 32])
    ax.set(xlim=(0, 32), ylim=(0, 24), yticks=[0, 6, 12, 18, 24])
first = np.atleast_1d(axes)[0]
first.set_ylabel("cache of one sequence, GiB")
first.text(8.6, 22, "trained context")
lab.label_lines(ax)
alt = "Cache size against context, one panel a size: grouped heads halve the slope, and rings "
alt += "halve it once more beyond 4096 tokens."
drawn = pd.concat(gib, names=["arm", "tokens"]).reset_index()
experiment.figure(fig, "cache", numbers=drawn, alt=alt)

# %% [markdown]
# ## Does the print add up?
#
# More tables can be checked with a pencil. **Table 3**: the chips of each training slice fill a
# torus, and data shards times model shards use all of them. **Table 15**: its safety score is wins
# plus half of the ties, in every row; but one row of wins, ties and losses is not 100 in all.

# %%
table_3 = printed["gemma2-table-03"].set_index("model")
table_3["torus"] = table_3["topology"].map(np.prod)
table_3["shards"] = table_3["data_shards"] * table_3["model_shards"]
table_3.T

# %%
table_15 = printed["gemma2-table-15"].set_index("model")[["safety", "win", "tie", "loss"]]
table_15["win + tie / 2"] = (table_15["win"] + table_15["tie"] / 2).round(9)
table_15["sum"] = table_15[["win", "tie", "loss"]].sum(axis=1).round(9)
table_15

# %% [markdown]
# **Table 13** ends in two averages over its rows, one over the first eight benchmarks and one over
# all seventeen. A printed average may differ from the exact one by 0.05, through rounding. One
# differs by more.

# %%
scores = printed["gemma2-table-13"].set_index("benchmark").drop(columns="metric")
averages = pd.DataFrame({"8": scores.iloc[:8].mean(), "all": scores.mean(skipna=False)})
in_print = printed["gemma2-table-13-averages"].set_index("model")
in_print = in_print[["average_8_printed", "average_all_printed"]].set_axis(["8", "all"], axis=1)
off = (in_print - averages).round(6).rename_axis(index="model", columns="over")
misprints = off.stack()[lambda gap: gap.abs() > 0.05]

# %%
fig, ax = lab.subplots(height=3.2)
ax.axvspan(-0.05, 0.05, color="#eeeeee")
names = [model.replace("_", " ").title() for model in off.index]
blue, red = style.PALETTE["blue"], style.PALETTE["vermillion"]
ax.plot(off["8"], names, "o", color=blue, label="first 8 rows")
ax.plot(off["all"], names, "D", color=blue, mfc="white", label="all 17 rows")
for (model, over), gap in misprints.items():
    y = off.index.get_loc(model)
    note = f"{in_print.loc[model, over]:.1f} in print,\n{averages.loc[model, over]:.3f} by the rows"
    ax.plot(gap, y, "o", color=red)
    ax.annotate(note, (gap, y), (-8, 0), textcoords="offset points", va="center", ha="right")
ax.set(xlim=(-0.24, 0.13), xlabel="printed average minus average of the rows; grey: rounding")
ax.invert_yaxis()
ax.grid(visible=False)
ax.legend(loc="lower left")
alt = f"Printed minus recomputed averages: {len(misprints)} of {off.count().sum()} are off by more "
alt += "than rounding allows, which is drawn as a grey band."
experiment.figure(fig, "table_13_averages", numbers=off.reset_index(), alt=alt)

# %% [markdown]
# **Tokens.** The text says that 2B and 9B see more than 50 times the compute-optimal number of
# tokens. It also says that 500B tokens are 10 times the optimum of a 2B. By that ruler its 2T are
# fewer times.

# %%
tokens = 1e12 * printed["gemma2-token-budget"].set_index("model")["tokens"].str[:-1].astype(float)
per_parameter = (tokens / measured["non_embedding"]).dropna()
times_optimal = tokens["2B"] / (500e9 / 10)
per_parameter.round(1).rename("training tokens per non-embedding parameter").to_frame()

# %% [markdown]
# ## What we found

# %%
(model, over), gap = misprints.index[0], misprints.iloc[0]
uneven = table_15["sum"][lambda total: total != 100]
saved = 1 - eight_k["ring / all_global"].iloc[0]
yes = {True: "agrees to the last digit", False: "does not agree"}
found = f"""
- Counted on the arrays, Table 1 {yes[table_1_agrees]}; Table 2 {yes[table_2_agrees]}.
- The embedding is {share["embedding"].iloc[0]:.1%} of the {arms[0]} and
  {share["embedding"].iloc[-1]:.1%} of the {arms[-1]}.
- At 8,192 tokens rings save {saved:.0%} of a cache that grouped heads have already halved.
- Three slips in print. Table 13: the average over {over} of {model} is off by {abs(gap):.3f}.
  Table 15: {uneven.index[0]} adds up to {uneven.iloc[0]:.1f}. And 2T tokens are
  {times_optimal:.0f} times the optimum of a 2B, not over 50.
"""
display(Markdown(found))

# %%
exact = {f"{arm}.{key}": x for arm, row in measured.iterrows() for key, x in row.items()}
numbers = {key: int(x) if x == int(x) else x for key, x in exact.items()}
for arm in arms:
    numbers[f"{arm}.embedding_share_percent"] = 100 * share["embedding"][arm]
    numbers[f"{arm}.ring_share_at_8192"] = eight_k["ring / all_global"][arm]
    numbers[f"{arm}.tokens_per_parameter"] = per_parameter[arm]
    numbers |= {f"{arm}.{key}": int(table_3[key][arm]) for key in ("torus", "shards")}
numbers |= {f"window.keys.p{p}": int(count) for p, count in enumerate(seen["local"][:5])}
for model, row in averages.iterrows():
    numbers |= {f"table13.{model}.average_{over}": x for over, x in row.dropna().items()}
numbers["table13.misprints"] = len(misprints)
for model, row in table_15.iterrows():
    name = model.replace(" ", "_")
    numbers |= {f"table15.{name}.safety": row["win + tie / 2"], f"table15.{name}.sum": row["sum"]}
numbers["2B.times_optimal_tokens"] = times_optimal
experiment.report(numbers)

# %% [markdown]
# These are identities, so there is no interval to give. Their limit: they say nothing about
# quality. Whether local layers, groups and caps cost accuracy is for the notebooks that train.
#
# ## What to try next
#
# - `toy_window=1`, or a window longer than the text: what does a local layer do then?
# - Which part would you shrink to read a million tokens on one GPU?
# - `gemma2/02_first_distillation` trains small models of this very architecture.
