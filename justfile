# Recipes for users and developers; `just` lists them. Scripts live in build/, so that nothing here needs more than a line.
set positional-arguments

[private]
default:
    @just --list --unsorted

# Three MCP servers, the sidecar and a real Envoy on this machine
demo *args:
    build/demo "$@"

# Everything that a fresh machine can run
test *args:
    build/test "$@"

# Format, lint, types, layers, the tests without processes and their coverage
check:
    build/check

# Pods of a cluster, parts on this machine, and what a running sidecar knows: servers, tools, conflicts, sessions
status *args:
    build/status "$@"

# The sidecars' logs in a cluster, followed
logs namespace="gateway-system" label="gateway.networking.k8s.io/gateway-name=mcp-gateway":
    kubectl logs -f -n "{{ namespace }}" -l "{{ label }}" -c mcpgw-sidecar --prefix --tail=100

# What Istio gave to the Envoy of a gateway pod
istio-config *args:
    build/istio-config "$@"

# The MCP Inspector on the running gateway
inspect-gateway url="http://127.0.0.1:8888/mcp":
    build/inspect-gateway "{{ url }}"

# Branch coverage: all of the pure packages, or it fails; then what the tests with real processes run of the adapters, which is printed
cover:
    build/cover
    build/cover adapters

# One benchmark (calls, parts, login, lists, sessions, listens, scale, storms, profile, start, kube); figures with their machine belong into tests/benchmarks/RESULTS.md
bench *args:
    .venv/bin/python -m tests.benchmarks "$@"

# The frozen program, an OCI image and a Debian package, into dist/
build *args:
    build/package "$@"

# Load and faults for some minutes in each setting (one sidecar, two with a store, two without): what fails must be in docs/failures.md
soak minutes="1" *args:
    .venv/bin/python -m tests.soak "{{ minutes }}" {{ args }}

# What reads bytes of strangers, searched for inputs that break a law: seconds for each of nine targets
fuzz seconds="400" *targets:
    .venv/bin/python -m tests.fuzz --seconds "{{ seconds }}" {{ targets }}

# Write the expected Envoy resources anew, to be read as a diff
golden:
    MCPGW_GOLDEN=1 .venv/bin/python -m pytest -q tests/golden

# Run the clients and servers of others, and write docs/compatibility.md
compatibility:
    build/clients
    .venv/bin/python -m tests.compatibility

# Write k8s/ anew from the program, to be read as a diff
manifests:
    build/manifests

# kube-apiserver and Istio's control plane for the tests, into the cache
kube:
    build/kube

# Write the locked requirements anew
lock:
    build/lock

# Generate the ext_proc messages anew
proto:
    cd mcpgw_sidecar/extproc/pb && ../../../.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ext_proc.proto

# Collect the changelog's fragments into CHANGELOG.md
changelog version:
    .venv/bin/towncrier build --yes --version "{{ version }}"
