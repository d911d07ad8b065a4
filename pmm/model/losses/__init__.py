"""Training losses: pure functions of tensors; no module, no options of a run, no devices."""
