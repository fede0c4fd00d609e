"""The field's methods beyond the lecture: one file each, the loss above its term."""
