"""The pruning core: functions from masks and weights to masks, with no effects and no state."""
