# %% [markdown]
# # Why would a critic of distributions know values better: features, or weights?
#
# A policy reads nothing of a critic but its mean. Why then learn a whole distribution? Notes by a
# reader of [Shahriari et al. 2022](https://arxiv.org/abs/2204.10256) give the paper's two
# explanations. *Features*: to predict a law, a network must see more, and the mean profits.
# *Weights*: a Gaussian's likelihood divides each error by the variance that was learned for it, so
# that transitions with noisy returns count less.
#
# Both can be taken apart. One can have the weights without the law, the features without the loss
# that reads them, and the law without either. We do so where values are known.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop or gpu: a column of the table below
arms: list[str] | None = None  # who learns; see below
seeds: int | None = None  # repetitions: data, noise, networks
updates: int | None = None  # of every critic
episodes: int | None = None  # of 200 decisions each, to learn from
rollouts: int | None = None  # simulated for each of the values that critics are judged by
noise_std: float = 1.5  # root mean square of the noise that is added to rewards
learning_rate: float = 1e-3  # Adam's
init_scale: float = 1.0  # how wide the Gaussians begin, in units of return
sizes = {
    "smoke": {"seeds": 2, "updates": 40, "episodes": 4, "rollouts": 4,
              "arms": ["scalar", "mixture", "reweighted"]},
    "laptop": {"seeds": 16, "updates": 2500, "episodes": 64, "rollouts": 32,
               "arms": ["scalar", "fixed", "gaussian", "mixture", "reweighted", "told"]},
    "gpu": {"seeds": 20, "updates": 40_000, "episodes": 512, "rollouts": 256,
            "arms": ["scalar", "fixed", "gaussian", "mixture", "reweighted", "told"]},
}  # fmt: skip

# %%
from dataclasses import dataclass, replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.control import PolicyEvaluation, Reader, networks, swing_up
from matchbook.control.policy_evaluation import features
from matchbook.control.transitions import Transition
from matchbook.critics import MixtureOfGaussians, Scalar
from matchbook.lab import style

# %%
chosen = {"seeds": seeds, "updates": updates, "episodes": episodes, "rollouts": rollouts}
knobs = lab.knobs(profile, sizes, arms=arms, **chosen)
settings = {name: value for name, value in vars(knobs).items() if name not in ("seeds", "arms")}
settings |= {"noise_std": noise_std, "learning_rate": learning_rate, "init_scale": init_scale}
experiment = lab.Experiment("mog/05_why", version=1, profile=profile)

# %% [markdown]
# ## A policy that does not learn
#
# The suite's pendulum, swung up by a controller with noise that sometimes lets it fall. A critic
# learns its values from recorded transitions. What the values are we know by simulating each
# held-out state and action many times. Three versions differ in the *noise* of their rewards only:
#
# - `none`: as they are. Returns differ in spread from place to place by themselves.
# - `even`: every reward has Gaussian noise of the same size.
# - `uneven`: as much noise on average, but only where the action is above 0; nothing elsewhere.
#
# Noise of mean zero changes laws and no value, so one truth serves all three. If weights are what
# helps, they must help most in the last version, where half of the rewards are worth much more than
# the other half, and where the critic can see which half.

# %%
NOISES = ["none", "even", "uneven"]


@cache
def truth():
    about = {"num": 256, "rollouts": knobs.rollouts, "horizon": 100, "seed": 0}
    return swing_up.Values(**lab.artifact("values", swing_up.judge, **about))


