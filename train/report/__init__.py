"""Reports on run folders: statistics, claims, figures and the HTML page that shows them. Starts without torch."""
