"""The router: Envoy's ext_proc protocol on one side, `routing.decide` on the other."""
