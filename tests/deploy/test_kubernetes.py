"""deploy/kubernetes: manifests that the published schemas know, under the restricted profile, and a network that holds.

No cluster is asked: what kustomize and the network plugin would make of them is worked out here, as far as they go.
"""

from __future__ import annotations

import re
import shutil
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.cli import main, new_parser
from tests import namespace
from tests.deploy.recipes import DEPLOY, documents, finds_good, policy, unsound

FOLDERS: Final = [DEPLOY / "kubernetes" / name for name in ("gateway", "sidecar")]
GATEWAY, SIDECAR = FOLDERS
KUSTOMIZATIONS: Final[dict[Path, dict[str, Any]]] = {
    each: documents(each / "kustomization.yaml")[0] for each in FOLDERS
}
FILES: Final = [folder / name for folder in FOLDERS for name in KUSTOMIZATIONS[folder]["resources"]]
POD_KINDS: Final = ("Deployment", "StatefulSet")

Manifest = dict[str, Any]


def manifests(folder: Path) -> list[Manifest]:
    """All that a folder makes, without what kustomize writes into it."""
    return [each for name in KUSTOMIZATIONS[folder]["resources"] for each in documents(folder / name)]


def of_kind(folder: Path, kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [each for each in manifests(folder) if each["kind"] == kind]


def pod_of(folder: Path, name: str) -> Manifest:
    """The pod that a workload makes."""
    (found,) = (each for kind in POD_KINDS for each in of_kind(folder, kind) if each["metadata"]["name"] == name)
    template: Manifest = found["spec"]["template"]
    return template


def containers(pod: Manifest) -> list[Manifest]:
    """All of them."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def proxyd_of(folder: Path) -> tuple[Manifest, Manifest]:
    """Proxyd's pod, and its container."""
    pod = pod_of(folder, "proxyd" if folder == GATEWAY else "openclaw")
    (container,) = (each for each in containers(pod) if each["name"] == "proxyd")
    return pod, container


@pytest.fixture(params=FOLDERS, ids=lambda each: each.name)
def folder(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    return Path(request.param)


@pytest.fixture
def ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[Path, Path]:
    """Copies of the policies, with the credential that kustomization.yaml says how to make."""
    copies = {}
    for each in FOLDERS:
        copies[each] = tmp_path / each.name / "policy.toml"
        copies[each].parent.mkdir()
        shutil.copy(each / "policy.toml", copies[each])
    assert main(["password", "--generate"]) == 0
    credential = copies[GATEWAY].with_name("agent.scrypt")
    credential.write_text(capsys.readouterr().out)
    credential.chmod(0o600)
    return copies


@pytest.mark.parametrize("path", FILES, ids=lambda each: f"{each.parent.name}-{each.stem}")
def test_the_manifests_are_in_the_published_schemas(path: Path) -> None:
    finds_good("kubernetes-validate", "--strict", path)


def test_every_manifest_is_applied_and_every_image_comes_from_somewhere(folder: Path) -> None:
    """`kubectl apply` says nothing of a file that no kustomization names."""
    kustomization = KUSTOMIZATIONS[folder]
    there = {each.name for each in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert there == set(kustomization["resources"])
    mapped = {each["name"] for each in kustomization["images"]}
    images = {each["image"] for kind in POD_KINDS for made in of_kind(folder, kind) for each in _of(made)}
    assert {each for each in images if "/" not in each} == mapped == {"proxyd"}


def _of(workload: Manifest) -> list[Manifest]:
    return containers(workload["spec"]["template"])


def test_what_is_mounted_is_generated_and_a_change_of_it_is_a_rollout(folder: Path) -> None:
    """R10, R12: the generated names carry a hash, which is kustomize's default, so that nothing changes unseen."""
    kustomization = KUSTOMIZATIONS[folder]
    generators = [*kustomization["configMapGenerator"], *kustomization.get("secretGenerator", [])]
    assert "generatorOptions" not in kustomization
    assert not [each for each in generators if "options" in each]
    (volume,) = (each for each in proxyd_of(folder)[0]["spec"]["volumes"] if each["name"] == "policy")
    sources = volume["projected"]["sources"] if "projected" in volume else [volume]
    mounted = {each["configMap"]["name"] if "configMap" in each else each["secret"]["name"] for each in sources}
    assert mounted == {each["name"] for each in generators}
    assert generators[0]["files"] == ["policy.toml"]


def test_the_policies_are_good(ready: dict[Path, Path]) -> None:
    """With the credential beside them, as in the folder and in the pod."""
    for path in ready.values():
        assert main(["check", str(path)]) == 0


def test_r1_r2_what_an_audit_says_of_them_is_what_they_say_themselves(ready: dict[Path, Path]) -> None:
    """A pod's address is not known before; the policy says what stands in for knowing it."""
    assert unsound(ready[GATEWAY]) == {"listen.public", "listen.clear_credentials"}
    assert "`proxyd audit` calls that critical" in ready[GATEWAY].read_text()
    assert unsound(ready[SIDECAR]) == set()


def test_a_policy_in_a_projected_volume_finds_its_credential(ready: dict[Path, Path], tmp_path: Path) -> None:
    """There the files are behind two links, and may be read by a group, but by nobody else."""
    (volume,) = (each for each in proxyd_of(GATEWAY)[0]["spec"]["volumes"] if each["name"] == "policy")
    mode = volume["projected"]["defaultMode"]
    mounted, data = tmp_path / "etc", tmp_path / "etc" / "..2026_11_21"
    data.mkdir(parents=True)
    (mounted / "..data").symlink_to(data.name)
    for each in ready[GATEWAY].parent.iterdir():
        shutil.copy(each, data / each.name)
        (data / each.name).chmod(mode)
        (mounted / each.name).symlink_to(f"..data/{each.name}")
    assert policy(mounted / "policy.toml").client[0].credential is not None
    (data / "agent.scrypt").chmod(mode | 0o004)
    assert main(["check", str(mounted / "policy.toml")]) == 78


def test_r7_the_credential_is_not_to_be_committed() -> None:
    files = KUSTOMIZATIONS[GATEWAY]["secretGenerator"][0]["files"]
    assert [f"/{each}" for each in files] == (GATEWAY / ".gitignore").read_text().splitlines()[1:]
    assert not [each for each in files if (GATEWAY / each).exists()]


def test_every_pod_meets_the_restricted_profile(folder: Path) -> None:
    """Kubernetes, Pod Security Standards; or the namespace, which enforces it, would refuse them."""
    (made,) = of_kind(folder, "Namespace")
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert made["metadata"]["name"] == KUSTOMIZATIONS[folder]["namespace"]
    for pod in (each["spec"]["template"] for kind in POD_KINDS for each in of_kind(folder, kind)):
        spec = pod["spec"]
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "projected"}
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert (context | spec["securityContext"] | context)["runAsUser"] > 0
            assert not [port for port in container.get("ports", []) if "hostPort" in port]


def test_proxyd_writes_nothing_but_its_sockets(folder: Path, ready: dict[Path, Path]) -> None:
    pod, container = proxyd_of(folder)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    served = policy(ready[folder])
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/etc/proxyd"]["readOnly"] is True
    sockets = {served.listen.control, str(served.admin.listen).removeprefix("unix:")}
    assert {str(Path(each).parent) for each in sockets} == mounts.keys() - {"/etc/proxyd"}
    others = [each for each in containers(pod) if each is not container]
    assert not [each for other in others for each in other["volumeMounts"] if each["name"] in ("run", "policy")]
    assert served.audit.to == "stdout"


def test_r12_the_probes_are_commands_of_proxyds_and_only_one_kills(folder: Path) -> None:
    """Readiness must not restart what drains, nor liveness what starts."""
    _, container = proxyd_of(folder)
    asked = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        words = container[name]["exec"]["command"]
        asked[name] = new_parser().parse_args(words[1:])
        assert (words[0], asked[name].command, asked[name].policy) == ("proxyd", "health", "/etc/proxyd/policy.toml")
        assert container[name]["timeoutSeconds"] > 3  # what `health` waits for an answer
    assert [each.alive for each in asked.values()] == [False, False, True]


def test_r10_the_kubelet_waits_for_the_drain(folder: Path, ready: dict[Path, Path]) -> None:
    pod, container = proxyd_of(folder)
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})["seconds"]
    drain = policy(ready[folder]).limits.drain_seconds
    assert pod["spec"]["terminationGracePeriodSeconds"] > before + drain
    assert (before > 0) == (folder == GATEWAY)  # a sidecar ends after its only client


