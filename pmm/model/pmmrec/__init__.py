"""PMMRec: the model, its fusion and its objectives."""
