"""Checks the chart: lint, render, schemas, values, README. Prints PASS or FAIL and a name, a line a check.

Two engines must agree: Helm 4's, as a library, and the command of Helm 3.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

CHART, HELM3 = Path(sys.argv[1]), sys.argv[2]
NAMESPACE = "kctl-system"
# The oldest whose schemas still matter, the middle, the newest.
KUBERNETES = ["1.29", "1.33", "1.37"]
SETS = {file.stem.removesuffix("-values"): yaml.safe_load(file.read_text())
        for file in sorted((CHART / "ci").glob("*-values.yaml"))}
# Kinds of others, whose schemas do not come with Kubernetes.
FOREIGN = {"Certificate", "Issuer", "ServiceMonitor", "PodMonitor"}
CAPABILITIES = {"BPF", "NET_ADMIN", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "KILL"}
# Values that must be refused, and what the refusal names.
REFUSED = [
    ({"colour": "red"}, "colour"),
    ({"agent": {"maxEntires": 1}}, "maxEntires"),
    ({"agent": {"maxEntries": 1}}, "maxEntries"),
    ({"agent": {"mode": "xdp"}}, "mode"),
    ({"agent": {"capabilities": ["SYS_ADMIN"]}}, "capabilities"),
    ({"agent": {"capabilities": ["SYS_RESOURCE"]}}, "capabilities"),
    ({"agent": {"interfaces": []}}, "interfaces"),
    ({"agent": {"updateStrategy": {"rollingUpdate": {"maxUnavailble": 2}}}}, "maxUnavailble"),
    ({"agent": {"resources": {"limits": {"memory": "much"}}}}, "memory"),
    ({"agent": {"privileged": True}}, "privileged"),
    ({"ca": {"certManager": {"enabled": "maybe"}}}, "enabled"),
    ({"ca": {"existingSecrt": "x"}}, "existingSecrt"),
    ({"ca": {"existingSecret": "a", "certManager": {"enabled": True}}}, "ca.certManager.enabled"),
    ({"controller": {"enabled": False}}, "agent.controller"),
    ({"controller": {"enabled": False}, "agent": {"controller": "c"}}, "join.existingSecret"),
    ({"controller": {"replicas": 2}}, "replicas"),
    ({"controller": {"service": {"type": "Ingress"}}}, "type"),
    ({"controller": {"history": {"types": ["dorp"]}}}, "types"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"networkPolicy": {"from": "all"}}, "from"),
    ({"metrics": {"agentPort": 70000}}, "agentPort"),
    ({"metrics": {"dashboard": {"label": {}}}}, "label"),
]


def check(name, run):
    try:
        run()
        print(f"PASS {name}", flush=True)
    except Exception as error:
        print(f"FAIL {name}: {error!r}", flush=True)


def helm3(command, values, *args):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        name = ["kctl"] if command == "template" else []
        line = [HELM3, command, *name, str(CHART), "-f", file.name, "-n", NAMESPACE, *args]
        done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    return done.stdout


def helm4(values):
    return helm_python.Chart.load(CHART).render(values, name="kctl", namespace=NAMESPACE)


def refusing3(values):
    helm3("template", values, "--kube-version", f"{KUBERNETES[-1]}.0")


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def rendered4(values):
    files = helm4(values)
    return [document for name, text in files.items() if name.endswith(".yaml")
            for document in documents(text)]


def by_name(rendered):
    """The objects, without what each render makes anew."""
    objects = {}
    for document in rendered:
        if document["kind"] in ("Secret", "ConfigMap"):
            document["data"] = sorted(document["data"])
        objects[document["kind"], document["metadata"]["name"]] = document
    return objects


def lint4(values):
    report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE)
    bad = [it for it in report["messages"] if it["severity"] >= 2] + report["errors"]
    assert not bad, bad


def agree(values):
    three, four = by_name(documents(helm3("template", values, "--kube-version", f"{KUBERNETES[-1]}.0"))), by_name(rendered4(values))
    assert three.keys() == four.keys(), three.keys() ^ four.keys()
    for key, ours in three.items():
        # The library renders for a Kubernetes of its own.
        assert without_apparmor(ours) == without_apparmor(four[key]), key


def without_apparmor(document):
    text = json.dumps(document, sort_keys=True)
    text = re.sub(r'"appArmorProfile": \{[^}]*\}, ', "", text)
    text = re.sub(r'"container.apparmor[^"]*": "[^"]*",? ?', "", text)
    return text.replace('"annotations": {}, ', "")


def manifests_are_valid(values, version):
    for document in documents(helm3("template", values, "--kube-version", f"{version}.0")):
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)


def refused(render, values, named):
    try:
        render(values)
    except Exception as error:
        assert named in str(error), f"{named} is not named: {error}"
    else:
        raise AssertionError("was not refused")


def containers(document):
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    return pod.get("initContainers", []) + pod.get("containers", [])


def little_is_allowed(values):
    seen = 0
    for document in rendered4(values):
        assert "privileged" not in json.dumps(document), document["metadata"]["name"]
        for container in containers(document):
            seen += 1
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"]["drop"] == ["ALL"], container["name"]
            added = set(context["capabilities"].get("add", []))
            assert added <= CAPABILITIES, added
            is_controller = container["name"] == "controller"
            assert bool(added) != is_controller, container["name"]
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        if pod:
            assert pod["automountServiceAccountToken"] is False, document["metadata"]["name"]
    assert seen, "no container"


def memory_follows_the_entries():
    for entries, limit in [(16, "129Mi"), (131072, "256Mi"), (1048576, "1152Mi")]:
        agent = by_name(rendered4({"agent": {"maxEntries": entries}}))["DaemonSet", "kctl-agent"]
        assert containers(agent)[0]["resources"]["limits"]["memory"] == limit, entries


def leaves(values, at=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{at}{key}.")
        else:
            yield at + key, json.dumps(value)


def readme_has_every_value():
    table = dict(re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", (CHART / "README.md").read_text(), re.M))
    values = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    wrong = {key for key in table.keys() | values.keys() if table.get(key) != values.get(key)}
    assert not wrong, sorted(wrong)


def notes_end_with_three_commands():
    last = [line.strip() for line in helm4({})["kctl/templates/NOTES.txt"].splitlines() if line.strip()][-3:]
    for line, part in zip(last, ["exec statefulset/kctl-controller", "port-forward", "kctl --server 127.0.0.1:7443 block"]):
        assert part in line and "--all-hosts" in last[2], last


def dashboard_asks_for_documented_metrics():
    config = {it["metadata"]["name"]: it for it in rendered4({"metrics": {"dashboard": {"enabled": True}}})}["kctl-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1", config["metadata"]
    dashboard = json.loads(config["data"]["kctl.json"])
    assert dashboard == json.loads((CHART / "dashboard.json").read_text()), "not as it is in the file"
    table = (CHART.parent.parent / "docs/metrics.md").read_text()
    # What Prometheus calls the samples of each.
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    known = {name + suffix for name, kind in re.findall(r"^\| `((?:kctl|process)_\w+)` \| (\w+) \|", table, re.M)
             for suffix in suffixes[kind]}
    asked = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in re.findall(r"\b(?:kctl|process)_\w+", target["expr"])}
    assert asked and asked <= known, asked - known
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)), ids


class Cluster(BaseHTTPRequestHandler):
    """As much of the Kubernetes API as a look at a Secret asks."""

    secrets = {}

    def do_GET(self):
        path = self.path.split("?")[0]
        answers = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}]},
        }
        answer = answers.get(path) or self.secrets.get(path)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answer or missing).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def what_was_made_is_found_again():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = helm_python.Config(kube_apiserver=f"http://127.0.0.1:{server.server_port}", namespace=NAMESPACE)

    def install(values):
        files = config.render(helm_python.Chart.load(CHART), values, name="kctl", namespace=NAMESPACE)
        return {(it["kind"], it["metadata"]["name"]): it["data"] for it in documents(files["kctl/templates/secrets.yaml"])}

    first, other = install({}), install({})
    assert first["Secret", "kctl-ca"] != other["Secret", "kctl-ca"], "nothing is there yet"
    for (kind, name), data in first.items():
        if kind == "Secret":
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}
            Cluster.secrets[f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"] = secret
    again = install({})
    assert again == first, "an upgrade made another CA or token"
    # An own Secret: agents are told its certificate, and nobody makes a CA.
    own = install({"ca": {"existingSecret": "kctl-ca"}, "join": {"existingSecret": "kctl-join"}})
    assert own == {("ConfigMap", "kctl-ca"): first["ConfigMap", "kctl-ca"]}, own
    server.shutdown()


def main():
    assert SETS.keys() >= {"default", "minimal", "everything"}, SETS.keys()
    for name, values in SETS.items():
        check(f"helm 4 lint --strict, {name} values", lambda: lint4(values))
        check(f"helm 3 lint --strict, {name} values", lambda: helm3("lint", values, "--strict"))
        check(f"helm 3 and helm 4 render the same, {name} values", lambda: agree(values))
        check(f"no more privileges than stated, {name} values", lambda: little_is_allowed(values))
        for version in KUBERNETES:
            check(f"manifests are those of Kubernetes {version}, {name} values", lambda: manifests_are_valid(values, version))
    for values, named in REFUSED:
        check(f"helm 4 refuses {json.dumps(values)}", lambda: refused(helm4, values, named))
        check(f"helm 3 refuses {json.dumps(values)}", lambda: refused(refusing3, values, named))
    check("the memory limit follows maxEntries", memory_follows_the_entries)
    check("the README has every value with its default", readme_has_every_value)
    check("the notes end with three commands", notes_end_with_three_commands)
    check("the dashboard asks for metrics that are documented", dashboard_asks_for_documented_metrics)
    check("an upgrade finds CA and token of before", what_was_made_is_found_again)


main()
