"""Tabular training against a loop in Python, and what must not matter to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from matchbook.control.tabular import TabularTD, on_closed_forms
from matchbook.critics import Categorical, Quantile, Scalar, Target
from matchbook.critics.problems import all_problems, draw, fork, jackpot, uniform

PROBLEMS = (fork(), uniform())


def learner(critic, scales=(1.0,), problems=PROBLEMS, optimizer=None, batch_size=8):
    return TabularTD(
        critic=critic,
        problems=problems,
        reward_scales=scales,
        optimizer=optimizer or optax.adam(0.1),
        batch_size=batch_size,
        target_period=3,
    )


def train(td, steps):
    loop = jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: td.step(s, ())[0], state))
    return loop(td.init(0))


def test_scalar_training_by_hand():
    """Gradient descent on half squared errors, with the target copied every third step."""
    td = learner(Scalar(), scales=(1.0, 10.0), optimizer=optax.sgd(0.1))
    state = td.init(0)
    table, target = (np.asarray(state.table[..., 0], np.float64).copy() for _ in range(2))
    step = jax.jit(td.step)
    for i in range(7):
        key = jax.random.split(jax.random.fold_in(state.key, i))[0]
        drawn = [np.asarray(leaf) for leaf in draw(td.problems, key, 8)]
        rewards, discounts, following = drawn
        returns = np.array([[[1.0]], [[10.0]]]) * rewards + discounts * target[:, following]
        table += 0.1 * (returns - table[..., None]).mean(-1)
        if (i + 1) % 3 == 0:
            target = table.copy()
        state, metrics = step(state, ())
        assert np.isfinite(metrics["loss"])
    np.testing.assert_allclose(state.table[..., 0], table, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.target[..., 0], target, rtol=1e-4, atol=1e-5)


def test_reward_scales_do_not_meet():
    critic = Quantile(num_quantiles=4)
    alone = train(learner(critic, scales=(1.0,)), 30)
    beside = train(learner(critic, scales=(100.0, 1.0)), 30)
    np.testing.assert_allclose(beside.table[1], alone.table[0], rtol=2e-4, atol=2e-5)
    assert not np.allclose(beside.table[0], alone.table[0], atol=1e-3)


def test_scaled_rewards_are_a_scaled_support():
    """For C51, rewards x 100 on +-15 are rewards x 1 on +-0.15, step by step."""
    wide = train(learner(Categorical(num_atoms=5, v_min=-15.0, v_max=15.0), scales=(100.0,)), 30)
    narrow = train(learner(Categorical(num_atoms=5, v_min=-0.15, v_max=0.15)), 30)
    np.testing.assert_allclose(wide.table, narrow.table, atol=2e-3)


def test_scalar_values_come_out_right():
    td = learner(
        Scalar(),
        problems=(uniform(), jackpot()),
        optimizer=optax.adam(optax.linear_schedule(0.1, 0.0, 800)),
        batch_size=64,
    )
    known = td.evaluate(train(td, 800))
    np.testing.assert_allclose([known["mean.uniform.x1"], known["mean.jackpot.x1"]], 1.0, atol=0.15)
    assert known["std.uniform.x1"] == 0.0
    # A point at the mean of an even law on [0, 2] is half a unit away on average.
    np.testing.assert_allclose(known["w1.uniform.x1"], 0.5, atol=0.02)


def test_evaluate_and_cdfs_name_every_problem_and_scale():
    td = learner(Scalar(), scales=(0.01, 100.0), problems=all_problems())
    state = td.init(0)
    known, cdfs = td.evaluate(state), td.cdfs(state)
    assert set(td.watch(state)) == {name for name in known if name.startswith("w1")}
    assert len(known) == 5 * 2 * 5
    assert {"mean.loop.x0.01", "ks.jackpot.x100", "crps.skewed.x100"} <= set(known)
    assert set(cdfs) == {f"cdf.{p.name}" for p in td.problems}
    points, values = cdfs["cdf.fork"]
    place = float(state.table[0, 1, 0]) / 0.01
    np.testing.assert_array_equal(values, (points >= place).astype(float))


def test_evaluation_is_in_units_of_the_reward_scale():
    """A value of 50 for rewards x 100 is as far off as one of 0.5 for rewards x 1."""
    td = learner(Scalar(), scales=(1.0, 100.0), problems=(uniform(),))
    state = td.init(0)
    state = state._replace(table=jnp.asarray([[[0.5]], [[50.0]]]))
    known = td.evaluate(state)
    for quantity in ("mean", "w1", "crps"):
        one, hundred = known[f"{quantity}.uniform.x1"], known[f"{quantity}.uniform.x100"]
        np.testing.assert_allclose(one, hundred, rtol=1e-5)
    # E|Z - 0.5| for Z even on [0, 2]: (0.125 + 1.125) / 2.
    np.testing.assert_allclose(known["w1.uniform.x1"], 0.625, rtol=1e-4)


def test_the_target_of_the_loss_has_one_action():
    """`step` hands the critic what `Target` describes: leaves [1, scales, states, draws]."""
    seen = []

    class Spy(Scalar):
        def loss(self, distribution, target, key):
            seen.append(jax.tree.map(jnp.shape, target))
            return super().loss(distribution, target, key)

    td = learner(Spy(), scales=(1.0, 2.0))
    jax.eval_shape(td.step, td.init(0), ())
    assert isinstance(seen[0], Target)
    assert seen[0].rewards == seen[0].discounts == (2, 4, 8)
    assert seen[0].next.value == (1, 2, 4, 8)


def test_equal_settings_share_one_compilation():
    settings = {"steps": 10, "batch_size": 4, "learning_rate": 0.1, "target_period": 5}
    one, other = (on_closed_forms(Scalar(), (1.0,), **settings) for _ in range(2))
    assert one is other
    assert one.step == other.step
    assert hash(one.step) == hash(other.step)
    assert on_closed_forms(Scalar(), (2.0,), **settings) is not one
