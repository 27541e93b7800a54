"""Tests: truths, golden numbers, hostile input, scripts run as a user runs them."""
