"""How fast protecting and training are: `unseg bench` and the notebook 09_speed."""
