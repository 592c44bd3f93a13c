"""The algorithms of BOND and its neighbours, each a pure ``step(state, prompts)``.

policy = sequences.transformer_policy(graph, num_new=5)
optimizer = algorithms.adam(1e-3)
step = algorithms.jbond_step(policy, optimizer, reward, algorithms.ema(0.02))
state = algorithms.policy_state(weights, optimizer, seed=0)
state, history = lab.fit(step, state, itertools.repeat(prompts), num_steps=300)
"""

from matchbook.bond.algorithms import published
from matchbook.bond.algorithms.anchors import ema, fixed, hard, moving
from matchbook.bond.algorithms.arguments import bound
from matchbook.bond.algorithms.best_of_n_sampling import best_of_n_sampling_step, draw_best
from matchbook.bond.algorithms.bonbon import bonbon_step
from matchbook.bond.algorithms.bond import bond_step, iterated_bond_step
from matchbook.bond.algorithms.given_quantiles import given_quantiles_step
from matchbook.bond.algorithms.gradient_statistics import (
    DESCENT,
    GradientStatistics,
    gradient_statistics,
)
from matchbook.bond.algorithms.jbond import jbond_step
from matchbook.bond.algorithms.learned_bond import (
    LearnedBondState,
    learned_bond_state,
    learned_bond_step,
)
from matchbook.bond.algorithms.reinforce import reinforce_step
from matchbook.bond.algorithms.sft import imitation_step, sft_best_of_n_step, sft_step
from matchbook.bond.algorithms.state import PolicyState, adam, policy_state
from matchbook.bond.algorithms.vbon import vbon_step

__all__ = [
    "DESCENT",
    "GradientStatistics",
    "LearnedBondState",
    "PolicyState",
    "adam",
    "best_of_n_sampling_step",
    "bonbon_step",
    "bond_step",
    "bound",
    "draw_best",
    "ema",
    "fixed",
    "given_quantiles_step",
    "gradient_statistics",
    "hard",
    "imitation_step",
    "iterated_bond_step",
    "jbond_step",
    "learned_bond_state",
    "learned_bond_step",
    "moving",
    "policy_state",
    "published",
    "reinforce_step",
    "sft_best_of_n_step",
    "sft_step",
    "vbon_step",
]
