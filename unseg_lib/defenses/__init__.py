"""Defences: what the owner of a victim can do against poisons. `DEFENSES` lists them; a new one is one line there.

Stopping early needs no defence: every result has the peak beside the final score.
"""
# ruff: noqa: F401 - the face of the package: what others import from it

from unseg_lib.defenses.defense import Defense, cost, defended, need, noise_left, seen
from unseg_lib.defenses.registry import DEFENSES, Maker, defenses_of
