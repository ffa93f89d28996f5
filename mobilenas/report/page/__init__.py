"""One HTML file of run folders: what they hold as plain data, and the page that shows it."""
