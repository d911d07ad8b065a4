"""What stands for an item without running an encoder: rows of tables, codes, frozen vectors."""
