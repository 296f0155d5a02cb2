"""How the signal in a network depends on its width or depth, with seeds as replicates (`report.analysis=width`, `depth`)."""
