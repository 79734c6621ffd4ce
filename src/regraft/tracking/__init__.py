"""Where a run's numbers and pictures go besides its own files: trackers, each in the file that is named for it."""
