"""`Gemma2Harness`: our model as one of lm-evaluation-harness's, by the name "matchbook".

Unusual: given the same checkpoint in float32 it answers as the harness's own `hf` backend does,
token by token (tests/goldens/harness). In bfloat16 that backend has its softmax in bfloat16 too;
here it stays in float32.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from matchbook.gemma.checkpoints import load_checkpoint
from matchbook.gemma.harness.benchmarks import missing
from matchbook.gemma.harness.continuing import continue_texts
from matchbook.gemma.harness.encoding import conversation, encode_pair, rolling_pairs
from matchbook.gemma.harness.scoring import check_sizes, score
from matchbook.gemma.model import Transformer
from matchbook.gemma.tokenizer import Tokenizer

try:
    _api: Any = importlib.import_module("lm_eval.api.model")
    _registry: Any = importlib.import_module("lm_eval.api.registry")
    _utils: Any = importlib.import_module("lm_eval.utils")
    importlib.import_module("lm_eval.models")  # registers its own, before ours
except ModuleNotFoundError as error:
    raise missing(error) from error


@_registry.register_model("matchbook")
class Gemma2Harness(_api.LM):
    """A model and its tokenizer, as the harness calls them.

    Args:
      model: for example from `load_checkpoint`.
      tokenizer: the one it was trained with, its vocabulary with turns.
      batch_size: rows at a time.
      max_length: tokens of context at most, the last ones of longer texts; by default the config's
        `max_context`.
      seed: of the draws, where a task samples.

    Raises:
      ValueError: a tokenizer with more ids than the model has rows, or see `score`.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"tokenizer: expected at most {model.config.vocab_size:,} ids, one for each row "
                f"of the table, got {tokenizer.vocab_size:,}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = check_sizes(model, batch_size, max_length)
        self.seed = seed

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        dtype: str | None = None,
        tokenizer: str | Path | None = None,
        **options: Any,
    ) -> "Gemma2Harness":
        """From a folder: what `--model_args` of the command line names.

        Args:
          checkpoint: see `load_checkpoint`.
          dtype: see `load_checkpoint`.
          tokenizer: a `tokenizer.model`, by default the one in the folder.
          options: of the class.
        """
        beside = Tokenizer.load(checkpoint if tokenizer is None else tokenizer)
        return cls(load_checkpoint(checkpoint, dtype=dtype), beside, **options)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "Gemma2Harness":
        """`from_checkpoint` for the harness; `batch_size` from the model's own arguments first.

        Its `device`, "cuda:0" if nobody says otherwise, is not for JAX, which chooses by itself.

        Raises:
          ValueError: no `checkpoint`, or a batch of more than one size.
        """
        added = {k: v for k, v in (additional_config or {}).items() if v is not None}
        added.pop("device", None)
        options = added | dict(arg_dict)
        if "max_batch_size" in options:
            raise ValueError("max_batch_size: expected none; the batch has one size, batch_size")
        if "checkpoint" not in options:
            raise ValueError(f"model_args: expected checkpoint=PATH, got {sorted(options)}")
        batch_size = options.pop("batch_size", 8)
        if not str(batch_size).isdecimal():
            raise ValueError(f"batch_size: expected a number, got {batch_size!r}")
        return cls.from_checkpoint(**options, batch_size=int(batch_size))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "Gemma2Harness":
        """The same, from `key=value,key=value`."""
        arguments = _utils.simple_parse_args_string(arg_string)
        return cls.create_from_arg_obj(arguments, additional_config)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of each request's continuation after its context: log-probability, and is it greedy."""
        pairs = [encode_pair(self.tokenizer, *request.args) for request in requests]
        answers = score(self.model, pairs, batch_size=self.batch_size, max_length=self.max_length)
        plain = ((place, (scored.log_prob, scored.is_greedy)) for place, scored in answers)
        return self._collect("loglikelihood", requests, plain, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each request's whole text, in windows of `max_length`."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            pieces = rolling_pairs(self.tokenizer, request.args[0], self.max_length)
            pairs += pieces
            owners += [number] * len(pieces)
        totals = [0.0] * len(requests)
        scores = score(self.model, pairs, batch_size=self.batch_size, max_length=self.max_length)
        for place, scored in tqdm(scores, total=len(pairs), disable=disable_tqdm):
            totals[owners[place]] += scored.log_prob
        return self._collect("loglikelihood_rolling", requests, enumerate(totals), True)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each request's text, up to its stop strings."""
        texts = continue_texts(
            self.model,
            self.tokenizer,
            [request.args for request in requests],
            batch_size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
        )
        return self._collect("generate_until", requests, texts, disable_tqdm)

    def _collect[Answer](
        self,
        method: str,
        requests: Sequence[Any],
        answers: Iterable[tuple[int, Answer]],
        disable_tqdm: bool,
    ) -> list[Answer]:
        """Answers in the order of requests; each goes to the harness's cache as it comes."""
        found: dict[int, Answer] = {}
        for place, answer in tqdm(answers, method, total=len(requests), disable=disable_tqdm):
            found[place] = answer
            self.cache_hook.add_partial(method, requests[place].args, answer)
        return [found[place] for place in range(len(requests))]

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in Gemma 2's format, as text; see `conversation`."""
        return conversation(
            self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt
        )

    @property
    def tokenizer_name(self) -> str:
        """What prepared requests are cached under."""
        return f"matchbook-{self.tokenizer.digest}"
