"""What people see of a run: TensorBoard, figures, tables, progress."""
