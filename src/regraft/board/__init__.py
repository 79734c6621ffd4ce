"""The team's page: review, results and journal, as one application, and the process that keeps it up."""
