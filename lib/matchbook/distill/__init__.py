"""Distillation (Gemma 2, section 3): a student learns the teacher's next-token distribution.

graph, weights = distill.new_model(distill.small_gemma(1024, 64, 2, window=64), seed=0)
optimizer = distill.adamw(1e-2, num_steps=300)
step = distill.distill_step(graph, optimizer, teacher)  # or pretrain_step(graph, optimizer)
state, history = lab.fit(step, distill.train_state(weights, optimizer), stream, num_steps=300)

Steps of one form: `pretrain_step`, `distill_step`, `offline_step` from a teacher's kept answers,
`sft_step` on answers only, `on_policy_step` on what the student writes. Then `merging`.
"""

from typing import TYPE_CHECKING

from matchbook.lazy import exports

if TYPE_CHECKING:
    from matchbook.distill import merging, teacher_cache
    from matchbook.distill.answers import (
        AnswerRows,
        Dialogues,
        answer_rows,
        chat_pairs,
        chat_rows,
        dialogues,
        join_answers,
    )
    from matchbook.distill.chunked import chunked_distillation_loss, chunked_next_token_loss
    from matchbook.distill.evaluation import divergence_on, evaluate
    from matchbook.distill.losses import (
        forward_kl_loss,
        next_token_loss,
        next_token_targets,
        soft_target_loss,
    )
    from matchbook.distill.memorization import Extraction, edit_distance, extraction
    from matchbook.distill.memory import loss_memory
    from matchbook.distill.models import frozen_teacher, new_model, small_gemma, static_part
    from matchbook.distill.offline import CachedRows, cached_rows, offline_step, write_cache
    from matchbook.distill.on_policy import (
        OnPolicyState,
        Writing,
        on_policy_state,
        on_policy_step,
        write_answers,
    )
    from matchbook.distill.soft_targets import Choices, rank_choices
    from matchbook.distill.training import (
        TrainState,
        adamw,
        distill_step,
        pretrain_step,
        sft_step,
        train_state,
    )

_HOME = {
    "AnswerRows": "answers",
    "CachedRows": "offline",
    "Choices": "soft_targets",
    "Dialogues": "answers",
    "Extraction": "memorization",
    "OnPolicyState": "on_policy",
    "TrainState": "training",
    "Writing": "on_policy",
    "adamw": "training",
    "answer_rows": "answers",
    "cached_rows": "offline",
    "chat_pairs": "answers",
    "chat_rows": "answers",
    "chunked_distillation_loss": "chunked",
    "chunked_next_token_loss": "chunked",
    "dialogues": "answers",
    "distill_step": "training",
    "divergence_on": "evaluation",
    "edit_distance": "memorization",
    "evaluate": "evaluation",
    "extraction": "memorization",
    "forward_kl_loss": "losses",
    "frozen_teacher": "models",
    "join_answers": "answers",
    "loss_memory": "memory",
    "merging": None,
    "new_model": "models",
    "next_token_loss": "losses",
    "next_token_targets": "losses",
    "offline_step": "offline",
    "on_policy_state": "on_policy",
    "on_policy_step": "on_policy",
    "pretrain_step": "training",
    "rank_choices": "soft_targets",
    "sft_step": "training",
    "small_gemma": "models",
    "soft_target_loss": "losses",
    "static_part": "models",
    "teacher_cache": None,
    "train_state": "training",
    "write_answers": "on_policy",
    "write_cache": "offline",
}

__all__ = [
    "AnswerRows",
    "CachedRows",
    "Choices",
    "Dialogues",
    "Extraction",
    "OnPolicyState",
    "TrainState",
    "Writing",
    "adamw",
    "answer_rows",
    "cached_rows",
    "chat_pairs",
    "chat_rows",
    "chunked_distillation_loss",
    "chunked_next_token_loss",
    "dialogues",
    "distill_step",
    "divergence_on",
    "edit_distance",
    "evaluate",
    "extraction",
    "forward_kl_loss",
    "frozen_teacher",
    "join_answers",
    "loss_memory",
    "merging",
    "new_model",
    "next_token_loss",
    "next_token_targets",
    "offline_step",
    "on_policy_state",
    "on_policy_step",
    "pretrain_step",
    "rank_choices",
    "sft_step",
    "small_gemma",
    "soft_target_loss",
    "static_part",
    "teacher_cache",
    "train_state",
    "write_answers",
    "write_cache",
]

__getattr__, __dir__ = exports(__name__, _HOME)
