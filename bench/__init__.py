"""Load and speed, measured on clusters that these programs start themselves."""
