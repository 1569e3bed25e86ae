"""Carries out the actions of sessions/hub.py, with servers and with other replicas."""
