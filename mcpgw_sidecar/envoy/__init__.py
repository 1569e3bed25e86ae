"""Makes Envoy resources of the desired servers, as plain values (xDS v3 in JSON form).

Pure: an adapter writes them to files.
"""
