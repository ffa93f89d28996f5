"""What a network is worth: through a supernet, untrained (zero cost), and the ground truth."""
