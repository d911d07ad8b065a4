"""Bili and Kwai, in every layout in which their datasets are published."""
