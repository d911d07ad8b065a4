"""The systems that PMMRec is compared with, one file each, and the parts that several have."""
