"""Returns in a unit of their own, so that the scale of rewards does not matter.

PopArt (van Hasselt et al. 2016) for return distributions. The mixture of Shahriari et al. 2022
needs no support, but its initial widths, Adam's steps and the temperature of the E-step are lengths
in units of return. Unusual: as long as every reward was below `LEAST_REWARD` there is no unit, and
the first one is taken from rewards alone; so rewards times any factor that leaves them above it
lead to the same policies from the first step. And a unit can be kept from being small beside a
reward (`least`): where rewards are rare, values hardly differ, and in units of their spread a
reward lies so far out that a likelihood cannot follow.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from matchbook.control.learning import State
from matchbook.control.transitions import Transition
from matchbook.critics import Affine, Critic, Head, Target

LEAST_SPREAD = 1e-3  # of returns, as a share of how large they are: float32 can see no less
LEAST_REWARD = 1e-6  # less is none: dm-control's fade with distance to 1e-30, whose square is 0


@dataclass(frozen=True, kw_only=True)
class ReturnUnits:
    """Settings.

    Arguments:
        rate: share of a batch in the running averages.
        least: no unit is less than so many of the largest n-step reward seen; 0: the spread of
            returns alone decides.
    """

    rate: int | float = 1e-3
    least: int | float = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}; 1e-3 is usual")
        if self.least < 0:
            raise ValueError(f"least must not be negative, got {self.least}; 0 is none")

    def check(self, critic: Critic) -> None:
        """Refuse what cannot work before anything is trained.

        Raises:
            ValueError: the mixture's widths are not "exp".
            TypeError: the critic has a support, such as C51's, which cannot follow a unit.
        """
        if not isinstance(critic, Affine):
            raise TypeError(
                f"units of return need a critic that can be rescaled (scalar, quantile, mixture), "
                f"got {type(critic).__name__}: its support is fixed"
            )
        zeros = jnp.zeros(critic.num_outputs)
        critic.rescaled_head(Head(zeros[None], zeros), jnp.zeros(()), jnp.ones(()))  # or it raises


class Unit(NamedTuple):
    """What a head calls `z` is a return of `location + scale * z`. All are scalars.

    Arguments:
        location: running mean of the Bellman targets.
        spread: their running standard deviation.
        least: what the scale must not fall below, as `ReturnUnits.least` has it.
        mass: of the running averages; 0 as long as there is no unit, where returns are as they are.
    """

    location: Array
    spread: Array
    least: Array
    mass: Array

    @property
    def scale(self) -> Float[Array, ""]:
        """Return for each unit."""
        return jnp.maximum(self.spread, self.least)


def no_unit() -> Unit:
    """Before any reward: `z` is the return."""
    return Unit(jnp.zeros(()), jnp.ones(()), jnp.zeros(()), jnp.zeros(()))


def moved(
    unit: Unit,
    returns: Float[Array, " batch"],
    rate: int | float,
    least: Float[Array, ""] | float = 0.0,
) -> Unit:
    """The unit after a batch: running mean and standard deviation, unbiased from the first on; and
    the largest of all that was asked for as its `least`.
    """
    mass = unit.mass + rate * (1 - unit.mass)
    share = rate / mass
    distance = jnp.mean(returns) - unit.location
    location = unit.location + share * distance
    variance = (1 - share) * (jnp.square(unit.spread) + share * jnp.square(distance))
    spread = jnp.sqrt(variance + share * jnp.var(returns))
    spread = jnp.maximum(spread, LEAST_SPREAD * jnp.abs(location))
    return Unit(location, spread, jnp.maximum(unit.least, least), mass)


def change_unit(critic: Affine, head: Head, old: Unit, new: Unit) -> Head:
    """The head that predicts in the new unit the returns that `head` predicts in the old one."""
    shift, factor = (old.location - new.location) / new.scale, old.scale / new.scale
    return critic.rescaled_head(head, shift, factor)


def keep_up(
    critic: Any,
    state: State,
    batch: Transition,
    next_values: Float[Array, "actions batch"],
    settings: ReturnUnits | None,
) -> State:
    """The state with its critics' units moved by one batch; no prediction changes by it.

    The online critic's unit follows the batch's Bellman targets; the target critic keeps the unit
    that it was copied with.

    Arguments:
        critic: of both networks; `Affine`.
        state: of a learner.
        batch: of transitions.
        next_values: what the target critic says of the next states, in its own unit.
        settings: None leaves everything as it is.
    """
    if settings is None:
        return state
    online, target = state.online.critic, state.target.critic
    known = online.unit.mass > 0
    bootstrapped = in_units_of_return(jnp.mean(next_values, axis=0), target.unit)
    # What networks say before there is a unit is noise of no unit: it must not become one.
    returns = batch.rewards + jnp.where(known, batch.discounts * bootstrapped, 0.0)
    least = settings.least * jnp.max(jnp.abs(batch.rewards))
    there_is_one = known | jnp.any(jnp.abs(batch.rewards) > LEAST_REWARD)
    unit = _where(there_is_one, moved(online.unit, returns, settings.rate, least), online.unit)
    head = _where(known, change_unit(critic, online.head, online.unit, unit), online.head)
    online = online._replace(head=head, unit=unit)
    target = target._replace(unit=_where(known, target.unit, unit))
    return state._replace(
        online=state.online._replace(critic=online), target=state.target._replace(critic=target)
    )


def bellman(batch: Transition, following: Any, behind: Unit | None, unit: Unit | None) -> Target:
    """The Bellman target in units of the online network; as it is where there are none.

    Arguments:
        batch: of transitions.
        following: the target network's distributions at the next states, in its own unit.
        behind: the target network's unit.
        unit: the online network's.
    """
    if behind is None or unit is None:
        return Target(batch.rewards, batch.discounts, following)
    rewards = batch.rewards + batch.discounts * behind.location - unit.location
    return Target(rewards / unit.scale, batch.discounts * behind.scale / unit.scale, following)


def in_units_of_return(values: Float[Array, "*batch"], unit: Unit | None) -> Float[Array, "*batch"]:
    """Values in the task's own unit."""
    return values if unit is None else unit.location + unit.scale * values


def _where[T](condition: Bool[Array, ""], one: T, other: T) -> T:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
