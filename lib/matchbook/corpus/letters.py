"""A text as a curve: records hold numbers only, and samples are worth reading years later."""

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]


def letters(text: str) -> Curve:
    """Places and numbers of the characters (Unicode code points); a space stands for no text."""
    text = text or " "
    return np.arange(len(text)), np.array([ord(letter) for letter in text])


def spelled(curve: Curve) -> str:
    """The text of `letters`, without white space around it."""
    return "".join(chr(int(number)) for number in np.asarray(curve[1])).strip()
