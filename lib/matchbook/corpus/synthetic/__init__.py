"""Data whose truth is known: what the Gemma 2 notebooks measure models against (section 6).

    language = synthetic.Language(vocab_size=256, order=2)      # Tables 6, 7: floor and oracle
    task = synthetic.Recall(num_pairs=4, time=128)              # Table 10: reach
    world = synthetic.World(num_people=64)                      # Table 11: 12 formats
    planted = synthetic.plant(documents, time=256, ...)         # Figure 1: memorization

`recall`, `choices` and `planted` hold the functions and constants that go with them.
"""

from typing import TYPE_CHECKING

from matchbook.lazy import exports

if TYPE_CHECKING:
    from matchbook.corpus.synthetic import choices, planted, recall
    from matchbook.corpus.synthetic.fresh import Fresh
    from matchbook.corpus.synthetic.language import Estimate, Language
    from matchbook.corpus.synthetic.planted import plant
    from matchbook.corpus.synthetic.recall import Recall
    from matchbook.corpus.synthetic.sources import by_source, redundancy
    from matchbook.corpus.synthetic.world import World

_HOME = {
    "Estimate": "language",
    "Fresh": "fresh",
    "Language": "language",
    "Recall": "recall",
    "World": "world",
    "by_source": "sources",
    "choices": None,
    "plant": "planted",
    "planted": None,
    "recall": None,
    "redundancy": "sources",
}

__all__ = [
    "Estimate",
    "Fresh",
    "Language",
    "Recall",
    "World",
    "by_source",
    "choices",
    "plant",
    "planted",
    "recall",
    "redundancy",
]

__getattr__, __dir__ = exports(__name__, _HOME)
