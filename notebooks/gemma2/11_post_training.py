# %% [markdown]
# # Post-training: does a student learn more from its own answers, and several runs more than one?
#
# After pre-training, [Gemma 2](https://arxiv.org/abs/2408.00118) is fine-tuned on answers, most of
# them a larger model's; then it is distilled from that model *on text which it wrote itself*; and
# runs with different settings are averaged into one. The report says that this was done, and no
# number shows what it gained. Here every step is taken on a language whose true probabilities we
# know, so that "better" needs no judge: it is a distance to the truth.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] = [
    "base.scratch", "base.distilled", "sft", "more", "given", "own", "given.many", "own.many",
    "members", "uniform", "spherical", "moving"]  # fmt: skip # stages, see below
divergence: str = "backward_kl"  # from teacher to student, or forward_kl, or cross_entropy
seeds: int | None = None  # students
steps: list[int] | None = None  # of the teacher, a base model, fine-tuning, the last phase
rates: list[float] | None = None  # their learning rates at the peak
members: list[float] | None = None  # runs to average: their rates, times that of the last phase
student: list[int] | None = None  # width and layers
teacher: list[int] | None = None  # width and layers
rows: list[int] | None = None  # in a step, tokens of prompt and of answer, dialogues: few, many
vocabulary: int | None = None  # tokens of the language
temperatures: list[float] | None = None  # of the text that all read first, and of answers
sizes = {
    "smoke": {"seeds": 2, "steps": [3, 2, 3, 3], "rates": [0.01, 0.01, 0.005, 0.005],
              "members": [1.0, 1.0], "student": [64, 2], "teacher": [64, 2],
              "rows": [4, 4, 6, 8, 16], "vocabulary": 32, "temperatures": [1.0, 0.6]},
    "laptop": {"seeds": 5, "steps": [400, 200, 20, 60], "rates": [0.006, 0.01, 0.004, 0.004],
               "members": [0.5, 1.0, 2.0], "student": [64, 2], "teacher": [128, 2],
               "rows": [16, 8, 24, 32, 512], "vocabulary": 128, "temperatures": [1.0, 0.6]},
    "gpu": {"seeds": 5, "steps": [4000, 2000, 300, 300], "rates": [0.001, 0.002, 0.001, 0.001],
            "members": [0.5, 1.0, 2.0], "student": [512, 8], "teacher": [1024, 16],
            "rows": [32, 32, 128, 128, 4096], "vocabulary": 1024,
            "temperatures": [1.0, 0.6]}}  # fmt: skip

# %%
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import corpus, distill, divergences, lab
from matchbook.corpus import synthetic
from matchbook.distill import merging, models
from matchbook.lab import style
from matchbook.lab.claims import load_claims

# %%
knobs = lab.knobs(
    profile, sizes, seeds=seeds, steps=steps, rates=rates, members=members, student=student,
    teacher=teacher, rows=rows, vocabulary=vocabulary, temperatures=temperatures,
)  # fmt: skip
settings = {name: value for name, value in vars(knobs).items() if name != "seeds"}
settings |= {"divergence": divergence}
s = SimpleNamespace(**settings)
batch, prompt, answer, few, many = s.rows
PHASES = ["teacher", "base", "sft", "last"]
TEACHER, BASE, SFT, LAST = range(4)
experiment = lab.Experiment("gemma2/11_post_training", version=1, profile=profile)

# %% [markdown]
# ## What the paper says
#
# Three sentences of it we can test. Divergence, sampling, learning rates, how many runs were
# averaged and how, are not reported: the choices here are ours.

# %%
ledger = {claim.id: claim for claim in load_claims(lab.session().root / "notebooks/claims.toml")}
ours = ["gemma2-fewer-tokens", "gemma2-on-policy-distillation", "gemma2-model-merging"]
Markdown("\n".join(f"- *{ledger[name].where}*: {ledger[name].statement}" for name in ours))

