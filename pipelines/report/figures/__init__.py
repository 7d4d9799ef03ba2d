"""Figures and tables that show what is in each kind of dataset."""
