"""Train one ticket: the step, the trainer, its meter, checkpoints and files, and what a rank keeps warm."""
