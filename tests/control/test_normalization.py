"""Units of return: statistics against NumPy, predictions kept, and free of the reward's scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learners import batch, d4pg, dmpo, norm, started, step

from matchbook.control import networks, normalization
from matchbook.control.learning import Networks
from matchbook.control.normalization import ReturnUnits, Unit
from matchbook.critics import Categorical, MixtureOfGaussians, Quantile, Scalar

MIXTURE = MixtureOfGaussians(widths="exp", estimator="quadrature", num_nodes=3, components=2)
CRITICS = pytest.mark.parametrize("critic", [MIXTURE, Scalar(), Quantile(num_quantiles=5)])
UNITS = ReturnUnits(rate=0.1)
QUICK = {"target_policy_period": 2, "target_critic_period": 2, "learning_rate": 1e-2}
QUICK_D4PG = {"target_period": 2, "learning_rate": 1e-2}

moved = jax.jit(normalization.moved, static_argnums=2)
keep_up = jax.jit(normalization.keep_up, static_argnums=(0, 4))
returns = jax.jit(networks.returns, static_argnums=0)


def unit(location, spread, mass=0.5, least=0.0):
    return Unit(*(jnp.asarray(x, jnp.float32) for x in (location, spread, least, mass)))


def with_units(state, online, target):
    """The state with these units in its critics."""
    both = (state.online, online), (state.target, target)
    online, target = (Networks(n.policy, n.critic._replace(unit=unit)) for n, unit in both)
    return state._replace(online=online, target=target)


def learner(critic, make=dmpo, units=UNITS, **settings):
    return make(critic, units=units, **settings)


def fresh(one):
    """A random state, as `started` fills it, that has not seen a reward."""
    state = started(dmpo(one.critic) if hasattr(one, "region") else d4pg(one.critic))
    critic = state.online.critic._replace(unit=normalization.no_unit())
    optimizer = jax.eval_shape(lambda: one.init(0)).optimizer
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), optimizer)
    state = state._replace(target=state.online, optimizer=zeros)
    return with_units(state, critic.unit, critic.unit)


def test_running_mean_and_spread_are_those_of_weighted_samples():
    """After three batches: the mean and variance of all numbers together, with the weights that an
    exponential average without bias gives to each batch.
    """
    rng, rate = np.random.default_rng(0), 0.1
    batches = [rng.normal(5 + i, 1 + i, size=16) for i in range(3)]
    now = normalization.no_unit()
    for values in batches:
        now = moved(now, jnp.asarray(values, jnp.float32), rate)
    weights = np.repeat([0.9**2, 0.9, 1.0], 16)
    values = np.concatenate(batches)
    mean = np.average(values, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    np.testing.assert_allclose([now.location, now.scale], [mean, spread], rtol=1e-5)
    np.testing.assert_allclose(now.mass, 1 - 0.9**3, rtol=1e-6)


def test_equal_returns_have_a_unit_too():
    now = moved(normalization.no_unit(), jnp.full(8, 50.0), 0.1)
    np.testing.assert_allclose([now.location, now.scale], [50.0, 0.05], rtol=1e-6)


def test_a_unit_can_be_kept_above_every_reward():
    """Rare rewards leave values level; the largest stays known when it is gone from the batches,
    and counts for nothing where returns are spread further.
    """
    state, data = with_units(fresh(learner(MIXTURE)), unit(0.5, 0.01), unit(0.5, 0.01)), batch()
    settings = ReturnUnits(rate=0.1, least=3)
    values, silent = jnp.zeros((4, 8)), jnp.zeros(8)
    rare = data._replace(rewards=silent.at[3].set(-0.7), discounts=silent)
    after = keep_up(MIXTURE, state, rare, values, settings)
    assert float(after.online.critic.unit.spread) < 0.3
    np.testing.assert_allclose(after.online.critic.unit.scale, 2.1, rtol=1e-6)
    after = keep_up(MIXTURE, after, rare._replace(rewards=silent), values, settings)
    np.testing.assert_allclose(after.online.critic.unit.scale, 2.1, rtol=1e-6)
    wide = rare._replace(rewards=silent, discounts=silent + 1)
    settings = ReturnUnits(rate=0.9, least=3)
    after = keep_up(MIXTURE, after, wide, values + jnp.linspace(-9e3, 9e3, 8)[None], settings)
    assert float(after.online.critic.unit.scale) == float(after.online.critic.unit.spread) > 9
    plain = keep_up(MIXTURE, state, rare, values, UNITS).online.critic.unit
    assert float(plain.scale) == float(plain.spread)


@CRITICS
def test_another_unit_leaves_every_prediction_as_it_is(critic):
    one, data = learner(critic), batch()
    network = started(dmpo(critic)).online.critic
    old, new = unit(3.0, 2.0), unit(-40.0, 17.0)
    head = normalization.change_unit(critic, network.head, old, new)
    before = returns(critic, network, data.observations, data.actions)
    after = returns(critic, network._replace(head=head), data.observations, data.actions)
    for name in ("mean", "knots"):
        if name == "knots" and critic is MIXTURE:
            continue  # its widths are next
        ours = [
            u.location + u.scale * getattr(critic, name)(law)
            for law, u in ((before, old), (after, new))
        ]
        np.testing.assert_allclose(*ours, rtol=1e-4, atol=1e-4)
    if critic is MIXTURE:
        floor = critic.min_scale
        widths = [u.scale * (law.scales - floor) for law, u in ((before, old), (after, new))]
        np.testing.assert_allclose(*widths, rtol=1e-3)
        np.testing.assert_allclose(before.logits, after.logits, rtol=1e-5)
    assert one.units == UNITS


@CRITICS
def test_moving_the_unit_moves_no_prediction(critic):
    state, data = with_units(fresh(learner(critic)), unit(1.0, 3.0), unit(-2.0, 5.0)), batch()
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
    after = keep_up(critic, state, data._replace(rewards=100 * data.rewards), values, UNITS)
    old, new = state.online.critic.unit, after.online.critic.unit
    assert abs(float(new.scale) / float(old.scale) - 1) > 0.1
    targets = 100 * data.rewards + data.discounts * (5 * values.mean(0) - 2)
    for ours, expected in zip(new, moved(old, targets, 0.1), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
    means = [
        u.location + u.scale * critic.mean(returns(critic, n, data.observations, data.actions))
        for n, u in ((state.online.critic, old), (after.online.critic, new))
    ]
    np.testing.assert_allclose(*means, rtol=1e-3, atol=1e-3)
    assert float(after.target.critic.unit.location) == -2.0  # copied only by and by


def test_rewards_whose_squares_vanish_make_no_unit():
    """A point mass far from its goal is paid 1e-30: a spread of 0, and NaN at the next step."""
    one, data = learner(MIXTURE, **QUICK), batch()
    data = data._replace(rewards=1e-30 * jnp.abs(data.rewards))
    state = fresh(one)
    for _ in range(3):
        state, metrics = step(one, state, data)
        assert all(np.isfinite(value).all() for value in jax.tree.leaves(metrics))
    assert state.online.critic.unit == normalization.no_unit()


def test_scalar_loss_is_the_plain_one_over_the_unit_squared():
    """Units of 7 and 5 in online and target network against the paper's step on networks that say
    the same in returns.
    """
    state = with_units(fresh(learner(Scalar())), unit(2.0, 7.0, 1.0), unit(-1.0, 5.0, 1.0))
    after, metrics = step(learner(Scalar(), **QUICK), state, batch())
    networks_of = state.online.critic, state.target.critic
    online, target = (
        n._replace(head=Scalar().rescaled_head(n.head, n.unit.location, n.unit.scale), unit=None)
        for n in networks_of
    )
    state = state._replace(
        online=state.online._replace(critic=online),
        target=state.target._replace(critic=target),
        optimizer=started(dmpo(Scalar())).optimizer,
    )
    _, expected = step(dmpo(Scalar(), **QUICK), state, batch())
    squared = float(after.online.critic.unit.scale) ** 2
    np.testing.assert_allclose(metrics["critic_loss"] * squared, expected["critic_loss"], rtol=1e-3)
    np.testing.assert_allclose(metrics["value"], expected["value"], rtol=1e-4)


def learned(one, factor, seed=0, state=None, steps=10):
    """Some steps on random rewards times a factor; the first two batches have none."""
    state = fresh(one) if state is None else state
    if state.duals:  # a cold E-step, to which values matter from the first step on
        state = state._replace(duals=state.duals._replace(temperature=jnp.full((), -3.0)))
    for i in range(steps):
        data = batch(seed + i, reward=0.0 if i < 2 else 1.0)
        state, metrics = step(one, state, data._replace(rewards=factor * data.rewards))
    return state.online.policy, float(metrics["value"]) / factor


def distance(one, other):
    return norm(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one, other))


@pytest.mark.parametrize(
    "one",
    [
        learner(MIXTURE, **QUICK),
        learner(MIXTURE, units=ReturnUnits(rate=0.1, least=10), **QUICK),
        learner(Scalar(), **QUICK),
        learner(Scalar(), d4pg, **QUICK_D4PG),
    ],
    ids=["mixture", "mixture, least unit", "scalar", "d4pg"],
)
def test_policies_do_not_depend_on_the_scale_of_rewards(one):
    """Rewards times 1/100, 1 and 100, through the first reward and copies of the targets: the same
    policies up to float error, and values times the factor. Other rewards: another policy.
    """
    policy, value = learned(one, 1.0)
    far = distance(policy, fresh(one).online.policy)
    assert abs(value) > 1e-3
    for factor in (0.01, 100.0):
        other, scaled = learned(one, factor)
        np.testing.assert_allclose(scaled, value, rtol=2e-3)
        assert distance(other, policy) < 2e-3 * far
    assert distance(learned(one, -1.0)[0], policy) > 2e-2 * far


def test_the_papers_values_depend_on_it():
    """What is mended above: Adam goes so far in a step and no further, whatever the rewards."""
    one = dmpo(Scalar(), **QUICK)
    values = [learned(one, factor, state=started(one))[1] for factor in (1.0, 100.0)]
    assert abs(values[1]) < 0.2 * abs(values[0])


def test_before_the_first_reward_there_is_no_unit():
    one = learner(Scalar(), **QUICK)
    state = fresh(one)
    for i in range(2):
        state, _ = step(one, state, batch(i, reward=0.0))
    silent = state.online.critic.unit
    assert silent == normalization.no_unit()
    data = batch(2)
    state, _ = step(one, state, data)
    first, rewards = state.online.critic.unit, np.asarray(data.rewards, np.float64)
    np.testing.assert_allclose([first.location, first.scale], [rewards.mean(), rewards.std()], 1e-5)


def test_what_cannot_be_rescaled_is_refused():
    with pytest.raises(TypeError, match="Categorical"):
        dmpo(Categorical(), units=UNITS)
    with pytest.raises(ValueError, match="'exp'"):
        d4pg(MixtureOfGaussians(), units=UNITS)
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        ReturnUnits(rate=0)
    with pytest.raises(ValueError, match="least must not be negative, got -1"):
        ReturnUnits(least=-1)


def test_a_fresh_learner_has_units_only_if_asked():
    assert jax.eval_shape(lambda: dmpo(Scalar()).init(0)).online.critic.unit is None
    made = jax.eval_shape(lambda: learner(Scalar()).init(0))
    assert isinstance(made.online.critic.unit, Unit)
    assert isinstance(made.target.critic.unit, Unit)
