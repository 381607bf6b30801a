"""What several figures share: images, trained networks, sweeps of starts and learning rates."""
