"""The embedded world: generated shops with a known truth, in the raw formats of real ones."""

from pmm.world.generate import WORLD_VERSION, World, generate

__all__ = ["WORLD_VERSION", "World", "generate"]
