# %% [markdown]
# # D4PG: does the mixture fit into another agent as it is?
#
# [Shahriari et al. 2022](https://arxiv.org/abs/2204.10256) name two agents whose critics know the
# distribution of returns: DMPO, which they build on, and D4PG
# ([Barth-Maron et al. 2018](https://arxiv.org/abs/1804.08617)). Both came with the categorical
# critic C51. The released code has the mixture in the first of the two only, though nothing about
# it is special to that agent. So we put it into the second: the same learner, five critics, and one
# word of code between them.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] | None = None  # mixture, mended, categorical, quantile, scalar
tasks: list[str] | None = None  # of dm-control, as domain-task
seeds: int | None = None  # agents of an arm
steps: int | None = None  # decisions an agent takes in a task while it learns
episodes: int | None = None  # that it is judged in, each time
learning_rate: float = 1e-3  # Adam's, for policy and critic; all arms alike
sizes = {
    "smoke": {"seeds": 2, "steps": 1016, "episodes": 2, "tasks": ["cartpole-swingup"],
              "arms": ["mixture", "scalar"]},
    "laptop": {"seeds": 5, "steps": 7000, "episodes": 10,
               "tasks": ["reacher-easy", "cartpole-swingup"],
               "arms": ["mixture", "mended", "categorical", "quantile", "scalar"]},
    "gpu": {"seeds": 10, "steps": 50_000, "episodes": 10,
            "tasks": ["reacher-easy", "cartpole-swingup"],
            "arms": ["mixture", "mended", "categorical", "quantile", "scalar"]},
}  # fmt: skip

# %%
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.control import D4PG, Agent, Schedule, control_suite, networks, normalization
from matchbook.control.presets import MENDED_MIXTURE, UNITS
from matchbook.critics import Categorical, MixtureOfGaussians, Quantile, Scalar
from matchbook.lab import style
from matchbook.lab.statistics import interquartile_mean

# %%
chosen = {"seeds": seeds, "steps": steps, "episodes": episodes}
knobs = lab.knobs(profile, sizes, tasks=tasks, arms=arms, **chosen)
settings = {"steps": knobs.steps, "episodes": knobs.episodes, "tasks": knobs.tasks}
settings |= {"learning_rate": learning_rate}
experiment = lab.Experiment("mog/06_d4pg", version=1, profile=profile, revised={"mended": 2})

# %% [markdown]
# ## The idea in one equation
#
# The policy is a function $a=\pi_\phi(s)$, without any randomness of its own. It climbs the
# critic's value by the chain rule:
#
# $$\nabla_\phi\,\mathbb E\,Q(s,\pi_\phi(s))=\mathbb E\Big[\nabla_\phi\pi_\phi(s)\;
# \nabla_a Q(s,a)\big|_{a=\pi_\phi(s)}\Big],\qquad Q(s,a)=\mathbb E\,Z(s,a).$$
#
# So all that D4PG asks of a critic is a mean that can be differentiated in the action, and a loss
# against $r+\gamma Z(s',\pi(s'))$. For C51 the mean is $\sum_i p_i z_i$, with atoms $z_i$ that
# never move; for the mixture it is $\sum_k w_k\mu_k$, in which weights and means both move. That is
# the whole adaptation. (With the scalar critic the learner is DDPG with returns of several steps.)
#
# ## The critics
#
# `mixture` is that of the paper's code: five components, all at the origin and 0.001 wide in the
# beginning. `mended` learns in a unit of its own that follows the returns, and starts wide
# (`mog/02_support` says why). `categorical` is C51, the only one that was told something: no
# return here exceeds $1/(1-\gamma)=20$. `quantile` and `scalar` need no telling either.

# %%
DISCOUNT = 0.95  # for each decision
CRITICS = {
    "mixture": MixtureOfGaussians(num_nodes=2),
    "mended": MENDED_MIXTURE,
    "categorical": Categorical(num_atoms=51, v_min=-20.0, v_max=20.0),
    "quantile": Quantile(num_quantiles=25),
    "scalar": Scalar(),
}


# %%
def learner(arm, environments):
    return D4PG(
        observation_size=environments.observation_size, action_size=environments.action_size,
        critic=CRITICS[arm], policy_sizes=(64, 64), critic_sizes=(64, 64), exploration=0.3,
        learning_rate=learning_rate, target_period=50,
        units=UNITS if arm == "mended" else None,
    )  # fmt: skip


# %% [markdown]
# ## The tasks
#
# Two bodies of dm-control. *Reacher*: two joints, and a target that the finger has to reach and
# stay at; a reward of 1 while it does, else 0. *Cartpole*: a pole hangs from a cart that has to
# swing it up and balance it; rewards grow smoothly. To be done in minutes, a decision lasts several
# of the suite's steps: eight on the cartpole, four elsewhere, as in PlaNet (Hafner et al. 2019).
# Returns are given on the suite's own scale, on which 1,000 is the most there is.


# %%
def hold(task):
    """How many of the suite's steps a decision lasts."""
    return 8 if task.startswith("cartpole") else 4


