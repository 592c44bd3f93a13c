"""`python -m bench.learn cartpole-swingup 0 150000`: task, seed, environment steps; from scratch.

Prints the mean return of 10 episodes as it learns, beside wall seconds, compilation included.
"""

import sys
import time
from itertools import count

from matchbook import lab
from matchbook.control import Agent, load_environments
from matchbook.control.presets import LAPTOP_SCHEDULE, laptop_learner


def main(task: str, seed: int, environment_steps: int, evaluations: int = 10) -> None:
    """Learn one task with the laptop's setting."""
    start, environments = time.perf_counter(), load_environments(task, 16)
    judged_in = load_environments(task, 10)
    learner = laptop_learner(environments)
    agent = Agent(learner, environments, LAPTOP_SCHEDULE, seed=seed, judged_in=judged_in)
    numbers, steps = count(), agent.num_steps(environment_steps)

    def evaluate(state):
        found, next_number = agent.evaluate(state), next(numbers)
        seconds = time.perf_counter() - start
        print(f"{next_number}: {seconds:.0f} s, {found}", flush=True)
        return found

    every = max(1, steps // evaluations)
    lab.fit(agent.step, agent.init(), agent.experience, num_steps=steps,
            evaluate=evaluate, eval_every=every, log_every=every)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
