"""What the commands say about themselves: help from the comments of the YAML files, wrapped to the terminal, and their flags."""
