"""How good predictions and their uncertainties are: arrays in, numbers, tables and pictures out."""
