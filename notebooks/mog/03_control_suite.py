# %% [markdown]
# # How well does one agent learn the control suite with each critic?
#
# [Shahriari et al. 2022](https://arxiv.org/abs/2204.10256) train one agent on dm-control's bodies
# and change nothing but its critic: a number (scalar), a categorical distribution on a fixed
# support (C51), a mixture of Gaussians. By what readers noted of the paper, on easy bodies the
# critic makes no difference, and on hard ones the mixture leads. Here the same comparison runs on
# bodies that a CPU core can learn within two or three minutes each, with one setting for all of
# them. On a laptop four critics meet on six bodies; larger bodies are one parameter away, and part
# of the `gpu` profile.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
tasks: list[str] | None = None  # dm-control's `domain-task`, such as walker-walk
critics: list[str] | None = None  # mixture, categorical, quantile, scalar
seeds: int | None = None  # agents of a task and critic
steps: int | None = None  # thousands of environment steps of an easy task
evaluations: int | None = None  # while it learns, beside the last
episodes: int | None = None  # of an evaluation
sizes = {
    "smoke": {"seeds": 2, "steps": 2, "tasks": ["pendulum-swingup"],
              "critics": ["mixture", "categorical"], "evaluations": 2, "episodes": 2},
    "laptop": {"seeds": 5, "steps": 45,
               "critics": ["mixture", "categorical", "quantile", "scalar"],
               "tasks": ["cartpole-swingup", "ball_in_cup-catch", "reacher-easy",
                         "pendulum-swingup", "finger-spin", "point_mass-easy"],
               "evaluations": 8, "episodes": 5},
    "gpu": {"seeds": 5, "steps": 100, "critics": ["mixture", "categorical", "quantile", "scalar"],
            "tasks": ["cartpole-swingup", "ball_in_cup-catch", "reacher-easy", "pendulum-swingup",
                      "finger-spin", "point_mass-easy", "walker-walk", "cheetah-run"],
            "evaluations": 20, "episodes": 10}}  # fmt: skip

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.control import Agent, load_environments, presets
from matchbook.critics import Categorical, Quantile, Scalar
from matchbook.lab import style
from matchbook.lab.statistics import interquartile_mean

# %%
knobs = lab.knobs(
    profile, sizes, tasks=tasks, critics=critics, seeds=seeds, steps=steps,
    evaluations=evaluations, episodes=episodes,
)  # fmt: skip
settings = {name: getattr(knobs, name) for name in ("steps", "evaluations", "episodes")}
# Reacher learns longer, the mixture's unit holds five rewards, and two bodies were timed again.
revised = {"reacher-easy+*": 3, "[bc]*+mixture": 3, "*+mixture": 2}
experiment = lab.Experiment("mog/03_control_suite", version=1, profile=profile, revised=revised)

# %% [markdown]
# ## The four critics
#
# The mixture is the mended one: it predicts returns in a unit of their own, which follows the
# targets and is never less than five of the largest rewards, so that nobody has to know how large
# rewards are. The scalar and the quantile critic get a unit that is the spread of returns alone:
# with the mixture's, the scalar critic learned less well. The categorical critic cannot have one,
# since its support is fixed; it gets the range that the authors' code reserves for this suite, 51
# atoms between -150 and 150. Here that is safe: rewards lie in [0, 1], and at a discount of .99 no
# return exceeds 100.

# %%
CRITICS = {
    "mixture": presets.MENDED_MIXTURE,
    "categorical": Categorical(num_atoms=51, v_min=-150.0, v_max=150.0),
    "quantile": Quantile(num_quantiles=16),
    "scalar": Scalar(),
}

# %% [markdown]
# ## One setting for all bodies
#
# The agent is DMPO, in layers of 128 units. All bodies and critics share every other number below.
# Against the authors' release, networks are a quarter as wide, batches half as large, and learning
# rates five times higher, which is what minutes instead of days ask for. Sixteen bodies are
# simulated together while the agent learns from what they did before; every transition is drawn 64
# times on average. A task that needs longer than the easy ones gets a multiple of their steps.

# %%
LONGER = {
    "cartpole-swingup": 2,
    "ball_in_cup-catch": 1.6,
    "reacher-easy": 1.6,
    "pendulum-swingup": 2,
    "finger-spin": 2,
    "walker-walk": 6,
    "cheetah-run": 6,
}
pd.Series({
    **{name: getattr(presets.LAPTOP_SCHEDULE, name) for name in (
        "batch_size", "n_step", "discount", "samples_per_insert")},
    **{f"thousand steps of {task}": knobs.steps * LONGER.get(task, 1) for task in knobs.tasks},
}, name="setting").to_frame()  # fmt: skip

