"""Control problems whose answer is a formula: what the agent's parts are checked against.

For the E-step, the M-step and the whole of DMPO. Plain floats, float64.
"""

import math
from typing import NamedTuple

import numpy as np


class ImprovedGaussian(NamedTuple):
    """An E-step in closed form: the optimal temperature, and the improved policy's law and KL."""

    temperature: float
    mean: float
    variance: float
    kl: float


def quadratic_e_step(slope: float, curvature: float, epsilon: float) -> ImprovedGaussian:
    """The E-step from N(0, 1) with `Q(a) = slope * a - curvature * a^2 / 2`.

    The improved policy is proportional to N(a; 0, 1) exp(Q(a) / eta), again a Gaussian; the dual's
    derivative in eta is epsilon minus its KL to N(0, 1).

    Arguments:
        slope: not 0.
        curvature: 0 or above.
        epsilon: the KL to spend, in nats, above 0.
    """

    def improved(temperature: float) -> ImprovedGaussian:
        precision = 1 + curvature / temperature
        mean, variance = slope / temperature / precision, 1 / precision
        kl = 0.5 * (variance + mean**2 - 1 - math.log(variance))
        return ImprovedGaussian(temperature, mean, variance, kl)

    cold, hot = 1e-6, 1e6  # the KL falls with the temperature: halve the logarithm of its range
    for _ in range(200):
        middle = math.sqrt(cold * hot)
        cold, hot = (middle, hot) if improved(middle).kl > epsilon else (cold, middle)
    return improved(hot)


def max_mean_step(epsilon: float, std: float) -> float:
    """How far a mean moves when it spends `epsilon` nats: `step^2 / (2 std^2) = epsilon`."""
    return std * math.sqrt(2 * epsilon)


class LinearQuadratic(NamedTuple):
    """`x' = a x + b u + w` with `w ~ N(0, noise^2)`, reward `-(q x^2 + r u^2)`, discounted."""

    a: float
    b: float
    q: float
    r: float
    noise: float
    discount: float

    @property
    def cost(self) -> float:
        """P, the positive root of the Riccati equation
        `P = q + g a^2 P - (g a b P)^2 / (r + g b^2 P)`, which is quadratic in P.
        """
        leading = self.discount * self.b**2
        linear = self.r - self.q * leading - self.discount * self.a**2 * self.r
        return (math.sqrt(linear**2 + 4 * leading * self.q * self.r) - linear) / (2 * leading)

    @property
    def gain(self) -> float:
        """K of the optimal action `u = -K x`."""
        weight = self.discount * self.b * self.cost
        return weight * self.a / (self.r + weight * self.b)

    def value(self, x: float | np.ndarray) -> float | np.ndarray:
        """The optimal value, `-(P x^2 + g P noise^2 / (1 - g))`."""
        of_noise = self.discount * self.cost * self.noise**2 / (1 - self.discount)
        return -(self.cost * x**2 + of_noise)

    def action_value(self, x: float | np.ndarray, u: float | np.ndarray) -> float | np.ndarray:
        """One step of any action, then the optimal ones: the Bellman equation's right-hand side."""
        following = self.a * x + self.b * u
        expected = self.value(following) - self.cost * self.noise**2
        return -(self.q * x**2 + self.r * u**2) + self.discount * expected

    def policy_action_value(
        self, gain: float, std: float, x: float | np.ndarray, u: float | np.ndarray
    ) -> float | np.ndarray:
        """One step of any action, then `u = -gain x` plus N(0, std^2) for ever.

        That policy costs `P x^2 + c` with `P = (q + r gain^2) / (1 - g (a - b gain)^2)` and
        `c (1 - g) = (r + g P b^2) std^2 + g P noise^2`.

        Raises:
            ValueError: the gain does not keep the discounted cost finite.
        """
        shrink = self.discount * (self.a - self.b * gain) ** 2
        if shrink >= 1:
            raise ValueError(f"gain {gain} has an infinite cost; the best one is {self.gain}")
        cost = (self.q + self.r * gain**2) / (1 - shrink)
        noise = self.discount * cost * self.noise**2
        constant = (self.r + self.discount * cost * self.b**2) * std**2 + noise
        following = cost * (self.a * x + self.b * u) ** 2 + self.discount**-1 * noise
        following += constant / (1 - self.discount)
        return -(self.q * x**2 + self.r * u**2) - self.discount * following
