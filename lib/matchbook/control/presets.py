"""One setting for the control suite on a laptop, whatever the task and the scale of its rewards.

Shahriari et al. 2022 in a quarter of the width. Unusual: the critic's returns have a unit of their
own, since a value of 50 is 5,000 of Adam's steps away for a fresh head of this size and learning
rate, and two standard deviations away in its unit.
"""

from matchbook.control.acting import Schedule
from matchbook.control.dmpo import DMPO
from matchbook.control.environments.interface import Environments
from matchbook.control.mpo import TrustRegion
from matchbook.control.normalization import ReturnUnits
from matchbook.critics import Affine, Critic, MixtureOfGaussians

# Components begin as wide as returns are spread: from a narrow start, a small network learned
# nothing about values where rewards are noisy (`notebooks/mog/04_ablations`). No component becomes
# narrower than .06 of a unit of five of the largest rewards: where they are rare, almost all
# returns are equal, and a mixture that has become as narrow as they are never learns of a reward.
MENDED_MIXTURE = MixtureOfGaussians(
    widths="exp", init_scale=1.0, min_scale=0.06, widest=10.0, num_nodes=2
)
UNITS = ReturnUnits(rate=1e-3, least=5)
# A critic without a likelihood sees every reward, however far out: with the mixture's unit the
# scalar one learned a point mass no more often, and finger, cartpole and pendulum less well.
PLAIN_UNITS = ReturnUnits(rate=1e-3)
# Half the release's batch and actions: many small updates learn more in a second than few large.
LAPTOP_SCHEDULE = Schedule(batch_size=128, samples_per_insert=64, updates_per_dispatch=32)


def laptop_learner(environments: Environments, critic: Critic = MENDED_MIXTURE) -> DMPO:
    """DMPO in layers of 128, with the larger steps of the published baselines on Gym.

    Arguments:
        environments: whose sizes it takes.
        critic: its returns get a unit of their own (`normalization`), unless it has a support.
    """
    return DMPO(
        observation_size=environments.observation_size,
        action_size=environments.action_size,
        critic=critic,
        region=TrustRegion(epsilon_mean=1e-2, epsilon_std=1e-5),
        policy_sizes=(128, 128),
        critic_sizes=(128, 128),
        num_actions=10,
        learning_rate=5e-4,
        dual_learning_rate=1e-2,
        target_policy_period=25,
        target_critic_period=50,
        units=_units(critic),
    )


def _units(critic: Critic) -> ReturnUnits | None:
    if isinstance(critic, MixtureOfGaussians):
        return UNITS
    return PLAIN_UNITS if isinstance(critic, Affine) else None
