"""How many bytes each tensor gets: cost curves, exact sizes, the solver and its targets."""
