"""A finished run as one folder that stands alone: written, checked, opened, passed on."""
