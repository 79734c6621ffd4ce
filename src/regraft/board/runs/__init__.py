"""Results: the leaderboard, a run, two runs beside each other, and what comes in from other machines."""