# %%
def environments(task, num):
    return control_suite(task, num, hold=hold(task))


# %% [markdown]
# ## Learning
#
# Sixteen bodies act together, with Gaussian noise on their actions. Two updates for a decision,
# on 64 transitions of up to three decisions. Along the way, and at the end, the policy is judged
# without its noise, in ten episodes that are the same for all.

# %%
schedule = Schedule(
    batch_size=64, n_step=3, discount=DISCOUNT, samples_per_insert=128,
    min_replay=1000, updates_per_dispatch=16,
)  # fmt: skip


# %%
def train(arm, task, seed, steps):
    bodies, judges = environments(task, 16), environments(task, knobs.episodes)
    one = learner(arm, bodies)
    agent = Agent(one, bodies, schedule, seed=seed, judged_in=judges)
    n = agent.num_steps(steps)
    watch = {"evaluate": agent.evaluate, "eval_every": max(1, -(-n // 8)), "name": task}
    state, history = lab.fit(agent.step, agent.init(), agent.experience, num_steps=n, **watch)
    judged, decisions = history["return"][1], history["environment_steps"][1]
    return one, state, (np.round(decisions), hold(task) * judged)


# %% [markdown]
# ## What the policy climbs
#
# At the end we also look at the world as the policy does. The body is at the beginning of an
# episode; along the axis is the first action, from full force one way to full force the other. What
# does the critic say of the return, and how sure is it?


# %%
def landscape(one, state, task):
    along = np.linspace(-1, 1, 41, dtype=np.float32)
    first = jnp.repeat(jnp.asarray(environments(task, 1).reset(0)), 41, axis=0)
    chosen = networks.deterministic(state.target.policy, first)
    law = networks.returns(one.critic, state.online.critic, first, chosen.at[:, 0].set(along))
    unit = state.online.critic.unit
    mean = normalization.in_units_of_return(one.critic.mean(law), unit)
    std = np.sqrt(one.critic.variance(law)) * (1.0 if unit is None else unit.scale)
    return {"mean": (along, mean), "std": (along, std), "chosen": (along, chosen[:, 0])}


# %%
def measure(arm, seed, tasks, steps, **_):
    numbers, curves = {}, {}
    for task in tasks:
        one, state, curve = train(arm, task, seed, steps)
        curves[f"return.{task}"], numbers[f"return.{task}"] = curve, curve[1][-1]
        seen = landscape(one, state, task)
        curves |= {f"{quantity}.{task}": values for quantity, values in seen.items()}
    return lab.Measured(numbers, curves)


# %%
runs = experiment.run(measure, arms=knobs.arms, seeds=knobs.seeds, **settings)

# %%
COLORS = style.ROLES | {"mended": style.PALETTE["purple"]}
finals = {task: runs.numbers(f"return.{task}") for task in knobs.tasks}
scores = {arm: np.stack([finals[task][arm] for task in knobs.tasks]) for arm in knobs.arms}
over_tasks = {arm: lab.iqm(values) for arm, values in scores.items()}

# %% [markdown]
# A thin line is one agent, a thick one the interquartile mean (IQM) of an arm: the mean of the
# middle half of its agents, which one lucky or unlucky seed cannot move far. Nothing was chosen for
# one critic alone: learning rate, networks and noise are the same for all. (The intervals are in
# the next picture: as bands they would cover each other.)

# %%
fig, axes = lab.subplots(1, len(knobs.tasks), height=3.4, width=5.2 * len(knobs.tasks))
for ax, task in zip(np.ravel(axes), knobs.tasks):
    for arm, (x, y) in runs.curve(f"return.{task}").items():
        ax.plot(x / 1000, y.T, color=COLORS[arm], lw=0.8, alpha=0.35)
        middle_half = [interquartile_mean(column) for column in y.T]
        ax.plot(x / 1000, middle_half, color=COLORS[arm], lw=2.4, label=arm)
    lab.label_lines(ax)
    ax.set(title=task, xlabel="thousand decisions", ylabel="return", ylim=(0, 1000))
alt = "Return over decisions for each critic: " + "; ".join(
    f"{task}: " + ", ".join(f"{a} ends at {v.mean():.0f}" for a, v in of.items())
    for task, of in finals.items()
)
drawn = {f"{task}.{a}": v for task, of in finals.items() for a, v in of.items()}
experiment.figure(fig, "learning", numbers=pd.DataFrame(drawn).rename_axis("seed"), alt=alt)

# %% [markdown]
# ## Where they end
#
# The interquartile mean over seeds, and over tasks and seeds together. Bars are 95 % bootstrap
# intervals, in which runs are drawn again within each task; dots are single agents.

# %%
columns = {task: finals[task] for task in knobs.tasks}
columns |= {"all": {arm: values.ravel() for arm, values in scores.items()}}
middle = {task: {a: lab.iqm(v) for a, v in of.items()} for task, of in finals.items()}
middle["all"] = over_tasks
table = pd.DataFrame({t: {a: s.value for a, s in of.items()} for t, of in middle.items()})
table.rename_axis("critic").round(0)

# %%
fig, axes = lab.subplots(1, len(columns), height=3.0, width=10)
for ax, (title, of) in zip(axes, columns.items()):
    for place, (arm, values) in enumerate(of.items()):
        score = middle[title][arm]
        ax.plot(values, np.full(len(values), place + 0.2), ".", ms=4, color=COLORS[arm], alpha=0.6)
        ax.plot([score.low, score.high], [place, place], color=COLORS[arm], lw=2.5)
        ax.plot(score.value, place, "o", ms=7, color=COLORS[arm], mec="white")
    ax.set(title=title, xlim=(-20, 1020), xlabel="return", yticks=range(len(of)))
    ax.set_yticklabels([a.replace("_", " ") for a in of] if ax is axes[0] else [])
    ax.invert_yaxis()
alt = "Interquartile means of the final return, over all tasks: " + "; ".join(
    f"{arm} {score.value:.0f} ({score.low:.0f} to {score.high:.0f})"
    for arm, score in over_tasks.items()
)
experiment.figure(fig, "final", numbers=table.rename_axis("critic"), alt=alt)

# %% [markdown]
# ## What the critics say
#
# The critic's law of the return along the first action, at the start of an episode of the last
# task, for the agent of seed 0: the line is the mean, which the policy climbs, the band one
# standard deviation to each side. The dot is the action that was chosen. It should be near the
# line's top. (The scalar critic has no band: it knows no more than the line.)

# %%
task = knobs.tasks[-1]
law = {name: runs.curve(f"{name}.{task}") for name in ("mean", "std", "chosen")}
spread = {arm: float(np.mean(values[0])) for arm, (_, values) in law["std"].items()}
drawn = {f"{n}.{a}": y[0] for n, of in law.items() for a, (_, y) in of.items()}

# %%
fig, axes = lab.subplots(1, len(knobs.arms), height=2.7, width=11)
for ax, arm in zip(np.ravel(axes), knobs.arms):
    along, (mean, std) = law["mean"][arm][0], (law[name][arm][1][0] for name in ("mean", "std"))
    chosen = law["chosen"][arm][1][0, 0]
    ax.fill_between(along, mean - std, mean + std, color=COLORS[arm], alpha=0.2, lw=0)
    ax.plot(along, mean, color=COLORS[arm])
    ax.plot(chosen, np.interp(chosen, along, mean), "o", color=style.INK, zorder=3)
    ax.set(title=arm.replace("_", " "), xlabel="action")
np.ravel(axes)[0].set_ylabel("return, discounted")
alt = f"Return laws along the action on {task}; mean standard deviations: " + ", ".join(
    f"{arm} {value:.2f}" for arm, value in spread.items()
)
table = pd.DataFrame(drawn, along).rename_axis("action")
experiment.figure(fig, "landscape", numbers=table, alt=alt)

# %% [markdown]
# ## What we found


# %%
def gap(first, second):
    """Difference of returns, averaged over tasks, seed by seed; above 0 the first is better."""
    return lab.paired_difference(scores[first].mean(axis=0), scores[second].mean(axis=0))


def told(arm):
    shown = f"- **{arm.replace('_', ' ')}**: IQM of the return {over_tasks[arm]:.0f}"
    if arm == "scalar" or "scalar" not in scores:
        return shown + "."
    return shown + f"; above the scalar critic by {gap(arm, 'scalar'):.0f} on average."


# %%
display(Markdown("\n".join(told(arm) for arm in scores)))

# %%
pairs = [(arm, "scalar") for arm in ("mixture", "mended", "categorical", "quantile")]
pairs += [("mixture", "categorical"), ("mended", "categorical"), ("mended", "mixture")]
gaps = {f"gap.{a}.{b}": gap(a, b) for a, b in pairs if a in scores and b in scores}
numbers = {f"iqm.{arm}": score for arm, score in over_tasks.items()} | gaps
numbers |= {
    f"return.{task}.{arm}": lab.mean_interval(values)
    for task, of in finals.items()
    for arm, values in of.items()
}
experiment.report(numbers)

# %% [markdown]
# ## How far this goes
#
# That the mixture *fits* is shown by its running at all: the learner's code has no branch for it.
# How *good* it is, two easy tasks and small networks cannot settle. A reader's notes of the paper
# say that on easy tasks no critic beats another, and that differences appear on large bodies, which
# are out of reach here. The learning rate is ten times that of the published code, for networks
# a sixth as wide; no arm was given its own. Agents are stopped before they have learned all
# they can: what is compared is how fast, as much as how well. The intervals speak of seeds, not
# of tasks.
#
# ## What to try next
#
# - `-p steps=30000`: who is best once all have had the time?
# - `-p 'tasks=["pendulum-swingup"]' -p steps=20000`: rewards are rare there.
# - `-p 'arms=["mixture","mended"]' -p learning_rate=1e-4`: the published rate. Which of the
#   two heads needs the larger one?
# - `-p 'arms=["mixture","scalar"]' -p 'tasks=["cartpole-balance"]'`: as easy as it gets.