# %% [markdown]
# ## The idea in one equation
#
# A model that writes token by token meets its own mistakes: it reads prefixes $y_{<t}$ that it
# wrote, not those of the data $p$. How far its answers are from the truth splits into what happens
# at each token, along *its own* text,
#
# $$\mathrm{KL}(P_S \,\|\, p) = \mathbb E_{y \sim P_S} \sum_t
#   \mathrm{KL}\big(P_S(\cdot \mid y_{<t}) \,\|\, p(\cdot \mid y_{<t})\big).$$
#
# Training on given answers makes the same terms small along *their* prefixes. The difference, own
# minus given, is **exposure bias**. A part of it is that given answers are few: answers that no one
# has trained on, the same distance from home, show how much. The rest is drift, from one's own
# mistake to the next. Distillation on the student's own answers works where the sum is taken.
#
# ## Data: a language, and the same language spoken carefully
#
# A fixed random network gives the next token's chances from the last two tokens. All models first
# read it at temperature 1. Dialogues are the same language at a lower temperature: sharper, with
# fewer ways to go on. A prompt is the beginning of such a text, an answer the rest. The student is
# given few dialogues, and the prompts of these alone in the last phase. How few they are decides
# what the last phase can gain: a first trial of ours with four times as many hardly told its ways
# apart. So two arms have the last phase again with **many** dialogues.

# %%
plain, careful = (
    synthetic.Language(s.vocabulary, order=2, temperature=value) for value in s.temperatures
)
length = prompt + answer


# %%
def dialogues(text):
    prompts = (part[:, :prompt] for part in text)
    lengths = np.full(len(text.tokens), answer, np.int32)
    return distill.Dialogues(*prompts, text.tokens[:, prompt:], lengths)


def answers(text):
    """The same dialogues as rows whose answers count."""
    where = np.zeros(text.tokens.shape, bool)
    where[:, prompt - 1 : -1] = True
    return distill.AnswerRows(*text, where)


# %%
held_out, all_given = careful.rows(16 * batch, length, seed=2), careful.rows(many, length, seed=1)
given = corpus.take(all_given, slice(few))

# %% [markdown]
# ## One way to train
#
# AdamW with warm-up, cosine and clipping for every phase. A phase is a step to make, a model to
# start from, and data to read; the seed fixes initial weights, order of data and what is sampled.


# %%
def new(who, seed):
    return distill.new_model(distill.small_gemma(s.vocabulary, *settings[who], window=16), seed)


def fit(phase, make_step, start, stream, state=distill.train_state, rate=1.0, longer=1.0):
    graph, weights = start
    num_steps = round(longer * s.steps[phase])
    optimizer = distill.adamw(rate * s.rates[phase], num_steps)
    step, state = make_step(graph, optimizer), state(weights, optimizer)
    return lab.fit(step, state, stream, num_steps=num_steps, name=PHASES[phase])[0]


# %% [markdown]
# ## The teacher
#
# Wider, trained longer on the plain language, then fine-tuned on as many careful dialogues as it
# likes. What it was after the first stage teaches the base models; what it became, the last phase.


# %%
def make_teacher(**_):
    graph, weights = new("teacher", 1000)
    stream = plain.stream(batch, length, 1000)
    first = fit(TEACHER, distill.pretrain_step, (graph, weights), stream).weights
    fresh = synthetic.Fresh(lambda step: answers(careful.rows(batch, length, seed=1000 + step)))
    tuned = fit(TEACHER, distill.sft_step, (graph, first), fresh, rate=0.5)
    return {"plain": first, "careful": tuned.weights}


# %%
@functools.cache
def taught(make_step, stage, **options):
    about = {name: settings[name] for name in ("teacher", "vocabulary", "temperatures")}
    about |= {"steps": s.steps[TEACHER], "rate": s.rates[TEACHER], "rows": [batch, prompt, answer]}
    kept = lab.artifact("teacher", make_teacher, **about)
    teacher = distill.frozen_teacher(new("teacher", 0)[0], kept[stage])
    return functools.partial(make_step, teacher=teacher, **options)


