"""Tickets that run as what they keep: networks executed by their dense blocks."""
