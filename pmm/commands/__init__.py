"""The commands of `pmm`, one file each; their options come from the dataclasses that read them."""
