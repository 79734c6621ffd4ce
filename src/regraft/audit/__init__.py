"""What is wrong with the data: findings about labels and images, from arrays alone. Nothing is changed here."""