# %% [markdown]
# ## Pre-training: from scratch on half as much again, or distilled
#
# The older 2B model read three trillion tokens, the distilled one two. So our student from scratch
# reads 1.5 times as many tokens of the same stream. The distilled one is the base for what follows.


# %%
@functools.cache
def base(how, seed):
    stream, start = plain.stream(batch, length, seed), new("student", seed)
    if how == "scratch":
        return fit(BASE, distill.pretrain_step, start, stream, longer=1.5).weights
    return fit(BASE, taught(distill.distill_step, "plain"), start, stream).weights


# %% [markdown]
# ## Fine-tuning, and ways to go on
#
# **sft** learns the answers given, token by token. From there, with as many more steps each:
#
# - **more**: the same again, the control for mere length;
# - **given**: the teacher's distribution along the given answers;
# - **own**: the teacher's distribution along answers that the student has just written to the same
#   prompts. It is the same divergence and the same rate, so that only the *text* differs;
# - **given.many**, **own.many**: from the same fine-tuned model, with many dialogues.


# %%
def fine_tune(phase, weights, seed):
    stream = corpus.batches(answers(given), batch, seed)
    return fit(phase, distill.sft_step, (new("student", 0)[0], weights), stream).weights


@functools.cache
def tuned(seed):
    return fine_tune(SFT, base("distilled", seed), seed)


# %% [markdown]
# The last phase runs `on_policy_step`, where writing is a part of the compiled step. **given** is
# the same step with none of the answers the student's own. Beside the weights it keeps their
# exponential moving average, for later.


# %%
@functools.cache
def last(share, rate, seed, text="few"):
    writing = distill.Writing(num_new=answer)
    options = {"divergence": s.divergence, "student_share": share, "writing": writing}
    make_step = taught(distill.on_policy_step, "careful", **options)
    start = new("student", 0)[0], tuned(seed)
    pool = given if text == "few" else all_given
    stream = corpus.batches(dialogues(pool), batch, seed + 100)
    more = {"state": functools.partial(averaged_state, seed), "rate": rate}
    return fit(LAST, functools.partial(averaged_step, make_step), start, stream, **more)


# %%
def averaged_step(make_step, graph, optimizer):
    return merging.averaged_step(make_step(graph, optimizer), rate=0.05)


def averaged_state(seed, weights, optimizer):
    return merging.averaged_state(distill.on_policy_state(weights, optimizer, seed))


# %% [markdown]
# ## Averages
#
# The **members** are **own** at several learning rates, one of them its own. Three averages of WARP
# (arXiv 2406.16768), which the report cites: **uniform**, the mean of their weights; **spherical**,
# along arcs about the fine-tuned model that they all come from; and **moving**, the exponential
# average along the one run **own**.


# %%
def averages(how, seed):
    if how == "moving":
        return last(1, 1.0, seed).average
    runs = [last(1, rate, seed).inner.weights for rate in s.members]
    return merging.average(runs) if how == "uniform" else merging.slerp_average(tuned(seed), runs)


# %%
def models_of(arm, seed):
    if arm == "members":
        return [last(1, rate, seed).inner.weights for rate in s.members]
    if arm.startswith(("own", "given")):
        how, _, text = arm.partition(".")
        return [last(int(how == "own"), 1.0, seed, text or "few").inner.weights]
    if arm == "more":
        return [fine_tune(LAST, tuned(seed), seed + 100)]
    return [tuned(seed) if arm == "sft" else averages(arm, seed)]


# %% [markdown]
# ## What is measured
#
# The divergence from the truth at each place of an answer, in nats: along the answers given, along
# held-out ones of the language itself, and along answers that the model writes to the held-out
# prompts. For base models, the held-out loss.


# %%
@functools.partial(jax.jit, static_argnums=0)
def by_place(graph, weights, text):
    logits = models.logits_of(models.head(graph, weights, text))
    kl = divergences.backward_kl(careful.log_probs(text.tokens), jax.nn.log_softmax(logits))
    return kl[:, prompt - 1 : -1].mean(axis=0)


