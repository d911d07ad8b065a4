"""The models: what is asked of them, their names, their losses; parts in the rooms below."""
