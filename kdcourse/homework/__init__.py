"""Homework that grades itself: release notebooks for students, and grade what comes back."""