# %%
def along(graph, weights, seed):
    write = jax.jit(distill.write_answers, static_argnums=(0, 4))
    writing, key = distill.Writing(num_new=answer), jax.random.key(seed)
    own = write(graph, weights, dialogues(held_out), key, writing)
    found = {"given": answers(given), "data": answers(held_out), "own": own}
    return {text: np.asarray(by_place(graph, weights, rows)) for text, rows in found.items()}


# %%
def measure(arm, seed, **_):
    graph, text = new("student", 0)[0], plain.rows(16 * batch, length, seed=2)
    if arm.startswith("base."):
        state = SimpleNamespace(weights=base(arm.removeprefix("base."), seed))
        return lab.Measured(distill.evaluate(graph, text, batch)(state))
    found = [along(graph, weights, seed) for weights in models_of(arm, seed)]
    curves = {text: np.mean([of_one[text] for of_one in found], axis=0) for text in found[0]}
    numbers = {text: values.mean() for text, values in curves.items()}
    numbers["best"] = min(of_one["own"].mean() for of_one in found)
    return lab.Measured(numbers, {k: (1 + np.arange(answer), v) for k, v in curves.items()})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, **settings)


# %%
def found(name):
    return runs.numbers(name) if name in runs.table() else {}


loss, own, data = (found(name) for name in ("validation_loss", "own", "data"))
bias = {arm: own[arm] - values for arm, values in found("given").items()}
drift = {arm: own[arm] - data[arm] for arm in own}
columns = {"along own answers": own, "exposure bias": bias, "of it drift": drift}
pd.DataFrame(
    {
        title: {arm: str(lab.mean_interval(values)) for arm, values in of_arms.items()}
        for title, of_arms in columns.items()
    }
)

# %% [markdown]
# ## Along an answer
#
# Divergence from the truth at each token, mean over seeds with 95 % bands; full lines along the
# model's own answers, dashed ones along the answers given. The gap between them is exposure bias.

# %%
COLORS = {"sft": style.GREY, "more": style.ROLES["scratch"], "given": style.PALETTE["orange"],
          "own": style.ROLES["distilled"]}  # fmt: skip
shown = [arm for arm in COLORS if arm in own]
fig, ax = lab.subplots(height=3.6)
curves = {text: runs.curve(text) for text in ("own", "given")}
lab.plot_curves(ax, {arm: curves["own"][arm] for arm in shown}, colors=COLORS)
for arm in shown:
    x, y = curves["given"][arm]
    ax.plot(x, y.mean(axis=0), color=COLORS[arm], lw=1.2, dashes=(4, 2.5))
ax.set(xlabel="token of the answer", ylabel="KL(student || truth), nats", yscale="log")
alt = "Divergence from the truth per token, and how much less along given answers: " + "; ".join(
    f"{arm} {own[arm].mean():.3f} and {bias[arm].mean():.3f}" for arm in shown
)
drawn = {f"{arm}.{text}": curves[text][arm][1].mean(axis=0) for arm in shown for text in curves}
experiment.figure(fig, "along_an_answer", numbers=pd.DataFrame(drawn), alt=alt)

# %% [markdown]
# ## The differences, pair by pair
#
# Each line compares two arms seed by seed, on what counts: the divergence along own answers (for
# base models, held-out loss). Left of zero the first one is better; the two panels differ in scale.
# A merged model is compared with its members' mean, and with the best of them, chosen on the very
# answers that judge it.

# %%
best = {"best": found("best")["members"]} if "members" in own else {}
values = loss | own | best
PAIRS = [("base.distilled", "base.scratch"), ("own", "sft"), ("own", "more"), ("own", "given"),
         ("own.many", "given.many"), ("uniform", "members"), ("uniform", "best"),
         ("spherical", "uniform"), ("moving", "own")]  # fmt: skip
