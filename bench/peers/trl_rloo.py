"""TRL's RLOO trainer at the work of `bench/bond.py`, the nearest to J-BOND that it has.

Run by the Python that has torch, transformers and trl. Reads sizes as JSON on standard input,
writes sequences per second as JSON on standard output. Favours the peer where there is a choice:
no gradient checkpointing, the reward is a count, nothing is logged or saved.
"""

import json
import statistics
import sys
import tempfile
import time

import datasets
import tokenizers
import torch
import transformers
import trl


def tokenizer_of(size: int) -> transformers.PreTrainedTokenizerFast:
    """One word for each id, four special ones first."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = {word: token for token, word in enumerate(special)}
    words |= {f"w{token}": token for token in range(len(special), size)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        padding_side="left",
    )


def saved_model(sizes: dict, folder: str) -> str:
    """The folder of a new model: the trainer reads its reference from there."""
    config = transformers.Gemma2Config(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["embed_dim"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        head_dim=sizes["head_dim"],
        query_pre_attn_scalar=sizes["head_dim"],
        sliding_window=sizes["sliding_window"],
    )
    torch.manual_seed(0)
    transformers.Gemma2ForCausalLM(config).save_pretrained(folder)
    return folder


class Clock(transformers.TrainerCallback):
    """The time at the end of each step."""

    def __init__(self):
        self.times = []

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.perf_counter())


def main() -> None:
    asked = json.load(sys.stdin)
    prompts, width, new = asked["prompts"], asked["prompt_time"], asked["new"]
    generator = torch.Generator().manual_seed(0)
    vocab = asked["model"]["vocab_size"]
    drawn = torch.randint(4, vocab, (prompts * asked["steps"], width), generator=generator)
    rows = [{"prompt": " ".join(f"w{token}" for token in row)} for row in drawn.tolist()]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.RLOOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=prompts * asked["generations"],
            num_generations=asked["generations"],
            max_completion_length=new,
            generation_kwargs={"min_new_tokens": new},
            max_steps=asked["steps"],
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            model_init_kwargs={"dtype": "float32", "attn_implementation": "eager"},
        )
        trainer = trl.RLOOTrainer(
            model=saved_model(asked["model"], f"{folder}/model"),
            reward_funcs=lambda completions, **_: [float(x.count("w7")) for x in completions],
            args=settings,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer_of(vocab),
            callbacks=[clock],
        )
        trainer.train()
    steps = [after - before for before, after in zip(clock.times, clock.times[1:])]
    rate = prompts * asked["generations"] / statistics.median(steps)
    json.dump({"peer": f"TRL {trl.__version__} RLOO", "rates": {"sequences": rate}}, sys.stdout)


if __name__ == "__main__":
    main()