def test_r2_the_agent_is_who_the_policy_knows(ready: dict[Path, Path]) -> None:
    """The gateway by a password in a Secret, the sidecar by the account of its container."""
    (client,) = policy(ready[GATEWAY]).client
    assert client.credential is not None
    (agent,) = containers(pod_of(GATEWAY, "openclaw"))
    (url,) = (each["value"] for each in agent["env"] if each["name"] == "OPENCLAW_PROXY_URL")
    assert url == f"http://{client.credential.user}:$(PROXYD_PASSWORD)@$(PROXYD_SERVICE_HOST):3128"
    assert "valueFrom" in agent["env"][0]  # what a later one refers to must stand before it
    (client,) = policy(ready[SIDECAR]).client
    _, proxy = proxyd_of(SIDECAR)
    (agent,) = (
        each for each in containers(pod_of(SIDECAR, "openclaw")) if each is not proxy and each["name"] != "proxyd"
    )
    assert client.users == (agent["securityContext"]["runAsUser"],)
    assert proxy["securityContext"]["runAsUser"] not in client.users
    assert proxy["restartPolicy"] == "Always"


def test_the_service_leads_to_the_gateway(ready: dict[Path, Path]) -> None:
    """By the name from which the agents' environment has its address."""
    (service,) = of_kind(GATEWAY, "Service")
    pod, container = proxyd_of(GATEWAY)
    assert service["metadata"]["name"] == "proxyd"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
    assert [each.port for each in policy(ready[GATEWAY]).listen.endpoints] == [port["port"]]


