"""From features and labels to a head."""