gaps = {
    f"{first}-{second}": lab.paired_difference(values[first], values[second])
    for first, second in PAIRS
    if first in values and second in values
}
if {"own", "given"} <= bias.keys():
    gaps["bias.own-given"] = lab.paired_difference(bias["own"], bias["given"])

# %%
MERGED = ("uniform", "spherical", "moving")
panels = {"lessons": [], "averages": []}
for name in gaps:
    panels["averages" if name.startswith(MERGED) else "lessons"].append(name)
fig, axes = lab.subplots(1, 2, height=0.32 * max(map(len, panels.values())) + 1.2, width=11)
for ax, (title, names) in zip(axes, panels.items()):
    ax.axvline(0, color=style.INK, lw=1)
    for row, gap in enumerate(gaps[name] for name in names):
        side = "distilled" if gap.high < 0 else "scratch" if gap.low > 0 else "reference"
        ax.plot([gap.low, gap.high], [row, row], color=style.ROLES[side], lw=3)
        ax.plot(gap.value, row, "o", ms=7, color=style.ROLES[side])
    ax.set(yticks=range(len(names)), yticklabels=[name.replace("-", " minus ") for name in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="difference, nats per token", title=title)
    ax.grid(visible=False)
alt = "Differences in nats per token: " + "; ".join(f"{k} {gap}" for k, gap in gaps.items())
drawn = pd.DataFrame({name: vars(gap) for name, gap in gaps.items()}).T
experiment.figure(fig, "differences", numbers=drawn.rename_axis("pair"), alt=alt)

# %% [markdown]
# ## What we found


# %%
def told(name):
    gap = gaps.get(name, lab.Interval(np.nan, np.nan, np.nan))
    side = "better" if gap.high < 0 else "worse" if gap.low > 0 else "not told apart"
    return f"**{side}** ({gap} nats per token)"


drifted = {arm: lab.mean_interval(values) for arm, values in drift.items()}
display(
    Markdown(f"""
- Distilled on two thirds of the tokens, the base model is {told("base.distilled-base.scratch")}.
- On its own answers the student becomes {told("own-sft")} than after fine-tuning,
  {told("own-more")} than after more of it,
  {told("own-given")} than with the same teacher on given answers. With many dialogues it is
  {told("own.many-given.many")}.
- Its exposure bias, against training on given answers: {told("bias.own-given")}. The part of it
  that is drift is {drifted.get("own")} after **own**, {drifted.get("sft")} after **sft**.
- The uniform average is {told("uniform-members")} than a single run on average, and
  {told("uniform-best")} than the best of them; spherical against uniform is
  {told("spherical-uniform")}; the moving average against its run {told("moving-own")}.
""")
)

# %%
numbers = {f"own.{arm}": lab.mean_interval(values) for arm, values in own.items()}
for name, of_arms in {"bias": bias, "drift": drift}.items():
    numbers |= {f"{name}.{arm}": lab.mean_interval(values) for arm, values in of_arms.items()}
experiment.report(numbers | {f"gap.{name}": gap for name, gap in gaps.items()})

# %% [markdown]
# ## How far this goes
#
# The intervals speak of seeds, with one language, one teacher and one set of dialogues. The student
# is tiny and its answers short; the language forgets all but two tokens, so that a mistake is soon
# over, which keeps drift small where a long argument would not. There is no stop to learn and no
# human to please, and reinforcement learning, which the report has in between, is left out. Own
# answers come from the prompts that were given, but are new in every step, while given answers are
# read again and again: that is a part of what the method offers. Writing costs time, which is not
# counted; steps and prompts are equal. How much averaging gains depends on how far apart the runs
# have gone.
#
# ## What to try next
#
# - `-p divergence=forward_kl`: does covering the teacher do as well as keeping to what it says?
# - `-p rows=[16,8,24,16,128]`: hardly any dialogues, and not so many.
# - `-p steps=[400,200,20,240]`: a longer last phase, so that runs end further apart.
# - `-p temperatures=[1.0,1.0]`: no new manner to learn, only the same language.
