"""Distillation (Gemma 2, section 3): a student learns the teacher's next-token distribution.

graph, weights = distill.new_model(distill.small_gemma(1024, 64, 2, window=64), seed=0)
optimizer = distill.adamw(1e-2, num_steps=300)
step = distill.distill_step(graph, optimizer, teacher)  # or pretrain_step(graph, optimizer)
state, history = lab.fit(step, distill.train_state(weights, optimizer), stream, num_steps=300)
"""

from typing import TYPE_CHECKING

from matchbook.lazy import exports

if TYPE_CHECKING:
    from matchbook.distill import merging, teacher_cache
    from matchbook.distill.chunked import chunked_distillation_loss, chunked_next_token_loss
    from matchbook.distill.losses import (
        forward_kl_loss,
        next_token_loss,
        next_token_targets,
        soft_target_loss,
    )
    from matchbook.distill.memorization import Extraction, edit_distance, extraction
    from matchbook.distill.memory import loss_memory
    from matchbook.distill.models import frozen_teacher, new_model, small_gemma, static_part
    from matchbook.distill.soft_targets import Choices, rank_choices
    from matchbook.distill.training import (
        TrainState,
        adamw,
        distill_step,
        evaluate,
        pretrain_step,
        train_state,
    )

_HOME = {
    "Choices": "soft_targets",
    "Extraction": "memorization",
    "TrainState": "training",
    "adamw": "training",
    "chunked_distillation_loss": "chunked",
    "chunked_next_token_loss": "chunked",
    "distill_step": "training",
    "edit_distance": "memorization",
    "evaluate": "training",
    "extraction": "memorization",
    "forward_kl_loss": "losses",
    "frozen_teacher": "models",
    "loss_memory": "memory",
    "merging": None,
    "new_model": "models",
    "next_token_loss": "losses",
    "next_token_targets": "losses",
    "pretrain_step": "training",
    "rank_choices": "soft_targets",
    "small_gemma": "models",
    "soft_target_loss": "losses",
    "static_part": "models",
    "teacher_cache": None,
    "train_state": "training",
}

__all__ = [
    "Choices",
    "Extraction",
    "TrainState",
    "adamw",
    "chunked_distillation_loss",
    "chunked_next_token_loss",
    "distill_step",
    "edit_distance",
    "evaluate",
    "extraction",
    "forward_kl_loss",
    "frozen_teacher",
    "loss_memory",
    "merging",
    "new_model",
    "next_token_loss",
    "next_token_targets",
    "pretrain_step",
    "rank_choices",
    "small_gemma",
    "soft_target_loss",
    "static_part",
    "teacher_cache",
    "train_state",
]

__getattr__, __dir__ = exports(__name__, _HOME)
