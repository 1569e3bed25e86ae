"""`mcpgw-sidecar inject`: a file comes out as its author wrote it, with the sidecar in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from mcpgw_sidecar.cli.entry import cli
from mcpgw_sidecar.cli.inject import injected
from mcpgw_sidecar.errors import ConfigurationError, RefusedError
from mcpgw_sidecar.manifests.container import Sidecar

GATEWAY = """\
# The gateway of team platform.
apiVersion: apps/v1
kind: Deployment
metadata: {name: gw}   # its name
spec:
  replicas: 2
  template:
    metadata:
      labels:
        app: "gw"
    spec:
      containers:
      # Envoy itself
      - name: istio-proxy
        image: auto   # Istio fills this in
        ports:
        - containerPort: 8080
"""
SERVICE = """\
---
kind:   Service   # odd spaces stay
spec:
    ports:
          - port: 80
"""


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["inject", *arguments], input=text)


@pytest.mark.duty("cli.inject")
def test_comments_order_and_other_documents_stay() -> None:
    text, results = injected(GATEWAY + SERVICE, "f", Sidecar())
    assert [done.changed for done in results] == [True]
    lines = text.splitlines()
    positions = [lines.index(line) for line in GATEWAY.splitlines()]
    assert positions == sorted(positions)
    assert text.endswith(SERVICE)
    pod = yaml.safe_load(text.split("---")[0])["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["mcpgw-sidecar"]


@pytest.mark.duty("cli.inject")
def test_twice_is_once() -> None:
    once, _ = injected(GATEWAY + SERVICE, "f", Sidecar())
    again, results = injected(once, "f", Sidecar())
    assert again == once
    assert not results[0].changed


def test_from_stdin_and_files(tmp_path: Path) -> None:
    done = run(text=GATEWAY)
    assert done.exit_code == 0
    assert done.stderr == "Deployment gw: injected\n"
    assert "mcpgw-sidecar" in done.stdout
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(GATEWAY)
    two.write_text(SERVICE)
    both = run(str(one), str(two))
    assert len(list(yaml.safe_load_all(both.stdout))) == 2
    in_place = run("--in-place", str(one), str(two))
    assert (in_place.exit_code, in_place.stdout) == (0, "")
    assert "mcpgw-sidecar" in one.read_text()
    assert two.read_text() == SERVICE
    assert run("-i", str(one)).stderr == "Deployment gw: has it already\n"


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "a: 1\n---\nb: [", "%YAML 9.9\n---\na: [}"])
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    path, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    path.write_text(text)
    good.write_text(GATEWAY)
    done = run("-i", str(good), str(path))
    assert isinstance(done.exception, ConfigurationError)
    assert "not YAML" in str(done.exception)
    assert str(path) in str(done.exception)
    assert good.read_text() == GATEWAY  # nothing is written when one of them is bad
    with pytest.raises(ConfigurationError, match="f:3: not YAML"):
        injected("a: 1\n---\nb: [}\n", "f", Sidecar())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GATEWAY.replace("name: gw}", 'name: "{{ .Release.Name }}"}'), r"f:4: a template"),
        (GATEWAY.replace("{name: gw}", "\n  name: {{ .Release.Name }}"), r"f:5: a template"),
        ("{{- if .Values.x }}\n" + GATEWAY, r"f:1: not YAML: .*a template\? Render it first"),
        (GATEWAY.replace("name: istio-proxy", "<<: &c {name: istio-proxy}") + "      - <<: *c\n", r"f:18: an alias \(\*c\)"),
        ("[" * 5000, "f:1: nested too deeply"),
    ],
)
def test_what_would_not_come_out_as_it_was(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        injected(text, "f", Sidecar())


def test_a_template_elsewhere_is_nobodys_business() -> None:
    other = "---\nkind: ConfigMap\ndata: {x: '{{ go }}'}\n"
    text, _ = injected(GATEWAY + other, "f", Sidecar())
    assert text.endswith(other)


def test_line_ends_and_indents_stay() -> None:
    windows = GATEWAY.replace("\n", "\r\n")
    text, _ = injected(windows, "f", Sidecar())
    assert text.count("\n") == text.count("\r\n")
    wide = "kind: Pod\nspec:\n    containers:\n      - name: envoy\n        x:\n            y: 1\n"
    assert all(line in injected(wide, "f", Sidecar())[0].splitlines() for line in wide.splitlines())


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(GATEWAY)
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    assert run("-i", str(tmp_path / "link.yaml")).exit_code == 0
    assert (tmp_path / "link.yaml").is_symlink()
    assert "mcpgw-sidecar" in (tmp_path / "real.yaml").read_text()


def test_nothing_to_inject() -> None:
    for text in ("", "---\n", "kind: Service\n", "- a\n", "just text\n"):
        done = run(text=text)
        assert isinstance(done.exception, RefusedError), text
        assert done.stdout.strip() == text.strip()
    assert run("-i").exit_code != 0
    assert isinstance(run("/nowhere/x.yaml").exception, ConfigurationError)
