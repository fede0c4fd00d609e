"""Homework that grades itself: release student notebooks, grade what comes back."""
