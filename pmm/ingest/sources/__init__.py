"""One module or folder a raw dataset: how its files become interactions and items."""
