"""The decision: which server a message belongs to, and what is rewritten. Pure; one module per era."""
