"""What people see of a run: console, TensorBoard, pictures, Markdown; drawn from facts, nothing derived."""