# %% [markdown]
# ## The two explanations in one equation
#
# With a single Gaussian $\mathcal N(\mu,\sigma^2)$, matched to Bellman targets $y$, the gradient in
# its mean is the temporal-difference error over a variance (`mog/01` checks it to rounding):
#
# $$\frac{\partial L}{\partial\mu}=\frac{\mu-\mathbb E\,y}{\sigma^2}.$$
#
# Keep $\sigma$ fixed: this is the scalar critic. Let it be learned: that is a scalar critic with
# *weights* $1/\sigma^2$, and a network whose *features* also have to know $\sigma$. So:
#
# | arm | law? | weights? | features learn |
# |---|---|---|---|
# | `scalar` | no | no | a value |
# | `fixed` | one Gaussian, its width fixed | no | a value |
# | `gaussian` | one Gaussian | yes | a value and a width |
# | `mixture` | five Gaussians | yes | a law |
# | `reweighted` | no | $1/\sigma^2$, learned by another network | a value |
# | `told` | no | by the noise that was really added | a value |
#
# `reweighted` has the weights and nothing else. `told` has better ones than anybody could learn,
# $1/(1+s^2)$ with the standard deviation $s$ of the noise on this very reward; where noise is none
# or even it would be the scalar critic, so it is trained where noise is uneven.
#
# There is reason to doubt the learned weights. Their $\sigma^2$ is the variance of the *return*,
# which holds the noise of all later rewards too: with $\gamma=.95$, 9.3 times as much as that of
# one reward. Under uneven noise the better half of the transitions then weighs 1.2 times as much as
# the worse half, at most, while its rewards have no noise at all.


# %%
@dataclass(frozen=True, kw_only=True)
class FixedWidth(MixtureOfGaussians):
    def distribution(self, outputs):
        law = super().distribution(outputs)
        return law._replace(scales=jnp.full_like(law.scales, self.init_scale))


# %%
MIXTURE = MixtureOfGaussians(num_nodes=2, init_scale=init_scale)
CRITICS = {
    "scalar": Scalar(),
    "fixed": FixedWidth(components=1, num_nodes=2, init_scale=init_scale),
    "gaussian": replace(MIXTURE, components=1),
    "mixture": MIXTURE,
    "reweighted": Scalar(),
    "told": Scalar(),
}


# %%
def learner(name):
    about = {"observation_size": 3, "action_size": 1, "learning_rate": learning_rate}
    return PolicyEvaluation(critic=CRITICS[name], **about)


VALUE, WIDTH = learner("scalar"), learner("gaussian")

# %% [markdown]
# Weights are taken relative to their mean in the batch, so that they change what counts and not how
# long the steps are. The other network is a `gaussian` of its own; nothing of it reaches the scalar
# critic but one number for each transition.


# %%
def reweighted(state, batch):
    width, value = state
    seen = batch.transitions.observations, batch.transitions.actions
    law = networks.returns(WIDTH.critic, width.online.critic, *seen)
    weights = 1 / WIDTH.critic.variance(law)
    width, _ = WIDTH.step(width, batch)
    value, metrics = VALUE.step(value, batch._replace(weights=weights / jnp.mean(weights)))
    return (width, value), metrics


# %% [markdown]
# ## Features without the loss, and the loss without features
#
# In `scalar`, `gaussian` and `mixture` a second head learns on the features of the first, which do
# not feel it. On the mixture's and the Gaussian's features it is a scalar head with the scalar
# loss: their features without their weights. On the scalar critic's features it is a mixture: the
# loss of the law on features that never heard of one.
#
# And a *probe*: when all is learned, linear regression from the last layer's features to the
# returns that were seen, without noise. It asks what is in the features, however the critic's own
# head uses them.

# %%
READERS = {"scalar": "mixture", "gaussian": "scalar", "mixture": "scalar"}


def reader(arm):
    return Reader(learner=learner(arm), critic=CRITICS[READERS[arm]])


# %%
def algorithm(arm, seed):
    """A step and its first state."""
    if arm == "reweighted":
        return reweighted, (WIDTH.init(seed + 1000), VALUE.init(seed))
    one = reader(arm) if arm in READERS else learner(arm)
    return one.step, one.init(seed)


# %%
def network_of(arm, state):
    """The learner's own state."""
    return state[1] if arm == "reweighted" else state[0] if arm in READERS else state


