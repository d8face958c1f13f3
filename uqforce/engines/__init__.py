"""What runs a model here: ASE's calculator, molecular dynamics, torch-sim, evaluation of files."""
