"""Where records go. A training hands everything to one `contracts.Sink` and knows no more than that."""
