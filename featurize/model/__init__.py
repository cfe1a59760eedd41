"""From token ids to features: the frozen backbone, its forward passes, attention and pooling."""
