"""The embedded world: a generated shop with a known truth, written in the raw formats of real datasets."""

from pmm.world.generate import WORLD_VERSION, World, generate

__all__ = ["WORLD_VERSION", "World", "generate"]
