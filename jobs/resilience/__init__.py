"""Nothing is lost when something dies."""
