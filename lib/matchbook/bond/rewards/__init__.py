"""Where rewards come from: any function of prompts and answers, in JAX, in Python, or learned.

A reward is ``(prompts, answers) -> [prompts, samples]``, inside the compiled step. One in JAX is
one already; one in plain Python on texts becomes one by `HostReward`; a learned one is a
`scalar_head` trained by `preference_step` or `matching_step`. Ask `reward_checks` before training.
"""

from matchbook.bond.rewards.host import HostReward
from matchbook.bond.rewards.learned import (
    RewardState,
    bradley_terry_loss,
    entailment_loss,
    matching_step,
    mismatched,
    preference_step,
    reward_state,
    wins,
)
from matchbook.bond.rewards.preferences import Preferences, against_samples

__all__ = [
    "HostReward",
    "Preferences",
    "RewardState",
    "against_samples",
    "bradley_terry_loss",
    "entailment_loss",
    "matching_step",
    "mismatched",
    "preference_step",
    "reward_state",
    "wins",
]