# %% [markdown]
# ## What is measured
#
# An evaluation plays whole episodes with the mean action, from the same few starts each time.
# The return of an episode is the sum of 1,000 rewards, so 1,000 is the ceiling on every task. What
# counts as the result is the return after the last step, not the best one seen on the way.


# %%
def agent_for(arm, seed, episodes):
    task, critic = arm.split("+")
    environments, judges = load_environments(task, 16), load_environments(task, episodes)
    learner = presets.laptop_learner(environments, CRITICS[critic])
    return Agent(learner, environments, presets.LAPTOP_SCHEDULE, seed=seed, judged_in=judges)


# %%
def measure(arm, seed, steps, evaluations, episodes):
    start, agent = time.perf_counter(), agent_for(arm, seed, episodes)
    count = agent.num_steps(int(1000 * steps * LONGER.get(arm.split("+")[0], 1)))
    watch = {"evaluate": agent.evaluate, "eval_every": max(1, count // evaluations), "name": arm}
    begin = agent.init(), agent.experience
    _, history = lab.fit(agent.step, *begin, num_steps=count, log_every=count, **watch)
    (_, returns), (_, x) = history["return"], history["environment_steps"]
    numbers = {"return": returns[-1], "seconds": time.perf_counter() - start}
    return lab.Measured(numbers, {"return": (x, returns)})


# %%
runs = experiment.run(
    measure, arms=lab.cross(knobs.tasks, knobs.critics), seeds=knobs.seeds, **settings
)

# %% [markdown]
# ## Returns at the end
#
# The interquartile mean over seeds, the mean of the middle half, with its bootstrap interval: what
# Agarwal et al. (2021) recommend where runs are few and one of them may fail. Below the tasks, all
# of them together, with runs redrawn within each task.

# %%
final = runs.numbers("return")
scores = {c: np.array([final[f"{t}+{c}"] for t in knobs.tasks]) for c in knobs.critics}
table = {c: {t: lab.iqm(row) for t, row in zip(knobs.tasks, scores[c])} for c in knobs.critics}
overall = {critic: lab.iqm(rows) for critic, rows in scores.items()}
pd.concat([pd.DataFrame(table), pd.DataFrame(overall, index=["all tasks"])])

# %% [markdown]
# ## Learning curves
#
# The interquartile mean over seeds, as in the table, and between the quartiles a band: some runs
# find no reward for long, so that an interval around a mean would say little. A curve that sags
# after it has once been high is not noise of the judging, since the starts are the same each time:
# the policy got worse for a while, as policies do that are improved from a critic which is itself
# still learning.

# %%
fig, axes = lab.subplots(
    -(-len(knobs.tasks) // 3), min(3, len(knobs.tasks)), height=3.0,
    width=11 if len(knobs.tasks) > 1 else 6.4,
)  # fmt: skip
for ax, task in zip(np.ravel(axes), knobs.tasks):
    curves = {c: runs.curve("return")[f"{task}+{c}"] for c in knobs.critics}
    for c, (x, y) in curves.items():
        band = np.quantile(y, [0.25, 0.75], axis=0)
        ax.fill_between(np.asarray(x) / 1000, *band, color=style.ROLES[c], alpha=0.15, lw=0)
    middle = {c: [interquartile_mean(at) for at in y.T] for c, (_, y) in curves.items()}
    means = {c: (np.asarray(curves[c][0]) / 1000, [middle[c]]) for c in curves}
    lab.plot_curves(ax, means, colors={c: style.ROLES[c] for c in means})
    ax.set(title=task, xlabel="environment steps, thousands", ylim=(-20, 1020))
np.ravel(axes)[0].set_ylabel("return of an episode")
alt = "Return against environment steps, a panel for each task; interquartile means at the end: "
alt += "; ".join(f"{t} " + ", ".join(f"{c} {table[c][t].value:.0f}" for c in table)
                 for t in knobs.tasks)  # fmt: skip
drawn = pd.DataFrame(dict(final.items())).rename_axis("seed")
experiment.figure(fig, "curves", numbers=drawn, alt=alt)

# %% [markdown]
# ## Does the critic matter here?
#
# On easy bodies it should not. Equality needs a margin that is named beforehand: 50 points of the
# 1,000 that there are. Each row below is the mixture minus another critic, over all tasks and
# seeds; the critics are equivalent if the whole interval lies within the band.

# %%
MARGIN = 50
others = [critic for critic in knobs.critics if critic != "mixture" and "mixture" in scores]
gaps = {
    other: lab.bootstrap_interval(lambda a, b: np.mean(a - b), scores["mixture"], scores[other])
    for other in others
}
pd.Series({f"mixture minus {other}": gap for other, gap in gaps.items()}, dtype=object).to_frame(
    "return, all tasks"
)

# %%
fig, ax = lab.subplots(height=2.2)
ax.axvspan(-MARGIN, MARGIN, color=style.GREY, alpha=0.15, lw=0)
ax.axvline(0, color=style.INK, lw=1)
for row, (other, gap) in enumerate(gaps.items()):
    ax.plot([gap.low, gap.high], [row, row], color=style.ROLES[other], lw=3)
    ax.plot(gap.value, row, "o", ms=7, color=style.ROLES[other])
ax.set(yticks=range(len(gaps)), yticklabels=list(gaps), ylim=(max(len(gaps), 1) - 0.5, -0.5))
ax.set_xlabel("return of the mixture minus that of another critic; band: the margin")
ax.grid(visible=False)
alt = "Mixture minus other critics: " + "; ".join(f"{o} {g}" for o, g in gaps.items())
drawn = pd.DataFrame({other: vars(gap) for other, gap in gaps.items()}).T.rename_axis("critic")
if gaps:
    experiment.figure(fig, "differences", numbers=drawn, alt=alt)

# %% [markdown]
# ## How long does it take?
#
# Seconds from scratch, compilation and evaluations included, for the slowest seed, on one core.
# They are those of the machine in each record's passport, and some had to share it: reacher, and
# all of the quantile critic, were run on another day than the rest.

# %%
seconds = {arm: float(np.max(values)) for arm, values in runs.numbers("seconds").items()}
pd.DataFrame({c: {t: seconds[f"{t}+{c}"] for t in knobs.tasks} for c in knobs.critics}).round(0)

# %% [markdown]
# ## What we found

# %%
lines = [
    f"- **{task}**: " + ", ".join(f"{c} {table[c][task]}" for c in knobs.critics) + "."
    for task in knobs.tasks
]
display(Markdown("\n".join(lines)))

# %%
numbers = {f"iqm.{t}.{c}": table[c][t] for c in knobs.critics for t in knobs.tasks}
numbers |= {f"iqm.all.{critic}": value for critic, value in overall.items()}
numbers |= {f"gap.mixture.{other}": gap for other, gap in gaps.items()}
experiment.report(numbers | {f"seconds.{arm}": value for arm, value in seconds.items()})

# %% [markdown]
# ## How far this goes
#
# Easy bodies, small networks and few seeds. Nothing here speaks of humanoids and dogs, which are
# the paper's point, and which need a hundred times the data. The one setting was found with the
# mixture, on single seeds of cartpole, ball in cup and reacher; ball in cup, the pendulum and
# reacher got more steps after five seeds had been seen to fall short. The other critics were not
# tuned, and could gain from it. Where the value passes a bar and its interval does not, luck had a
# part. The categorical critic's support is right by construction of this suite: what a wrong one
# does is the subject of `mog/02_support`.
#
# The finger and the point mass pay nothing at first. There the mixture failed in six of ten runs as
# long as its unit of return was the spread of returns alone and its components could become as
# narrow as they liked. Now a unit is at least five of the largest rewards, and no component is
# narrower than about a third of one: of six settings that were tried, the one that learned of rare
# rewards without blurring frequent ones (`bench/log.md`). It was chosen on seeds that had failed
# and on a few of reacher and cartpole, so this figure shows that it works, and is no test on fresh
# seeds. Why it works is a guess: a reward that lies many widths away from all returns so far is
# clipped to almost nothing. The scalar critic, which fails on two of five point masses, was given
# the same unit once: it failed no less there, and did worse elsewhere.
#
# ## What to try next
#
# - `-p 'tasks=["walker-walk"]' -p 'critics=["mixture"]' -p seeds=2`: six joints, about ten minutes.
# - `-p 'tasks=["cheetah-run"]' -p 'critics=["mixture","scalar"]' -p seeds=2`: a body that runs.
# - `-p 'critics=["mixture","scalar"]' -p steps=20`: who is ahead early?
