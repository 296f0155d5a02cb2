"""From run folders to an answer: statistics, claims, figures and the page that shows them. Starts without torch."""
