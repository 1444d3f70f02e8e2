"""Training one ticket: schedule, optimizer, masks in training, evaluation, checkpoints, and the loop."""
