"""What the text passes through: the frozen backbone, its attention, and pooling."""
