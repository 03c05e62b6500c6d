"""What somebody may have meant who typed a name that is none: on a terminal; programs read Docker's text."""

import os

MOST = 2
"""Edits between what was typed and what was meant."""


def similar(name: str, known: list[str]) -> str:
    """A line that ends, for a terminal and where a name is near; otherwise empty."""
    try:
        if not os.isatty(2):
            return ""
    except OSError:
        return ""
    distance, near = min((_distance(name, other), other) for other in known)
    return f"Did you mean '{near}'?\n" if distance <= min(MOST, len(near.lstrip("-")) // 2) else ""


def _distance(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours from one to the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
