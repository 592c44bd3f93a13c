"""Control with return distributions (Shahriari et al. 2022): DMPO, MPO and D4PG with any critic.

learner = DMPO(observation_size=5, action_size=1, critic=MixtureOfGaussians())
agent = Agent(learner, load_environments("cartpole-swingup", 8), Schedule(), seed=0)
steps = agent.num_steps(100_000)  # what this many environment steps pay for
state, history = lab.fit(agent.step, agent.init(), agent.experience, num_steps=steps)
"""

from typing import TYPE_CHECKING

from matchbook.lazy import exports

if TYPE_CHECKING:
    from matchbook.control import (
        closed_forms,
        environments,
        linear_quadratic,
        mpo,
        networks,
        normalization,
        swing_up,
        tabular,
    )
    from matchbook.control.acting import Experience, Schedule
    from matchbook.control.agent import Agent
    from matchbook.control.closed_forms import LinearQuadratic
    from matchbook.control.d4pg import D4PG
    from matchbook.control.dmpo import DMPO
    from matchbook.control.environments import (
        LinearQuadraticEnvironments,
        RescaledRewards,
        control_suite,
        from_dm_env,
        from_gymnasium,
        load_environments,
    )
    from matchbook.control.evaluation import episode_returns
    from matchbook.control.filming import Film, draw_strip, film, save_mp4, strip
    from matchbook.control.mpo import TrustRegion
    from matchbook.control.normalization import ReturnUnits
    from matchbook.control.policy_evaluation import PolicyEvaluation, Reader
    from matchbook.control.presets import LAPTOP_SCHEDULE, laptop_learner
    from matchbook.control.replay import Replay
    from matchbook.control.transitions import NStep, Transition

_HOME = {
    "LAPTOP_SCHEDULE": "presets",
    "Agent": "agent",
    "D4PG": "d4pg",
    "DMPO": "dmpo",
    "Experience": "acting",
    "Film": "filming",
    "LinearQuadratic": "closed_forms",
    "LinearQuadraticEnvironments": "environments",
    "NStep": "transitions",
    "PolicyEvaluation": "policy_evaluation",
    "Reader": "policy_evaluation",
    "Replay": "replay",
    "RescaledRewards": "environments",
    "ReturnUnits": "normalization",
    "Schedule": "acting",
    "Transition": "transitions",
    "TrustRegion": "mpo",
    "closed_forms": None,
    "control_suite": "environments",
    "draw_strip": "filming",
    "environments": None,
    "film": "filming",
    "laptop_learner": "presets",
    "linear_quadratic": None,
    "episode_returns": "evaluation",
    "from_dm_env": "environments",
    "from_gymnasium": "environments",
    "load_environments": "environments",
    "mpo": None,
    "networks": None,
    "normalization": None,
    "save_mp4": "filming",
    "strip": "filming",
    "swing_up": None,
    "tabular": None,
}

__all__ = [
    "D4PG",
    "DMPO",
    "LAPTOP_SCHEDULE",
    "Agent",
    "Experience",
    "Film",
    "LinearQuadratic",
    "LinearQuadraticEnvironments",
    "NStep",
    "PolicyEvaluation",
    "Reader",
    "Replay",
    "RescaledRewards",
    "ReturnUnits",
    "Schedule",
    "Transition",
    "TrustRegion",
    "closed_forms",
    "control_suite",
    "draw_strip",
    "environments",
    "episode_returns",
    "film",
    "from_dm_env",
    "from_gymnasium",
    "laptop_learner",
    "linear_quadratic",
    "load_environments",
    "mpo",
    "networks",
    "normalization",
    "save_mp4",
    "strip",
    "swing_up",
    "tabular",
]

__getattr__, __dir__ = exports(__name__, _HOME)
