"""On-policy distillation (Gemma 2, section 4; GKD 2306.13649, Algorithm 1).

The student writes answers, the teacher says at each of their tokens what it would have said, and
the student moves there: it learns where it will be at generation. The report names GKD and
MiniLLM and none of its settings. Unusual: writing is a part of the compiled step, its key a part
of the state, so that a killed run goes on bit for bit.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Key

from matchbook import divergences
from matchbook.distill.answers import AnswerRows, join_answers
from matchbook.distill.batch_losses import Loss, SoftTargets
from matchbook.distill.models import Teacher, Weights, as_partial
from matchbook.distill.training import Metrics, Step, check_masters, update
from matchbook.gemma.rollout import rollout
from matchbook.gemma.sampling import row_keys, sampling


class OnPolicyState(NamedTuple):
    """What a step changes; `key` is the next step's randomness."""

    weights: Weights
    optimizer: Any  # optax.OptState
    key: Key[Array, ""]


class Writing(NamedTuple):
    """How answers are sampled, as in `generate`."""

    num_new: int
    temperature: int | float = 1.0
    stop_tokens: tuple[int, ...] = ()
    num_tokens: int | None = None


def on_policy_state(
    weights: Weights, optimizer: optax.GradientTransformation, seed: int
) -> OnPolicyState:
    """The state before the first step.

    Raises:
      ValueError: weights that are not float32.
    """
    check_masters(weights)
    return OnPolicyState(weights, optimizer.init(weights), jax.random.key(seed))


def on_policy_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    teacher: Teacher,
    writing: Writing,
    *,
    divergence: str = "backward_kl",
    beta: int | float | None = None,
    student_share: int | float = 1.0,
    chunk_size: int | None = None,
) -> Step:
    """Training on the teacher's distribution along answers that the student has just written.

    A batch is of left-padded prompts, `Dialogues` where `student_share` is below 1. The loss is the
    mean over the tokens of answers, stop included, nothing after it. Answers are data: no gradient
    goes through their choice, as in GKD. So the expected gradient is that of the per-token
    divergence where the student goes, not of where it goes.

    Args:
      graph: the student, from `new_model`.
      optimizer: such as `adamw`.
      teacher: as in `distill_step`.
      writing: how the student writes.
      divergence: a name that `divergences.by_name` knows. The default, KL(student || teacher),
        asks the student to drop what the teacher would not say, rather than to cover all it says;
        "jensen_shannon" with `beta` is GKD's generalised one, between the two.
      beta: where the divergence has one.
      student_share: GKD's lambda, the chance that a step uses the student's answers and not those
        that were given; 0 is distillation on given answers.
      chunk_size: as in `pretrain_step`.

    Raises:
      ValueError: a share outside [0, 1], no token to write, or `write_answers`' errors.
    """
    if not 0 <= student_share <= 1:
        raise ValueError(f"student_share: expected a number in [0, 1], got {student_share}")
    if writing.num_new < 1:
        raise ValueError(f"num_new: expected at least 1 token to write, got {writing.num_new}")
    sampling(writing.temperature)  # its errors now, not when the step is traced
    chosen = divergences.by_name(divergence, beta)
    loss = SoftTargets(chosen, chunk_size=chunk_size, answers_only=True)
    hashable: Any = optimizer
    learner = _learner(graph, hashable, loss, writing, student_share)
    return jax.tree_util.Partial(learner, as_partial(teacher))


def write_answers(
    graph: nnx.GraphDef, weights: Weights, prompts: Any, key: Key[Array, ""], writing: Writing
) -> AnswerRows:
    """Each prompt with an answer that the model samples: a pure function, good inside `jit`.

    Args:
      graph: the model's static part.
      weights: its weights.
      prompts: padded on the left, such as `Dialogues`, whose own answers are not looked at.
      key: row i draws with a key folded from this one and i.
      writing: see `generate`; temperature 0 is greedy.
    """
    settings = sampling(writing.temperature, stop_tokens=writing.stop_tokens)
    written = rollout(
        nnx.merge(graph, weights),
        prompts.tokens,
        prompts.positions,
        prompts.segments,
        row_keys(key, len(prompts.tokens), 1),
        settings,
        num_new=writing.num_new,
        num_tokens=writing.num_tokens,
    )
    return join_answers(prompts, written.tokens[:, 0], written.lengths[:, 0])


@functools.lru_cache
def _learner(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    writing: Writing,
    student_share: int | float,
) -> Any:
    """The same function for the same settings: what compares equal compiles once."""

    def step(teacher: Teacher, state: OnPolicyState, batch: Any) -> tuple[OnPolicyState, Metrics]:
        key, write_key, choice_key = jax.random.split(state.key, 3)

        def own() -> AnswerRows:
            return write_answers(graph, state.weights, batch, write_key, writing)

        def given() -> AnswerRows:
            return _given(batch, writing.num_new)

        if student_share in (0, 1):
            rows = own() if student_share else given()
        else:
            rows = jax.lax.cond(jax.random.uniform(choice_key) < student_share, own, given)
        state, metrics = update(graph, optimizer, loss, state, rows, teacher)
        metrics["answer_length"] = jnp.mean(jnp.sum(rows.where.astype(jnp.float32), axis=1))
        return state._replace(key=key), metrics

    return step


def _given(batch: Any, num_new: int) -> AnswerRows:
    if not hasattr(batch, "answers"):
        raise ValueError(
            "batch: expected Dialogues, as a share of the steps uses given answers, got "
            f"{type(batch).__name__}: add answers, or set student_share to 1"
        )
    if batch.answers.shape[1] != num_new:
        raise ValueError(
            f"batch: expected answers in {num_new} columns, as many as the student writes, got "
            f"{batch.answers.shape[1]}"
        )
    return join_answers(batch, batch.answers, batch.lengths)
