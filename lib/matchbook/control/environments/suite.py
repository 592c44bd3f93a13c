"""dm-control's suite, the default and the reference; EnvPool's C++ suite where it is installed.

Tasks are named `domain-task`, as in `ball_in_cup-catch`.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from matchbook.control.environments.adapters import from_dm_env
from matchbook.control.environments.interface import Environments
from matchbook.control.environments.together import Together


def control_suite(task: str, num: int, *, hold: int = 1) -> Together:
    """`num` environments of a dm-control task, in this process.

    Arguments:
        task: `domain-task`.
        num: how many.
        hold: of the task's own control steps that an action lasts; an episode has as many fewer.
            The reward is that of the state at the end, so multiply returns to compare them.

    Raises:
        ValueError: there is no such task; names those of the domain, or the domains. Or its actions
            have no bounds (`lqr`), or `hold` is below 1.
    """
    return from_dm_env(suite_factory(task, hold=hold), num)


def suite_factory(task: str, *, hold: int = 1) -> Callable[[int], Any]:
    """`factory(seed)` of a dm-control task, whose actions last `hold` of its control steps.

    Raises:
        ValueError: there is no such task, `hold` is below 1, or above it for a task that sets its
            own control step, as ball_in_cup and finger do.
    """
    from dm_control import suite

    domain, name = split_task(task)
    if hold < 1:
        raise ValueError(f"hold must be 1 or more of the task's steps, got {hold}")
    options = {}
    if hold > 1:
        options = {"control_timestep": hold * suite.load(domain, name).control_timestep()}
        try:
            suite.load(domain, name, environment_kwargs=options)
        except TypeError as error:
            text = f"{task} sets its own control step: hold must be 1 there, got {hold}"
            raise ValueError(text) from error
    return lambda seed: suite.load(
        domain, name, task_kwargs={"random": seed}, environment_kwargs=options
    )


def load_environments(task: str, num: int) -> Environments:
    """EnvPool's version of a dm-control task if the extra `envpool` is there, else dm-control's.

    Raises:
        ValueError: as `control_suite`.
    """
    if importlib.util.find_spec("envpool") is None:
        return control_suite(task, num)
    from matchbook.control.environments.envpool_suite import EnvPoolSuite

    return EnvPoolSuite(task, num)


def split_task(task: str) -> tuple[str, str]:
    """Domain and task of dm-control's suite.

    Raises:
        ValueError: there is no such task.
    """
    from dm_control import suite

    tasks: Any = suite.TASKS_BY_DOMAIN
    domain, _, name = task.partition("-")
    if domain not in tasks:
        raise ValueError(f"there is no domain {domain!r} in {task!r}; domains: {sorted(tasks)}")
    if name not in tasks[domain]:
        raise ValueError(f"{domain} has no task {name!r}; its tasks: {sorted(tasks[domain])}")
    return domain, name
