"""dm-control's suite, the default and the reference; EnvPool's C++ suite where it is installed.

Tasks are named `domain-task`, as in `ball_in_cup-catch`.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from matchbook.control.environments.adapters import from_dm_env
from matchbook.control.environments.interface import Environments
from matchbook.control.environments.together import Together


def control_suite(task: str, num: int) -> Together:
    """`num` environments of a dm-control task, in this process.

    Raises:
        ValueError: there is no such task; names those of the domain, or the domains. Or its actions
            have no bounds (`lqr`).
    """
    return from_dm_env(suite_factory(task), num)


def suite_factory(task: str) -> Callable[[int], Any]:
    """`factory(seed)` of a dm-control task.

    Raises:
        ValueError: there is no such task.
    """
    from dm_control import suite

    domain, name = split_task(task)
    return lambda seed: suite.load(domain, name, task_kwargs={"random": seed})


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
