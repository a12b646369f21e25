"""What is behind :func:`pyro_vaes.inference.complete.complete`: masks, energies, line search, weights, chains."""
