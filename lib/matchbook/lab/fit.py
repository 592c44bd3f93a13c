"""The one training loop: compiled chunks of steps, progress, checkpoints, exact resume.

Any algorithm's pure `step(state, batch) -> state, metrics` runs here. Unusual: a chunk is a loop
with a dynamic length, so that one compilation serves all chunks, and neither where logs,
evaluations and checkpoints fall nor an interruption can change a bit of the result.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from matchbook.lab.batches import Batches
from matchbook.lab.checkpoints import Checkpoints
from matchbook.lab.history import History, NonFiniteError
from matchbook.lab.progress import Progress
from matchbook.lab.records import check_name
from matchbook.lab.running import current
from matchbook.lab.session import session

__all__ = ["NonFiniteError", "fit"]

Step = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def fit(
    step: Step,
    state: Any,
    batches: Iterator[Any] | Callable[[Any], Any],
    *,
    num_steps: int,
    name: str = "fit",
    log_every: int = 10,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
) -> tuple[Any, Curves]:
    """Run `num_steps` updates.

    Args:
        step: `step(state, batch) -> state, metrics`: pure, with metrics a dict of scalars. Given
            the same function again, or a `functools.partial` of it with equal arguments, it is
            not compiled again. Arrays that it needs besides the state, such as a teacher's, are
            best bound by `jax.tree_util.Partial`: they reach the program as arguments.
        state: any pytree of arrays, typed PRNG keys too. It is copied: the caller's arrays stay
            valid while the loop donates its own.
        batches: an iterator, whose batches are stacked on the host, `log_every` at a time, and
            run in one compiled loop; or `batches(state)`, called before every single update, for
            data that depends on the state (compile what is inside it). A step that makes its own
            data takes `itertools.repeat(())`.
        num_steps: updates in all, also when resumed.
        name: of this loop, in progress lines and checkpoints.
        log_every: updates in a chunk, and in the window that training metrics are averaged over.
        evaluate: `evaluate(state) -> dict of scalars`, called with the initial state, every
            `eval_every` updates and at the end; compile what is inside it.
        eval_every: None for the beginning and the end only.
        checkpoint_every: updates between two checkpoints; None for every 30 seconds. Within a run
            or an artifact only: there a killed loop resumes and ends bit for bit the same.

    Returns:
        The final state, and the history: metric -> (steps int64 [T], values float64 [T]). Step k
        is the state after k updates; a training metric at step k is the mean over its window.

    Raises:
        NonFiniteError: a metric is NaN or infinite; names the update. Nothing later is kept.
        ValueError: an argument, the batches, or what `step` returns is not as described.
    """
    check_name(name)
    _check(num_steps, log_every, eval_every, checkpoint_every, evaluate)
    state = jax.tree_util.tree_map_with_path(_own, state)
    source, history = Batches(batches), History(log_every, num_steps)
    running, done, checkpoints = current(), 0, None
    if running is not None:
        setting = [num_steps, log_every, eval_every, evaluate is not None]
        checkpoints = Checkpoints(running, name, state, setting, checkpoint_every)
        if found := checkpoints.latest():
            done, state, rest = found
            history.restore(rest["history"])
            source.seek(done, rest["position"])
    elif checkpoint_every is not None:
        raise ValueError(
            "checkpoints are kept within experiment.run or artifact only: leave out "
            "checkpoint_every, or call fit from there"
        )
    if done == 0 and evaluate is not None:
        history.evaluated(0, evaluate(state))
    stops = [every for every in (log_every, eval_every, checkpoint_every) if every is not None]
    length = 1 if source.of_state else min(stops)
    bound = step if isinstance(step, Partial) else Partial(_comparable(step))
    arrays, structure = jax.tree.flatten(bound)
    run, waiting = _chunk(structure), None
    label = f"{running.label}: {name}" if running else name
    with Progress(label, num_steps, start=done, batch=session().batch) as progress:
        while done < num_steps:
            count = min(length, num_steps - done, *(every - done % every for every in stops))
            drawn = source.draw(done, count, length, state)
            state, metrics = run(state, arrays, drawn, np.int32(count), length)
            done += count
            # The device works on this chunk while the host looks at the one before and draws the
            # next; whoever needs the state itself has to wait for all metrics first.
            if waiting is not None:
                _log(history, waiting, progress)
            waiting = done, count, metrics
            last = done == num_steps
            evaluates = evaluate is not None and (last or done % (eval_every or num_steps) == 0)
            saves = checkpoints is not None and checkpoints.due(done, last=last)
            if last or evaluates or saves:
                _log(history, waiting, progress)
                waiting = None
            if evaluates:
                history.evaluated(done, evaluate(state))
            if saves:
                rest = {"history": history.dump(), "position": source.position()}
                checkpoints.save(done, state, rest)
    return state, history.curves()


def _log(history: History, waiting: tuple[int, int, Any], progress: Progress) -> None:
    done, count, metrics = waiting
    history.extend(done, {k: np.asarray(v)[:count] for k, v in jax.device_get(metrics).items()})
    progress.update(done, history.latest())


@functools.lru_cache(maxsize=8)
def _chunk(structure: Any) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """The compiled chunk: `count` of the `length` stacked batches, metrics [length] each.

    `structure` is that of a step, a `Partial`, whose arrays are given at each call.
    """

    @jax.jit  # traced once for the check and the loop together
    def step(arrays: list[jax.Array], state: Any, batch: Any) -> Any:
        return jax.tree.unflatten(structure, arrays)(state, batch)

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
    def chunk(state: Any, arrays: Any, batches: Any, count: jax.Array, length: int) -> Any:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
        metrics = _check_step(state, jax.eval_shape(step, arrays, state, shapes))

        def body(i: jax.Array, carry: Any) -> Any:
            state, logged = carry
            state, metrics = step(arrays, state, jax.tree.map(lambda x: x[i], batches))
            logged = {k: logged[k].at[i].set(metrics[k]) for k in logged}
            return jax.tree.map(_strong, state), logged

        logged = {name: jnp.zeros(length, shape.dtype) for name, shape in metrics.items()}
        return lax.fori_loop(0, count, body, (state, logged))

    return chunk


def _check_step(state: Any, returned: Any) -> Mapping[str, Any]:
    """The metrics' shapes, after what `step` returns has been found to be as it must."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"step returns (state, metrics); got {type(returned).__name__}")
    new, metrics = returned
    old_leaves, old_tree = jax.tree_util.tree_flatten_with_path(state)
    if (new_tree := jax.tree.structure(new)) != old_tree:
        raise ValueError(f"step changes the state's structure from {old_tree} to {new_tree}")
    for (place, old), leaf in zip(old_leaves, jax.tree.leaves(new), strict=True):
        if (old.shape, old.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"step keeps shapes and types: state{jax.tree_util.keystr(place)} was "
                f"{old.dtype}{list(old.shape)}, became {leaf.dtype}{list(leaf.shape)}"
            )
    if not isinstance(metrics, Mapping):
        raise ValueError(f"step returns metrics as a dict; got {type(metrics).__name__}")
    for metric, shape in metrics.items():
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"metric {metric!r} is a scalar; got {shape}")
    return metrics


