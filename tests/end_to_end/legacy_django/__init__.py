"""A Django project like the legacy one: Django itself names its tables, columns and link tables."""
