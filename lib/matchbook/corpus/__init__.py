"""Real text on every machine, nothing downloaded: the environment is the corpus.

    data = corpus.dataset("environment", max_bytes=3_000_000, vocab_size=1024, time=128)
    stream = corpus.batches(data.train, batch_size=16, seed=0)

The same call reads a folder or a file of one's own: `.txt`, `.jsonl` or `.parquet`. `pairs` reads
prompts with answers: functions and their docstrings, or one's own.
"""

from matchbook.corpus.batches import batches
from matchbook.corpus.dataset import Dataset, dataset, identity
from matchbook.corpus.letters import letters, spelled
from matchbook.corpus.load import Corpus, load
from matchbook.corpus.packing import Encoded, Rows, encode, pack, spread, take
from matchbook.corpus.pair import Pair
from matchbook.corpus.pair_dataset import PairDataset, pair_dataset
from matchbook.corpus.pairs import Pairs, encode_pairs, fitting, pairs, pairs_identity
from matchbook.corpus.token_store import TokenStoreError, TokenStoreWriter, read_token_store
from matchbook.corpus.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "Corpus",
    "Dataset",
    "Encoded",
    "Pair",
    "PairDataset",
    "Pairs",
    "Rows",
    "TokenStoreError",
    "TokenStoreWriter",
    "Tokenizer",
    "batches",
    "dataset",
    "encode",
    "encode_pairs",
    "fitting",
    "identity",
    "letters",
    "load",
    "pack",
    "pair_dataset",
    "pairs",
    "pairs_identity",
    "read_token_store",
    "spelled",
    "spread",
    "take",
    "train_tokenizer",
]