def test_there_may_be_many_and_one_at_least() -> None:
    """R10: whoever scales it must not be set back by the next apply, and no eviction takes the last one."""
    (deployment,) = of_kind(GATEWAY, "Deployment")
    (autoscaler,) = of_kind(GATEWAY, "HorizontalPodAutoscaler")
    (budget,) = of_kind(GATEWAY, "PodDisruptionBudget")
    assert "replicas" not in deployment["spec"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def lets(folder: Path, direction: str, pod: dict[str, str], peer: dict[str, Any], port: int) -> bool:
    """Whether the NetworkPolicies let a connection of a pod pass: all that select it add up; none at all lets all pass.

    pod: its labels. peer: {"address"}, or {"labels", "namespace"} of a pod.
    """
    policies = [
        each["spec"]
        for each in of_kind(folder, "NetworkPolicy")
        if direction in each["spec"]["policyTypes"] and _selects(each["spec"]["podSelector"], pod)
    ]
    rules = chain.from_iterable(each.get(direction.lower(), []) for each in policies)
    side = "to" if direction == "Egress" else "from"
    return not policies or any(
        any(_is_peer(each, peer, KUSTOMIZATIONS[folder]["namespace"]) for each in rule[side])
        and (not rule.get("ports") or port in [each["port"] for each in rule["ports"]])
        for rule in rules
    )


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _is_peer(rule: Manifest, peer: dict[str, Any], here: str) -> bool:
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        if "address" not in peer:
            return False
        address = IPAddress(peer["address"])
        return address in IPNetwork(block["cidr"]) and not any(address in IPNetwork(each) for each in block["except"])
    if "address" in peer:
        return False
    spaces = rule.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": here}})
    return _selects(spaces, {"kubernetes.io/metadata.name": peer["namespace"]}) and _selects(
        rule["podSelector"], peer["labels"]
    )


PROXYD: Final = {"app.kubernetes.io/name": "proxyd"}
OPENCLAW: Final = {"app.kubernetes.io/name": "openclaw"}
STRANGER: Final[dict[str, str]] = {}
RESOLVER: Final[dict[str, Any]] = {"labels": {"k8s-app": "kube-dns"}, "namespace": "kube-system"}
PUBLIC: Final[list[dict[str, Any]]] = [{"address": namespace.ORIGIN_4}, {"address": namespace.ORIGIN_6}]
SPECIAL: Final[list[dict[str, Any]]] = [
    {"address": each} for each in namespace.PROTECTED if not re.match(r"192\.88|203\.0|2606|3fff|2001:db8", each)
]
"""But documentation ranges and the like, where nobody is."""


@pytest.mark.parametrize("pod", [OPENCLAW, STRANGER], ids=["openclaw", "any-other-pod"])
def test_r2_a_pod_beside_the_gateway_reaches_it_and_nothing_else(pod: dict[str, str]) -> None:
    """Also one that somebody adds later, without a label."""
    assert lets(GATEWAY, "Egress", pod, {"labels": PROXYD, "namespace": "agents"}, 3128)
    assert not lets(GATEWAY, "Egress", pod, {"labels": PROXYD, "namespace": "agents"}, 9128)
    assert not lets(GATEWAY, "Egress", pod, {"labels": PROXYD, "namespace": "elsewhere"}, 3128)
    assert not lets(GATEWAY, "Egress", pod, {"labels": OPENCLAW, "namespace": "agents"}, 3128)
    for peer in (*PUBLIC, *SPECIAL, RESOLVER):
        assert not any(lets(GATEWAY, "Egress", pod, peer, port) for port in (53, 80, 443, 3128))


def test_r5_the_gateway_reaches_the_public_internet_and_the_resolver() -> None:
    """And nothing special, if proxyd itself were taken over."""
    for port in (80, 443, 8443):
        assert all(lets(GATEWAY, "Egress", PROXYD, peer, port) for peer in PUBLIC)
        assert not [peer for peer in SPECIAL if lets(GATEWAY, "Egress", PROXYD, peer, port)]
    assert lets(GATEWAY, "Egress", PROXYD, RESOLVER, 53)
    assert not lets(GATEWAY, "Egress", PROXYD, RESOLVER, 443)


def test_r2_the_gateway_hears_its_own_namespace_and_nobody_else() -> None:
    for pod, spaces, port, passes in (
        (OPENCLAW, "agents", 3128, True),
        (OPENCLAW, "agents", 9128, False),
        (OPENCLAW, "elsewhere", 3128, False),
    ):
        assert lets(GATEWAY, "Ingress", PROXYD, {"labels": pod, "namespace": spaces}, port) == passes
    assert not lets(GATEWAY, "Ingress", PROXYD, {"address": "10.0.0.5"}, 3128)
    assert not lets(GATEWAY, "Ingress", OPENCLAW, {"labels": OPENCLAW, "namespace": "agents"}, 18789)


def test_a_sidecar_is_said_not_to_be_airtight_because_it_is_not() -> None:
    """What the words in its kustomization are about: the agent, past proxyd; but nothing special, and nobody in."""
    assert "It is not airtight" in (SIDECAR / "kustomization.yaml").read_text()
    assert all(lets(SIDECAR, "Egress", OPENCLAW, peer, 443) for peer in PUBLIC)
    assert not [peer for peer in SPECIAL if lets(SIDECAR, "Egress", OPENCLAW, peer, 443)]
    assert not lets(SIDECAR, "Ingress", OPENCLAW, {"labels": STRANGER, "namespace": "agent"}, 3128)


def test_r10_there_are_not_as_many_workers_as_the_node_has_cores(ready: dict[Path, Path]) -> None:
    """ "auto" would count them, whatever the pod may have of them."""
    assert [policy(each).workers for each in ready.values()] == [2, 1]
