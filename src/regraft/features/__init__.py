"""From images to features: each backbone runs over each image once, and the result is kept."""
