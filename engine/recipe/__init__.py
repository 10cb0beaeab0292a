"""Recipes: YAML in, validated and resolved parameters out."""
