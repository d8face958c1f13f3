"""Writing models for the engines that run them, and reading them back."""