def errors_of(arm, state):
    held_out = truth().observations, truth().actions
    values = {"error": learner(arm).values(network_of(arm, state), *held_out)}
    if arm in READERS:
        values["reader"] = reader(arm).values(state, *held_out)
    return {name: swing_up.value_error(found, truth()) for name, found in values.items()}


# %%
def probed(arm, state, data):
    network = network_of(arm, state)
    seen = features(network, data.observations, data.actions)
    held_out = features(network, truth().observations, truth().actions)
    return swing_up.value_error(swing_up.probe(seen, data, held_out), truth())


# %% [markdown]
# One measurement trains an arm under each kind of noise. A seed stands for new data, new noise, a
# new network and new batches, the same for all arms. The score is the root mean square error of
# values, over their standard deviation: the average value of all states would score 1.


# %%
def experience(arm, seed, data, noise):
    spreads = swing_up.noise_std(data, noise, noise_std)
    weights = 1 / (1 + spreads**2) if arm == "told" else np.ones(len(spreads))
    spoiled = swing_up.noisy(data, noise, noise_std, seed)
    return swing_up.batches(spoiled, seed, weights=weights / weights.mean())


# %%
def trained(arm, seed, data, noise):
    n, (step, state) = knobs.updates, algorithm(arm, seed)
    watch = {"evaluate": lambda state: errors_of(arm, state), "eval_every": max(1, n // 16)}
    watch |= {"log_every": max(1, n // 32), "name": f"{arm}.{noise}"}
    state, history = lab.fit(step, state, experience(arm, seed, data, noise), num_steps=n, **watch)
    curves = {f"{name}.{noise}": history[name] for name in errors_of(arm, state)}
    return curves, probed(arm, state, data)


# %%
def measure(arm, seed, **_):
    data, numbers, curves = Transition(**swing_up.record(knobs.episodes, 200, seed)), {}, {}
    for noise in NOISES if arm != "told" else ["uneven"]:
        found, numbers[f"probe.{noise}"] = trained(arm, seed, data, noise)
        curves |= found
    return lab.Measured(numbers | {name: y[-1] for name, (_, y) in curves.items()}, curves)


runs = experiment.run(measure, arms=knobs.arms, seeds=knobs.seeds, **settings)

# %%
ran = {
    noise: runs.numbers(f"error.{noise}")
    for noise in NOISES
    if knobs.arms != ["told"] or noise == "uneven"
}
COLORS = style.ROLES | {"fixed": style.PALETTE["black"], "gaussian": style.PALETTE["sky"]}
COLORS |= {"reweighted": style.PALETTE["purple"], "told": style.PALETTE["green"]}


def dots(ax, place, values, color):
    mean = lab.mean_interval(values)
    ax.plot(np.full(len(values), place + 0.16), values, ".", ms=4, color=color, alpha=0.6)
    ax.plot([place, place], [mean.low, mean.high], color=color, lw=2)
    ax.plot(place, mean.value, "o", ms=7, color=color, mec="white")


# %% [markdown]
# ## Who knows values better?
#
# Dots are seeds, bars 95 % intervals of the mean.

# %%
fig, axes = lab.subplots(1, 3, height=3.4, width=11)
top = max(values.max() for of in ran.values() for values in of.values())
for ax, (noise, of) in zip(axes, ran.items()):
    for place, (arm, values) in enumerate(of.items()):
        dots(ax, place, values, COLORS[arm])
    ax.set(xticks=range(len(of)), xlim=(-0.5, len(of) - 0.3), ylim=(0, 1.05 * top))
    ax.set_xticklabels(list(of), fontsize=8, rotation=25)
    ax.set_title(f"noise: {noise}")
axes[0].set_ylabel("value: error / std")
alt = "Errors of values by arm and noise: " + "; ".join(
    f"{noise}, {arm} {values.mean():.3f}" for noise, of in ran.items() for arm, values in of.items()
)
drawn = {f"{noise}.{arm}": v for noise, of in ran.items() for arm, v in of.items()}
experiment.figure(fig, "values", numbers=pd.DataFrame(drawn).rename_axis("seed"), alt=alt)


# %% [markdown]
# The same as differences to the scalar critic, seed by seed; below 0 an arm knows values better.


# %%
def against(found, arm, other="scalar"):
    return lab.paired_difference(found[arm], found[other])


gaps = {
    f"gap.{arm}.{noise}": against(of, arm)
    for noise, of in ran.items()
    for arm in of
    if arm != "scalar" and "scalar" in of
}
pd.DataFrame({name: vars(interval) for name, interval in gaps.items()}).T.round(4)

# %% [markdown]
# On the way there: with many updates all may meet, and the paper's policies are read long before.

# %%
fig, axes = lab.subplots(1, 3, height=3.2, width=11)
for ax, noise in zip(axes, ran):
    curves = runs.curve(f"error.{noise}")
    lab.plot_curves(ax, curves, colors={arm: COLORS[arm] for arm in curves})
    ax.set(yscale="log", title=f"noise: {noise}", xlabel="updates")
    ax.set(ylim=(0.1, 1.5), yticks=[0.1, 0.2, 0.5, 1])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
axes[0].set_ylabel("value: error / std")
alt = "Errors of values while learning, by arm, for three kinds of noise."
ends = {
    f"{noise}.{arm}": y.mean(axis=0)
    for noise in ran
    for arm, (_, y) in runs.curve(f"error.{noise}").items()
}
x = next(iter(runs.curve(f"error.{next(iter(ran))}").values()))[0]
experiment.figure(fig, "learning", numbers=pd.DataFrame(ends, x).rename_axis("updates"), alt=alt)

# %% [markdown]
# ## Are its features better?
#
# Left: whose loss taught the features (across), and whose loss the head learns by (lines). If a law
# teaches better features, both lines fall to the right. If its loss reads better, the blue line is
# the lower one. Right: linear probes of the last layer. They know the returns that were seen, and
# ask what can be read off, not what was.

# %%
taught = [arm for arm in ("scalar", "mixture") if arm in knobs.arms]


def square(noise):
    """(features, head) -> errors [seeds], of those that were trained."""
    own, read = (runs.numbers(f"{name}.{noise}") for name in ("error", "reader"))
    return {(of, of): own[of] for of in taught} | {(of, READERS[of]): read[of] for of in taught}


# %%
fig, axes = lab.subplots(1, 3, height=3.4, width=11)
for ax, noise in zip(axes[:2], ("none", "uneven") if taught else []):
    for head, shift in (("scalar", -0.14), ("mixture", 0.14)):
        found = {of: values for (of, by), values in square(noise).items() if by == head}
        for of, values in found.items():
            dots(ax, taught.index(of) + shift, values, style.ROLES[head])
        means = [found[of].mean() for of in taught if of in found]
        places = [taught.index(of) + shift for of in taught if of in found]
        ax.plot(places, means, color=style.ROLES[head], lw=1.2, label=f"{head} head")
    ax.set(xticks=range(len(taught)), xticklabels=[f"{of}'s features" for of in taught])
    ax.set(xlim=(-0.4, 1.9), title=f"noise: {noise}", ylim=(0, None))
    lab.label_lines(ax)
PROBED = [arm for arm in knobs.arms if arm != "told"]
for place, arm in enumerate(PROBED):
    dots(axes[2], place, runs.numbers("probe.none")[arm], COLORS[arm])
axes[2].set(xticks=range(len(PROBED)), title="probe, noise: none", ylim=(0, None))
axes[2].set_xlim(-0.5, len(PROBED) - 0.3)
axes[2].set_xticklabels(PROBED, fontsize=8, rotation=25)
axes[0].set_ylabel("value: error / std")
alt = "Errors of values by features and head, and of linear probes: " + "; ".join(
    f"probe of {arm} {runs.numbers('probe.none')[arm].mean():.3f}" for arm in PROBED
)
drawn = {f"{n}.{h}_on_{f}": v for n in ran if taught for (f, h), v in square(n).items()}
drawn |= {f"probe.{arm}": runs.numbers("probe.none")[arm] for arm in PROBED}
experiment.figure(fig, "features", numbers=pd.DataFrame(drawn).rename_axis("seed"), alt=alt)

# %%
for noise in NOISES if len(taught) == 2 else []:
    found = {f"{head}_on_{of}": v for (of, head), v in square(noise).items()}
    gaps[f"features.{noise}"] = against(found, "scalar_on_mixture", "scalar_on_scalar")
    gaps[f"loss.{noise}"] = against(found, "mixture_on_scalar", "scalar_on_scalar")
    probes = runs.numbers(f"probe.{noise}")
    gaps |= {
        f"probe.{a}.{noise}": against(probes, a) for a in probes if a not in ("scalar", "told")
    }
pd.DataFrame({n: vars(v) for n, v in gaps.items() if not n.startswith("gap")}).T.round(4)

# %% [markdown]
# `features` is the scalar head on the mixture's features against the same head on its own; `loss`
# is the mixture head on the scalar critic's features against the scalar head there.
#
# One arm says how much the others could show. `told` has weights that nobody could better. Where it
# is no better than the scalar critic, noise on rewards is not what limits a critic, and learned
# weights cannot be blamed for bringing nothing.
#
# ## What we found


# %%
def verdict(name):
    if name not in gaps:
        return "(not run)"
    low, high = gaps[name].low, gaps[name].high
    side = "better" if high < 0 else "worse" if low > 0 else "not told apart"
    return f"**{side}** ({gaps[name]})"


found = f"""
Against the scalar critic, in standard deviations of the values; below 0 is better.

- The whole mixture: {verdict("gap.mixture.none")} as rewards are, {verdict("gap.mixture.even")}
  with even noise, {verdict("gap.mixture.uneven")} with uneven noise.
- Weights alone: {verdict("gap.reweighted.none")}, {verdict("gap.reweighted.even")} and
  {verdict("gap.reweighted.uneven")}. Told which rewards are noisy: {verdict("gap.told.uneven")}.
- Features alone, read by a scalar head: {verdict("features.none")}, {verdict("features.even")} and
  {verdict("features.uneven")}; by a probe: {verdict("probe.mixture.none")},
  {verdict("probe.mixture.even")} and {verdict("probe.mixture.uneven")}.
- The law's loss alone, on features of the scalar critic: {verdict("loss.none")},
  {verdict("loss.even")} and {verdict("loss.uneven")}.
"""
display(Markdown(found))

# %%
numbers = {
    f"error.{arm}.{noise}": lab.mean_interval(values)
    for noise, of in ran.items()
    for arm, values in of.items()
}
experiment.report(numbers | gaps)

# %% [markdown]
# ## How far this goes
#
# One small task with three numbers to see and one to do, networks of two layers of 64, a few
# thousand updates, one learning rate for all: features that suffice for a pendulum are learned by
# any loss. The paper speaks of bodies with dozens of joints, where features may be what is scarce.
# A policy that learns changes its data and its targets all the time; ours never does. So what does
# not help here may help there; but it is then not because a law were the better teacher of values
# as such. The second head learns while the features move, and may trail behind them: the probe, by
# regression, does not.
#
# ## What to try next
#
# - `-p init_scale=0.001`: the paper's narrow start, in all Gaussians.
# - `-p noise_std=5.0`: is there any noise at which weights alone win?
# - `-p learning_rate=0.003`: who profits from longer steps?
# - `-p episodes=8`: little data, learned many times over.