def _own(place: Any, leaf: Any) -> jax.Array:
    """A strongly typed copy, which the loop may donate."""
    if isinstance(leaf, jax.Array):
        return _strong(jnp.copy(leaf))
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return _strong(jnp.array(leaf))
    raise ValueError(
        f"a state is made of arrays; state{jax.tree_util.keystr(place)} is a {type(leaf).__name__}"
    )


def _strong(x: jax.Array) -> jax.Array:
    weak = getattr(x, "weak_type", False)
    return lax.convert_element_type(x, x.dtype) if weak else x


@dataclass(frozen=True)
class _Bound:
    """A `functools.partial` that equals another one with equal parts."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, state: Any, batch: Any) -> Any:
        return self.function(*self.args, state, batch, **dict(self.keywords))


def _comparable(step: Step) -> Step:
    if not isinstance(step, functools.partial):
        return step
    bound = _Bound(step.func, step.args, tuple(sorted(step.keywords.items())))
    try:
        hash(bound)
    except TypeError:  # an array among the arguments: no two of them can be compared
        return step
    return bound


def _check(
    num_steps: int,
    log_every: int,
    eval_every: int | None,
    checkpoint_every: int | None,
    evaluate: Callable[..., Any] | None,
) -> None:
    if num_steps < 0:
        raise ValueError(f"num_steps is 0 or more; got {num_steps}")
    given = {"log_every": log_every, "eval_every": eval_every, "checkpoint_every": checkpoint_every}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is at least 1; got {value}")
    if eval_every is not None and evaluate is None:
        raise ValueError("eval_every is given without evaluate: give both or neither")
