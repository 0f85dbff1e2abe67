"""What the layers of a file do on images, and what they cost: statistics, drift, time, cuts."""
