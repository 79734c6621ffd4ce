"""What is kept of the work: run folders."""
