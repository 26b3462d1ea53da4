"""Classification: the course's starting point, and the judge of what the generative chapters produce."""
