"""Sessions at work: what sessions/hub.py decides is done here, with servers and with other replicas."""
