"""What becomes of a run after its end: it is loaded from its folder, and its weights are evaluated."""
