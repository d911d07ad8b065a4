"""Encoders cut into trunk and top, fusion, user encoder, PMMRec, losses."""
